//! The exit record in the monitor directory.
//!
//! Its file exists and has its blocks before the container does, so that a tmpfs which is full when
//! the container ends does not cost the exit code. It gets its name, by rename, only when whole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use conmon::{EXIT, Exit, exit_record::MAX_EXIT_FILE};
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::fault::{Fault, Tried};

/// The record's name until it is whole.
const DRAFT: &str = ".exit.draft";

/// An exit record that waits for its exit.
pub(crate) struct ExitFile {
    dir: OwnedFd,
    draft: OwnedFd,
}

impl ExitFile {
    /// Creates the file in the monitor directory and reserves its space.
    pub(crate) fn prepare(dir: BorrowedFd<'_>) -> Result<ExitFile, Fault> {
        let tried = || "reserve space for the exit record".to_owned();
        let dir = dir.try_clone_to_owned().tried(tried)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let draft = rustix::fs::openat(&dir, DRAFT, flags | OFlags::CLOEXEC, mode).tried(tried)?;
        rustix::fs::fallocate(&draft, FallocateFlags::empty(), 0, MAX_EXIT_FILE as u64)
            .tried(tried)?;
        Ok(ExitFile { dir, draft })
    }

    /// Writes the record and gives it its name.
    pub(crate) fn publish(&self, exit: &Exit) -> Result<(), Fault> {
        let tried = || format!("write {EXIT}");
        let text = exit.to_text();
        rustix::io::pwrite(self.draft.as_fd(), text.as_bytes(), 0).tried(tried)?;
        rustix::fs::ftruncate(&self.draft, text.len() as u64).tried(tried)?;
        rustix::fs::renameat(&self.dir, DRAFT, &self.dir, EXIT).tried(tried)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_record_appears_whole_and_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(dir.path()).unwrap();
        let file = ExitFile::prepare(handle.as_fd()).unwrap();
        assert!(!dir.path().join(EXIT).exists());
        let exit = Exit { code: 7, at_ns: 1, oom_killed: false, lost_bytes: 0 };
        file.publish(&exit).unwrap();
        let text = std::fs::read_to_string(dir.path().join(EXIT)).unwrap();
        assert_eq!(Exit::parse(&text), Ok(exit));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_is_gone_is_a_fault_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(dir.path()).unwrap();
        let file = ExitFile::prepare(handle.as_fd()).unwrap();
        dir.close().unwrap();
        let exit = Exit { code: 7, at_ns: 1, oom_killed: false, lost_bytes: 0 };
        assert!(file.publish(&exit).is_err());
    }
}
