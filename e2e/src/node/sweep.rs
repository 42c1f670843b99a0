//! Removes what a node left on the machine without the daemon's help: after a failed test, a
//! killed test program, or a daemon that is being tested for exactly that.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::host;
use crate::program::output;
use crate::wait::eventually;

/// How long killed processes may take to leave.
const LEAVE: Duration = Duration::from_secs(60);

/// Names by which everything of one node (or registry) can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Its directory: mounts, files, and in the arguments of its processes.
    pub dir: PathBuf,
    /// What a node has besides.
    pub names: Option<Names>,
}

/// Names that only a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The bridge, which is also the CNI network's name and stands in the comments of its rules.
    pub bridge: String,
    /// Parent of the pods' control groups: absolute and never the root.
    pub cgroup: String,
}

/// What this process has made and not yet swept.
static LIVE: Mutex<Vec<Remains>> = Mutex::new(Vec::new());

/// Adds to what [`sweep_all`] sweeps.
pub fn remember(remains: &Remains) {
    if let Ok(mut live) = LIVE.lock() {
        live.push(remains.clone());
    }
}

/// A temporary directory that [`sweep_all`] sweeps too.
///
/// # Errors
/// If it cannot be made.
pub fn temporary_dir(prefix: &str) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir()?;
    remember(&Remains { dir: dir.path().to_owned(), names: None });
    Ok(dir)
}

/// Sweeps everything that this process has made: for the way out after a signal or a hang.
pub fn sweep_all() {
    let live = LIVE.lock().map(|mut live| std::mem::take(&mut *live)).unwrap_or_default();
    for remains in live {
        remains.sweep();
    }
}

impl Remains {
    /// Kills, unmounts and removes; everything is attempted, absence is fine.
    pub fn sweep(&self) {
        let gone = eventually("processes gone", LEAVE, || {
            let cgroup = self.names.as_ref().map(|names| names.cgroup.as_str());
            let left = host::processes_of(&self.dir, cgroup);
            left.iter().for_each(|process| host::kill_process(process.pid));
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        });
        if let Err(error) = gone {
            eprintln!("sweep: {error:#}");
        }
        for dir in self.names.iter().flat_map(|names| host::cgroup_dirs(&names.cgroup)).rev() {
            std::fs::remove_dir(dir).ok();
        }
        if let Err(error) = host::remove_tree(&self.dir) {
            eprintln!("sweep: {error:#}");
        }
        if let Some(names) = &self.names {
            remove_network(&names.bridge);
        }
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|other| other != self);
        }
    }
}

/// The bridge, and the rules of pods whose DEL never ran. Veth pairs went with their namespaces.
fn remove_network(bridge: &str) {
    for rule in rules(bridge) {
        let mut words: Vec<String> = split_rule(&rule);
        if let Some(add) = words.first_mut().filter(|word| *word == "-A") {
            "-D".clone_into(add);
            let chain = words.last().cloned().unwrap_or_default();
            output("iptables", ["-t", "nat"].map(str::to_owned).iter().chain(&words)).ok();
            if chain.starts_with("CNI-") {
                output("iptables", ["-t", "nat", "-F", &chain]).ok();
                output("iptables", ["-t", "nat", "-X", &chain]).ok();
            }
        }
    }
    if Path::new("/sys/class/net").join(bridge).exists() {
        output("ip", ["link", "delete", bridge]).ok();
    }
}

/// The nat rules whose comment names `network`, as `iptables-save` prints them.
pub(crate) fn rules(network: &str) -> Vec<String> {
    let marker = format!("name: \\\"{network}\\\"");
    let saved = output("iptables-save", ["-t", "nat"]).unwrap_or_default();
    saved.lines().filter(|line| line.contains(&marker)).map(str::to_owned).collect()
}

/// Splits a line of iptables-save: words, or quoted text with `\"` in it.
fn split_rule(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for c in rule.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_split_as_the_shell_would() {
        let rule = r#"-A POSTROUTING -m comment --comment "name: \"net\" id: \"a b\"" -j CNI-x"#;
        let words = split_rule(rule);
        assert_eq!(words[5], r#"name: "net" id: "a b""#);
        assert_eq!(words.last().map(String::as_str), Some("CNI-x"));
    }
}
