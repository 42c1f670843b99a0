//! The way out of the store: what is discarded is first renamed, then deleted in the background.
//!
//! A rename works on a full disk and takes no time, so nobody waits for a deletion, and a crash
//! in the middle of one leaves its rest where the next start looks for it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

use rustix::io::Errno;
use tracing::warn;

use crate::sys::tree;

/// Where discarded directories wait for their deletion, and the thread that deletes them.
#[derive(Debug)]
pub(super) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    /// Names within `dir`. The thread ends when this is dropped; unbounded, because every name
    /// stands for a directory that exists anyway.
    doomed: Sender<PathBuf>,
}

impl Trash {
    /// Takes `dir` as the place.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let (doomed, queue) = channel::<PathBuf>();
        std::thread::Builder::new().name("image-trash".into()).spawn(move || {
            for path in queue {
                if let Err(error) = tree::remove(&path) {
                    // It stays until the next start tries again.
                    warn!(path = %path.display(), %error, "discarded files remain");
                }
            }
        })?;
        Ok(Self { dir: dir.to_owned(), next: AtomicU64::new(0), doomed })
    }

    /// Deletes what earlier runs left here.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(super) fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            self.delete(entry?.path());
        }
        Ok(())
    }

    /// Moves `path` out of the way and deletes it later. What is not there is not missed.
    ///
    /// # Errors
    /// If it can not even be renamed.
    pub(super) fn discard(&self, path: &Path) -> io::Result<()> {
        loop {
            // Leftovers of earlier runs have names like these too.
            let name = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &name, flags) {
                Ok(()) => {
                    self.delete(name);
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn delete(&self, path: PathBuf) {
        // The thread cannot be gone while this sender exists, unless it panicked; then the rest
        // is deleted at the next start.
        if self.doomed.send(path).is_err() {
            warn!("the thread that deletes discarded files is gone");
        }
    }
}

/// A directory that is discarded with everything in it unless it is [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    trash: Arc<Trash>,
    kept: bool,
}

impl Temporary {
    /// Makes the directory `path`, for root alone.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub(super) fn create(path: PathBuf, trash: Arc<Trash>) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, trash, kept: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory beside it, for what belongs to it and is no part of it.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub(super) fn beside(&self, extension: &str) -> io::Result<Self> {
        Self::create(self.path.with_extension(extension), Arc::clone(&self.trash))
    }

    /// It has been renamed and is somebody else's now.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.trash.discard(&self.path)
        {
            warn!(path = %self.path.display(), %error, "unfinished layer remains until restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn leftovers_of_an_earlier_run_are_deleted_and_not_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("trash");
        fs::create_dir_all(place.join("0/left/over")).expect("directory");
        let trash = Trash::open(&place).expect("open");
        trash.empty().expect("list");
        let more = dir.path().join("more");
        fs::create_dir(&more).expect("directory");
        trash.discard(&more).expect("discard");
        trash.discard(&more).expect("absence is no error");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(&place).expect("list").count() > 0 {
            assert!(Instant::now() < deadline, "the trash is not emptied");
            std::thread::yield_now();
        }
    }
}
