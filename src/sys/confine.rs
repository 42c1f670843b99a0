//! What a process can give up for good, so that whoever takes it over has little: namespaces, the file
//! system, capabilities, resources. For a process with one thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Where the empty root is mounted before it is the root: a directory that there is.
const PLACE: &str = "/proc";

/// The highest number that a capability can have: there are 64 bits for them.
const MAX_CAPABILITY: libc::c_ulong = 63;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The one that goes on.
    Parent {
        /// The other.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// Closes every descriptor from `first` on, at the start of a program, before anything owns one there.
///
/// # Errors
/// Those of close_range(2).
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: close_range takes integers only; that nothing owns a descriptor in the range is the
    // caller's duty.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes `fd` standard input, too. What standard input was is closed.
///
/// # Errors
/// Those of dup3(2).
pub fn replace_stdin(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 takes integers; `fd` is open as long as it is borrowed, and nothing owns
    // descriptor 0: std only borrows it for each read.
    match unsafe { libc::dup3(fd.as_raw_fd(), libc::STDIN_FILENO, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Leaves the network, the IPC objects and the host name of all others for empty ones.
///
/// # Errors
/// Those of unshare(2).
pub fn leave_network_and_ipc() -> io::Result<()> {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    Ok(unshare(namespaces)?)
}

/// Has every process that this thread starts from now on be the first of a PID namespace: it and all of
/// its own see no process outside, and end with it.
///
/// # Errors
/// Those of unshare(2).
pub fn start_in_pid_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWPID)?)
}

/// Makes an empty directory, in which nothing can be made, the root of a mount namespace of its own
/// that has nothing else in it.
///
/// # Errors
/// Those of unshare(2), mount(2) and pivot_root(2). A part may be done then.
pub fn leave_file_systems() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // Nothing of this is to be seen outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("none"), PLACE, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2,mode=0555"))?;
    nix::unistd::chdir(PLACE)?;
    match rustix::process::pivot_root(".", ".") {
        // The old root is mounted over the new one now (pivot_root(2), NOTES).
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The initial file system of the kernel cannot be exchanged, only covered.
        Err(rustix::io::Errno::INVAL) => {
            mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
            nix::unistd::chroot(".")?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(nix::unistd::chdir("/")?)
}

/// Keeps these capabilities and no others; neither this process nor one that it starts gets more.
///
/// # Errors
/// Those of prctl(2) and capset(2); all that can be done is done all the same.
pub fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let no_new = rustix::thread::set_no_new_privs(true);
    let no_ambient = rustix::thread::clear_ambient_capability_set();
    let bounded = bound_capabilities(kept);
    let held = rustix::thread::capabilities(None)?;
    let kept = kept & held.permitted;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    no_new?;
    no_ambient?;
    bounded
}

/// Takes all others out of what a program with capabilities of its own could get.
fn bound_capabilities(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..=MAX_CAPABILITY {
        if kept.bits() & 1 << number != 0 {
            continue;
        }
        // SAFETY: the call takes integers and touches no memory.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // The kernel knows none of this number, so no higher one either.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Bounds what this process may use of a resource. It is never raised.
///
/// # Errors
/// Those of setrlimit(2).
pub fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = rustix::process::getrlimit(resource).maximum.map_or(most, |now| now.min(most));
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// Has the kernel kill this process when the thread that started it ends.
///
/// # Errors
/// Those of prctl(2).
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Forks this process, which must have one thread.
///
/// # Errors
/// Those of fork(2).
pub fn fork() -> io::Result<Fork> {
    // SAFETY: there is one thread, so the child is a whole process in which every lock is free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid)
            .map(|child| Fork::Parent { child })
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Ends this process at once: nothing that is registered for the end of a program runs.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit takes an integer and never returns.
    unsafe { libc::_exit(code) }
}
