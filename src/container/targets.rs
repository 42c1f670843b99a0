//! Where mounts and devices of a container really go, found out before the runtime makes them.
//!
//! The image decides what lies at these paths. A link there means a path of the container's, but a
//! runtime that follows it before the container has its root makes files, mounts and device nodes on
//! the node. So every path is resolved here, as a process inside would, and the runtime gets one
//! without links. `/dev`, `/proc` and `/sys` are places and never links: an image's link there goes.
//!
//! Nothing else uses the root file system yet, so what is found stays. Below a volume, which others
//! may be changing, nothing is looked at; there the runtime is alone.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, FileType, OFlags};

use crate::sys::in_root;

use super::ContainerError;
use super::oci::SpecError;

/// Links that one path may lead over: as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Directories of the root that only the kernel's file systems belong into.
const PLACES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Gives every mount and device of the configuration a path without links in the root file system
/// at `root`, and puts mounts of parents before those of their children. Blocks.
pub fn settle(name: &str, root: &Path, config: &mut Spec) -> Result<(), ContainerError> {
    let failed = |source| ContainerError::File { action: "open", path: root.to_owned(), source };
    let mut root = Root { dir: File::open(root).map_err(failed)?, covered: Vec::new() };
    let mut mounts = config.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        let path = mount.destination().clone();
        let real = root.resolve(&path).map_err(|fault| fault.of_mount(name, &path))?;
        root.covered.push(real.clone());
        mount.set_destination(real);
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
    config.set_mounts(Some(mounts));

    let Some(linux) = config.linux_mut() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    for device in &mut devices {
        let path = device.path().clone();
        let real = root.resolve(&path).map_err(|fault| fault.of_device(name, &path))?;
        device.set_path(real);
    }
    linux.set_devices(Some(devices));
    Ok(())
}

/// A root file system that nobody uses yet, and where something will be mounted on it.
struct Root {
    dir: File,
    covered: Vec<PathBuf>,
}

/// Why a path cannot be used.
enum Fault {
    /// It is the image's or the request's.
    Refused(&'static str),
    /// The file system failed.
    Io(io::Error),
}

impl Root {
    /// `path` without links, as far as it exists and nothing will be mounted over it.
    fn resolve(&self, path: &Path) -> Result<PathBuf, Fault> {
        let mut rest: VecDeque<OsString> = names(path);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            if self.covered.iter().any(|covered| next.starts_with(covered)) {
                real = next;
                real.extend(rest.drain(..));
                break;
            }
            match self.look(&next)? {
                None => {
                    real = next;
                    real.extend(rest.drain(..));
                }
                Some(None) => real = next,
                // What is to be mounted there needs a place of its own.
                Some(Some(_)) if PLACES.iter().any(|place| next == Path::new(place)) => {
                    self.remove(&next)?;
                    real = next;
                }
                Some(Some(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Fault::Refused("leads over too many links of the image"));
                    }
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    names(&target).into_iter().rev().for_each(|name| rest.push_front(name));
                }
            }
        }
        let stays = |place: &str| path.starts_with(place) || !real.starts_with(place);
        if real == Path::new("/") {
            return Err(Fault::Refused("is the root file system, by a link of the image"));
        }
        if real.components().any(|part| part == Component::ParentDir) {
            return Err(Fault::Refused(
                "leads upwards from where nothing is, by a link of the image",
            ));
        }
        if !["/proc", "/sys"].into_iter().all(stays) {
            return Err(Fault::Refused("leads to /proc or /sys, by a link of the image"));
        }
        Ok(real)
    }

    /// What is at a path whose parents are no links: nothing, something, or a link and its target.
    fn look(&self, path: &Path) -> Result<Option<Option<PathBuf>>, Fault> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = match in_root::open(&self.dir, path.as_os_str().as_bytes(), flags) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Fault::Refused("is below a file of the image"));
            }
            Err(error) => return Err(Fault::Io(error)),
        };
        let kind = rustix::fs::fstat(&found).map_err(|error| Fault::Io(error.into()))?;
        if FileType::from_raw_mode(kind.st_mode) != FileType::Symlink {
            return Ok(Some(None));
        }
        let target = rustix::fs::readlinkat(&found, c"", Vec::new());
        let target = target.map_err(|error| Fault::Io(error.into()))?.into_bytes();
        Ok(Some(Some(OsString::from_vec(target).into())))
    }

    fn remove(&self, path: &Path) -> Result<(), Fault> {
        let name = path.file_name().unwrap_or_default();
        rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())
            .map_err(|error| Fault::Io(error.into()))
    }
}

impl Fault {
    fn of_mount(self, name: &str, path: &Path) -> ContainerError {
        self.at(name, path, |path, problem| SpecError::Mount { path, problem })
    }

    fn of_device(self, name: &str, path: &Path) -> ContainerError {
        self.at(name, path, |path, problem| SpecError::Device { path, problem })
    }

    fn at(
        self,
        name: &str,
        path: &Path,
        refused: impl Fn(PathBuf, &'static str) -> SpecError,
    ) -> ContainerError {
        let path = path.to_owned();
        match self {
            Self::Refused(problem) => ContainerError::spec(name.to_owned(), refused(path, problem)),
            Self::Io(source) => {
                ContainerError::File { action: "look at, in the root file system,", path, source }
            }
        }
    }
}

/// The names of a path, with `..`, which a link's target may have.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    });
    names.map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A root with these directories, and links to their targets.
    fn root(dirs: &[&str], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for dir in dirs {
            fs::create_dir_all(root.path().join(dir)).expect("a directory");
        }
        for (link, target) in links {
            symlink(target, root.path().join(link)).expect("a link");
        }
        root
    }

    /// Where the mounts at these paths go.
    fn settled(root: &Path, paths: &[&str]) -> Result<Vec<String>, String> {
        let mounts: Vec<_> = paths
            .iter()
            .map(|path| serde_json::json!({"destination": path, "type": "bind", "source": "/x"}))
            .collect();
        let config = serde_json::json!({"ociVersion": "1.0.2", "mounts": mounts});
        let mut config: Spec = serde_json::from_value(config).expect("a configuration");
        settle("c", root, &mut config).map_err(|error| crate::error::chain(&error))?;
        let mounts = config.mounts().clone().unwrap_or_default();
        Ok(mounts.iter().map(|mount| mount.destination().display().to_string()).collect())
    }

    #[test]
    fn links_are_followed_inside_and_the_runtime_sees_none() {
        let outside = tempfile::tempdir().expect("a temporary directory");
        let away = outside.path().display().to_string();
        let root = root(
            &["run", "data/real", "usr"],
            &[
                ("var", "usr/../."),
                ("etc", &away),
                ("data/link", "real"),
                ("data/up", "../../../../../run"),
                ("data/loop", "loop"),
                ("data/chain", "link"),
            ],
        );
        for (path, real) in [
            ("/run/secrets/x", "/run/secrets/x"),
            ("/var/run/secrets", "/run/secrets"),
            ("/data/link/x/y", "/data/real/x/y"),
            ("/data/up/x", "/run/x"),
            ("/data/chain", "/data/real"),
            ("/etc/hostname", &format!("{away}/hostname")),
        ] {
            assert_eq!(settled(root.path(), &[path]), Ok(vec![real.to_owned()]), "{path}");
        }
        let refused = settled(root.path(), &["/data/loop/x"]).expect_err("a loop");
        assert!(refused.contains("/data/loop/x leads over too many links"), "{refused}");
        assert!(fs::read_dir(outside.path()).expect("a directory").next().is_none());
    }

    #[test]
    fn the_kernels_places_are_no_links() {
        let links = [("dev", "/data"), ("proc", "sys"), ("sys", "/nowhere"), ("d", "/dev")];
        let root = root(&["data"], &links);
        let mounts = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/d/shm"];
        let expected = ["/proc", "/dev", "/sys", "/dev/pts", "/dev/shm", "/sys/fs/cgroup"];
        assert_eq!(settled(root.path(), &mounts), Ok(expected.map(str::to_owned).to_vec()));
        for place in ["dev", "proc", "sys"] {
            assert!(root.path().join(place).symlink_metadata().is_err(), "{place} is there");
        }
    }

    #[test]
    fn what_a_link_sends_to_the_root_or_to_the_kernel_is_refused() {
        let links =
            [("a", "/"), ("b", "/proc"), ("c", "proc/sys"), ("n", "none/../proc"), ("f", "file/x")];
        let root = root(&["proc"], &links);
        fs::write(root.path().join("file"), "").expect("a file");
        for (path, problem) in [
            ("/a", "is the root file system"),
            ("/b/1", "leads to /proc or /sys"),
            ("/c/kernel", "leads to /proc or /sys"),
            ("/n/x", "leads upwards"),
            ("/f/x", "is below a file"),
        ] {
            let refused = settled(root.path(), &["/proc", path]).expect_err(path);
            assert!(refused.contains(&format!("{path} {problem}")), "{refused}");
        }
    }

    #[test]
    fn nothing_is_looked_at_below_what_is_mounted_before() {
        let root = root(&["volume"], &[("volume/link", "/elsewhere")]);
        let expected = ["/volume".to_owned(), "/volume/link/x".to_owned()];
        assert_eq!(settled(root.path(), &["/volume", "/volume/link/x"]), Ok(expected.to_vec()));
    }

    #[test]
    fn a_device_goes_where_it_says_inside() {
        let root = root(&["data"], &[("node", "/data")]);
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "linux": {"devices": [{"path": "/node/null", "type": "c", "major": 1, "minor": 3}]},
        });
        let mut config: Spec = serde_json::from_value(config).expect("a configuration");
        settle("c", root.path(), &mut config).expect("settled");
        let devices = config.linux().as_ref().and_then(|linux| linux.devices().clone());
        let paths: Vec<_> = devices.unwrap_or_default().iter().map(|d| d.path().clone()).collect();
        assert_eq!(paths, [PathBuf::from("/data/null")]);
    }
}
