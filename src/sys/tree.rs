//! Trees of files that somebody else made and may be changing: removed and walked without recursion,
//! with a few descriptors however deep they are, and never left.
//!
//! Nothing is looked up by a path, so no name is too long and no symbolic link is followed. No other
//! file system is entered. The way up is `..`, which is believed only if it is the directory that was
//! entered before: its device and inode are remembered.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

mod walk;
pub use walk::{Entry, Step, Walk};

/// How often a removal begins anew because somebody moved what it was in.
const RESTARTS: u32 = 100;

/// openat2(2) gives up with `EAGAIN` when anything on the system is renamed or mounted while it
/// resolves `..`.
const TRIES: u32 = 128;

/// What a directory is known by while it is open or has an open one below it.
type Identity = (u64, u64);

/// Deletes `path` and everything below it. Blocks.
///
/// # Errors
/// The first failure; `EXDEV` for what is mounted below it. Absence is none.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    match File::open(parent) {
        Ok(parent) => remove_at(parent, name.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes `name` in `dir` and everything below it. Blocks.
///
/// # Errors
/// As [`remove`].
pub fn remove_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    for _ in 0..RESTARTS {
        match remove_leaf(&dir, name)? {
            Leaf::Gone => return Ok(()),
            Leaf::Full => match remove_below(dir.as_fd(), name) {
                Ok(Below::Gone) => return Ok(()),
                // Somebody moved or filled what is being removed.
                Ok(Below::Changed) => {}
                Err(error) => return Err(error),
            },
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the directory changes while it is removed"))
}

enum Leaf {
    Gone,
    /// A directory that has entries.
    Full,
}

enum Below {
    Gone,
    /// Another process changes it meanwhile.
    Changed,
}

fn remove_leaf(dir: impl AsFd, name: &[u8]) -> io::Result<Leaf> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Leaf::Gone),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Leaf::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Leaf::Full),
        Err(error) => Err(error.into()),
    }
}

/// Walks down to a directory without subdirectories, empties it, and goes back up.
fn remove_below(top: BorrowedFd<'_>, name: &[u8]) -> io::Result<Below> {
    let mut way: Vec<(Vec<u8>, Identity)> = vec![(name.to_vec(), identity(top)?)];
    let mut here = match enter(top, name) {
        Err(error) if has_changed(&error) => return Ok(Below::Changed),
        entered => entered?,
    };
    while let Some((name, above)) = way.last() {
        if let Some(deeper) = remove_files(&here)? {
            let from = identity(&here)?;
            here = match enter(&here, &deeper) {
                Err(error) if has_changed(&error) => return Ok(Below::Changed),
                entered => entered?,
            };
            way.push((deeper, from));
            continue;
        }
        let parent = match way.len() {
            1 => top.try_clone_to_owned()?,
            _ => match climb(&here, *above)? {
                Some(parent) => parent,
                None => return Ok(Below::Changed),
            },
        };
        match rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Ok(Below::Changed),
            Err(error) => return Err(error.into()),
        }
        here = parent;
        way.pop();
    }
    Ok(Below::Gone)
}

/// Whether a name is no directory any more.
fn has_changed(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP]
        .iter()
        .any(|changed| error.raw_os_error() == Some(changed.raw_os_error()))
}

fn identity(dir: impl AsFd) -> io::Result<Identity> {
    let found = rustix::fs::fstat(dir)?;
    Ok((found.st_dev, found.st_ino))
}

/// The directory above, if it is still the one that was entered from.
fn climb(here: &OwnedFd, above: Identity) -> io::Result<Option<OwnedFd>> {
    let parent = match enter(here, b"..") {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => return Ok(None),
        entered => entered?,
    };
    Ok((identity(&parent)? == above).then_some(parent))
}

fn enter(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(dir.as_fd(), name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            entered => return Ok(entered?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Removes what is in `dir` up to the first directory that is not empty, and returns its name.
fn remove_files(dir: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if let Leaf::Full = remove_leaf(dir, name)? {
            return Ok(Some(name.to_vec()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
