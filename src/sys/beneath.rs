//! Making directories below one that others may write to: name by name, through descriptors, following
//! no link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory to begin at. Links on the way to it are followed.
///
/// # Errors
/// Those of openat(2).
pub fn open(base: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, base, DIR, Mode::empty())?)
}

/// Makes the directory `name` in `parent`, or takes the one that is there, and opens it.
///
/// # Errors
/// Those of mkdirat(2) and openat2(2); in words, when a link stands there.
pub fn make_dir(parent: impl AsFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&parent, name, DIR, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::LOOP => io::Error::other("it is a link, and none is followed here"),
        _ => errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_are_made_or_taken_and_links_are_neither() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let outside = dir.path().join("outside");
        fs::create_dir_all(dir.path().join("real/there")).expect("directory");
        fs::create_dir(&outside).expect("directory");
        symlink("real", dir.path().join("base")).expect("link");
        let base = open(&dir.path().join("base")).expect("a base behind a link");
        for name in ["there", "new"] {
            let made = make_dir(&base, OsStr::new(name), 0o755).expect("directory");
            make_dir(&made, OsStr::new("inner"), 0o755).expect("directory in it");
            assert!(dir.path().join("real").join(name).join("inner").is_dir());
        }
        symlink(&outside, dir.path().join("real/link")).expect("link");
        symlink("there", dir.path().join("real/inside")).expect("link");
        symlink("nowhere", dir.path().join("real/dangling")).expect("link");
        for name in ["link", "inside", "dangling"] {
            let error = make_dir(&base, OsStr::new(name), 0o755).expect_err(name);
            assert_eq!(error.to_string(), "it is a link, and none is followed here", "{name}");
        }
        fs::write(dir.path().join("real/file"), "").expect("file");
        let error = make_dir(&base, OsStr::new("file"), 0o755).expect_err("a file");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let error = make_dir(&base, OsStr::new(".."), 0o755).expect_err("outside");
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
    }
}
