//! The log: lines on stderr, as text for people or as JSON for collectors, and panics among them.

use std::backtrace::Backtrace;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};
use crate::error::{Classify, Kind};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one; a checked configuration has none of these.
    #[error("parse the log filter {filter:?}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a log already.
    #[error("install the log")]
    Install(#[source] TryInitError),
}

impl Classify for LogError {
    fn kind(&self) -> Kind {
        match self {
            Self::Filter { .. } => Kind::Invalid,
            Self::Install(_) => Kind::Internal,
        }
    }
}

/// Sets up the log of this process, once, and sends panics to it.
///
/// # Errors
///
/// See [`LogError`].
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .map_err(|source| LogError::Filter { filter: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        // The journal would store the escape sequences of colours as bytes.
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(LogError::Install)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("not a string");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Only with RUST_BACKTRACE=1 is this more than one word.
        let backtrace = Backtrace::capture();
        tracing::error!(place, thread, %backtrace, "panic: {message}");
    }));
    Ok(())
}
