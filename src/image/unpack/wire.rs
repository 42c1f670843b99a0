//! What the daemon and the processes that unpack say to each other, one packet at a time.
//!
//! ```text
//!  daemon ── Job + directory, bytes, line ─► unpacker     on its standard input, one a layer
//!  daemon ◄─ Ready ── unpacker                            the first on it, and the only one back
//!
//!  daemon ◄─ Said ── process of the layer                 on the layer's own line
//!  daemon ── an error number, 0 = done ─►                 after Memory and Opaque
//!  daemon ◄─ Said::Ended ── unpacker                      the last on it
//! ```
//!
//! What comes back is bounded and checked: a layer may have taken its process over.

use std::io;

use serde::{Deserialize, Serialize};

use super::UnpackError;
use super::memory;
use crate::image::digest::Digest;

/// Bytes of paths of directories that only occur in other paths, with an end for each. Archives made
/// from directories have none at all.
pub(super) const MAX_IMPLIED: usize = 16 << 20;

/// What the unpacker is before its first layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    /// What of its confinement this host does not give, and why.
    pub gaps: Vec<String>,
    /// What of it could not be had now, though the host gives it: no layer follows.
    pub failed: Option<UnpackError>,
}

/// One layer to unpack.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// Bytes that may come out of it.
    pub limit: u64,
    /// What its decoder may keep.
    pub windows: Windows,
    /// What the directory is.
    pub onto: Onto,
}

/// What a layer is unpacked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Onto {
    /// A new directory.
    Nothing,
    /// A tree that others made.
    Tree,
}

/// What a zstd frame may need, and who pays.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Windows {
    /// Bytes of the largest one that is accepted.
    pub(super) limit: u64,
    /// Bytes of a window that need not be asked for.
    pub(super) own: u64,
}

impl Windows {
    /// For layers, whose number is bounded: up to `limit`.
    pub(super) fn of_layer(limit: u64) -> Self {
        Self { limit, own: memory::OWN }
    }

    /// For what is not compressed as a rule.
    pub(super) fn of_checkpoint() -> Self {
        Self { limit: memory::OWN, own: 0 }
    }
}

/// What is said of one layer.
#[derive(Debug)]
pub(super) enum Said {
    /// The decoder wants to keep as many bytes more than are its own; what it asked for before, it
    /// has no more.
    Memory(u64),
    /// The directory with this path in the layer is to be opaque. No descriptor is sent: the kernel
    /// refuses that once all of root's processes together pass around more than a limit (unix(7)).
    Opaque(Vec<u8>),
    /// More paths for [`Implied`](super::implied::Implied).
    Implied(Vec<u8>),
    /// All is unpacked.
    Done(Done),
    /// It cannot be unpacked.
    Failed(UnpackError),
    /// The process has ended, with this status (wait(2)). The unpacker says so, but the process may, too:
    /// that it has ended is sure once the line has.
    Ended(i32),
}

/// What a layer has come to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// Digest of its archive.
    pub diff_id: Digest,
    /// Bytes that its files take.
    pub bytes: u64,
    /// Inodes that they take.
    pub inodes: u64,
    /// Whether the root is opaque.
    pub opaque: bool,
}

impl Said {
    /// The packet that says so.
    ///
    /// # Errors
    /// If an error cannot be put into words.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let (kind, body) = match self {
            Self::Memory(bytes) => (b'm', bytes.to_le_bytes().to_vec()),
            Self::Opaque(path) => (b'o', path.clone()),
            Self::Implied(paths) => (b'i', paths.clone()),
            Self::Done(done) => (b'd', serde_json::to_vec(done)?),
            Self::Failed(error) => (b'f', serde_json::to_vec(error)?),
            Self::Ended(status) => (b'e', status.to_le_bytes().to_vec()),
        };
        Ok([vec![kind], body].concat())
    }

    /// What a packet says; none if nothing that makes sense.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, body) = packet.split_first()?;
        Some(match kind {
            b'm' => Self::Memory(u64::from_le_bytes(body.try_into().ok()?)),
            b'o' => Self::Opaque(body.to_vec()),
            b'i' => Self::Implied(body.to_vec()),
            b'd' => Self::Done(serde_json::from_slice(body).ok()?),
            b'f' => Self::Failed(serde_json::from_slice(body).ok()?),
            b'e' => Self::Ended(i32::from_le_bytes(body.try_into().ok()?)),
            _ => return None,
        })
    }
}
