//! The path that a path inside a root leads to, as the host names it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// Where `path` leads inside `root`, without any symbolic link left in it: links are followed as
/// if `root` were `/` (openat2(2), `RESOLVE_IN_ROOT`), so the result is always below it.
pub fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let held = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&held, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_out_of_the_root_stays_in_the_root() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("its real path");
        fs::create_dir_all(root.join("etc/app")).expect("directories");
        symlink("/etc", root.join("absolute")).expect("link");
        symlink("../../../../etc", root.join("relative")).expect("link");
        for link in ["absolute", "relative"] {
            assert_eq!(inside(&root, Path::new(link)).expect("inside"), root.join("etc"));
        }
        assert!(inside(&root, Path::new("absolute/passwd")).is_err());
    }
}
