//! What can go wrong with plugins, each by what was tried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Classify, Kind};

use super::owners::Field;

/// Why something that involves plugins failed.
#[derive(Debug, thiserror::Error)]
pub enum NriError {
    /// A plugin refused, in its own words.
    #[error("plugin {plugin} refused {method}: {message}")]
    Refused {
        /// Which.
        plugin: String,
        /// What it was told.
        method: &'static str,
        /// Its words.
        message: String,
    },
    /// A validator could not be asked, so nothing is allowed.
    #[error("plugin {plugin} did not validate the adjustment")]
    Unvalidated {
        /// Which.
        plugin: String,
    },
    /// Two plugins changed the same.
    #[error("plugins {first} and {second} both set {what} of container {container}")]
    Conflict {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
        /// The field and its key.
        what: String,
        /// Whose.
        container: String,
    },
    /// A plugin asked for something that makes no sense.
    #[error("plugin {plugin}: {problem}")]
    Nonsense {
        /// Which.
        plugin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another container could not be updated as a plugin asked.
    #[error("update of container {container} asked by a plugin: {problem}")]
    Update {
        /// Which.
        container: String,
        /// Why not.
        problem: String,
    },
    /// The socket for plugins.
    #[error("{action} {path}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl NriError {
    pub(super) fn conflict(
        first: &str,
        second: &str,
        what: (Field, &str),
        container: &str,
    ) -> Self {
        let (field, key) = what;
        let what = match key {
            "" => field.name().to_owned(),
            key => format!("{} {key:?}", field.name()),
        };
        let (first, second) = (first.to_owned(), second.to_owned());
        Self::Conflict { first, second, what, container: container.to_owned() }
    }
}

impl Classify for NriError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::Refused,
            Self::Conflict { .. } | Self::Nonsense { .. } => Kind::Invalid,
            Self::Unvalidated { .. } | Self::Update { .. } => Kind::Unavailable,
            Self::Socket { .. } => Kind::Internal,
        }
    }
}

/// Why a call to a plugin has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The connection is gone.
    #[error("its connection is closed")]
    Closed,
    /// It took too long.
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    /// The request is longer than the protocol allows.
    #[error("the request is longer than 4 MiB")]
    TooLong,
    /// What it answered is not of the protocol.
    #[error("its answer is no such message")]
    Malformed(#[from] prost::DecodeError),
    /// It answered with an error.
    #[error("{message} (code {code})")]
    Status {
        /// A code of gRPC.
        code: i32,
        /// Its words.
        message: String,
    },
}
