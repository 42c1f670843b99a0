//! What the monitor may do (capabilities(7)).
//!
//! Before it starts the runtime, and so before it reads a byte of a container's, it gives up what it
//! never needs again, and of the rest it uses each right for the call that needs it and no longer. So
//! nothing else that it can be brought to do is done with more rights than those of a user who happens
//! to be called root.
//!
//! The programs that it starts have all rights again: they are started as root, and execve(2) gives
//! root what the bounding set has. For the same reason this is no wall against code of a stranger's,
//! which could start a program as well. That is what the [reader](crate::reader) is for: it reads all
//! that strangers write, has [no rights at all](forswear) and starts nothing.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    capability_is_in_bounding_set, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// To give the standard streams to the root of a user namespace.
pub(crate) const GIVE: CapabilitySet = CapabilitySet::CHOWN;

/// To open a log in a directory that is somebody else's.
pub(crate) const OPEN: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// To signal processes of other users.
pub(crate) const SIGNAL: CapabilitySet = CapabilitySet::KILL;

/// To see processes of other users where /proc hides them (proc(5), hidepid). While the monitor holds
/// it, nobody without it traces the monitor, or opens what the monitor has open (ptrace(2), "Ptrace
/// access mode checking"): not the root of a container that sees the node's processes.
pub(crate) const LOOK: CapabilitySet = CapabilitySet::SYS_PTRACE;

/// To take an oom_score_adj below the monitor's own.
pub(crate) const PROTECT: CapabilitySet = CapabilitySet::SYS_RESOURCE;

/// To take rights out of the bounding set of a reader.
const FORBID: CapabilitySet = CapabilitySet::SETPCAP;

/// All that is ever used after the start.
const KEPT: CapabilitySet = GIVE.union(OPEN).union(SIGNAL).union(LOOK).union(PROTECT).union(FORBID);

/// Gives up for good what is never used, and for now everything.
///
/// Where root gets no rights by execve(2) (securebits, no_new_privs), the runtime would start without
/// any, and without [`LOOK`] the monitor would have no more than a container has. There only the second is done.
pub(crate) fn give_up() -> io::Result<()> {
    let before = capabilities(None)?;
    let regained =
        !capabilities_secure_bits()?.contains(CapabilitiesSecureBits::NO_ROOT) && !no_new_privs()?;
    let permitted = match regained && before.permitted.contains(LOOK) {
        true => before.permitted & KEPT,
        false => before.permitted,
    };
    let sets = CapabilitySets { effective: CapabilitySet::empty(), permitted, ..before };
    Ok(set_capabilities(None, sets)?)
}

/// Gives up everything for good, for this process and all programs that it may start.
///
/// # Errors
/// The first error; what can be given up is given up in any case.
pub(crate) fn forswear() -> io::Result<()> {
    let ambient = clear_ambient_capability_set();
    let bounding = with(FORBID, || CapabilitySet::all().iter().try_for_each(forbid));
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    ambient?;
    bounding
}

fn forbid(right: CapabilitySet) -> io::Result<()> {
    match capability_is_in_bounding_set(right) {
        Ok(true) => Ok(remove_capability_from_bounding_set(right)?),
        // Not there, or unknown to this kernel.
        Ok(false) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Does something with this right, if the monitor has it. Makes system calls only, so a forked child
/// may call it.
pub(crate) fn with<T>(right: CapabilitySet, f: impl FnOnce() -> T) -> T {
    let before = capabilities(None).ok();
    let raised = before.filter(|before| !before.effective.contains(right)).and_then(|before| {
        let effective = before.effective | (before.permitted & right);
        set_capabilities(None, CapabilitySets { effective, ..before }).ok().map(|()| before)
    });
    let result = f();
    if let Some(before) = raised {
        // Giving up a right is never refused (capset(2)).
        set_capabilities(None, before).ok();
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What a program has that this thread starts.
    fn of_a_program() -> String {
        let mut grep = std::process::Command::new("grep");
        let output = grep.args(["CapEff", "/proc/self/status"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Rights are a thread's, and each test has one. Needs root.
    #[test]
    fn nothing_is_in_force_but_for_the_call_that_needs_it() {
        let (before, all) = (capabilities(None).unwrap(), of_a_program());
        assert!(before.permitted.contains(SIGNAL | LOOK | OPEN), "run as root");
        with(SIGNAL, || assert_eq!(capabilities(None).unwrap(), before));
        give_up().unwrap();
        let now = || capabilities(None).unwrap();
        assert_eq!(now().effective, CapabilitySet::empty());
        assert_eq!(now().permitted, before.permitted & KEPT);
        with(SIGNAL, || {
            assert_eq!(now().effective, SIGNAL);
            with(LOOK, || assert_eq!(now().effective, SIGNAL | LOOK));
            with(SIGNAL, || ());
            assert_eq!(now().effective, SIGNAL);
            with(CapabilitySet::SYS_ADMIN, || assert_eq!(now().effective, SIGNAL));
        });
        assert_eq!(now().effective, CapabilitySet::empty());
        assert_eq!(of_a_program(), all, "the runtime would not have them");
    }

    /// A thread's, too.
    #[test]
    fn where_a_program_would_not_get_them_back_they_are_kept() {
        let (before, all) = (capabilities(None).unwrap(), of_a_program());
        rustix::thread::set_no_new_privs(true).unwrap();
        give_up().unwrap();
        let now = capabilities(None).unwrap();
        assert_eq!((now.effective, now.permitted), (CapabilitySet::empty(), before.permitted));
        assert_eq!(of_a_program(), all, "the runtime would not have them");
    }
}
