//! The container's log file: written in batches of whole lines, replaced on request, never fatal.
//!
//! A batch reaches the file entirely or not at all. When it cannot be written (full disk, quota,
//! I/O error) what went through is taken back, the batch is dropped and its bytes are counted; the
//! container is drained all the while and never waits. The first batch that can be written again
//! begins with a line that says how much is missing.
//!
//! Does not read from the container (`stdio.rs`) and knows no streams: callers say which stream a
//! piece of output is from and keep what is not a whole line yet.

use std::io;
use std::os::fd::OwnedFd;

use crate::child::now_ns;

mod line;
mod place;
pub(crate) use line::{MAX_MESSAGE, Source};
pub(crate) use place::Place;

/// Bytes gathered before they are written. About what one read of a full pipe yields, with room
/// for the longest line in any case.
const BATCH: usize = 64 * 1024;

/// The log of one container.
pub(crate) struct Log {
    target: Option<Target>,
    clock: line::Clock,
    /// Framed lines that are not written yet, after `preamble` bytes of our own.
    batch: Vec<u8>,
    preamble: usize,
    /// Output bytes dropped since the last line that told of it.
    untold: u64,
    /// Output bytes dropped since the start.
    lost: u64,
    /// Output bytes that an earlier reader took along when it was killed, and of which no line has
    /// told. They do not count as dropped by this log.
    taken_along: u64,
}

/// Where the log goes.
struct Target {
    file: OwnedFd,
    /// The file ends within a line, so the next batch must start a new one.
    torn: bool,
}

impl Log {
    /// A log in `file`, which may hold lines already. Without a file the output is discarded.
    pub(crate) fn new(file: Option<OwnedFd>) -> Log {
        Log {
            target: file.map(Target::new),
            clock: line::Clock::new(),
            batch: Vec::with_capacity(BATCH),
            preamble: 0,
            untold: 0,
            lost: 0,
            taken_along: 0,
        }
    }

    /// Tells, before its next line, of output that an earlier reader took along.
    pub(crate) fn miss(&mut self, bytes: u64) {
        self.taken_along = bytes;
    }

    /// Writes all whole lines of `output`, which was read at once, and returns how many bytes at
    /// its end are no line yet. Those are at most [`MAX_MESSAGE`] and belong before what the
    /// stream yields next.
    pub(crate) fn write(&mut self, source: Source, output: &[u8]) -> usize {
        let mut rest = output;
        if self.target.is_none() {
            return 0;
        }
        let at_ns = now_ns();
        while let Some((text, tag)) = line::next(&mut rest) {
            self.put(at_ns, source, tag, text);
        }
        self.flush();
        rest.len()
    }

    /// Writes the last piece of a stream, which has no newline.
    pub(crate) fn write_last(&mut self, source: Source, piece: &[u8]) {
        if self.target.is_some() && !piece.is_empty() {
            self.put(now_ns(), source, line::Tag::Partial, piece);
            self.flush();
        }
    }

    /// Tells of dropped output that no later line has told of. For the container's end.
    pub(crate) fn settle(&mut self) {
        if self.untold > 0 || self.taken_along > 0 {
            self.begin(now_ns());
            self.flush();
        }
    }

    /// Output bytes that are missing from the log.
    pub(crate) fn lost_bytes(&self) -> u64 {
        self.lost
    }

    /// Goes on in another file. Everything read so far is already in the old one, so no line is lost
    /// or doubled.
    pub(crate) fn move_to(&mut self, file: OwnedFd) {
        self.target = Some(Target::new(file));
    }

    fn put(&mut self, at_ns: i64, source: Source, tag: line::Tag, text: &[u8]) {
        if self.batch.len() + line::PREFIX + text.len() + 1 > BATCH {
            self.flush();
        }
        if self.batch.is_empty() {
            self.begin(at_ns);
        }
        line::put(&mut self.batch, self.clock.stamp(at_ns), source, tag, text);
    }

    /// Begins a batch with what must come before its first line.
    fn begin(&mut self, at_ns: i64) {
        if self.target.as_ref().is_some_and(|target| target.torn) {
            self.batch.push(b'\n');
        }
        let causes = [(self.untold, "write error"), (self.taken_along, "their reader was killed")];
        for (bytes, cause) in causes.into_iter().filter(|(bytes, _)| *bytes > 0) {
            let text = format!("conmon: {bytes} bytes of output are missing here: {cause}");
            let stamp = self.clock.stamp(at_ns);
            line::put(&mut self.batch, stamp, Source::Stderr, line::Tag::Full, text.as_bytes());
        }
        self.preamble = self.batch.len();
    }

    fn flush(&mut self) {
        let Some(target) = &mut self.target else { return };
        if self.batch.is_empty() {
            return;
        }
        match target.write(&self.batch) {
            Ok(()) => (self.untold, self.taken_along) = (0, 0),
            Err(_) => {
                let bytes = line::output_bytes(&self.batch[self.preamble..]);
                self.untold += bytes;
                self.lost += bytes;
            }
        }
        self.batch.clear();
        self.preamble = 0;
    }
}

impl Target {
    fn new(file: OwnedFd) -> Target {
        let size = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size);
        let size = u64::try_from(size).unwrap_or(0);
        let mut last = [b'\n'];
        let torn = size > 0
            && rustix::io::pread(&file, &mut last, size - 1).is_ok_and(|count| count == 1)
            && last != *b"\n";
        Target { file, torn }
    }

    /// Writes all of `batch` or, as far as the file system lets us, nothing of it.
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < batch.len() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, &batch[written..])) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) => {
                    self.take_back(&batch[..written]);
                    return Err(error.into());
                }
            }
        }
        if written < batch.len() {
            self.take_back(&batch[..written]);
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.torn = false;
        Ok(())
    }

    /// Cuts what was written off the file's end. The monitor is the log's only writer; if the file
    /// is shorter than that, somebody has truncated it and nothing is left to cut.
    fn take_back(&mut self, written: &[u8]) {
        let Some(last) = written.last() else { return };
        let cut = rustix::fs::fstat(&self.file).ok().and_then(|stat| {
            let end = u64::try_from(stat.st_size).ok()?.checked_sub(written.len() as u64)?;
            rustix::fs::ftruncate(&self.file, end).ok()
        });
        if cut.is_none() {
            self.torn = *last != b'\n';
        }
    }
}

#[cfg(test)]
mod tests;
