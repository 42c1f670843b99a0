//! Kills everything a process has started, as far as that can still be told.
//!
//! A process belongs to the tree if its parent, its process group or its session does. What has
//! been found once is remembered with its start time, so that a process whose parent dies between
//! two looks is still found by its group or session, and a pid that is used anew is not mistaken.
//! A descendant that changed its session *and* whose parent died before the first look escapes;
//! the container's end takes it.

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::procfs;

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
    own: i32,
}

impl Tree {
    /// The tree below a process of which the start time is known. It may have ended.
    pub(crate) fn below(root: i32, start_time: u64) -> Tree {
        let members = vec![Member { pid: root, start_time }];
        Tree { members, own: Pid::as_raw(Some(rustix::process::getpid())) }
    }

    /// The tree below a child that is not reaped yet, so that its pid can mean nothing else.
    pub(crate) fn below_child(root: i32) -> Tree {
        Tree::below(root, procfs::stat(root).map_or(0, |stat| stat.start_time))
    }

    /// The tree below this process: its children, and what they have started.
    pub(crate) fn below_self() -> Tree {
        Tree::below_child(Pid::as_raw(Some(rustix::process::getpid())))
    }

    /// Adds another root.
    pub(crate) fn add(&mut self, root: i32, start_time: u64) {
        self.members.push(Member { pid: root, start_time });
    }

    /// Kills what lives of the tree and returns how many processes that were. Zero means that the
    /// whole tree is gone.
    pub(crate) fn kill(&mut self) -> usize {
        let mut alive = 0;
        loop {
            let found = self.members.len();
            alive = alive.max(self.kill_once());
            // A parent may stand behind its child in /proc: look again for what a new member
            // brings in.
            if self.members.len() == found || self.members.len() >= MAX_MEMBERS {
                return alive;
            }
        }
    }

    fn kill_once(&mut self) -> usize {
        let (own, members) = (self.own, &mut self.members);
        let mut alive = 0;
        let seen = procfs::for_each_process(|pid, stat| {
            let this = Member { pid, start_time: stat.start_time };
            // A pid with another start time is used anew: it says nothing about the tree any more.
            members.retain(|member| member.pid != pid || *member == this);
            let knows = |wanted: i32| members.iter().any(|member| member.pid == wanted);
            let known = knows(pid);
            let related = || [stat.parent, stat.group, stat.session].into_iter().any(knows);
            if pid <= 1 || pid == own || !(known || related()) {
                return;
            }
            if !known && members.len() < MAX_MEMBERS {
                members.push(this);
            }
            if !stat.ended {
                alive += 1;
                kill(this);
            }
        });
        // Without /proc nothing can be said about who lives.
        if seen.is_err() { alive.max(1) } else { alive }
    }
}

/// Kills a process unless its pid has come to mean another.
fn kill(member: Member) {
    let pidfd = Pid::from_raw(member.pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let same = procfs::stat(member.pid).is_some_and(|stat| stat.start_time == member.start_time);
    if let Some(pidfd) = pidfd.filter(|_| same) {
        // ESRCH: it ended meanwhile.
        rustix::process::pidfd_send_signal(pidfd, Signal::KILL).ok();
    }
}
