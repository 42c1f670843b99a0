//! [`RegistryError`]: why a registry did not give us what we asked for.
//!
//! No text in here has a URL: those a registry redirects to are signed, and whoever reads the
//! error could use them.

use reqwest::StatusCode;

use crate::error::{Classify, Kind};
use crate::image::digest::Digest;

/// Why a registry did not give us what we asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The HTTP client cannot be made: most often there are no CA certificates.
    #[error("set up TLS")]
    Client(#[source] reqwest::Error),
    /// No connection, or it broke before the answer.
    #[error("ask {host}")]
    Exchange {
        /// Who.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Connected, and then silence.
    #[error("{host} does not answer")]
    NoAnswer {
        /// Who.
        host: String,
    },
    /// The connection broke in the middle.
    #[error("read from {host}")]
    Body {
        /// Who.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Less than the least that is no standstill.
    #[error("{host} sends nearly nothing")]
    Stalled {
        /// Who.
        host: String,
    },
    /// The answer is a failure.
    #[error("{host} answers {status} for {what}: {text}")]
    Status {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// What it says, shortened.
        text: String,
    },
    /// A redirect leads where none may.
    #[error("{host} redirects to {why}")]
    Redirect {
        /// Who.
        host: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The token server is where none may be.
    #[error("{host} names a token server with {why}")]
    Realm {
        /// Who.
        host: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The token server's answer is useless.
    #[error("token server {host} answers with {why}")]
    Token {
        /// Who.
        host: String,
        /// What is wrong.
        why: &'static str,
    },
    /// We may not.
    #[error("{host}: {why}")]
    Denied {
        /// Who.
        host: String,
        /// Why.
        why: &'static str,
    },
    /// More than is ever needed.
    #[error("{host} sends more than {limit} bytes")]
    TooLong {
        /// Who.
        host: String,
        /// How many were too many.
        limit: u64,
    },
    /// A header says something impossible.
    #[error("{host} sends a {header} that is {why}")]
    Header {
        /// Who.
        host: String,
        /// Which.
        header: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Other bytes than those that were asked for.
    #[error("{host} sends content with digest {actual} for {expected}")]
    Digest {
        /// Who.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Another number of bytes than was promised.
    #[error("{host} sends {actual} bytes for {digest}, which has {expected}")]
    Size {
        /// Who.
        host: String,
        /// What was asked for.
        digest: Digest,
        /// How many there should be.
        expected: u64,
        /// How many there are, or at least are.
        actual: u64,
    },
}

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Exchange { .. }
            | Self::NoAnswer { .. }
            | Self::Body { .. }
            | Self::Stalled { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            _ => false,
        }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Client(_)
            | Self::Exchange { .. }
            | Self::NoAnswer { .. }
            | Self::Body { .. }
            | Self::Stalled { .. }
            | Self::Redirect { .. } => Kind::NamedByFirstWord,
            Self::Status { status, .. } => match status.as_u16() {
                401 | 403 => Kind::Denied,
                404 => Kind::NotFound,
                408 | 429 | 500.. => Kind::NamedByFirstWord,
                _ => Kind::Invalid,
            },
            Self::Realm { .. } | Self::Token { .. } | Self::Denied { .. } => Kind::Denied,
            Self::TooLong { .. } => Kind::Exhausted,
            Self::Header { .. } => Kind::Invalid,
            Self::Digest { .. } | Self::Size { .. } => Kind::DataLoss,
        }
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 429)
}
