//! Reads container logs strictly: whatever is not exactly the CRI format is an error.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// One entry of a log: `2026-11-22T10:11:12.123456789Z stdout F text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The timestamp as written.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line ends here (`F`) or goes on in the stream's next entry (`P`).
    pub full: bool,
    /// The text.
    pub text: Vec<u8>,
}

/// Calls `take` for each entry of a log file, in order.
///
/// # Errors
/// If the file cannot be read, a line is not well-formed or the last one has no end, or from `take`.
pub fn read(path: &Path, mut take: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        ensure!(line.pop() == Some(b'\n'), "{}: last line is torn", path.display());
        let entry = parse(&line).with_context(|| {
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            format!("{} line {number}: {shown:?}", path.display())
        })?;
        take(entry)?;
    }
    Ok(())
}

/// All whole lines of one stream, partial entries joined.
///
/// # Errors
/// As [`read`].
pub fn lines(path: &Path, stream: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    read(path, |entry| {
        if entry.stream == stream {
            line.extend_from_slice(&entry.text);
            if entry.full {
                lines.push(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        }
        Ok(())
    })?;
    if !line.is_empty() {
        // The process ended without a newline.
        lines.push(String::from_utf8_lossy(&line).into_owned());
    }
    Ok(lines)
}

fn parse(line: &[u8]) -> Result<Entry> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let mut word = || -> Result<&str> {
        let part = parts.next().context("fewer than four parts")?;
        std::str::from_utf8(part).context("not text")
    };
    let (time, stream, tag) = (word()?, word()?, word()?);
    ensure!(is_time(time), "{time:?} is no RFC 3339 time with nanoseconds");
    ensure!(stream == "stdout" || stream == "stderr", "stream {stream:?}");
    let full = match tag {
        "F" => true,
        "P" => false,
        other => bail!("tag {other:?}"),
    };
    let text = parts.next().context("no text")?.to_vec();
    Ok(Entry { time: time.to_owned(), stream: stream.to_owned(), full, text })
}

/// `2026-11-22T10:11:12.123456789Z`, or with an offset `+01:00`; the fraction may be shorter, as
/// Go's `RFC3339Nano` drops zeros at its end.
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches('0'),
        None => rest,
    };
    matches!(rest, "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_exactly_four_parts_and_the_text_may_hold_anything() {
        let entry =
            parse(b"2026-11-22T10:11:12.123456789Z stderr P a b \xff").expect("well-formed");
        assert_eq!((entry.stream.as_str(), entry.full), ("stderr", false));
        assert_eq!(entry.text, b"a b \xff");
        assert!(parse(b"2026-11-22T10:11:12.1Z stdout F ").is_ok());
        for bad in [
            "2026-11-22T10:11:12.1Z stdout F",
            "2026-11-22 10:11:12 stdout F x",
            "2026-11-22T10:11:12.1Z stdin F x",
            "2026-11-22T10:11:12.1Z stdout Q x",
            " stdout F x",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
