//! Space taken by containers' writable layers, sampled in the background: no request walks a
//! directory or waits for a disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::steps::blocking;

/// Between two samples. The kubelet evicts by a threshold it looks at every ten seconds, but asks
/// the file system itself for free space; this figure only tells what is ours.
const PERIOD: Duration = Duration::from_secs(60);

/// Entries looked at in one sample. A layer of more is counted as far as this.
const MAX_ENTRIES: u64 = 2_000_000;

/// Space on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// A directory on it.
    pub mountpoint: PathBuf,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
    /// When it was measured.
    pub at: SystemTime,
}

/// The writable layers of all containers.
#[derive(Clone, Debug)]
pub struct WritableLayers(Arc<Mutex<Usage>>);

impl WritableLayers {
    /// Those in `dir`, not measured yet.
    pub fn new(dir: PathBuf) -> Self {
        let usage = Usage { mountpoint: dir, used_bytes: 0, inodes_used: 0, at: SystemTime::now() };
        Self(Arc::new(Mutex::new(usage)))
    }

    /// What was measured last.
    pub fn usage(&self) -> Usage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Measures again and again, for as long as the daemon lives.
    pub async fn sample(self) {
        loop {
            let dir = self.usage().mountpoint;
            let measured = blocking(move || measure(dir)).await;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = measured;
            tokio::time::sleep(PERIOD).await;
        }
    }
}

fn measure(dir: PathBuf) -> Usage {
    let mut usage = Usage { mountpoint: dir, used_bytes: 0, inodes_used: 0, at: SystemTime::now() };
    let mut waiting = vec![usage.mountpoint.clone()];
    while let Some(dir) = waiting.pop() {
        add(&dir, &mut usage, &mut waiting);
    }
    usage
}

fn add(dir: &Path, usage: &mut Usage, waiting: &mut Vec<PathBuf>) {
    // What goes while it is looked at is not there.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if usage.inodes_used >= MAX_ENTRIES {
            return;
        }
        let Ok(found) = entry.metadata() else { continue };
        usage.inodes_used += 1;
        usage.used_bytes += found.blocks() * 512; // stat(2): always of 512 bytes
        if found.is_dir() {
            waiting.push(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_all_depths_are_counted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("a/b")).expect("directories");
        fs::write(dir.path().join("a/b/file"), vec![1; 8192]).expect("a file");
        let usage = measure(dir.path().to_owned());
        assert_eq!(usage.inodes_used, 3);
        assert!(usage.used_bytes >= 8192, "{usage:?}");
    }
}
