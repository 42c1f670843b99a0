//! How a container ended, and the text form of that for the exit file.
//!
//! The file is read after crashes, so parsing is strict: every key once, in order, every line
//! ended. What is torn, empty or from another version is an error and never a guessed exit code.

use std::error::Error;
use std::fmt;

/// First line of an exit file; another version of the format has another first line.
const HEADER: &str = "crisol-exit 1";

/// No exit file is longer than this; a reader need not read further, a writer reserves this much.
pub const MAX_EXIT_FILE: usize = 256;

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, or 128 + the signal's number if a signal ended it.
    pub code: u8,
    /// When the monitor learned of it, in nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Whether the kernel killed a process of the container's cgroup for want of memory, as told
    /// by the cgroup's own counter.
    pub oom_killed: bool,
    /// Bytes of output that are missing from the log because it could not be written.
    pub lost_bytes: u64,
}

impl Exit {
    /// The text of the exit file.
    pub fn to_text(&self) -> String {
        format!(
            "{HEADER}\ncode={}\nat_ns={}\noom_killed={}\nlost_bytes={}\n",
            self.code,
            self.at_ns,
            u8::from(self.oom_killed),
            self.lost_bytes
        )
    }

    /// Reads the text of an exit file. Anything but what [`Exit::to_text`] writes is an error.
    pub fn parse(text: &str) -> Result<Exit, ExitParseError> {
        let mut rest = text;
        if line(&mut rest).ok_or(ExitParseError::Torn)? != HEADER {
            return Err(ExitParseError::Version);
        }
        let exit = Exit {
            code: value(&mut rest, "code")?,
            at_ns: value(&mut rest, "at_ns")?,
            oom_killed: match value::<u8>(&mut rest, "oom_killed")? {
                0 => false,
                1 => true,
                _ => return Err(ExitParseError::Value { key: "oom_killed" }),
            },
            lost_bytes: value(&mut rest, "lost_bytes")?,
        };
        // Comparing with our own form refuses what the number parser lets pass: `+7`, `007`.
        if rest.is_empty() && exit.to_text() == text {
            Ok(exit)
        } else {
            Err(ExitParseError::Excess)
        }
    }
}

/// Takes one line that really ends in a newline.
fn line<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (line, tail) = rest.split_once('\n')?;
    *rest = tail;
    Some(line)
}

fn value<T: std::str::FromStr>(rest: &mut &str, key: &'static str) -> Result<T, ExitParseError> {
    line(rest)
        .ok_or(ExitParseError::Torn)?
        .strip_prefix(key)
        .and_then(|tail| tail.strip_prefix('='))
        .ok_or(ExitParseError::Missing { key })?
        .parse()
        .map_err(|_| ExitParseError::Value { key })
}

/// Why a text is not an exit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitParseError {
    /// The text ends before the record does.
    Torn,
    /// The first line is not the one of this version.
    Version,
    /// The line that should hold `key` does not.
    Missing {
        /// The key that was expected.
        key: &'static str,
    },
    /// The value of `key` is not of its type.
    Value {
        /// The key whose value is wrong.
        key: &'static str,
    },
    /// There is more than the record, or a number is not in its plain form.
    Excess,
}

impl fmt::Display for ExitParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn => f.write_str("exit record ends too early"),
            Self::Version => f.write_str("exit record is of an unknown version"),
            Self::Missing { key } => write!(f, "exit record lacks {key} in its place"),
            Self::Value { key } => write!(f, "exit record has no valid value for {key}"),
            Self::Excess => f.write_str("exit record holds more than a record"),
        }
    }
}

impl Error for ExitParseError {}

#[cfg(test)]
mod tests;
