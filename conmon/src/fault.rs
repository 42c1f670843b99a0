//! What went wrong in the monitor, in words for the operator.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

/// Something that was tried, on what, and what the kernel said.
#[derive(Debug)]
pub(crate) struct Fault {
    tried: String,
    source: io::Error,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl Fault {
    /// The fault and its cause in one line.
    pub(crate) fn chain(&self) -> String {
        format!("{}: {}", self.tried, self.source)
    }
}

/// Says of a result what was tried.
pub(crate) trait Tried<T> {
    /// Turns an error into a [`Fault`] that names what was tried.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|source| Fault { tried: what(), source: source.into() })
    }
}

/// Writes a line to standard error, which the daemon has pointed at a file.
///
/// Not `eprintln!`: that panics if the file's disk is full, and a monitor never ends for that.
pub(crate) fn complain(line: fmt::Arguments<'_>) {
    drop(io::stderr().write_fmt(format_args!("conmon: {line}\n")));
}
