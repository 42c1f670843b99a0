//! The first process of a shared pid namespace: it reaps what the containers leave behind, and
//! does nothing else until it is told to end.
//!
//! Containers of the pod see it as pid 1, some of them with the right to look into it. So it owns
//! nothing: its root is an empty read-only tmpfs, it has no descriptors, no capabilities, a user
//! and group that own no file, and it is not dumpable.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

use crate::fault::{Fault, Tried};
use crate::sys;

/// What the child says when it is locked in. Anything else is the reason why it is not.
pub(super) const READY: &str = "ready";

/// What the parent says when the namespace is pinned.
pub(super) const STAY: &[u8] = b"!";

/// Where the new root is mounted for a moment, in a mount namespace of its own. Every host has it.
const PLACE: &CStr = c"/proc";

/// What the first process is, and how it talks to who starts it.
pub(super) struct Role {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) to_parent: OwnedFd,
    pub(super) from_parent: OwnedFd,
}

/// Locks this process in, waits for the parent's word, and reaps for ever.
pub(super) fn run(role: Role) -> ! {
    let Role { user, group, to_parent, from_parent } = role;
    let mut to_parent = File::from(to_parent);
    let said = match lock_in(user, group) {
        Ok(()) => READY.to_owned(),
        Err(fault) => fault.chain(),
    };
    to_parent.write_all(said.as_bytes()).ok();
    drop(to_parent);
    // The parent's end without a word means that it failed or was killed: nobody knows of us.
    let mut word = [0; STAY.len()];
    if said != READY || File::from(from_parent).read_exact(&mut word).is_err() {
        std::process::exit(1);
    }
    if sys::close_from(0).is_err() {
        std::process::exit(1);
    }
    reap_until_told()
}

fn lock_in(user: u32, group: u32) -> Result<(), Fault> {
    sys::block_all().tried(|| "block signals".to_owned())?;
    rustix::process::setsid().tried(|| "make a session".to_owned())?;
    rustix::thread::set_name(c"pause").tried(|| "set the process's name".to_owned())?;
    enter_empty_root().tried(|| "enter an empty root".to_owned())?;
    drop_privileges(user, group).tried(|| "drop privileges".to_owned())
}

fn enter_empty_root() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("pause", PLACE, "tmpfs", flags, c"size=4k,nr_inodes=2,mode=0555")?;
    rustix::process::chdir(PLACE)?;
    // The old root is stacked on the new one and taken from there (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

fn drop_privileges(user: u32, group: u32) -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    // The bounding set ends where the kernel's capabilities do.
    for capability in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    // Also for --user 0:0, which keeps them otherwise.
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// The life of a first process. Signals to it that are blocked wait for us, where unblocked ones
/// without a handler would be ignored (pid_namespaces(7), "The namespace init process").
fn reap_until_told() -> ! {
    loop {
        match sys::wait_signal(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]) {
            libc::SIGCHLD => while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {},
            _ => std::process::exit(0),
        }
    }
}
