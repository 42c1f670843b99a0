//! [`Room`]: what a layer takes, and whether the file system still has it.

use std::os::fd::{AsFd, OwnedFd};

use super::{RESERVED_BYTES, RESERVED_INODES, UnpackError};

/// Written bytes and made inodes between two looks at the free space.
const CHECK_BYTES: u64 = 8 << 20;
const CHECK_INODES: u64 = 4096;

/// What a file of any length takes at least, and is rounded to, in our accounts.
pub(super) const UNIT: u64 = 4096;

/// Accounts of one layer.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes so far.
    pub bytes: u64,
    /// Inodes so far.
    pub inodes: u64,
    unchecked_bytes: u64,
    unchecked_inodes: u64,
}

impl Room {
    /// Accounts of a new layer: its root is there already. `dir` is on the file system.
    pub(super) fn open(dir: &OwnedFd) -> Result<Self, UnpackError> {
        check(dir, 1)?;
        Ok(Self { bytes: UNIT, inodes: 1, ..Self::default() })
    }

    /// Counts a new file, directory, or anything else with an inode.
    pub(super) fn add_inode(&mut self, dir: &OwnedFd) -> Result<(), UnpackError> {
        self.inodes += 1;
        self.unchecked_inodes += 1;
        self.add_bytes(UNIT, dir)
    }

    /// Counts written bytes.
    pub(super) fn add_bytes(&mut self, bytes: u64, dir: &OwnedFd) -> Result<(), UnpackError> {
        self.bytes += bytes;
        self.unchecked_bytes += bytes;
        if self.unchecked_bytes < CHECK_BYTES && self.unchecked_inodes < CHECK_INODES {
            return Ok(());
        }
        self.unchecked_bytes = 0;
        self.unchecked_inodes = 0;
        check(dir, 1)
    }
}

/// Whether the file system that `dir` is on has so large a part of the reserve left.
pub(super) fn check(dir: impl AsFd, part: u64) -> Result<(), UnpackError> {
    let space = rustix::fs::fstatvfs(dir)
        .map_err(|error| UnpackError::file("look at the file system of", b"/", error))?;
    if space.f_bavail.saturating_mul(space.f_frsize) < RESERVED_BYTES / part {
        return Err(UnpackError::Full("space".into()));
    }
    // File systems without a fixed number of inodes say 0.
    if space.f_files > 0 && space.f_favail < RESERVED_INODES / part {
        return Err(UnpackError::Full("inodes".into()));
    }
    Ok(())
}
