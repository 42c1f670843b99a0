//! `root` and `state`: on file systems that fit, with space, and overlayfs works on `root`.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, flock, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{Area, Report};
use crate::config::Config;
use crate::path::Layout;

const AREA: Area = Area::Storage;

/// Below this not even one image fits.
const MIN_FREE_BYTES: u64 = 512 * 1024 * 1024;

/// Below this the kubelet starts to evict pods (nodefs.available < 10 %).
const LOW_PERCENT: u64 = 10;

/// A file system by its magic number, statfs(2).
struct Kind {
    magic: i64,
    name: &'static str,
    fit: Fit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Good,
    /// Works, and is gone after a reboot.
    Volatile,
    /// Overlayfs cannot have its upper directory there.
    Unfit,
}

const fn kind(magic: i64, name: &'static str, fit: Fit) -> Kind {
    Kind { magic, name, fit }
}

/// include/uapi/linux/magic.h
const KINDS: [Kind; 14] = [
    kind(0xef53, "ext4", Fit::Good),
    kind(0x5846_5342, "xfs", Fit::Good),
    kind(0x9123_683e, "btrfs", Fit::Good),
    kind(0xf2f5_2010, "f2fs", Fit::Good),
    kind(0x2fc1_2fc1, "zfs", Fit::Good),
    kind(0x0102_1994, "tmpfs", Fit::Volatile),
    kind(0x8584_58f6, "ramfs", Fit::Volatile),
    kind(0x794c_7630, "overlay", Fit::Unfit),
    kind(0x6969, "nfs", Fit::Unfit),
    kind(0x6573_5546, "fuse", Fit::Unfit),
    kind(0xff53_4d42, "cifs", Fit::Unfit),
    kind(0xfe53_4d42, "smb3", Fit::Unfit),
    kind(0x0102_1997, "9p", Fit::Unfit),
    kind(0x00c3_6400, "ceph", Fit::Unfit),
];

pub(super) fn look(config: &Config, report: &mut Report) {
    let (root, state) = (existing(&config.root), existing(&config.state));
    if file_system(&config.root, report) {
        trial(&config.root, report);
        mapping(&root, report);
    }
    space(&root, report);
    identity(&Layout::new(&config.root, &config.state), report);
    for dir in [&root, &state] {
        permissions(dir, report);
    }
    if let Some(kind) = kind_of(&state).filter(|kind| kind.fit != Fit::Volatile) {
        let what = format!("state {} is on {}, which a reboot leaves", state.display(), kind.name);
        report.warn(AREA, what, "use a tmpfs, as below /run");
    }
}

/// Whether what is in the state is of this root, and nobody else has one of them.
fn identity(layout: &Layout, report: &mut Report) {
    match crate::identity::look(layout) {
        Ok(()) => report.ok(AREA, "root and state belong together"),
        Err(error) => report.fail(AREA, crate::error::chain(&error), error.remedy()),
    }
    let (root, state) = (holder(&layout.lock()), holder(&layout.state_lock()));
    if let (Some(pid), true) = (&state, root != state) {
        let dir = layout.state().display();
        let what = format!("state {dir} is in use by process {pid}, which has another root");
        report.fail(AREA, what, "stop that process, or set `state` to a directory of its own");
    }
}

/// The process that holds a lock of a daemon; none if nobody does. Takes it from nobody: a daemon
/// that is just starting tries again.
fn holder(lock: &Path) -> Option<String> {
    let file = std::fs::File::open(lock).ok()?;
    let refused = flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    refused.then(|| std::fs::read_to_string(lock).unwrap_or_default().trim().to_owned())
}

/// `path`, or the nearest parent that is there: the daemon makes the rest.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn kind_of(path: &Path) -> Option<&'static Kind> {
    let magic = rustix::fs::statfs(path).ok()?.f_type;
    // The field is signed on some architectures and sign-extends the upper bit.
    KINDS.iter().find(|kind| kind.magic as u32 == magic as u32)
}

/// Whether it is worth trying overlayfs there.
fn file_system(root: &Path, report: &mut Report) -> bool {
    let place = existing(root);
    let Some(kind) = kind_of(&place) else {
        let what = format!("root {} is on a file system that is not known here", root.display());
        report.warn(AREA, what, "use ext4 or xfs, if the trial mount fails");
        return true;
    };
    let what = format!("root {} is on {}", root.display(), kind.name);
    match kind.fit {
        Fit::Good => report.ok(AREA, what),
        Fit::Volatile => {
            report.warn(
                AREA,
                what + ": images are lost at a reboot",
                "set root to a directory on disk",
            );
        }
        Fit::Unfit => {
            let remedy = "set root to a directory on a local ext4 or xfs";
            report.fail(AREA, what + ", which cannot hold writable layers", remedy);
            return false;
        }
    }
    true
}

/// Whether root file systems can be mapped for user namespaces there.
fn mapping(place: &Path, report: &mut Report) {
    match crate::rootfs::mapping::probe(place) {
        Ok(()) => report.ok(AREA, format!("id-mapped overlayfs works at {}", place.display())),
        Err(why) => {
            let remedy = "only pods with user namespaces need this: ext4 or xfs on Linux 6.8";
            report.warn(AREA, format!("no id-mapped overlayfs: {why}"), remedy);
        }
    }
}

fn space(place: &Path, report: &mut Report) {
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(error) => {
            let what = format!("{}: {error}", place.display());
            return report.fail(AREA, what, "mount the disk of root");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let percent = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).unwrap_or(100);
    let blocks = percent(stat.f_bavail, stat.f_blocks);
    let what = format!("{} MiB ({blocks} %) free at {}", free / (1024 * 1024), place.display());
    if free < MIN_FREE_BYTES {
        report.fail(AREA, what, "make room: no image would fit");
    } else if blocks < LOW_PERCENT {
        report.warn(AREA, what, "make room: the kubelet evicts pods below 10 %");
    } else {
        report.ok(AREA, what);
    }
    // btrfs has no fixed number of inodes and reports 0.
    if stat.f_files > 0 && percent(stat.f_favail, stat.f_files) < LOW_PERCENT {
        let what = format!("{} inodes free at {}", stat.f_favail, place.display());
        report.warn(AREA, what, "make room: each file of an image takes one");
    }
}

fn permissions(dir: &Path, report: &mut Report) {
    let Ok(meta) = std::fs::metadata(dir) else { return };
    let mode = meta.permissions().mode() & 0o7777;
    // A directory like /tmp is open to all but its entries are not.
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        let what = format!("{} is writable by everybody (mode {mode:o})", dir.display());
        report.fail(AREA, what, format!("chmod o-w {}", dir.display()));
    }
    if meta.uid() != 0 {
        let what = format!("{} belongs to uid {}", dir.display(), meta.uid());
        report.fail(AREA, what, format!("chown 0:0 {}", dir.display()));
    }
}

/// Mounts an overlay on the file system of `root` and deletes a file through it.
fn trial(root: &Path, report: &mut Report) {
    let place = existing(root);
    match try_overlay(&place) {
        Ok(true) => report.ok(AREA, format!("overlayfs works at {}", place.display())),
        Ok(false) => {
            let what = format!("{} has no d_type: deleted files would come back", place.display());
            report.fail(AREA, what, "make the xfs anew with ftype=1, or use ext4");
        }
        Err((step, error)) => {
            let what = format!("overlayfs at {}: {step}: {error}", place.display());
            let remedy = "use a local ext4 or xfs, as root of the host, with overlay in the kernel";
            report.fail(AREA, what, remedy);
        }
    }
}

/// Whether directory entries have types there (overlayfs needs them for whiteouts). The mount is
/// never attached to the tree, so that even a kill leaves nothing but three directories.
fn try_overlay(place: &Path) -> Result<bool, (&'static str, io::Error)> {
    fn at<T, E: Into<io::Error>>(
        step: &'static str,
        result: Result<T, E>,
    ) -> Result<T, (&'static str, io::Error)> {
        result.map_err(|error| (step, error.into()))
    }
    let scratch = at("make a directory", Scratch::make(place))?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.0.join(name));
    for dir in [&lower, &upper, &work] {
        at("make a directory", std::fs::create_dir(dir))?;
    }
    at("write a file", std::fs::write(lower.join("file"), "x"))?;
    let has_types = at("list a directory", has_entry_types(&lower))?;

    let context = at("fsopen", fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC))?;
    for (key, dir) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
        at(key, fsconfig_set_string(&context, key, dir.as_path()))?;
    }
    at("create the mount", fsconfig_create(&context))?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = at("mount", fsmount(&context, flags, MountAttrFlags::empty()))?;
    at("delete through the mount", unlinkat(&mount, "file", AtFlags::empty()))?;
    let whiteout = at("find the whiteout", std::fs::symlink_metadata(upper.join("file")))?;
    if !whiteout.file_type().is_char_device() {
        return Err(("find the whiteout", io::Error::other("not a character device")));
    }
    Ok(has_types)
}

fn has_entry_types(dir: &Path) -> io::Result<bool> {
    let dir = std::fs::File::open(dir)?;
    for entry in rustix::fs::Dir::read_from(dir)? {
        if entry?.file_type() == rustix::fs::FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(place: &Path) -> io::Result<Self> {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let path = place.join(format!(".crisol-check-{}-{now}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Overlayfs leaves a directory without permissions below work; root removes it all the same.
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "remove the directory of the trial");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_nearest_parent_stands_for_a_directory_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(existing(dir.path()), dir.path());
    }

    #[test]
    fn file_systems_are_known_by_their_magic_number() {
        assert_eq!(kind_of(Path::new("/dev/shm")).map(|kind| kind.name), Some("tmpfs"));
        assert!(kind_of(Path::new("/proc")).is_none());
    }

    #[test]
    fn the_trial_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut report = Report::default();
        trial(&dir.path().join("root"), &mut report);
        // Overlayfs may be refused in the sandbox of a build; what must hold is that there is a
        // finding and nothing else.
        assert_eq!(report.findings.len(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_of_another_root_or_daemon_is_a_finding() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("root"), &dir.path().join("state"));
        let look = || {
            let mut report = Report::default();
            identity(&layout, &mut report);
            report
        };
        assert!(!look().failed(), "there is nothing yet: {}", look());
        std::fs::create_dir(layout.root()).unwrap();
        std::fs::create_dir_all(layout.pod(&crate::ids::PodId::random())).unwrap();
        let told = look().to_string();
        assert!(look().failed() && told.contains("1 pods") && told.contains("mount"), "{told}");
        std::fs::remove_dir_all(layout.pods()).unwrap();

        // A daemon has both, and then another one has the state.
        let hold = |path: PathBuf, pid: &str| {
            std::fs::write(&path, format!("{pid}\n")).unwrap();
            let file = std::fs::File::open(path).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
            file
        };
        let _root = hold(layout.lock(), "12");
        let state = hold(layout.state_lock(), "12");
        assert!(!look().failed(), "{}", look());
        drop(state);
        let _state = hold(layout.state_lock(), "13");
        let told = look().to_string();
        assert!(look().failed() && told.contains("process 13"), "{told}");
    }

    #[test]
    fn an_open_directory_fails_and_a_sticky_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, fails) in [(0o755, false), (0o1777, false), (0o777, true)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), permissions).unwrap();
            let mut report = Report::default();
            permissions_of_root_only(dir.path(), &mut report);
            assert_eq!(report.failed(), fails, "{mode:o}");
        }
    }

    /// The owner is whoever runs the tests.
    fn permissions_of_root_only(dir: &Path, report: &mut Report) {
        permissions(dir, report);
        report.findings.retain(|finding| !finding.what.contains("belongs to uid"));
    }
}
