//! What the monitor reads from and writes to /proc, with small buffers on the stack.

use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RawDir};

/// The longest line looked at; a longer one (an overlay mount of many layers) is skipped. No line
/// that is looked for is nearly as long.
const LINE: usize = 4096;

/// A stat line: the name is at most 64 bytes, the 50 numbers at most 20 digits each.
const STAT: usize = 1280;

/// What /proc/PID/stat says of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    /// It has ended and is not reaped. One whose first thread is a zombie while others go on has not.
    pub(crate) ended: bool,
}

/// Reads what there is about a process. None: there is no such process any more.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let mut buffer = [0; STAT];
    parse_stat(read(Path::new(&format!("/proc/{pid}/stat")), &mut buffer).ok()?)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name, field 2, may hold spaces and parentheses; it ends at the last one.
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 2;
    let mut fields = std::str::from_utf8(text.get(after_name..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(20 - 7)?.parse().ok()?;
    let start_time = fields.nth(22 - 21)?.parse().ok()?;
    let ended = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(Stat { parent, group, session, start_time, ended })
}

/// Calls `see` for every process that this pid namespace shows.
pub(crate) fn for_each_process(mut see: impl FnMut(i32, &Stat)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); LINE];
    let mut entries = RawDir::new(proc, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let pid = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(stat) = stat(pid)
        {
            see(pid, &stat);
        }
    }
    Ok(())
}

/// Calls `see` for each line of a file until it says to stop.
pub(crate) fn for_each_line(
    path: &Path,
    mut see: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let file = open(path)?;
    let mut buffer = [0; LINE];
    let (mut filled, mut skipping) = (0, false);
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer[filled..]))?;
        filled += count;
        let mut start = 0;
        while let Some(length) = crate::sys::find_newline(&buffer[start..filled]) {
            if !skipping && see(&buffer[start..start + length]).is_break() {
                return Ok(());
            }
            skipping = false;
            start += length + 1;
        }
        if count == 0 {
            return Ok(());
        }
        if start == 0 && filled == buffer.len() {
            (skipping, filled) = (true, 0);
        } else {
            buffer.copy_within(start..filled, 0);
            filled -= start;
        }
    }
}

/// Reads the pid in a pid file: digits, nothing else.
pub(crate) fn read_pid_file(path: &Path) -> io::Result<i32> {
    let mut buffer = [0; 16];
    let text = std::str::from_utf8(read(path, &mut buffer)?).unwrap_or_default();
    let pid = text.trim_ascii_end().parse().ok().filter(|pid| *pid > 1);
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a pid"))
}

/// This process's own oom_score_adj.
pub(crate) fn oom_score_adj() -> io::Result<i32> {
    let mut buffer = [0; 16];
    let text = read(Path::new("/proc/self/oom_score_adj"), &mut buffer)?;
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.trim_ascii_end().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets this process's own oom_score_adj. Makes system calls only, so a forked child may call it.
pub(crate) fn set_oom_score_adj(score: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&file, score.as_bytes())?;
    Ok(())
}

/// Reads as much of a file as the buffer holds.
pub(crate) fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let file = open(path)?;
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer[filled..]))? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(&buffer[..filled])
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = b"12 (a) R) (b) Z 5 6 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9991 10 11 12\n";
        let stat = parse_stat(line).expect("the line is whole");
        let expected = Stat { parent: 5, group: 6, session: 7, start_time: 9991, ended: true };
        assert_eq!(stat, expected);
        for end in 0..60 {
            assert_eq!(parse_stat(&line[..end]), None);
        }
    }

    #[test]
    fn a_process_has_ended_when_its_last_thread_has() {
        let ended = |state: &str, threads: u32| {
            let line =
                format!("12 (a) {state} 5 6 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 {threads} 0 9991 10");
            parse_stat(line.as_bytes()).expect("the line is whole").ended
        };
        assert!(ended("Z", 1) && ended("X", 0));
        assert!(!ended("Z", 2) && !ended("R", 1));
    }

    #[test]
    fn this_process_is_found_in_proc() {
        let own = i32::try_from(std::process::id()).expect("pids are small");
        let mut seen = 0;
        for_each_process(|pid, stat| {
            if pid == own {
                seen += 1;
                assert!(!stat.ended && stat.start_time > 0);
            }
        })
        .expect("/proc is mounted");
        assert_eq!(seen, 1);
    }

    #[test]
    fn lines_are_whole_and_those_too_long_are_skipped() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let long = "x".repeat(3 * LINE + 7);
        std::fs::write(file.path(), format!("one\n{long}\n\ntwo\n{long}\nthree\ntorn"))
            .expect("write");
        let mut lines = Vec::new();
        for_each_line(file.path(), |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            ControlFlow::Continue(())
        })
        .expect("read");
        assert_eq!(lines, ["one", "", "two", "three"]);
    }
}
