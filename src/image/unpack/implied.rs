//! [`Implied`]: the paths of directories that an archive mentions only in the paths of others, as the
//! process that unpacked it tells them. They are checked before anything is done with them.

use super::UnpackError;
use super::place::components;
use super::wire::MAX_IMPLIED;

/// Paths below a layer's root, the root itself among them as the empty path; each ends with a NUL.
/// In one piece, because there may be millions.
#[derive(Debug, Default)]
pub(super) struct Implied(Vec<u8>);

impl Implied {
    /// Adds some, with their NULs.
    ///
    /// # Errors
    /// [`UnpackError::Nonsense`] if it is no list of paths, or too many.
    pub(super) fn add(&mut self, paths: &[u8]) -> Result<(), UnpackError> {
        let nonsense = |what: &'static str| Err(UnpackError::Nonsense(what.into()));
        // The empty path's NUL is not counted by who makes the list.
        if self.0.len() + paths.len() > MAX_IMPLIED + 1 {
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
        self.0.extend_from_slice(paths);
        Ok(())
    }

    /// The last that was told first: those above are told first.
    pub(super) fn deepest_first(&self) -> impl Iterator<Item = &[u8]> {
        let paths = self.0.strip_suffix(&[0]).map(|paths| paths.rsplit(|b| *b == 0));
        paths.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_back_in_reverse() {
        let mut implied = Implied::default();
        assert_eq!(implied.deepest_first().count(), 0);
        implied.add(b"\0a\0a/b\0").expect("paths");
        implied.add(b"c\0").expect("paths");
        let back: Vec<&[u8]> = implied.deepest_first().collect();
        assert_eq!(back, [&b"c"[..], b"a/b", b"a", b""]);
    }

    #[test]
    fn what_leads_elsewhere_is_nonsense() {
        for bad in [&b"a"[..], b"", b"..\0", b"a/../b\0", b"/a\0", b"a/\0", b"a//b\0", b"./a\0"] {
            let error = Implied::default().add(bad).expect_err("refused");
            assert!(matches!(error, UnpackError::Nonsense(_)), "{bad:?}: {error}");
        }
        let mut implied = Implied::default();
        let many = b"a\0".repeat(MAX_IMPLIED / 4);
        implied.add(&many).and_then(|()| implied.add(&many)).expect("as many as may be");
        implied.add(&many).expect_err("too many");
    }
}
