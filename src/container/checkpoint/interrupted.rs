//! Checkpoints that a killed daemon left behind.
//!
//! The runtime that makes one goes on without the daemon, and leaves frozen what it found frozen. It
//! is waited for, however long it takes, because CRIU is in the middle of the container's processes,
//! which do not survive its end. What is still frozen then is thawed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Frozen, clear};
use crate::container::{ContainerError, ContainerRecord, Parts};
use crate::ids::ContainerId;
use crate::steps::blocking;
use crate::sys::leftovers::{Text, find};

/// Between two looks whether the runtime is still at work.
const LOOK: Duration = Duration::from_millis(50);

/// Lets a container go on that a former daemon froze, if it did. Others do not wait for that.
pub fn recover(parts: &Arc<Parts>, record: &ContainerRecord) {
    let marker = parts.layout.checkpoint(&record.id);
    if matches!(marker.try_exists(), Ok(false)) {
        return;
    }
    tracing::warn!(container = %record.id, "a checkpoint was interrupted; it goes on");
    let (parts, record) = (parts.clone(), record.clone());
    drop(crate::steps::spawn("thaw container", async move {
        let id = record.id;
        match thaw(&parts, record, marker).await {
            Ok(()) => tracing::info!(container = %id, "goes on after a checkpoint"),
            Err(error) => {
                tracing::error!(container = %id, error = %crate::error::chain(&error), "thaw");
            }
        }
    }));
}

async fn thaw(
    parts: &Arc<Parts>,
    record: ContainerRecord,
    marker: PathBuf,
) -> Result<(), ContainerError> {
    let id = record.id;
    loop {
        match blocking(move || is_at_work(id)).await {
            Ok(false) => break,
            Ok(true) => {}
            // Nobody knows: CRIU may be at work.
            Err(error) => {
                tracing::warn!(container = %id, %error, "look for the runtime of a checkpoint");
            }
        }
        sleep(LOOK).await;
    }
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    if blocking(move || cgroups.is_frozen(&group)).await {
        Frozen { marker, record }.thaw(parts).await?;
    }
    clear(parts, id).await
}

/// Whether a runtime works on the container's checkpoint: one whose last argument is its id. Blocks.
fn is_at_work(id: ContainerId) -> io::Result<bool> {
    let id = id.to_string();
    let verbs: [&[u8]; 3] = [b"pause", b"checkpoint", b"resume"];
    let found = find(Text::Arguments, |words| {
        let mut words = words.iter().rev().skip_while(|word| word.is_empty());
        words.next() == Some(&id.as_bytes()) && words.any(|word| verbs.contains(word))
    })?;
    Ok(!found.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_runtime_at_work_is_known_by_its_last_argument() {
        let id = ContainerId::random();
        assert!(!is_at_work(id).expect("looked"));
        let id_word = id.to_string();
        // The shell ignores what comes after its script.
        let start = |words: &[&str]| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "read x", "runtime"]).args(words);
            command.stdin(std::process::Stdio::piped()).spawn().expect("shell")
        };
        for (words, expected) in [
            (vec!["--root", "/r", "checkpoint", "--leave-running", &id_word], true),
            (vec!["pause", &id_word], true),
            (vec!["kill", &id_word, "9"], false),
            (vec!["exec", &id_word], false),
        ] {
            let mut child = start(&words);
            assert_eq!(is_at_work(id).expect("looked"), expected, "{words:?}");
            drop(child.stdin.take());
            child.wait().expect("end");
        }
    }
}
