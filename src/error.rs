//! What an error means to its caller ([`Kind`]) and how it prints ([`chain`]).
//!
//! Every module has its own error type whose `Display` says what was tried, on what, and never
//! repeats its source. `cri/status.rs` alone turns a [`Kind`] into a gRPC code.

use std::error::Error;
use std::io;

use serde::{Deserialize, Serialize};

/// What the caller of a failed operation can do about it. The names are in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// The object does not exist; the kernel or the records prove it.
    NotFound,
    /// The name is taken by something else.
    AlreadyExists,
    /// The object exists but is not in a state that allows this.
    WrongState,
    /// A bound was reached: space, descriptors, sessions, a full mailbox.
    Exhausted,
    /// It took longer than it may.
    TimedOut,
    /// A newer request took this one's place.
    Superseded,
    /// The runtime refused what was asked, in its own words.
    Refused,
    /// Not now: starting, network not configured, a helper program failed.
    Unavailable,
    /// The credentials were refused.
    Denied,
    /// Stored or received bytes are not what they should be.
    DataLoss,
    /// Not built in, or this host cannot do it.
    Unsupported,
    /// The kubelet reads the message of this error by its first word (`RegistryUnavailable`,
    /// `SignatureValidationFailed`) and does so only under the code Unknown.
    NamedByFirstWord,
    /// A fault of ours or of the host.
    Internal,
}

impl Kind {
    /// What an error of the system means where nothing more is known.
    pub fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as E;
        match error.kind() {
            E::StorageFull | E::QuotaExceeded | E::OutOfMemory | E::TooManyLinks => Self::Exhausted,
            E::TimedOut => Self::TimedOut,
            E::ReadOnlyFilesystem => Self::Unavailable,
            E::Unsupported => Self::Unsupported,
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => Self::Exhausted,
                _ => Self::Internal,
            },
        }
    }
}

/// An error that knows what its caller can do about it.
pub trait Classify: Error {
    /// What the caller can do.
    fn kind(&self) -> Kind;
}

/// The error and all its sources in one line, joined by `: `.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("mount overlay on /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_is_full_is_no_fault() {
        for (errno, kind) in [
            (libc::ENOSPC, Kind::Exhausted),
            (libc::EDQUOT, Kind::Exhausted),
            (libc::ENOMEM, Kind::Exhausted),
            (libc::EMFILE, Kind::Exhausted),
            (libc::ENFILE, Kind::Exhausted),
            (libc::EMLINK, Kind::Exhausted),
            (libc::EROFS, Kind::Unavailable),
            (libc::ETIMEDOUT, Kind::TimedOut),
            (libc::EIO, Kind::Internal),
        ] {
            assert_eq!(Kind::of_io(&io::Error::from_raw_os_error(errno)), kind, "{errno}");
        }
    }

    #[test]
    fn each_level_says_its_own_part_once() {
        let error = Outer(std::io::Error::from_raw_os_error(28));
        assert_eq!(chain(&error), "mount overlay on /x: No space left on device (os error 28)");
    }
}
