//! [`UnpackError`]: why a layer could not be unpacked. It travels from the process that unpacks to the
//! daemon, which takes nothing of it for granted.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Classify, Kind};
use crate::image::digest::Digest;

/// Longest piece of an entry's name, or of what another process says, that an error repeats.
const MAX_SHOWN: usize = 200;

/// A few words of an error; those of another process are cut and have no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text(Cow<'static, str>);

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error of the system on its way between processes: its number, or its text if it has none.
mod system {
    use std::io;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Text;

    #[derive(Serialize, Deserialize)]
    enum Form {
        Number(i32),
        Text(Text),
    }

    pub(super) fn serialize<S: Serializer>(error: &io::Error, to: S) -> Result<S::Ok, S::Error> {
        let form = match error.raw_os_error() {
            Some(number) => Form::Number(number),
            None => Form::Text(error.to_string().into()),
        };
        form.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<io::Error, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::Number(number) => io::Error::from_raw_os_error(number),
            Form::Text(text) => io::Error::other(text.to_string()),
        })
    }
}

/// Why a layer could not be unpacked. What is skipped is for the daemon alone to say.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum UnpackError {
    /// The pieces ended early; whoever sent them knows why.
    #[error("transfer was interrupted")]
    #[serde(skip)]
    Interrupted,
    /// The compressed bytes are not those that were asked for.
    #[error("blob has digest {actual}")]
    #[serde(skip)]
    Digest {
        /// What came.
        actual: Digest,
    },
    /// The archive is not the one the configuration names.
    #[error("archive has digest {actual}, the configuration says {expected}")]
    #[serde(skip)]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The compressed bytes cannot be decompressed.
    #[error("decompress")]
    Decompress(
        #[source]
        #[serde(with = "system")]
        io::Error,
    ),
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
    Damaged(Text),
    /// A compression or a part of the format that is not understood.
    #[error("unsupported: {0}")]
    Unsupported(Text),
    /// An entry that has no place in a layer.
    #[error("entry {name:?} {why}")]
    Entry {
        /// Its name.
        #[serde(deserialize_with = "name")]
        name: String,
        /// What is wrong.
        why: Text,
    },
    /// More than is allowed.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: Text,
        /// How many are allowed.
        limit: u64,
    },
    /// The reserve of the file system is reached.
    #[error("file system has no {0} left but the reserve")]
    Full(Text),
    /// The file system refused.
    #[error("{what} {name:?}")]
    File {
        /// What was tried.
        what: Text,
        /// The entry.
        #[serde(deserialize_with = "name")]
        name: String,
        /// Why.
        #[serde(with = "system")]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("start a thread")]
    #[serde(skip)]
    Thread(#[source] io::Error),
    /// The process that unpacks could not be started, or be given the layer.
    #[error("start the unpacker")]
    #[serde(skip)]
    Start(#[source] io::Error),
    /// What confines the process that unpacks could not be set up, though this host has it.
    #[error("set up the unpacker: {what}")]
    Setup {
        /// What could not.
        what: Text,
        /// Why.
        #[serde(with = "system")]
        source: io::Error,
    },
    /// The process that unpacked ended before it was done.
    #[error("the unpacker {how}")]
    #[serde(skip)]
    Died {
        /// How, in words.
        how: Text,
    },
    /// The process that unpacks hangs.
    #[error("the unpacker takes nothing more of the layer")]
    #[serde(skip)]
    Stuck,
    /// The process that unpacked said what makes no sense.
    #[error("the unpacker answers nonsense: {0}")]
    #[serde(skip)]
    Nonsense(Text),
}

impl UnpackError {
    pub(super) fn entry(name: &[u8], why: &'static str) -> Self {
        Self::Entry { name: shown(name), why: why.into() }
    }

    pub(super) fn file(what: &'static str, name: &[u8], source: impl Into<io::Error>) -> Self {
        Self::File { what: what.into(), name: shown(name), source: source.into() }
    }

    pub(super) fn setup(what: &'static str, source: io::Error) -> Self {
        Self::Setup { what: what.into(), source }
    }

    pub(super) fn damaged(what: &'static str) -> Self {
        Self::Damaged(what.into())
    }

    pub(super) fn limit(what: &'static str, limit: u64) -> Self {
        Self::Limit { what: what.into(), limit }
    }

    /// Takes our own error back out of one that went through a decoder.
    pub(super) fn from_read(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => Self::Decompress(error),
        }
    }

    /// Whether other bytes would not have had this error.
    pub(super) fn is_about_content(&self) -> bool {
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
            Self::Thread(source) | Self::Start(source) | Self::Setup { source, .. }
                if matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EUSERS)) =>
            {
                Kind::Exhausted
            }
            Self::File { source, .. }
            | Self::Thread(source)
            | Self::Start(source)
            | Self::Setup { source, .. } => Kind::of_io(source),
            Self::Nonsense(_) => Kind::Internal,
            Self::Stuck => Kind::TimedOut,
            Self::Interrupted | Self::Died { .. } => Kind::Unavailable,
        }
    }
}

/// Whether this host does not give what was asked for: its kernel, its file system, or a filter around
/// the daemon. What is only used up for now fails the pull: others may have done that.
pub(super) fn is_not_given(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(
            libc::ENOSYS
            | libc::EPERM
            | libc::EINVAL
            | libc::EACCES
            | libc::EROFS
            | libc::ENODEV
            | libc::EOPNOTSUPP,
        ) => true,
        Some(_) => false,
        None => error.kind() == io::ErrorKind::Unsupported,
    }
}

/// An entry's name as an error prints it.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(MAX_SHOWN).collect()
}

/// An entry's name as it was sent: cut as [`shown`] cuts it.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|name| name.chars().take(MAX_SHOWN).collect())
}
