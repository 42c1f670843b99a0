//! The log: lines on stderr, as text for people or as JSON for collectors, and panics among them.

use std::backtrace::{Backtrace, BacktraceStatus};
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
    // A line that cannot be written (a full disk, a reader that is gone) is lost. To complain of it in
    // the same place would panic, in the middle of a request.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false);
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
        // With RUST_BACKTRACE=1 only: it costs much and says little in a release build.
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(place, thread, backtrace, "panic: {message}");
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_filter_that_is_none_is_named_and_installs_nothing() {
        let log = Log { level: "crisol=loud".to_owned(), format: LogFormat::Text };
        // Twice: a first attempt that had installed something would change the second error.
        for _ in 0..2 {
            let error = init(&log).unwrap_err();
            assert_eq!(error.to_string(), "parse the log filter \"crisol=loud\"");
            assert_eq!(error.kind(), Kind::Invalid);
        }
    }
}
