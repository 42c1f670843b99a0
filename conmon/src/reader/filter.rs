//! The system calls that a reader may make (seccomp(2)): those that it makes, everything else is
//! `EPERM`.
//!
//! It reads and writes what it has open, and gets more only by messages of the keeper and by clients
//! who come to the attach socket. It opens and connects nothing, starts nothing, signals nobody, and runs no memory that was not its program's.

use std::io;

use crate::sys;

#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xc000_003e); // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xc000_00b7); // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// What a reader does all its life.
const CALLS: &[libc::c_long] = &[
    // The streams, the log and the clients.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    // Waiting.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    // Memory, besides what is restricted.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The end.
    libc::SYS_exit_group,
];

/// The same under older names.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Calls of which some arguments are refused: the number of the argument and the bits that it must
/// not have.
const RESTRICTED: [(libc::c_long, &[(u32, i32)]); 2] = [
    (libc::SYS_mmap, &[(2, libc::PROT_EXEC), (3, libc::MAP_SHARED)]),
    (libc::SYS_mprotect, &[(2, libc::PROT_EXEC)]),
];

/// Offsets in `struct seccomp_data` (`linux/seccomp.h`).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Loads four bytes of `seccomp_data`; returns an action; jumps by equality, and by common bits.
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;

const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Allows this process nothing else any more. It must have `no_new_privs`.
///
/// # Errors
/// Those of seccomp(2), and `Unsupported` on processors other than x86-64 and aarch64.
pub(super) fn enter() -> io::Result<()> {
    sys::filter_calls(&mut program()?)
}

fn program() -> io::Result<Vec<libc::sock_filter>> {
    let arch = ARCH.ok_or(io::ErrorKind::Unsupported)?;
    let mut program = vec![
        // Numbers mean other calls to other architectures (32 bits on a kernel of 64).
        instruction(LOAD, ARCHITECTURE),
        jump(IF_EQUAL, arch, 1, 0),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, NUMBER),
    ];
    for (call, refused) in RESTRICTED {
        let length = refused.len() * 3 + 1;
        program.push(jump(IF_EQUAL, number(call)?, 0, u8::try_from(length).unwrap_or(u8::MAX)));
        for (argument, bits) in refused {
            // The lower half: both processors are little-endian.
            program.push(instruction(LOAD, ARGUMENTS + 8 * argument));
            program.push(jump(IF_SET, bits.cast_unsigned(), 0, 1));
            program.push(instruction(RETURN, DENY));
        }
        program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    }
    for call in CALLS.iter().chain(OLDER) {
        program.push(jump(IF_EQUAL, number(*call)?, 0, 1));
        program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    }
    program.push(instruction(RETURN, DENY));
    Ok(program)
}

fn number(call: libc::c_long) -> io::Result<u32> {
    u32::try_from(call).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// Passes over `yes` instructions if the condition holds, over `no` if not.
fn jump(code: u32, k: u32, yes: u8, no: u8) -> libc::sock_filter {
    // All codes fit: linux/bpf_common.h.
    libc::sock_filter { code: code as u16, jt: yes, jf: no, k }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use rustix::io::Errno;

    use super::*;
    use crate::rights;
    use crate::sys::{Fork, fork};

    /// Whether a child that is confined as a reader is ends well.
    fn confined(child: impl FnOnce() -> bool) -> bool {
        match fork().unwrap() {
            Fork::Child => {
                let confined = rights::forswear().is_ok() && enter().is_ok();
                crate::sys::exit_now(u8::from(!(confined && child())))
            }
            Fork::Parent { child } => {
                let options = rustix::process::WaitOptions::empty();
                let (_, status) = rustix::process::waitpid(Some(child), options).unwrap().unwrap();
                status.exit_status() == Some(0)
            }
        }
    }

    #[test]
    fn what_a_reader_does_not_do_is_refused() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = fs::File::open("/proc/self/status").unwrap();
        let open = |path: &std::ffi::CStr| {
            let flags = rustix::fs::OFlags::RDONLY;
            rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map(drop)
        };
        let refused = Err(Errno::PERM);
        assert!(confined(|| open(c"/dev/null") == refused));
        assert!(confined(|| fork().is_err()));
        let own = rustix::process::getpid();
        assert!(confined(|| rustix::process::test_kill_process(own) == refused));
        assert!(confined(|| {
            let (family, kind) =
                (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
            rustix::net::socket(family, kind, None).map(drop) == refused
        }));
        assert!(confined(|| rustix::thread::set_name(c"other") == refused));
        // What it does is not refused.
        assert!(confined(|| rustix::io::write(&a, b"x") == Ok(1)
            && rustix::io::read(&b, &mut [0; 1][..]) == Ok(1)
            && rustix::io::pread(&file, &mut [0; 1][..], 0) == Ok(1)));
        assert!(confined(|| vec![1_u8; 1 << 24].iter().all(|byte| *byte == 1)));
    }
}
