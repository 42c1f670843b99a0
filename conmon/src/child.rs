//! Starts programs and learns how processes end.
//!
//! The monitor is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): when the runtime program
//! has ended, the container's init is the monitor's child, so its status is the real one, and its
//! pid cannot be used again before the monitor has reaped it.
//!
//! RACE: a container may end before the monitor has read from the pid file which process it is.
//! While a runtime program is under way, the ends of unknown children are therefore remembered
//! ([`Early`]); whichever comes first, the pid or the end, the other finds it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use conmon::Owner;
use rustix::fs::{FileType, Gid, Uid};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::{procfs, rights, sys};

/// How many ends of unknown children are remembered. They are the container's own orphans, and a
/// runtime program lives for a fraction of a second.
const MAX_EARLY: usize = 512;

/// What the monitor would like to be: the last but one to be killed for want of memory. -1000
/// would exempt it altogether, which can leave the kernel with nothing to kill.
const OOM_SCORE_ADJ: i32 = -999;

/// Which process, for good: a pid alone may come to mean another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// As in /proc/PID/stat; 0 if that could not be read.
    pub(crate) start_time: u64,
    /// Its process group when it was last looked at.
    pub(crate) group: i32,
    /// Its session when it was last looked at.
    pub(crate) session: i32,
}

impl Process {
    /// Looks at a process that cannot go away meanwhile: it is this one, or a child not reaped.
    pub(crate) fn look_at(pid: i32) -> Process {
        let stat = rights::with(rights::LOOK, || procfs::stat(pid));
        let (start_time, group, session) =
            stat.map_or((0, pid, pid), |stat| (stat.start_time, stat.group, stat.session));
        Process { pid, start_time, group, session }
    }
}

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) process: Process,
    /// The exit status, or 128 + the signal's number.
    pub(crate) code: u8,
    /// When the monitor learned of it, in nanoseconds since the Unix epoch.
    pub(crate) at_ns: i64,
}

/// The standard streams of a program to be started.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Streams {
    /// Gives pipes and sockets to somebody. Anything else has a name on the node and stays whose it
    /// is: a container's root must never become the owner of the node's /dev/null.
    fn give_to(&self, owner: Owner) -> io::Result<()> {
        for stream in [&self.stdin, &self.stdout, &self.stderr] {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode);
            if matches!(kind, FileType::Fifo | FileType::Socket) {
                let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                rights::with(rights::GIVE, || rustix::fs::fchown(stream, Some(uid), Some(gid)))?;
            }
        }
        Ok(())
    }
}

/// Starts programs that inherit nothing the monitor has set for itself.
pub(crate) struct Spawner {
    /// What children get back, if the monitor could change its own.
    oom_score_adj: Option<i32>,
    /// Who gets their standard streams; none = they stay root's.
    owner: Option<Owner>,
}

impl Spawner {
    /// Protects the monitor from the OOM killer as far as this host allows: lowering the score
    /// takes CAP_SYS_RESOURCE.
    pub(crate) fn new(owner: Option<Owner>) -> Spawner {
        let before = procfs::oom_score_adj().ok();
        let lowered = procfs::set_oom_score_adj(&OOM_SCORE_ADJ.to_string()).is_ok();
        Spawner { oom_score_adj: before.filter(|_| lowered), owner }
    }

    /// Starts a program in a process group of its own and returns its pid.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, argv: &[A], streams: Streams) -> io::Result<i32> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(owner) = self.owner {
            streams.give_to(owner)?;
        }
        let mut command = Command::new(program.as_ref());
        command.args(arguments).process_group(0);
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        sys::start_clean(&mut command, self.oom_score_adj);
        // The handle is let go: ends are learned of by `next_ended` alone.
        let child = command.spawn()?;
        i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// Reaps one child that has ended.
pub(crate) fn next_ended() -> Option<Ended> {
    let pid = sys::find_ended_child()?;
    // Before the reaping: after it the entry in /proc is gone.
    let process = Process::look_at(pid);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::Pid(Pid::from_raw(pid)?), options).ok()??;
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code & 0xff,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return None,
    };
    Some(Ended { process, code: u8::try_from(code).unwrap_or(u8::MAX), at_ns: now_ns() })
}

/// Ends of children that nobody has claimed yet.
#[derive(Default)]
pub(crate) struct Early {
    ended: Vec<Ended>,
}

/// What became of the process that a runtime says it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// It is a child of ours, alive or at least not reaped.
    Child(Process),
    /// It has ended already.
    Ended(Ended),
    /// It never was a child of ours: the pid is not to be believed.
    Stranger,
}

impl Early {
    /// Remembers the end of an unknown child. The oldest gives way when there are too many.
    pub(crate) fn remember(&mut self, ended: Ended) {
        if self.ended.len() == MAX_EARLY {
            self.ended.remove(0);
        }
        self.ended.push(ended);
    }

    /// Forgets everything: no runtime program is under way.
    pub(crate) fn clear(&mut self) {
        self.ended = Vec::new();
    }

    /// Finds out about the process that a runtime says it has started.
    pub(crate) fn claim(&mut self, pid: i32) -> Claimed {
        // A living child goes first: a remembered one of the same pid is then an older one.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let id = Pid::from_raw(pid).map(WaitId::Pid);
        let child = id.is_some_and(|id| rustix::process::waitid(id, options).is_ok());
        if child {
            return Claimed::Child(Process::look_at(pid));
        }
        match self.ended.iter().rposition(|ended| ended.process.pid == pid) {
            Some(at) => Claimed::Ended(self.ended.remove(at)),
            None => Claimed::Stranger,
        }
    }
}

/// The wall clock in nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(pid: i32, code: u8) -> Ended {
        let process = Process { pid, start_time: 1, group: 2, session: 3 };
        Ended { process, code, at_ns: 4 }
    }

    #[test]
    fn the_latest_end_of_a_pid_is_claimed_and_only_once() {
        let mut early = Early::default();
        // No pid of these is possible for a child of this process: they are above PID_MAX_LIMIT.
        let pid = 1 << 23;
        early.remember(ended(pid, 1));
        early.remember(ended(pid + 1, 2));
        early.remember(ended(pid, 3));
        assert_eq!(early.claim(pid), Claimed::Ended(ended(pid, 3)));
        assert_eq!(early.claim(pid), Claimed::Ended(ended(pid, 1)));
        assert_eq!(early.claim(pid), Claimed::Stranger);
        early.clear();
        assert_eq!(early.claim(pid + 1), Claimed::Stranger);
    }

    #[test]
    fn a_process_that_is_no_child_is_a_stranger() {
        assert_eq!(Early::default().claim(1), Claimed::Stranger);
    }

    #[test]
    fn only_so_many_ends_are_remembered() {
        let mut early = Early::default();
        for pid in 0..1000 {
            early.remember(ended((1 << 23) + pid, 0));
        }
        assert_eq!(early.ended.len(), MAX_EARLY);
        assert_eq!(early.ended[0].process.pid, (1 << 23) + 1000 - MAX_EARLY as i32);
    }
}
