//! A file of the kernel's that is opened once and read many times.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

/// Bytes that are read of one file: the longest, `cgroup.procs` of a group with 8,000 processes and
/// `io.stat` of 500 devices, fit.
const MAX_BYTES: usize = 64 << 10;

/// Bytes read at once; nearly every file is shorter.
const PIECE: usize = 4 << 10;

/// Descriptors that are kept at most, of all groups: a quarter of what the process may have, for the
/// rest is needed to do things. Further files are opened for each reading.
static MOST: LazyLock<usize> = LazyLock::new(|| {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 4).unwrap_or(usize::MAX)
});

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// One file.
#[derive(Debug)]
pub struct Kept(How);

#[derive(Debug)]
enum How {
    /// Counted among those that may be kept.
    Open { file: File, _slot: Slot },
    /// It must be kept, because its path means something else elsewhere.
    Pinned(File),
    /// Opened for each reading.
    Path(PathBuf),
}

/// One of the descriptors that may be kept; free again when dropped.
#[derive(Debug)]
struct Slot;

impl Kept {
    /// The file `name` in `dir`; none if there is no such file.
    pub fn open(dir: &Path, name: &str) -> Option<Self> {
        let path = dir.join(name);
        let file = File::open(&path).ok()?;
        Some(Self(match Slot::take() {
            Some(slot) => How::Open { file, _slot: slot },
            None => How::Path(path),
        }))
    }

    /// The same, for a file that says something new only to who opens it; none if there is no such
    /// file.
    pub fn reopened(dir: &Path, name: &str) -> Option<Self> {
        let path = dir.join(name);
        path.exists().then_some(Self(How::Path(path)))
    }

    /// A file that cannot be opened again by its path.
    pub fn pinned(file: File) -> Self {
        Self(How::Pinned(file))
    }

    /// What is in it now. None if it went, or the kernel does not say.
    pub fn read(&self) -> Option<String> {
        match &self.0 {
            How::Open { file, .. } | How::Pinned(file) => whole(file),
            How::Path(path) => whole(&File::open(path).ok()?),
        }
    }
}

impl Slot {
    fn take() -> Option<Self> {
        let more = |kept| (kept < *MOST).then_some(kept + 1);
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

fn whole(file: &File) -> Option<String> {
    let mut bytes = vec![0; PIECE];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64).ok()? {
            0 => break,
            read => length += read,
        }
        if length == bytes.len() {
            if length >= MAX_BYTES {
                break;
            }
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_from_its_beginning_each_time_and_may_be_longer_than_a_piece() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "12\n").expect("write");
        let kept = Kept::open(dir.path(), "file").expect("there");
        assert_eq!(kept.read().as_deref(), Some("12\n"));
        assert_eq!(kept.read().as_deref(), Some("12\n"));
        std::fs::write(&path, "x".repeat(3 * PIECE)).expect("write");
        assert_eq!(kept.read().map(|text| text.len()), Some(3 * PIECE));
        std::fs::write(&path, "x".repeat(2 * MAX_BYTES)).expect("write");
        assert_eq!(kept.read().map(|text| text.len()), Some(MAX_BYTES));
        assert!(Kept::open(dir.path(), "absent").is_none());
    }

    #[test]
    fn a_file_beyond_the_bound_is_read_all_the_same() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("file"), "7").expect("write");
        let kept = Kept::reopened(dir.path(), "file").expect("there");
        assert_eq!(kept.read().as_deref(), Some("7"));
        assert!(Kept::reopened(dir.path(), "absent").is_none());
        std::fs::remove_file(dir.path().join("file")).expect("remove");
        assert_eq!(kept.read(), None);
    }
}
