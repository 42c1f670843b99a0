//! Overlays whose lower layers are mapped: the upper layer has the owners that a user namespace's
//! processes write, so only what lies below has to be shown with them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, mount, mount_change, move_mount,
};

use super::{Names, Overlay, Step, by_fsconfig};
use crate::sys::idmap::mapped_copy;

/// The overlay with its lower layers mapped by `namespace`, attached nowhere. On a thread that has
/// its own working directory and ends soon.
pub(super) fn tree(overlay: &Overlay<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = |layer: &PathBuf| mapped_copy(layer, namespace);
    let copies: Vec<OwnedFd> = overlay.lower.iter().map(copy).collect::<io::Result<_>>()?;
    match attempt(overlay, &copies) {
        Err(Step::Failed(Errno::INVAL)) => attached(overlay, &copies),
        other => other.map_err(into_error),
    }
}

fn attempt(overlay: &Overlay<'_>, copies: &[OwnedFd]) -> Result<OwnedFd, Step> {
    let name = |copy: &OwnedFd| format!("/proc/thread-self/fd/{}", copy.as_raw_fd()).into();
    let lower: Vec<PathBuf> = copies.iter().map(name).collect();
    by_fsconfig(&Overlay { lower: &lower, ..*overlay }, &mut Names::whole())
}

/// Before Linux 6.15, overlayfs takes only layers that are mounted where the caller is. They are,
/// in a mount namespace that nobody else sees and that ends with this thread.
fn attached(overlay: &Overlay<'_>, copies: &[OwnedFd]) -> io::Result<OwnedFd> {
    let home = File::open("/proc/thread-self/ns/mnt")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("layers", overlay.target, "tmpfs", MountFlags::empty(), c"mode=0700")?;
    for (n, copy) in copies.iter().enumerate() {
        let place = overlay.target.join(n.to_string());
        fs::create_dir(&place)?;
        move_mount(copy, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    let tree = attempt(overlay, copies).map_err(into_error);
    // What comes back is mounted where everybody sees it.
    setns(home, CloneFlags::CLONE_NEWNS)?;
    tree
}

fn into_error(step: Step) -> io::Error {
    match step {
        Step::Unknown => io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's overlayfs takes no mapped layers (Linux 6.8 does)",
        ),
        Step::Failed(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user_namespace::{Mappings, Range, unpinned};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// Owners of `lower`, of a file in it, and of one that is written through the overlay by root.
    fn owners(
        make: impl Fn(&Overlay<'_>, BorrowedFd<'_>) -> io::Result<OwnedFd> + Sync,
    ) -> [u32; 3] {
        let range = [Range { inside: 0, outside: 400_000, length: 1000 }];
        let namespace = unpinned(&Mappings { uids: &range, gids: &range }).expect("namespace");
        let dir = tempfile::tempdir().expect("temporary directory");
        let [top, bottom, upper, work, target] =
            ["top", "bottom", "upper", "work", "target"].map(|name| dir.path().join(name));
        for path in [&top, &bottom, &upper, &work, &target] {
            fs::create_dir(path).expect("directory");
        }
        fs::write(bottom.join("file"), "x").expect("file");
        let lower = [top, bottom];
        let overlay = Overlay {
            lower: &lower,
            upper: Some((&upper, &work)),
            target: &target,
            label: None,
            mapped_by: None,
        };
        let tree = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                make(&overlay, namespace.as_fd()).expect("mount")
            });
            made.join().expect("join")
        });
        let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
        let owner = |path: &Path| fs::metadata(path).expect("metadata").uid();
        fs::write(root.join("new"), "y").expect("write");
        [owner(&root.join("file")), owner(&root.join("new")), owner(&upper.join("new"))]
    }

    #[test]
    fn lower_layers_are_mapped_and_the_upper_one_is_not() {
        assert_eq!(owners(tree), [400_000, 0, 0]);
    }

    #[test]
    fn the_way_of_older_kernels_gives_the_same_and_leaves_no_mount() {
        let before = fs::read_to_string("/proc/self/mountinfo").expect("mounts").lines().count();
        let old = |overlay: &Overlay<'_>, namespace: BorrowedFd<'_>| {
            let copy = |layer: &PathBuf| mapped_copy(layer, namespace);
            let copies = overlay.lower.iter().map(copy).collect::<io::Result<Vec<_>>>()?;
            attached(overlay, &copies)
        };
        assert_eq!(owners(old), [400_000, 0, 0]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(" layers "), "{mounts}");
        assert!(before > 0);
    }
}
