//! The form of a line in a CRI log: `RFC3339Nano stdout|stderr P|F message\n`.
//!
//! Pure: a piece of output goes in, framed lines come out. Everything before the message has the
//! same length for every line ([`PREFIX`]), which is what lets the number of message bytes be told
//! from a finished batch of lines.

pub(crate) use conmon::wire::attach::Source;

use crate::sys::find_newline;

/// The longest message of one line; a longer line of the container becomes several of ours, all
/// but the last tagged P. COMPAT: the size containerd and CRI-O split at.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;

/// Bytes of `2026-11-22T10:00:00.123456789Z`.
const STAMP: usize = 30;

/// Bytes before the message: stamp, space, stream, space, tag, space.
pub(crate) const PREFIX: usize = STAMP + 1 + 6 + 1 + 1 + 1;

/// Where the tag stands in a line.
const TAG: usize = PREFIX - 2;

/// Whether a line ends where the container's line did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// F: the container wrote a newline here.
    Full,
    /// P: it goes on in the next line of the stream, or the container ended without a newline.
    Partial,
}

/// Takes the next line out of `output`. None: the rest is no line yet and is kept for more.
///
/// INVARIANT: what is kept is never longer than [`MAX_MESSAGE`].
pub(crate) fn next<'a>(output: &mut &'a [u8]) -> Option<(&'a [u8], Tag)> {
    let window = &output[..output.len().min(MAX_MESSAGE + 1)];
    match find_newline(window) {
        Some(length) => {
            let line = &output[..length];
            *output = &output[length + 1..];
            Some((line, Tag::Full))
        }
        // A newline as the very next byte would make MAX_MESSAGE bytes a full line, so one byte
        // more is needed to know.
        None if window.len() > MAX_MESSAGE => {
            let (line, rest) = output.split_at(MAX_MESSAGE);
            *output = rest;
            Some((line, Tag::Partial))
        }
        None => None,
    }
}

/// Appends one framed line to `batch`.
pub(crate) fn put(batch: &mut Vec<u8>, stamp: &[u8; STAMP], source: Source, tag: Tag, line: &[u8]) {
    let middle: &[u8; PREFIX - STAMP] = match (source, tag) {
        (Source::Stdout, Tag::Full) => b" stdout F ",
        (Source::Stdout, Tag::Partial) => b" stdout P ",
        (Source::Stderr, Tag::Full) => b" stderr F ",
        (Source::Stderr, Tag::Partial) => b" stderr P ",
    };
    batch.extend_from_slice(stamp);
    batch.extend_from_slice(middle);
    batch.extend_from_slice(line);
    batch.push(b'\n');
}

/// How many bytes of the container's output a batch of framed lines stands for.
pub(crate) fn output_bytes(mut batch: &[u8]) -> u64 {
    let mut bytes = 0;
    while let Some(length) = find_newline(batch) {
        // The container's own newline is one of the lost bytes, too.
        let newline = usize::from(batch.get(TAG) == Some(&b'F'));
        bytes += (length.saturating_sub(PREFIX) + newline) as u64;
        batch = &batch[length + 1..];
    }
    bytes
}

/// The clock of the log, which formats only what has changed.
pub(crate) struct Clock {
    second: i64,
    text: [u8; STAMP],
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { second: i64::MIN, text: *b"0000-00-00T00:00:00.000000000Z" }
    }

    /// The text of a moment given in nanoseconds since the Unix epoch.
    pub(crate) fn stamp(&mut self, at_ns: i64) -> &[u8; STAMP] {
        let second = at_ns.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil(second.div_euclid(86_400));
            let of_day = second.rem_euclid(86_400);
            digits(&mut self.text[0..4], year);
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
            digits(&mut self.text[11..13], of_day / 3600);
            digits(&mut self.text[14..16], of_day / 60 % 60);
            digits(&mut self.text[17..19], of_day % 60);
        }
        digits(&mut self.text[20..29], at_ns.rem_euclid(1_000_000_000));
        &self.text
    }
}

fn digits(text: &mut [u8], mut number: i64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// A year is taken to begin in March, so that the leap day is its last; an era is 400 years, after
/// which the calendar repeats.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_OF_ERA: i64 = 146_097;
    const MARCH_0000: i64 = -719_468;
    let day = day - MARCH_0000;
    let (era, day) = (day.div_euclid(DAYS_OF_ERA), day.rem_euclid(DAYS_OF_ERA));
    let year = (day - day / 1460 + day / 36_524 - day / (DAYS_OF_ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on the lengths of the months follow a line of slope 153/5.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests;
