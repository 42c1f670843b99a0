//! Where the log is, and the way to it: below a directory that pods may write to, so no link on it is
//! followed and nothing but a file is written to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use conmon::Launch;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::fault::{Fault, Tried};
use crate::rights;

/// The place of a log.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// No link below it is followed; none = only the last name must not be one.
    base: Option<PathBuf>,
}

impl Place {
    /// The place that a monitor was told; none = there is to be no log.
    pub(crate) fn of(launch: &Launch) -> Option<Place> {
        let path = launch.log.clone()?;
        Some(Place { path, base: launch.log_dir.clone() })
    }

    /// Opens the file that is there, or creates one. No directory is made.
    ///
    /// # Errors
    /// Those of openat2(2); in words, when a link is on the way or what is there is no file.
    pub(crate) fn open(&self) -> Result<OwnedFd, Fault> {
        let tried = || format!("open log {}", self.path.display());
        let file = rights::with(rights::OPEN, || self.open_with_rights()).tried(tried)?;
        let stat = rustix::fs::fstat(&file).tried(tried)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file")).tried(tried);
        }
        Ok(file)
    }

    fn open_with_rights(&self) -> io::Result<OwnedFd> {
        // Readable, to look at the last byte. Nobody waits for the other end of a FIFO.
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o640);
        let Some(base) = &self.base else {
            return Ok(rustix::fs::openat(CWD, &self.path, flags, mode)?);
        };
        let below = self.path.strip_prefix(base).map_err(io::Error::other)?;
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, base, dir, Mode::empty())?;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(dir, below, flags, mode, resolve).map_err(|errno| match errno {
            Errno::LOOP => io::Error::other(format!("a link below {}", base.display())),
            _ => errno.into(),
        })
    }
}
