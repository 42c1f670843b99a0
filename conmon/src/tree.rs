//! Kills everything a process has started, as far as that can still be told.
//!
//! A process belongs to the tree if its parent, its process group or its session does. What has
//! been found once is remembered with its start time, so that a process whose parent dies between
//! two looks is still found by its group or session, and a pid that is used anew is not mistaken.
//! A descendant that changed its session *and* whose parent died before the first look escapes;
//! the container's end takes it.

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::child::Process;
use crate::{procfs, rights};

/// How many processes of a tree are kept in mind. A tree that grows faster than it can be killed
/// is a fork bomb, which the pids cgroup has to bound.
const MAX_MEMBERS: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    pid: i32,
    start_time: u64,
}

/// A tree of processes that is being killed.
#[derive(Debug)]
pub(crate) struct Tree {
    members: Vec<Member>,
    /// This process, which may be the tree's root but is never killed.
    own: Process,
    /// A child of this process that is no part of the tree either.
    spared: Option<i32>,
}

impl Tree {
    /// The tree below a process, which may have ended.
    pub(crate) fn of(root: Process) -> Tree {
        let own = Process::look_at(Pid::as_raw(Some(rustix::process::getpid())));
        let mut tree = Tree { members: Vec::new(), own, spared: None };
        tree.add(root);
        tree
    }

    /// The tree below this process: its children, and what they have started, but for one child.
    pub(crate) fn below_self(spared: Option<i32>) -> Tree {
        let tree = Tree::of(Process::look_at(Pid::as_raw(Some(rustix::process::getpid()))));
        Tree { spared, ..tree }
    }

    /// Adds another root, with its group and session as far as they are not this process's.
    ///
    /// COMPAT: runc makes the process of an exec the leader of its session; crun 1.8 makes a
    /// process the leader that is gone by then, so the number need not be any living pid.
    pub(crate) fn add(&mut self, root: Process) {
        self.members.push(Member { pid: root.pid, start_time: root.start_time });
        for (leader, own) in [(root.group, self.own.group), (root.session, self.own.session)] {
            if leader > 1 && leader != own && leader != root.pid {
                // As long as the group or session lives its number is no other process's pid; if
                // one has it later, its start time tells.
                self.members.push(Member { pid: leader, start_time: 0 });
            }
        }
    }

    /// Kills what lives of the tree and returns how many processes that were. Zero means that the
    /// whole tree is gone.
    ///
    /// RACE: a process that is killed leaves its newest children without a parent by which they
    /// could be found. So all are stopped first, as they are found, until nothing new shows:
    /// what has been stopped starts no more, and what it has started still has its parent.
    pub(crate) fn kill(&mut self) -> usize {
        loop {
            let known = self.members.len();
            let alive = self.stop();
            if self.members.len() == known || self.members.len() >= MAX_MEMBERS {
                self.members.iter().for_each(|member| member.signal(Signal::KILL));
                return alive;
            }
        }
    }

    /// Looks at all processes once, and stops those that belong to the tree.
    fn stop(&mut self) -> usize {
        let (own, spared, members) = (self.own.pid, self.spared, &mut self.members);
        let mut alive = 0;
        let mut see = |pid: i32, stat: &procfs::Stat| {
            let this = Member { pid, start_time: stat.start_time };
            // A pid with another start time is used anew: it says nothing about the tree any more.
            members.retain(|member| member.pid != pid || *member == this);
            let knows = |wanted: i32| members.iter().any(|member| member.pid == wanted);
            let known = knows(pid);
            let related = || [stat.parent, stat.group, stat.session].into_iter().any(knows);
            if pid <= 1 || pid == own || spared == Some(pid) || !(known || related()) {
                return;
            }
            if !known && members.len() < MAX_MEMBERS {
                members.push(this);
            }
            if !stat.ended {
                alive += 1;
                this.signal(Signal::STOP);
            }
        };
        let seen = rights::with(rights::LOOK, || procfs::for_each_process(&mut see));
        // Without /proc nothing can be said about who lives.
        if seen.is_err() { alive.max(1) } else { alive }
    }
}

impl Member {
    /// Sends a signal, unless the pid has come to mean another process or is this one.
    fn signal(self, signal: Signal) {
        let pid = Pid::from_raw(self.pid).filter(|pid| *pid != rustix::process::getpid());
        let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let stat = rights::with(rights::LOOK, || procfs::stat(self.pid));
        let same = stat.is_some_and(|stat| stat.start_time == self.start_time);
        if let Some(pidfd) = pidfd.filter(|_| same) {
            // ESRCH: it ended meanwhile.
            rights::with(rights::SIGNAL, || rustix::process::pidfd_send_signal(pidfd, signal)).ok();
        }
    }
}
