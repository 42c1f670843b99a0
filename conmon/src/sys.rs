//! The system calls that rustix does not offer in a safe form: the only `unsafe` of the monitor.
//!
//! Nothing here knows about containers. The monitor has one thread from its first instruction to
//! its last, which several arguments below rest on.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::{mem, ptr};

use crate::rights;

/// Closes every descriptor from `first` on.
///
/// Only for the start of a process, before anything owns a descriptor in that range.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: close_range takes integers only. That no `OwnedFd` exists in the range is the
    // caller's duty stated above; the monitor calls this before it opens anything.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor but the standard streams and these, which may be in any order.
///
/// Only for a child after its fork, which neither uses nor drops what it does not name here.
pub(crate) fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for fd in kept {
        if fd > first {
            // SAFETY: close_range takes integers only. That nothing uses the descriptors in the
            // range any more is the caller's duty stated above.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(fd + 1);
    }
    close_from(first)
}

/// Makes `fd` standard output, too. What standard output was is closed.
pub(crate) fn replace_stdout(fd: BorrowedFd<'_>) -> io::Result<()> {
    replace(fd, libc::STDOUT_FILENO)
}

/// Makes `fd` standard error, too. What standard error was is closed.
pub(crate) fn replace_stderr(fd: BorrowedFd<'_>) -> io::Result<()> {
    replace(fd, libc::STDERR_FILENO)
}

fn replace(fd: BorrowedFd<'_>, stream: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes integers; `fd` is open as long as it is borrowed, and nothing owns a
    // standard stream: std only borrows it for each write.
    match unsafe { libc::dup2(fd.as_raw_fd(), stream) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Blocks every signal that can be blocked and returns a descriptor that reads as `SIGCHLD`.
///
/// Blocked rather than ignored: an ignored signal stays ignored across exec and would reach the
/// container that way, while [`start_clean`] resets the mask of each child.
pub(crate) fn block_signals() -> io::Result<OwnedFd> {
    let child = signal_set(&[libc::SIGCHLD]);
    block_all()?;
    // SAFETY: `child` is an initialised set that outlives the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned this descriptor a line ago; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Blocks every signal that can be blocked.
pub(crate) fn block_all() -> io::Result<()> {
    let mut all = mem::MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set it is given, and sigprocmask reads it after that.
    let result = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset then adds valid signal numbers to it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Has `command` start its program with an empty signal mask, the umask a login would give it and,
/// if asked, an oom_score_adj of its own: what the monitor sets for itself must not leak into a
/// container.
pub(crate) fn start_clean(command: &mut Command, oom_score_adj: Option<i32>) {
    let score = oom_score_adj.map(|score| score.to_string());
    let setup = move || {
        let none = signal_set(&[]);
        // SAFETY: `none` is an initialised set; a null third argument asks for no old mask.
        if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        if let Some(score) = &score {
            rights::with(rights::PROTECT, || crate::procfs::set_oom_score_adj(score))?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec in the child of a process with one thread, so
    // no lock can be held by a thread that is gone, and it makes system calls only.
    unsafe { command.pre_exec(setup) };
}

/// The pid of some child that has ended and is not yet reaped. It stays unreaped.
pub(crate) fn find_ended_child() -> Option<i32> {
    // SAFETY: siginfo_t is plain old data for which all zeros is a valid value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid siginfo_t for the kernel to fill in.
    if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) } != 0 {
        return None;
    }
    // SAFETY: waitid fills in si_pid, and leaves the zero of ours if no child has ended.
    match unsafe { info.si_pid() } {
        0 => None,
        pid => Some(pid),
    }
}

/// Gives memory that is allocated no more back to the kernel. The allocator of itself keeps what it
/// once had, for a process that will need as much again.
pub(crate) fn return_memory() {
    // SAFETY: malloc_trim takes an integer and touches only memory that nothing is allocated in.
    unsafe { libc::malloc_trim(0) };
}

/// Where the first newline of `bytes` is.
pub(crate) fn find_newline(bytes: &[u8]) -> Option<usize> {
    let start = bytes.as_ptr();
    // SAFETY: memchr reads at most `len` bytes from the start of the slice.
    let found = unsafe { libc::memchr(start.cast::<c_void>(), i32::from(b'\n'), bytes.len()) };
    (!found.is_null()).then(|| found as usize - start as usize)
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent { child: rustix::process::Pid },
    Child,
}

/// Forks this process.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: there is one thread, so the child is a whole process in which every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => rustix::process::Pid::from_raw(pid)
            .map(|child| Fork::Parent { child })
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Ends this process at once. Nothing that the process it was forked from has prepared for its own
/// end is done.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Refuses this process the system calls that `program` refuses, for good. It must have
/// `no_new_privs`.
pub(crate) fn filter_calls(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // Without the flag older kernels slow the process down (the mitigation of speculative store
    // bypass); it has nobody's secrets.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies `len` instructions of a slice that lives longer than the call, and
    // checks them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a forked child counts and its parent reads, also after the child's end.
#[derive(Default)]
pub(crate) struct Counters {
    /// Bytes of output that could not be written.
    pub(crate) lost: AtomicU64,
    /// Bytes of output that are read and not yet written.
    pub(crate) held: AtomicU64,
}

impl Counters {
    /// Makes counters that are shared with all children that are forked from now on.
    pub(crate) fn share() -> io::Result<&'static Counters> {
        let length = mem::size_of::<Counters>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is as long as `Counters`, aligned to a page and never unmapped. All
        // zeros is a valid value, and atomics may be changed by others at any time.
        Ok(unsafe { &*page.cast::<Counters>() })
    }
}

/// Moves this process, or its next children for the pid namespace, into new namespaces.
pub(crate) fn unshare(namespaces: rustix::thread::UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(rustix::thread::UnshareFlags::FILES));
    // SAFETY: only CLONE_FILES can pull descriptors from under their owners, and no caller asks
    // for it; with one thread it would not matter either.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Makes a mount read-only for good: nobody can write through it, whatever the mode of the file.
/// Works on a detached mount, which `mount(2)` does not.
pub(crate) fn set_mount_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the empty path is a valid C string, and the kernel reads `attributes` up to the size
    // given, which is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            mem::size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for the next of these signals, all of which must be blocked.
pub(crate) fn wait_signal(signals: &[libc::c_int]) -> libc::c_int {
    let set = signal_set(signals);
    loop {
        // SAFETY: `set` is initialised; a null second argument asks for no details.
        let signal = unsafe { libc::sigwaitinfo(&set, ptr::null_mut()) };
        if signal > 0 {
            return signal;
        }
    }
}
