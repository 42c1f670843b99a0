//! Processes and threads.

use super::Place;
use super::text::{limit, number_in, text_of};
use crate::sys::kept::Kept;

/// Processes and threads of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Processes.
    pub processes: Option<u64>,
    /// Threads of all processes.
    pub threads: Option<u64>,
    /// None: without limit.
    pub max_threads: Option<u64>,
}

/// The files, which have the same names in v1 and v2.
#[derive(Debug)]
pub(super) struct Files {
    processes: Option<Kept>,
    threads: Option<Kept>,
    max_threads: Option<Kept>,
}

impl Files {
    pub(super) fn open(place: &Place) -> Self {
        let (dir, processes) = match place {
            // v1 keeps the list that a descriptor has read for a second after each reading, and so
            // would show who reads it more often the same one for ever.
            Place::V1(dir) => (dir, Kept::reopened(dir, "cgroup.procs")),
            Place::V2(dir) => (dir, Kept::open(dir, "cgroup.procs")),
        };
        Self {
            processes,
            threads: Kept::open(dir, "pids.current"),
            max_threads: Kept::open(dir, "pids.max"),
        }
    }

    pub(super) fn read(&self) -> Tasks {
        let threads = number_in(&self.threads);
        // A path may lead to a later group of the same name; a descriptor knows that its own is gone.
        let processes = threads.and(self.processes.as_ref()).and_then(Kept::read);
        Tasks {
            processes: count(processes.as_deref(), threads),
            threads,
            max_threads: number_in(&self.max_threads).and_then(limit),
        }
    }

    pub(super) fn processes(&self) -> Vec<i32> {
        text_of(&self.processes).lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// A container with groups of its own, such as one with systemd in it, has its processes there and
/// none in its own; then the threads, which are counted with all below, are the nearest figure.
fn count(processes: Option<&str>, threads: Option<u64>) -> Option<u64> {
    match processes.map(|text| text.lines().count() as u64) {
        Some(0) => threads.or(Some(0)),
        counted => counted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_in_the_group_or_estimated_by_threads() {
        assert_eq!(count(Some("1\n22\n333\n"), Some(9)), Some(3));
        assert_eq!(count(Some(""), Some(9)), Some(9));
        assert_eq!(count(Some(""), None), Some(0));
        assert_eq!(count(None, Some(9)), None);
    }

    #[test]
    fn a_limit_of_max_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("pids.current"), "4\n").expect("write");
        std::fs::write(dir.path().join("pids.max"), "max\n").expect("write");
        let tasks = Files::open(&Place::V2(dir.path().to_owned())).read();
        assert_eq!(tasks, Tasks { processes: None, threads: Some(4), max_threads: None });
    }
}
