//! Names of an archive's entries: what they may be, and where they lead.

use std::io;

use rustix::io::Errno;

use super::UnpackError;

/// Longest path: `PATH_MAX` without its NUL.
pub(super) const MAX_PATH: usize = 4095;

/// Longest component: `NAME_MAX`.
const MAX_NAME: usize = 255;

/// Directories within directories.
const MAX_DEPTH: usize = 1024;

/// An entry's place.
pub(super) struct Place<'a> {
    /// Path of the directory, empty for the root.
    pub dir: Vec<u8>,
    pub name: &'a [u8],
}

impl Place<'_> {
    /// The path from the layer's root.
    pub(super) fn path(&self) -> Vec<u8> {
        match self.dir.as_slice() {
            b"" => self.name.to_vec(),
            dir => [dir, b"/", self.name].concat(),
        }
    }
}

/// Whether a path leads nowhere, or not to a directory, or round in circles.
pub(super) fn is_no_way(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|no| errno == Some(no.raw_os_error()))
}

/// The components of a name in an archive. It is relative to the layer's root whether it begins
/// with a slash or not, and never goes up.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let refuse = |why| Err(UnpackError::entry(path, why));
    if path.is_empty() {
        return refuse("has no name");
    }
    if path.contains(&0) {
        return refuse("has a NUL");
    }
    if path.len() > MAX_PATH {
        return refuse("has a name of more than 4095 bytes");
    }
    let components: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if components.contains(&&b".."[..]) {
        return refuse("has .. in its name");
    }
    if components.iter().any(|name| name.len() > MAX_NAME) {
        return refuse("has a component of more than 255 bytes");
    }
    if components.len() > MAX_DEPTH {
        return refuse("is more than 1024 directories deep");
    }
    Ok(components)
}
