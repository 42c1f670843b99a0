//! The way out of the store: what is discarded is first renamed, then deleted in the background.
//!
//! A rename works on a full disk and takes no time, so nobody waits for a deletion, and a crash
//! in the middle of one leaves its rest where the next start looks for it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use tracing::warn;

/// Where discarded directories wait for their deletion, and the thread that deletes them.
#[derive(Debug)]
pub(super) struct Trash {
    dir: PathBuf,
    next: AtomicU64,
    /// Names within `dir`. The thread ends when this is dropped; unbounded, because every name
    /// stands for a directory that exists anyway.
    doomed: Sender<PathBuf>,
}

impl Trash {
    /// Takes `dir` as the place.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let (doomed, queue) = channel::<PathBuf>();
        std::thread::Builder::new().name("image-trash".into()).spawn(move || {
            for path in queue {
                if let Err(error) = remove_tree(&path) {
                    // It stays until the next start tries again.
                    warn!(path = %path.display(), %error, "discarded files remain");
                }
            }
        })?;
        Ok(Self { dir: dir.to_owned(), next: AtomicU64::new(0), doomed })
    }

    /// Deletes what earlier runs left here.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub(super) fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            self.delete(entry?.path());
        }
        Ok(())
    }

    /// Moves `path` out of the way and deletes it later. What is not there is not missed.
    ///
    /// # Errors
    /// If it can not even be renamed.
    pub(super) fn discard(&self, path: &Path) -> io::Result<()> {
        loop {
            // Leftovers of earlier runs have names like these too.
            let name = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &name, flags) {
                Ok(()) => {
                    self.delete(name);
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn delete(&self, path: PathBuf) {
        // The thread cannot be gone while this sender exists, unless it panicked; then the rest
        // is deleted at the next start.
        if self.doomed.send(path).is_err() {
            warn!("the thread that deletes discarded files is gone");
        }
    }
}

/// A directory that is discarded with everything in it unless it is [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    trash: Arc<Trash>,
    kept: bool,
}

impl Temporary {
    /// Makes the directory `path`, for root alone.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub(super) fn create(path: PathBuf, trash: Arc<Trash>) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, trash, kept: false })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It has been renamed and is somebody else's now.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.trash.discard(&self.path)
        {
            warn!(path = %self.path.display(), %error, "unfinished layer remains until restart");
        }
    }
}

/// Deletes `path` and everything below it, with two descriptors however deep it is.
///
/// # Errors
/// The first failure. Absence is none.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    remove_at(File::open(parent)?, name.as_bytes())
}

/// Deletes `name` in `dir` and everything below it.
///
/// # Errors
/// As [`remove_tree`].
pub(crate) fn remove_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    match remove_leaf(&dir, name)? {
        Leaf::Gone => Ok(()),
        Leaf::Full => remove_below(dir.as_fd(), name),
    }
}

enum Leaf {
    Gone,
    /// A directory that has entries.
    Full,
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

/// Walks down to a directory without subdirectories, empties it, and goes back up through `..`:
/// nobody else changes anything in here, so `..` is where we came from.
fn remove_below(top: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut way: Vec<Vec<u8>> = vec![name.to_vec()];
    let mut here = enter(top, name)?;
    while let Some(name) = way.last() {
        if let Some(deeper) = remove_files(&here)? {
            here = enter(&here, &deeper)?;
            way.push(deeper);
            continue;
        }
        let above = if way.len() == 1 { top.try_clone_to_owned()? } else { enter(&here, b"..")? };
        rustix::fs::unlinkat(&above, name.as_slice(), AtFlags::REMOVEDIR)?;
        here = above;
        way.pop();
    }
    Ok(())
}

fn enter(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
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
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_tree_goes_but_what_its_links_point_to_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).expect("directory");
        fs::write(kept.join("file"), "x").expect("file");
        let tree = dir.path().join("tree");
        for branch in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(tree.join(branch)).expect("directory");
            fs::write(tree.join(branch).join("f"), "x").expect("file");
            std::os::unix::fs::symlink(&kept, tree.join(branch).join("l")).expect("link");
        }
        remove_tree(&tree).expect("remove");
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove_tree(&tree).expect("absence is no error");
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut here = enter(File::open(dir.path()).expect("open"), b".").expect("enter");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).expect("mkdir");
            here = enter(&here, b"d").expect("enter");
        }
        remove_tree(&dir.path().join("d")).expect("remove");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_deleted_and_not_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("trash");
        fs::create_dir_all(place.join("0/left/over")).expect("directory");
        let trash = Trash::open(&place).expect("open");
        trash.empty().expect("list");
        let more = dir.path().join("more");
        fs::create_dir(&more).expect("directory");
        trash.discard(&more).expect("discard");
        trash.discard(&more).expect("absence is no error");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(&place).expect("list").count() > 0 {
            assert!(Instant::now() < deadline, "the trash is not emptied");
            std::thread::yield_now();
        }
    }
}
