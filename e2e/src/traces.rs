//! Everything one node has on the machine at a moment, as lines that can be compared: the leak
//! check. Each line names a kind and a thing, so the difference of two snapshots is the report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::host;
use crate::node::sweep::{Names, rules};
use crate::wait::eventually;

/// How long clean-up behind an answered request may take: the daemon looks for what it owes every
/// half minute, and tokio keeps idle threads for ten seconds.
const SETTLE: Duration = Duration::from_secs(120);

/// Threads that tokio starts when the daemon's looks from time to time (statistics, writable layers,
/// leftovers) fall together, and that these then keep from being idle: no request's, so no leak.
const BACKGROUND: usize = 4;

/// Files that come with use and stay: no object's, so no leak.
const LASTING: [&str; 5] = ["lock", "identity", "last_reserved_ip.0", "images", "cni"];

/// Directories that are made when first needed and then stay; what is in them counts.
const STRUCTURE: [&str; 4] =
    ["state/owed", "state/runtimes", "state/runtimes/crun", "state/runtimes/runc"];

/// One snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Things by kind and name.
    pub things: BTreeSet<String>,
    /// Open descriptors of the daemon, by what they lead to.
    pub descriptors: Vec<String>,
    /// Control groups of pods and containers that are there, with the parent of all; none without
    /// pods.
    pub groups: BTreeSet<PathBuf>,
    /// Threads of the daemon.
    pub threads: usize,
}

impl Traces {
    /// What of the node in `dir` is on the machine now.
    pub(crate) fn of(dir: &Path, names: &Names, daemon: Option<u32>) -> Self {
        let mut things = BTreeSet::new();
        let mut note = |kind: &str, what: String| things.insert(format!("{kind}: {what}"));
        for point in host::mounts_below(dir) {
            note("mount", point.display().to_string());
        }
        // The parent group is not the daemon's to remove: the kubelet makes and keeps it.
        let below = |dir: &&PathBuf| !dir.ends_with(names.cgroup.trim_start_matches('/'));
        let groups = host::cgroup_dirs(&names.cgroup);
        for group in groups.iter().filter(below) {
            note("cgroup", group.display().to_string());
        }
        for process in host::processes_of(dir, Some(&names.cgroup)) {
            if Some(process.pid) != daemon {
                note("process", format!("{} {}", process.pid, process.command));
            }
        }
        for port in host::entries(&Path::new("/sys/class/net").join(&names.bridge).join("brif")) {
            note("veth", port);
        }
        for rule in rules(&names.bridge) {
            note("rule", rule);
        }
        for name in host::entries(&dir.join("ipam").join(&names.bridge)) {
            if !LASTING.contains(&name.as_str()) {
                note("address", name);
            }
        }
        for top in ["root", "state"] {
            for file in host::files_below(&dir.join(top)) {
                let first = file.iter().next().unwrap_or_default().to_string_lossy();
                let path = format!("{top}/{}", file.display());
                if !LASTING.contains(&first.as_ref()) && !STRUCTURE.contains(&path.as_str()) {
                    note("file", path);
                }
            }
        }
        for file in host::files_below(&dir.join("root/cni")) {
            // libcni's format: results/NETWORK-CONTAINER-INTERFACE.
            if file.starts_with("results") && file.iter().count() > 1 {
                note("file", format!("root/cni/{}", file.display()));
            }
        }
        if let Some(pid) = daemon {
            for n in 0..host::zombies_of(pid) {
                note("zombie", n.to_string());
            }
        }
        let groups = if things.is_empty() { BTreeSet::new() } else { groups.into_iter().collect() };
        Self {
            things,
            groups,
            descriptors: daemon.map(host::descriptors).unwrap_or_default(),
            threads: daemon.map_or(0, host::threads),
        }
    }

    /// Without what belongs to the daemon's process, for a comparison across its restart.
    #[must_use]
    pub fn without_process(mut self) -> Self {
        self.descriptors.clear();
        self.threads = 0;
        self
    }

    /// What this snapshot has and `before` had not.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let mut more: Vec<String> = self.things.difference(&before.things).cloned().collect();
        if self.descriptors.len() > before.descriptors.len() {
            let mut old = before.descriptors.clone();
            // The figures of what was there before may be looked at for the first time since.
            let figure = |target: &&String| {
                Path::new(target).parent().is_some_and(|group| before.groups.contains(group))
            };
            for target in self.descriptors.iter().filter(|target| !figure(target)) {
                // Numbers in socket:[123] differ each time: kinds are compared, not names.
                match old.iter().position(|known| kind(known) == kind(target)) {
                    Some(at) => drop(old.swap_remove(at)),
                    None => more.push(format!("descriptor: {target}")),
                }
            }
        }
        if self.threads > before.threads + BACKGROUND {
            more.push(format!("threads: {} instead of {}", self.threads, before.threads));
        }
        more
    }
}

/// Waits until nothing is there that was not there `before`.
///
/// # Errors
/// With the list of what stays.
pub fn ensure_nothing_new(before: &Traces, now: impl Fn() -> Traces) -> Result<()> {
    eventually("everything cleaned up", SETTLE, || {
        let more = now().since(before);
        ensure!(more.is_empty(), "{} left over:\n  {}", more.len(), more.join("\n  "));
        Ok(())
    })
}

fn kind(target: &str) -> &str {
    target.split('[').next().unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(descriptors: &[&str]) -> Traces {
        let descriptors = descriptors.iter().map(|&name| name.to_owned()).collect();
        Traces { descriptors, ..Traces::default() }
    }

    #[test]
    fn one_more_socket_is_found_among_renumbered_ones() {
        let before = traces(&["socket:[1]", "/log", "pipe:[2]"]);
        assert!(traces(&["socket:[7]", "/log", "pipe:[9]"]).since(&before).is_empty());
        let more = traces(&["socket:[7]", "socket:[8]", "/log", "pipe:[9]"]).since(&before);
        assert_eq!(more, ["descriptor: socket:[8]"]);
    }

    #[test]
    fn figures_of_what_was_there_before_may_come_late() {
        let mut before = traces(&["/log"]);
        let later = traces(&["/log", "/cgroup/a/cpu.stat", "/cgroup/b/cpu.stat"]);
        assert_eq!(later.since(&before).len(), 2);
        before.groups.insert("/cgroup/a".into());
        assert_eq!(later.since(&before), ["descriptor: /cgroup/b/cpu.stat"]);
    }
}
