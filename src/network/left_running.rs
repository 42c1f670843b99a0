//! Plugins that a killed daemon left running.
//!
//! An ADD that goes on beside the next daemon's DEL makes an address or a rule after everything was
//! given back. So before anything is recovered, such plugins, and what they have started, get a
//! while to finish and are killed then; the DEL that is owed undoes what they did.
//!
//! They are told by their environment, which they hand down: `CNI_NETNS` names a namespace of ours
//! (CNI specification, "Parameters"). A plugin without one (a DEL for a namespace that is gone) only
//! takes away, and hurts nobody.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::steps::blocking;
use crate::sys::leftovers::{Leftover, Text, find};
use crate::sys::pidfd::Process;

/// What a plugin needs to finish is a fraction of this, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A killed process that is still there hangs in the kernel, and changes nothing from there.
const KILLED: Duration = Duration::from_secs(1);

/// Reading an environment waits for its process's memory, which one that hangs may have locked.
const LOOK: Duration = Duration::from_secs(5);

/// Rounds of looking: each finds what the ones before have started meanwhile.
const ROUNDS: usize = 8;

/// After a look that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Waits until no plugin works on a namespace below `namespaces`; those that are not done after
/// `patience` are killed.
pub async fn settle(namespaces: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    for _ in 0..ROUNDS {
        let below = namespaces.to_owned();
        let found = match timeout(LOOK, blocking(move || plugins_of(&below))).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "look for plugins of the daemon before");
                sleep(PAUSE).await;
                continue;
            }
            Err(_) => {
                tracing::warn!("a process does not let its environment be read");
                return;
            }
        };
        if found.is_empty() {
            return;
        }
        tracing::info!(count = found.len(), "plugins of the daemon before are still at work");
        for plugin in found {
            end(plugin, deadline).await;
        }
    }
}

/// Waits for a process until `deadline`, then kills it.
async fn end(Leftover { pid, start_time }: Leftover, deadline: Instant) {
    let find = || Process::find(pid, start_time).ok().flatten();
    if let Some(process) = find() {
        timeout_at(deadline, process.ended()).await.ok();
    }
    if let Some(process) = find() {
        tracing::warn!(pid, "a plugin of the daemon before takes too long and is killed");
        process.kill().ok();
        timeout(KILLED, process.ended()).await.ok();
    }
}

/// The processes whose `CNI_NETNS` is below `namespaces`. Blocks.
fn plugins_of(namespaces: &Path) -> io::Result<Vec<Leftover>> {
    let wanted = [b"CNI_NETNS=", namespaces.as_os_str().as_bytes(), b"/"].concat();
    find(Text::Environment, |entries| entries.iter().any(|entry| entry.starts_with(&wanted)))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A shell that works for a plugin on a namespace below `dir`, with a child of its own.
    fn plugin(dir: &Path, line: &str) -> Child {
        Command::new("sh")
            .args(["-c", line])
            .env("CNI_NETNS", dir.join("pod/ns/net"))
            .spawn()
            .expect("sh")
    }

    #[tokio::test]
    async fn a_plugin_that_finishes_is_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let done = dir.path().join("done");
        let mut child = plugin(dir.path(), &format!("sleep 0.3; touch {}", done.display()));
        settle(dir.path(), PATIENCE).await;
        assert!(done.exists());
        assert!(child.wait().expect("reaped").success());
    }

    #[tokio::test]
    async fn one_that_does_not_is_killed_with_what_it_started_and_strangers_live() {
        let (dir, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let mut child = plugin(dir.path(), "sleep 1000 & wait");
        let mut stranger = plugin(other.path(), "exec sleep 1000");
        while plugins_of(dir.path()).expect("looked").len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        settle(dir.path(), Duration::ZERO).await;
        assert_eq!(plugins_of(dir.path()).expect("looked"), []);
        assert!(!child.wait().expect("reaped").success());
        assert!(stranger.try_wait().expect("asked").is_none());
        stranger.kill().expect("killed");
        stranger.wait().expect("reaped");
    }
}
