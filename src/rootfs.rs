//! Layers mounted as a root file system, and unmounted again. One mount has one owner.
//!
//! Does not know images: it gets directories, topmost layer first. Everything here blocks, and
//! belongs into `spawn_blocking`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{Classify, Kind};
use crate::sys::overlay::{self, Overlay};
use crate::sys::tree;

pub mod mapping;

pub use mapping::Mapping;

/// Mounts stacked on one target that an unmount removes: more than one is a leftover already.
const MAX_STACKED: usize = 16;

/// Why a root file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A directory could not be prepared.
    #[error("make directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer is not there.
    #[error("look at layer {}", path.display())]
    Layer {
        /// The layer.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user namespace that maps the layers could not be opened.
    #[error("open user namespace {}", path.display())]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The overlay could not be mounted.
    #[error("mount overlay of {layers} layers on {}", target.display())]
    Mount {
        /// Number of layers.
        layers: usize,
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount is still there.
    #[error("unmount {}", target.display())]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for RootfsError {
    fn kind(&self) -> Kind {
        let (Self::Directory { source, .. }
        | Self::Layer { source, .. }
        | Self::Namespace { source, .. }
        | Self::Mount { source, .. }
        | Self::Unmount { source, .. }) = self;
        Kind::of_io(source)
    }
}

/// The directories of one writable root file system; all absolute, `upper` and `work` on one
/// file system.
#[derive(Clone, Debug)]
pub struct RootfsDirs {
    /// Takes what is written. Made if absent, like the image's topmost `/`.
    pub upper: PathBuf,
    /// The kernel's own. Made if absent.
    pub work: PathBuf,
    /// Where the result appears. Made if absent.
    pub target: PathBuf,
}

/// How a root file system is mounted.
#[derive(Clone, Debug, Default)]
pub struct RootfsOptions {
    /// SELinux label of every file in it; none = whatever the files have.
    pub selinux_label: Option<String>,
    /// Whose files they are; none = as they are on disk.
    pub mapping: Option<Mapping>,
}

/// Mounts `layers` (topmost first, possibly none) with a writable layer on top.
///
/// The writable layer is never synced to disk, so it must not be mounted again after a reboot.
///
/// # Errors
/// [`RootfsError`]; nothing is mounted then, the directories may have been made.
pub fn mount(
    layers: &[PathBuf],
    dirs: &RootfsDirs,
    options: &RootfsOptions,
) -> Result<(), RootfsError> {
    let mapping = options.mapping.as_ref();
    make_upper(&dirs.upper, layers.first().map(PathBuf::as_path), mapping)?;
    make_dir(&dirs.work, 0o700)?;
    make_dir(&dirs.target, 0o755)?;
    // A volatile mount leaves this behind and is refused where it is found. Within one boot, which
    // is as long as a writable layer lives, the page cache has everything and it means nothing.
    let incompatible = dirs.work.join("work/incompat");
    tree::remove(&incompatible)
        .map_err(|source| RootfsError::Directory { path: incompatible, source })?;
    // An overlay needs a lower directory; the still empty target serves an image without layers.
    let empty = [dirs.target.clone()];
    let overlay = Overlay {
        lower: if layers.is_empty() { &empty } else { layers },
        upper: Some((&dirs.upper, &dirs.work)),
        target: &dirs.target,
        label: options.selinux_label.as_deref(),
        mapped_by: None,
    };
    mount_overlay(&overlay, layers.len(), mapping)
}

/// Mounts `layers` (topmost first, possibly none) read-only, without devices and set-user-id: an
/// image as a volume, of files that are whose `mapping` says.
///
/// # Errors
/// [`RootfsError`]; nothing is mounted then.
pub fn mount_readonly(
    layers: &[PathBuf],
    target: &Path,
    mapping: Option<&Mapping>,
) -> Result<(), RootfsError> {
    if let Some(parent) = target.parent() {
        make_dir(parent, 0o700)?;
    }
    make_dir(target, 0o755)?;
    if layers.is_empty() {
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        return rustix::mount::mount("tmpfs", target, "tmpfs", flags, c"size=4k,mode=0755")
            .map_err(|error| RootfsError::Mount {
                layers: 0,
                target: target.to_owned(),
                source: error.into(),
            });
    }
    // Without an upper directory the kernel wants two lower ones. A single layer is not bound
    // instead, because its whiteouts would show; the empty target goes below it.
    let mut lower = layers.to_vec();
    if let [_] = layers {
        lower.push(target.to_owned());
    }
    let overlay = Overlay { lower: &lower, upper: None, target, label: None, mapped_by: None };
    mount_overlay(&overlay, layers.len(), mapping)
}

/// Removes whatever is mounted on `target`; nothing there, or no such path, is success.
///
/// Open files do not keep it: the mount is detached at once and ends with its last user.
///
/// # Errors
/// [`RootfsError::Unmount`] if it is still there.
pub fn unmount(target: &Path) -> Result<(), RootfsError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let mut last = Errno::BUSY;
    for _ in 0..MAX_STACKED {
        match rustix::mount::unmount(target, flags) {
            Ok(()) | Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => {
                last = error;
                break;
            }
        }
    }
    Err(RootfsError::Unmount { target: target.to_owned(), source: last.into() })
}

fn mount_overlay(
    overlay: &Overlay<'_>,
    layers: usize,
    mapping: Option<&Mapping>,
) -> Result<(), RootfsError> {
    let open = |mapping: &Mapping| {
        let path = &mapping.namespace;
        File::open(path).map_err(|source| RootfsError::Namespace { path: path.clone(), source })
    };
    let namespace = mapping.map(open).transpose()?;
    let mapped_by = namespace.as_ref().map(AsFd::as_fd);
    overlay::mount(&Overlay { mapped_by, ..*overlay }).map_err(|source| RootfsError::Mount {
        layers,
        target: overlay.target.to_owned(),
        source,
    })
}

/// The upper directory is what the container sees as `/`, so it takes after the image's.
fn make_upper(
    upper: &Path,
    like: Option<&Path>,
    mapping: Option<&Mapping>,
) -> Result<(), RootfsError> {
    let refuse = |source| RootfsError::Directory { path: upper.to_owned(), source };
    if let Some(parent) = upper.parent() {
        make_dir(parent, 0o700)?;
    }
    match fs::create_dir(upper) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(refuse)?,
    }
    let (mode, owner) = match like {
        None => (0o755, (0, 0)),
        Some(layer) => {
            let metadata = fs::metadata(layer)
                .map_err(|source| RootfsError::Layer { path: layer.to_owned(), source })?;
            (metadata.mode() & 0o7777, (metadata.uid(), metadata.gid()))
        }
    };
    let owner = mapping.map_or(owner, |mapping| mapping.owner(owner));
    std::os::unix::fs::chown(upper, Some(owner.0), Some(owner.1)).map_err(refuse)?;
    fs::set_permissions(upper, Permissions::from_mode(mode)).map_err(refuse)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), RootfsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| RootfsError::Directory { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
