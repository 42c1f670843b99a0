//! [`Error`]: why an operation on a network failed.

use std::fmt;

use crate::cache::CacheError;
use crate::conflist::ConfigError;
use crate::invoke::{InvokeError, PluginError, Verb};
use crate::result::ResultError;
use crate::version::Version;

/// Why an operation on a network failed. Sources are boxed: they are many times larger than the
/// success that they stand beside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the attachment could not be handed to a plugin unharmed.
    #[error("{field} {value:?} {problem}")]
    Attachment {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// ADD without a namespace.
    #[error("container {container} has no network namespace to attach")]
    NoNamespace {
        /// The container.
        container: String,
    },
    /// CHECK of something that was never attached.
    #[error("container {container} is not attached")]
    NotAttached {
        /// The container.
        container: String,
    },
    /// The network's version has no such verb.
    #[error("version {version} has no {verb}")]
    NotSpoken {
        /// The verb.
        verb: Verb,
        /// The network's version.
        version: Version,
    },
    /// A plugin failed.
    #[error("network {network}")]
    Plugin {
        /// The network.
        network: String,
        /// How.
        source: Box<InvokeError>,
    },
    /// A plugin succeeded with a result that cannot be used.
    #[error("result of plugin {plugin}")]
    Result {
        /// Its type.
        plugin: String,
        /// Why.
        source: Box<ResultError>,
    },
    /// The cache failed.
    #[error("remember the attachment")]
    Cache(#[source] Box<CacheError>),
    /// The configuration that the cache remembers cannot be used.
    #[error("remembered configuration of container {container}")]
    RememberedConfig {
        /// The container.
        container: String,
        /// Why.
        source: Box<ConfigError>,
    },
    /// The runtime of the process is being shut down.
    #[error("interrupted by the end of the process")]
    Interrupted,
}

impl Error {
    /// What a plugin said, if a plugin said no in the form of the specification.
    pub fn plugin_error(&self) -> Option<&PluginError> {
        match self {
            Error::Plugin { source, .. } => match &**source {
                InvokeError::Refused { error, .. } => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// Was a plugin killed at its deadline?
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Plugin { source, .. }
            if matches!(**source, InvokeError::TimedOut { .. }))
    }
}

/// Everything that went wrong in one GC; it does not stop at the first.
#[derive(Debug)]
pub struct GcErrors(pub Vec<Error>);

impl fmt::Display for GcErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}", chain(error))?;
        }
        Ok(())
    }
}

impl std::error::Error for GcErrors {}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
