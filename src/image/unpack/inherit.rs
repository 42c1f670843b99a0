//! Directories that an archive mentions only in the paths of others take after the layers below.
//!
//! Overlayfs shows a directory as its topmost layer has it. An archive with `etc/passwd` but
//! without `etc/` says nothing about `etc`, so what the layers below say has to be copied.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::implied::Implied;
use super::node;
use crate::sys::in_root;

/// Longest list of attribute names, and longest value: the kernel's `XATTR_LIST_MAX`.
const MAX_XATTRS: usize = 64 * 1024;

/// Describes each of the `implied` directories of `layer` by the topmost layer in `below` that
/// shows through.
pub(super) fn inherit(layer: &Path, implied: &Implied, below: &[PathBuf]) -> io::Result<()> {
    let root = File::open(layer)?;
    let below: Vec<File> = below.iter().map(File::open).collect::<Result<_, _>>()?;
    // The deepest first: describing a directory does not touch the times of the one above, but
    // reading this in any other order takes thought.
    let paths = implied.read()?;
    for path in paths.deepest_first() {
        if let Visible::Missing = look(&root, path)? {
            continue;
        }
        let dir = in_root::open_dir(&root, path)?;
        if is_cut_off(&root, path)? {
            continue;
        }
        for lower in &below {
            match look(lower, path)? {
                Visible::Directory(model) => {
                    copy(&model, &dir)?;
                    break;
                }
                Visible::Missing => {}
                Visible::Nothing => break,
            }
        }
    }
    Ok(())
}

/// What a layer has to say about a path.
enum Visible {
    /// It is a directory.
    Directory(OwnedFd),
    /// It says nothing; the layer below may.
    Missing,
    /// It hides what the layers below say.
    Nothing,
}

fn look(root: &File, path: &[u8]) -> io::Result<Visible> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = in_root::open_dir(root, b"")?;
    let mut opaque = false;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        opaque |= node::is_opaque(&dir)?;
        dir = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
            Ok(deeper) => deeper,
            Err(Errno::NOENT) if !opaque => return Ok(Visible::Missing),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Visible::Nothing),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(Visible::Directory(dir))
}

/// Whether a directory of the layer itself, or one above it, hides the layers below.
fn is_cut_off(root: &File, path: &[u8]) -> io::Result<bool> {
    let mut ends: Vec<usize> = vec![0, path.len()];
    ends.extend(path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at));
    for end in ends {
        if node::is_opaque(in_root::open_dir(root, &path[..end])?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn copy(model: &OwnedFd, dir: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(model)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(dir, Some(uid), Some(gid))?;
    rustix::fs::fchmod(dir, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0; MAX_XATTRS];
    let length = match rustix::fs::flistxattr(model, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut value = vec![0; MAX_XATTRS];
    for name in names[..length].split(|b| *b == 0).filter(|name| node::is_taken(name)) {
        let length = rustix::fs::fgetxattr(model, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(dir.as_fd(), name, &value[..length], XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(dir, &node::times_of(&stat))?)
}
