//! What a container's processes have open, from /proc.
//!
//! Nothing that is read here waits for the process: not for its memory (as `cmdline` does), not for
//! it to be thawed.

use std::fs;
use std::path::{Path, PathBuf};

/// Processes of one container that are looked at; the others count as nothing.
const MAX_PROCESSES: usize = 512;

/// Descriptors of one process that are told apart; further ones are counted as files.
const MAX_DESCRIPTORS: usize = 4096;

/// What the processes of a container have open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// Descriptors.
    pub descriptors: u64,
    /// Of them, sockets.
    pub sockets: u64,
    /// How many descriptors the first process may have.
    pub max_open_files: Option<u64>,
}

impl Processes {
    /// Looks at the container's first process and at all of them. Blocks.
    pub(super) fn look(first: Option<i32>, all: &[i32]) -> Self {
        let dir = |pid: i32| PathBuf::from(format!("/proc/{pid}"));
        let limits = first.and_then(|pid| fs::read_to_string(dir(pid).join("limits")).ok());
        let mut found =
            Self { max_open_files: limits.as_deref().and_then(open_files), ..Self::default() };
        for pid in all.iter().take(MAX_PROCESSES) {
            found.add(&dir(*pid).join("fd"));
        }
        found
    }

    fn add(&mut self, descriptors: &Path) {
        // A process that ends meanwhile has none.
        for (seen, entry) in fs::read_dir(descriptors).into_iter().flatten().flatten().enumerate() {
            self.descriptors += 1;
            if seen < MAX_DESCRIPTORS && fs::read_link(entry.path()).is_ok_and(|to| is_socket(&to))
            {
                self.sockets += 1;
            }
        }
    }
}

fn is_socket(target: &Path) -> bool {
    target.to_str().is_some_and(|target| target.starts_with("socket:["))
}

/// The soft limit in the text of /proc/PID/limits, proc_pid_limits(5).
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let _socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let found = Processes::look(Some(own), &[own, i32::MAX]);
        assert!(found.sockets >= 1 && found.descriptors > found.sockets, "{found:?}");
        assert!(found.max_open_files.is_some_and(|most| most >= found.descriptors), "{found:?}");
        assert_eq!(Processes::look(None, &[]), Processes::default());
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             95837                95837                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files   unlimited  unlimited files\n"), None);
        assert_eq!(open_files(""), None);
    }
}
