//! Filters of system calls (seccomp(2)): a list of what is allowed, everything else is `EPERM`.
//!
//! Memory that can be run is never made, nor memory that others can be given.

use std::io;

/// A list of allowed calls, by their numbers (`libc::SYS_*`).
pub type Calls<'a> = &'a [libc::c_long];

#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xc000_003e); // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xc000_00b7); // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

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

/// What an argument must be, by its lower half: both processors are little-endian.
#[derive(Clone, Copy, Debug)]
pub enum Must<'a> {
    /// It has none of these bits.
    Lack(u32),
    /// It is one of these.
    Be(&'a [u32]),
}

/// A call that is allowed with some arguments only: their numbers, and what each must be.
pub type Restricted<'a> = (libc::c_long, &'a [(u32, Must<'a>)]);

/// Memory that grows by being touched is counted as a stack, so by no bound of data.
const GROWS: u32 = (libc::PROT_GROWSDOWN | libc::PROT_GROWSUP).cast_unsigned();
const RUN: u32 = libc::PROT_EXEC.cast_unsigned();
const SHARED: u32 = (libc::MAP_SHARED | libc::MAP_GROWSDOWN).cast_unsigned();

const OF_MEMORY: [Restricted<'static>; 2] = [
    (libc::SYS_mmap, &[(2, Must::Lack(RUN | GROWS)), (3, Must::Lack(SHARED))]),
    (libc::SYS_mprotect, &[(2, Must::Lack(RUN | GROWS))]),
];

/// Allows this thread, and all that it starts, nothing but `calls`, `restricted` ones, and mmap(2) and
/// mprotect(2) of private memory that is not run and does not grow. For good; several filters allow
/// what all of them do. The thread must have `no_new_privs`.
///
/// # Errors
/// Those of seccomp(2), and `Unsupported` on processors other than x86-64 and aarch64.
pub fn allow_only(calls: Calls<'_>, restricted: &[Restricted<'_>]) -> io::Result<()> {
    let mut filter = program(calls, restricted)?;
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // Without the flag older kernels slow the whole process down (the mitigation of speculative store
    // bypass); it has nobody's secrets.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies `len` instructions of `filter`, which lives longer than the call, and
    // checks them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program(calls: Calls<'_>, restricted: &[Restricted<'_>]) -> io::Result<Vec<libc::sock_filter>> {
    let arch = ARCH.ok_or(io::ErrorKind::Unsupported)?;
    let mut program = vec![
        // Numbers mean other calls to other architectures (32 bits on a kernel of 64).
        instruction(LOAD, ARCHITECTURE),
        jump(IF_EQUAL, arch, 1, 0),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, NUMBER),
    ];
    for (call, arguments) in OF_MEMORY.iter().chain(restricted) {
        let mut looks = Vec::new();
        for (argument, must) in *arguments {
            looks.push(instruction(LOAD, ARGUMENTS + 8 * argument));
            match must {
                Must::Lack(bits) => looks.push(jump(IF_SET, *bits, 0, 1)),
                Must::Be(values) => {
                    for (at, value) in values.iter().enumerate() {
                        looks.push(jump(IF_EQUAL, *value, length(values.len() - at)?, 0));
                    }
                }
            }
            looks.push(instruction(RETURN, DENY));
        }
        looks.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
        program.push(jump(IF_EQUAL, number(*call)?, 0, length(looks.len())?));
        program.extend(looks);
    }
    for call in calls {
        program.push(jump(IF_EQUAL, number(*call)?, 0, 1));
        program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    }
    program.push(instruction(RETURN, DENY));
    Ok(program)
}

fn number(call: libc::c_long) -> io::Result<u32> {
    u32::try_from(call).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn length(instructions: usize) -> io::Result<u8> {
    u8::try_from(instructions).map_err(|_| io::ErrorKind::InvalidInput.into())
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
    use super::*;
    use std::thread;

    /// What `f` gives on a thread of its own that may make only `calls`.
    fn filtered<T: Send + 'static>(
        calls: &'static [libc::c_long],
        restricted: &'static [Restricted<'static>],
        f: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("no new privileges");
            let more = [libc::SYS_exit, libc::SYS_futex, libc::SYS_munmap, libc::SYS_madvise];
            let more = [&more[..], &[libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack]].concat();
            allow_only(&[calls, &more].concat(), restricted).expect("a filter");
            f()
        });
        thread.join().expect("it ends")
    }

    #[test]
    fn what_is_not_in_the_list_is_refused() {
        let calls = || {
            (
                rustix::process::getpid(),
                rustix::fs::statat(rustix::fs::CWD, "/", rustix::fs::AtFlags::empty()).map(drop),
            )
        };
        let (pid, stat) = filtered(&[libc::SYS_getpid], &[], calls);
        assert_eq!((pid, stat), (rustix::process::getpid(), Err(rustix::io::Errno::PERM)));
        let (_, stat) = filtered(&[libc::SYS_getpid, libc::SYS_newfstatat], &[], calls);
        assert_eq!(stat, Ok(()));
    }

    #[test]
    fn memory_is_neither_shared_nor_run_and_does_not_grow() {
        let map = |protection: libc::c_int, flags: libc::c_int| {
            // SAFETY: a new mapping of one page at an address that the kernel chooses.
            let page = unsafe {
                let flags = flags | libc::MAP_ANONYMOUS;
                libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0)
            };
            page != libc::MAP_FAILED
        };
        let maps = move || {
            [
                map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
                map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE),
                map(libc::PROT_READ, libc::MAP_SHARED),
                map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN),
            ]
        };
        assert_eq!(filtered(&[], &[], maps), [true, false, false, false]);
    }

    #[test]
    fn a_call_is_allowed_with_its_arguments_only() {
        const FCNTL: Restricted<'static> = {
            let commands = &[libc::F_GETFD.cast_unsigned(), libc::F_GETFL.cast_unsigned()];
            (libc::SYS_fcntl, &[(0, Must::Lack(1)), (1, Must::Be(commands))])
        };
        let calls = || {
            [(0, libc::F_GETFD), (0, libc::F_GETFL), (1, libc::F_GETFD), (0, libc::F_GETOWN)].map(
                |(fd, command)| {
                    // SAFETY: the commands take no argument and read two integers.
                    let result = unsafe { libc::fcntl(fd, command) };
                    let denied = io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
                    result >= 0 || !denied
                },
            )
        };
        assert_eq!(filtered(&[], &[FCNTL], calls), [true, true, false, false]);
    }
}
