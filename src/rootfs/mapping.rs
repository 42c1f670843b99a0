//! Root file systems for user namespaces: layers shown with other owners, by idmapped mounts alone.
//! Nothing is ever copied or chowned to another owner; where mapping does not work, there are no
//! user namespaces (R38).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{RootfsDirs, RootfsOptions, mount, unmount};
use crate::container::spec::{IdMapping, UserNamespace};
use crate::error::chain;
use crate::sys::idmap::mapped_copy;
use crate::sys::user_namespace::{Mappings, Range, outside, unpinned};

/// Name of a probe's directory, before the number of the process whose it is.
const TRIAL: &str = ".idmap-trial-";

/// Whose the files of an image are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The pinned user namespace.
    pub namespace: PathBuf,
    /// Its mappings.
    pub ids: UserNamespace,
}

impl Mapping {
    /// The owner on the node, user and group, of what belongs to `(uid, gid)` in the image. One
    /// that is not mapped belongs to the namespace's root, who would else see nobody's file.
    pub fn owner(&self, (uid, gid): (u32, u32)) -> (u32, u32) {
        (on_node(&self.ids.uids, uid), on_node(&self.ids.gids, gid))
    }
}

/// What an id of a user namespace is on the node; root's for one that is not mapped.
pub fn on_node(ranges: &[IdMapping], id: u32) -> u32 {
    let ranges = kernel_ranges(ranges);
    let root = || outside(&ranges, 0).expect("a pod's user namespace maps its root");
    outside(&ranges, id).unwrap_or_else(root)
}

/// Ranges in the words of `sys`.
pub fn kernel_ranges(ranges: &[IdMapping]) -> Vec<Range> {
    let range = |range: &IdMapping| Range {
        inside: range.container_id,
        outside: range.host_id,
        length: range.length,
    };
    ranges.iter().map(range).collect()
}

/// Whether what is mounted at `path` can be mapped by the user namespace at `namespace`. Tries it;
/// leaves nothing.
///
/// COMPAT: what is mounted below is not mapped, because runtimes do not either unless they are told
/// `ridmap`, and Kubernetes' volumes of the host often have something below that cannot be.
///
/// # Errors
/// The kernel's.
pub fn try_volume(path: &Path, namespace: &Path) -> io::Result<()> {
    mapped_copy(path, File::open(namespace)?.as_fd()).map(drop)
}

/// Whether root file systems of layers below `root` can be mapped on this host. Makes one in a
/// directory of its own and looks at the owners on both sides; leaves nothing.
///
/// # Errors
/// A sentence that says what does not work.
pub fn probe(root: &Path) -> Result<(), String> {
    let scratch = Scratch::make(root).map_err(|error| format!("{}: {error}", root.display()))?;
    trial(&scratch.0)
}

fn trial(dir: &Path) -> Result<(), String> {
    /// Any id that is not ours.
    const ROOT: u32 = 1 << 16;
    let step = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let range = [Range { inside: 0, outside: ROOT, length: ROOT }];
    let mappings = Mappings { uids: &range, gids: &range };
    let namespace = unpinned(&mappings).map_err(step("make a user namespace"))?;
    let layer = dir.join("layer");
    fs::create_dir(&layer)
        .and_then(|()| fs::write(layer.join("file"), "x"))
        .map_err(step("write a layer"))?;
    mapped_copy(&layer, namespace.as_fd())
        .map_err(step(&format!("idmapped mount of {}", layer.display())))?;

    let whole = vec![IdMapping { host_id: ROOT, container_id: 0, length: ROOT }];
    let mapping = Mapping {
        namespace: crate::sys::user_namespace::path_of(&namespace),
        ids: UserNamespace { uids: whole.clone(), gids: whole },
    };
    let dirs =
        RootfsDirs { upper: dir.join("upper"), work: dir.join("work"), target: dir.join("rootfs") };
    let options = RootfsOptions { mapping: Some(mapping), ..RootfsOptions::default() };
    mount(&[layer], &dirs, &options).map_err(|error| chain(&error))?;
    let found = fs::metadata(dirs.target.join("file")).map_err(step("look at a mapped file"))?;
    match found.uid() {
        ROOT => Ok(()),
        other => Err(format!("a mapped file belongs to {other}, not to {ROOT}")),
    }
}

/// A directory that is removed when dropped, with what is mounted in it.
struct Scratch(PathBuf);

impl Scratch {
    /// The name says whose it is: what a killed program left, the next one takes away.
    fn make(root: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(root)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(TRIAL));
            let gone = |pid| matches!(Path::new("/proc").join(pid).try_exists(), Ok(false));
            if owner.is_some_and(gone) {
                drop(Self(entry.path()));
            }
        }
        let scratch = Self(root.join(format!("{TRIAL}{}", std::process::id())));
        fs::create_dir(&scratch.0)?;
        Ok(scratch)
    }

    fn remove(&self) {
        unmount(&self.0.join("rootfs")).ok();
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_works_here_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        // No process has this number (PID_MAX_LIMIT).
        fs::create_dir_all(dir.path().join(format!("{TRIAL}4194305/upper"))).expect("leftover");
        probe(dir.path()).expect("idmapped layers");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn a_file_system_that_cannot_be_mapped_is_named() {
        let why = probe(Path::new("/proc")).expect_err("procfs");
        assert!(why.starts_with("/proc: "), "{why}");
    }

    #[test]
    fn an_owner_that_is_not_mapped_is_root() {
        let range = vec![IdMapping { host_id: 5000, container_id: 0, length: 100 }];
        assert_eq!(on_node(&range, 7), 5007);
        assert_eq!(on_node(&range, 100), 5000);
    }
}
