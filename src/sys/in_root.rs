//! Opening files below a directory that somebody else filled (openat2(2), rule R28).
//!
//! Symbolic links are followed as a process with that directory as its root would follow them:
//! an absolute target begins there, and `..` stops there. No name leads outside.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// openat2(2) gives up with `EAGAIN` when anything on the system is renamed or mounted while it
/// resolves `..`; a busy node does that many times a second, hardly ever so many times in a row.
const TRIES: usize = 128;

/// Opens `path` below `root`. `O_CLOEXEC` is always added.
///
/// # Errors
/// Those of openat2(2). `path` may be absolute; it is taken below `root` all the same.
pub fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens the directory `path` below `root` for reading. Its last component may be a link too.
///
/// # Errors
/// As [`open`]; `ENOTDIR` if something else is there.
pub fn open_dir(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_nowhere_but_inside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("in")).expect("directory");
        fs::create_dir(dir.path().join("out")).expect("directory");
        symlink("/in", root.join("absolute")).expect("link");
        symlink("../../out", root.join("up")).expect("link");
        symlink("loop", root.join("loop")).expect("link");
        let root = File::open(&root).expect("open root");
        assert!(open_dir(&root, b"absolute").is_ok());
        assert!(open_dir(&root, b"/in").is_ok());
        assert!(open_dir(&root, b"").is_ok());
        assert_eq!(
            open_dir(&root, b"../out").expect_err("outside").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(open_dir(&root, b"up").expect_err("outside").kind(), io::ErrorKind::NotFound);
        assert!(open_dir(&root, b"loop").is_err());
    }
}
