//! [`Implied`]: the paths of directories that an archive mentions only in the paths of others, as the
//! process that unpacked it tells them. They are checked before anything is done with them.
//!
//! A layer may wait long for the one below, so many of them wait in a file.

use std::fs::{self, File};
use std::io::{self, Write};

use super::UnpackError;
use super::place::components;
use super::room;
use super::wire::MAX_IMPLIED;
use crate::image::gc::Temporary;

/// Bytes that are kept in memory.
const KEPT: usize = 16 << 10;

const FILE: &str = "paths";

/// Paths below a layer's root, the root itself among them as the empty path; each ends with a NUL.
#[derive(Debug, Default)]
pub(super) struct Implied {
    bytes: usize,
    /// The last ones.
    kept: Vec<u8>,
    /// Where the file with those before is.
    spilled: Option<Temporary>,
}

/// All of them again. In one piece, because there may be millions.
#[derive(Debug)]
pub(super) struct Paths(Vec<u8>);

impl Implied {
    /// Adds some, with their NULs. Many are put beside the layer's `place`; without one, none are kept.
    ///
    /// # Errors
    /// [`UnpackError::Nonsense`] if it is no list of paths, or too many; those of the file system.
    pub(super) fn add(
        &mut self,
        paths: &[u8],
        place: Option<&Temporary>,
    ) -> Result<(), UnpackError> {
        let nonsense = |what: &'static str| Err(UnpackError::Nonsense(what.into()));
        // The empty path's NUL is not counted by who makes the list.
        if self.bytes + paths.len() > MAX_IMPLIED + 1 {
            return nonsense("too many undescribed directories");
        }
        let Some((0, paths_alone)) = paths.split_last() else {
            return nonsense("a path without an end");
        };
        for path in paths_alone.split(|b| *b == 0) {
            let is_plain = path.is_empty()
                || components(path).is_ok_and(|parts| parts.join(&b'/').as_slice() == path);
            if !is_plain {
                return nonsense("an undescribed directory with another name");
            }
        }
        self.bytes += paths.len();
        let Some(place) = place else { return Ok(()) };
        self.kept.extend_from_slice(paths);
        if self.kept.len() > KEPT {
            let failed = |error| UnpackError::file("keep undescribed directories of", b"/", error);
            let file = self.file(place).map_err(failed)?;
            room::check(&file, 1)?;
            (&file).write_all(&self.kept).map_err(failed)?;
            self.kept = Vec::new();
        }
        Ok(())
    }

    /// The file, to be written on. None is kept open: there may be many layers.
    fn file(&mut self, place: &Temporary) -> io::Result<File> {
        let dir = match &mut self.spilled {
            Some(dir) => dir,
            none => none.insert(place.beside("implied")?),
        };
        File::options().append(true).create(true).open(dir.path().join(FILE))
    }

    /// All of them.
    ///
    /// # Errors
    /// Those of reading a file.
    pub(super) fn read(&self) -> io::Result<Paths> {
        let mut all = match &self.spilled {
            Some(dir) => fs::read(dir.path().join(FILE))?,
            None => Vec::new(),
        };
        all.extend_from_slice(&self.kept);
        Ok(Paths(all))
    }
}

impl Paths {
    /// The last that was told first: those above are told first.
    pub(super) fn deepest_first(&self) -> impl Iterator<Item = &[u8]> {
        let paths = self.0.strip_suffix(&[0]).map(|paths| paths.rsplit(|b| *b == 0));
        paths.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::gc::Trash;

    #[test]
    fn paths_are_told_back_in_reverse() {
        let (_dir, place) = place();
        let mut implied = Implied::default();
        assert_eq!(implied.read().expect("none").deepest_first().count(), 0);
        implied.add(b"\0a\0a/b\0", Some(&place)).expect("paths");
        implied.add(b"c\0", Some(&place)).expect("paths");
        let paths = implied.read().expect("paths");
        let back: Vec<&[u8]> = paths.deepest_first().collect();
        assert_eq!(back, [&b"c"[..], b"a/b", b"a", b""]);
    }

    #[test]
    fn many_take_no_memory_and_nothing_is_left_of_them() {
        let (dir, place) = place();
        let mut implied = Implied::default();
        for number in 0..100_000 {
            let path = format!("{number}\0");
            implied.add(path.as_bytes(), Some(&place)).expect("a path");
            assert!(implied.kept.capacity() <= 4 * KEPT, "{} bytes", implied.kept.capacity());
        }
        let paths = implied.read().expect("paths");
        let back = paths.deepest_first().map(|path| String::from_utf8_lossy(path).into_owned());
        assert!(back.eq((0..100_000).rev().map(|number| number.to_string())));
        assert!(dir.path().join("layer.implied").exists());
        drop(implied);
        assert!(!dir.path().join("layer.implied").exists());
    }

    fn place() -> (tempfile::TempDir, Temporary) {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("trash")).expect("directory");
        let trash = Arc::new(Trash::open(&dir.path().join("trash")).expect("trash"));
        let place = Temporary::create(dir.path().join("layer"), trash).expect("place");
        (dir, place)
    }

    #[test]
    fn what_leads_elsewhere_is_nonsense() {
        for bad in [&b"a"[..], b"", b"..\0", b"a/../b\0", b"/a\0", b"a/\0", b"a//b\0", b"./a\0"] {
            let error = Implied::default().add(bad, None).expect_err("refused");
            assert!(matches!(error, UnpackError::Nonsense(_)), "{bad:?}: {error}");
        }
        let mut implied = Implied::default();
        let many = b"a\0".repeat(MAX_IMPLIED / 4);
        for _ in 0..2 {
            implied.add(&many, None).expect("as many as may be");
        }
        implied.add(&many, None).expect_err("too many");
    }
}
