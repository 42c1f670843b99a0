//! Unpacks one layer: compressed pieces in, a directory that overlayfs can use out.
//!
//! ```text
//!  pieces ─► sha256 (blob) ─► inflate ─► sha256 (diff id), bounded ─► tar ─► tree
//! ```
//!
//! Runs on a plain thread from the first byte to the last. The directory is independent of the
//! layers below, so all layers of an image are unpacked at once; what an archive leaves to the
//! layer below (the mode of a directory it only mentions in a path) is added by
//! [`Unpacked::inherit`] when the layer is committed.
//!
//! INVARIANT: an [`Unpacked`] has the digest, the size and the diff id it should have.

use std::io;
use std::path::{Path, PathBuf};

pub use archive::MAX_EXTENSION;
pub use node::is_taken;
pub use pax::MAX_XATTRS;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

mod archive;
mod decompress;
mod frames;
mod inherit;
mod memory;
mod node;
mod numbers;
mod pax;
mod pieces;
mod place;
mod room;
mod tree;
mod whiteout;

use super::digest::Digest;
use super::gc::Temporary;
use super::manifest::Descriptor;
use crate::error::{Classify, Kind};
use archive::Archive;
use decompress::Inflated;
use frames::Windows;
use pieces::Pieces;
use tree::Tree;

/// Entries of one layer. A full distribution has 300,000 files.
const MAX_ENTRIES: u64 = 2_000_000;

/// Bytes that one layer may unpack to, whatever it was compressed from.
const MAX_BYTES: u64 = 256 << 30;

/// Bytes that any layer may unpack to, however well it compresses.
const FREE_BYTES: u64 = 1 << 30;

/// Above [`FREE_BYTES`], how many bytes may come out of one. Gzip reaches 1032 with zeros only.
const MAX_RATIO: u64 = 200;

/// Bytes that unpacking leaves free on the file system: records of running containers still have
/// to be written when it is full (R33).
const RESERVED_BYTES: u64 = 64 << 20;

/// Inodes that unpacking leaves free.
const RESERVED_INODES: u64 = 1024;

/// Longest piece of an entry's name that an error repeats.
const MAX_SHOWN: usize = 200;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The pieces ended early; whoever sent them knows why.
    #[error("transfer was interrupted")]
    Interrupted,
    /// The compressed bytes are not those that were asked for.
    #[error("blob has digest {actual}")]
    Digest {
        /// What came.
        actual: Digest,
    },
    /// The archive is not the one the configuration names.
    #[error("archive has digest {actual}, the configuration says {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The compressed bytes cannot be decompressed.
    #[error("decompress")]
    Decompress(#[source] io::Error),
    /// Decompressing it takes more memory than is allowed.
    #[error(
        "its zstd frames need {} MiB of memory (\"window\"), accepted are {limit} MiB: \
         see the key image.max_zstd_window",
        window.div_ceil(1 << 20)
    )]
    Window {
        /// Bytes that it needs.
        window: u64,
        /// MiB that are accepted.
        limit: u64,
    },
    /// The archive is damaged.
    #[error("archive is damaged: {0}")]
    Damaged(&'static str),
    /// A compression or a part of the format that is not understood.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// An entry that has no place in a layer.
    #[error("entry {name:?} {why}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// More than is allowed.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The reserve of the file system is reached.
    #[error("file system has no {0} left but the reserve")]
    Full(&'static str),
    /// The file system refused.
    #[error("{what} {name:?}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The entry.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

impl UnpackError {
    fn entry(name: &[u8], why: &'static str) -> Self {
        Self::Entry { name: shown(name), why }
    }

    fn file(what: &'static str, name: &[u8], source: impl Into<io::Error>) -> Self {
        Self::File { what, name: shown(name), source: source.into() }
    }

    /// Takes our own error back out of one that went through a decoder.
    fn from_read(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => Self::Decompress(error),
        }
    }

    /// Whether other bytes would not have had this error.
    fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::Decompress(_)
                | Self::Window { .. }
                | Self::Damaged(_)
                | Self::Unsupported(_)
                | Self::Entry { .. }
        )
    }
}

impl Classify for UnpackError {
    fn kind(&self) -> Kind {
        match self {
            Self::Digest { .. } | Self::DiffId { .. } | Self::Decompress(_) | Self::Damaged(_) => {
                Kind::DataLoss
            }
            Self::Unsupported(_) | Self::Entry { .. } | Self::Window { .. } => Kind::Invalid,
            Self::Limit { .. } | Self::Full(_) => Kind::Exhausted,
            Self::File { source, .. } | Self::Thread(source) => Kind::of_io(source),
            Self::Interrupted => Kind::Unavailable,
        }
    }
}

/// An entry's name as an error prints it.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(MAX_SHOWN).collect()
}

/// A layer that is unpacked and verified, but not committed; discarded when dropped.
#[derive(Debug)]
pub(super) struct Unpacked {
    place: Temporary,
    diff_id: Digest,
    contents: Contents,
}

/// What a tree has come to.
#[derive(Debug)]
struct Contents {
    /// Bytes that its files take.
    bytes: u64,
    /// Inodes that they take.
    inodes: u64,
    /// Whether the root is opaque.
    opaque: bool,
    /// Directories that only occur in the paths of others.
    implied: Vec<Vec<u8>>,
}

impl Unpacked {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Its diff id.
    pub(super) fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// Bytes that its files take.
    pub(super) fn bytes(&self) -> u64 {
        self.contents.bytes
    }

    /// Inodes that its files take.
    pub(super) fn inodes(&self) -> u64 {
        self.contents.inodes
    }

    /// Whether nothing of the layers below is visible.
    pub(super) fn is_opaque(&self) -> bool {
        self.contents.opaque
    }

    /// Gives directories that the archive did not describe the owner, mode, attributes and times
    /// they have in the layers below (topmost first).
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn inherit(&self, below: &[PathBuf]) -> io::Result<()> {
        inherit::inherit(self.path(), &self.contents.implied, below)
    }

    /// It has been renamed and belongs to the store now.
    pub(super) fn placed(self) {
        self.place.keep();
    }
}

/// Unpacks the layer that arrives in `pieces` into `place`; windows of zstd may have `max_window`
/// bytes. Blocks until all has arrived; dropping the sender early ends it.
///
/// # Errors
/// [`UnpackError`]; the directory is discarded then.
pub(super) fn unpack(
    blob: Descriptor,
    diff_id: Digest,
    place: Temporary,
    pieces: Receiver<Bytes>,
    max_window: u64,
) -> Result<Unpacked, UnpackError> {
    let limit = blob.size.saturating_mul(MAX_RATIO).clamp(FREE_BYTES, MAX_BYTES);
    let inflated = Inflated::new(Pieces::new(pieces), limit, Windows::of_layer(max_window));
    unpack_from(blob, diff_id, place, inflated)
}

/// [`unpack`] with the decoder chosen.
fn unpack_from(
    blob: Descriptor,
    diff_id: Digest,
    place: Temporary,
    mut inflated: Inflated,
) -> Result<Unpacked, UnpackError> {
    let mut tree = Tree::open(place.path())?;
    let extracted = extract(&mut inflated, &mut tree);
    match &extracted {
        Err(error) if !error.is_about_content() => {}
        _ => {
            // What is wrong with an archive does not matter if it is not the right one.
            let (size, actual) = inflated.pieces().finish();
            if size < blob.size {
                return Err(UnpackError::Interrupted);
            }
            if actual != blob.digest {
                return Err(UnpackError::Digest { actual });
            }
        }
    }
    extracted?;
    let actual = inflated.digest();
    if actual != diff_id {
        return Err(UnpackError::DiffId { expected: diff_id, actual });
    }
    Ok(Unpacked { place, diff_id, contents: tree.finish()? })
}

/// Lays the archive that arrives in `pieces` over what is in the directory `onto`: what is there of
/// the same name is replaced, except that directories stay. Blocks until all has arrived.
///
/// # Errors
/// [`UnpackError`]; a part may have been laid over then.
pub fn lay_over(pieces: Receiver<Bytes>, onto: &Path) -> Result<(), UnpackError> {
    let mut tree = Tree::over(onto)?;
    let mut inflated = Inflated::new(Pieces::new(pieces), MAX_BYTES, Windows::of_checkpoint());
    extract(&mut inflated, &mut tree)?;
    tree.finish().map(drop)
}

fn extract(inflated: &mut Inflated, tree: &mut Tree) -> Result<(), UnpackError> {
    let mut archive = Archive::new(inflated);
    let mut entries = 0;
    while let Some(member) = archive.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(UnpackError::Limit { what: "entries", limit: MAX_ENTRIES });
        }
        tree.add(&member, &mut archive)?;
    }
    archive.drain()
}

#[cfg(test)]
mod tests;
