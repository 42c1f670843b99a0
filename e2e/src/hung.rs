//! A file system that never answers, as a dead NFS server is one: a FUSE mount whose server reads
//! no request. Dropping it ends the waiting of everybody who looked at it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The mount, and the connection that nobody serves.
#[derive(Debug)]
pub struct Hung {
    path: PathBuf,
    _connection: File,
}

impl Hung {
    /// Mounts it on `path`, which is made.
    ///
    /// # Errors
    /// If the kernel has no FUSE.
    pub fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let connection = File::options().read(true).write(true).open("/dev/fuse");
        let connection = connection.context("open /dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", connection.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("hung"), path, Some("fuse"), flags, Some(options.as_str()))
            .context("mount FUSE")?;
        Ok(Self { path: path.to_owned(), _connection: connection })
    }

    /// A path in it; looking at it does not return.
    pub fn inside(&self) -> PathBuf {
        self.path.join("volume")
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // The connection is closed after this and takes every waiting request with it.
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
    }
}
