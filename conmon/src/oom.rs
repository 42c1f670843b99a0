//! Tells from the cgroup's own counter whether the kernel killed for want of memory.
//!
//! The counter file is opened when the container has been created, so that at its end no path has
//! to be found that may be gone. It is read the moment the end is known: systemd removes the cgroup
//! of a scope soon after its last process, and then the open file reads as ENODEV.
//!
//! Where the hierarchy is mounted is read from /proc/self/mountinfo, because a host may have the
//! memory controller in a v1 hierarchy beside a v2 one that does not have it ("hybrid").

use std::ffi::OsStr;
use std::fmt::Debug;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::{procfs, rights};

/// The counter of one container's cgroup.
pub(crate) struct OomCounter {
    file: OwnedFd,
    at_start: u64,
}

impl OomCounter {
    /// Opens the counter of the cgroup that `pid` is in.
    pub(crate) fn open(pid: i32) -> io::Result<OomCounter> {
        let mut groups = Groups::default();
        let file = format!("/proc/{pid}/cgroup");
        let see = |line: &[u8]| {
            groups.see(line);
            ControlFlow::Continue(())
        };
        rights::with(rights::LOOK, || procfs::for_each_line(Path::new(&file), see))?;
        let mut path = None;
        procfs::for_each_line(Path::new("/proc/self/mountinfo"), |line| {
            path = Mount::parse(line).and_then(|mount| mount.counter(&groups));
            if path.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let path = path.ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut counter =
            OomCounter { file: rustix::fs::openat(CWD, path, flags, Mode::empty())?, at_start: 0 };
        counter.at_start = counter.read()?;
        Ok(counter)
    }

    /// Whether the kernel has killed since the counter was opened.
    pub(crate) fn has_killed(&self) -> bool {
        self.read().is_ok_and(|now| now > self.at_start)
    }

    fn read(&self) -> io::Result<u64> {
        let mut buffer = [0; 512];
        let count = rustix::io::pread(&self.file, &mut buffer, 0)?;
        parse_counter(&buffer[..count]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Finds `oom_kill N` in v1's memory.oom_control or v2's memory.events; both have it as a line.
fn parse_counter(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

/// A process's cgroups of the hierarchies that may have the memory controller.
#[derive(Default)]
struct Groups {
    memory_v1: Option<PathBuf>,
    v2: Option<PathBuf>,
}

impl Groups {
    /// Reads a line of /proc/PID/cgroup: `ID:CONTROLLERS:PATH`, of v2 `0::PATH` (cgroups(7)).
    fn see(&mut self, line: &[u8]) {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let path = || Some(PathBuf::from(OsStr::from_bytes(path)));
        if id == b"0" && controllers.is_empty() {
            self.v2 = path();
        } else if controllers.split(|byte| *byte == b',').any(|name| name == b"memory") {
            self.memory_v1 = path();
        }
    }
}

/// A mounted cgroup hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The cgroup that is the root of this mount.
    root: PathBuf,
    point: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum Version {
    MemoryV1,
    V2,
}

impl Mount {
    /// Reads a line of mountinfo (proc_pid_mountinfo(5)):
    /// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [FIELDS…] - TYPE SOURCE SUPEROPTIONS`.
    fn parse(line: &[u8]) -> Option<Mount> {
        let separator = line.windows(3).position(|window| window == b" - ")?;
        let mut kind = line[separator + 3..].split(|byte| *byte == b' ');
        let version = match (kind.next()?, kind.nth(1)?) {
            (b"cgroup2", _) => Version::V2,
            (b"cgroup", options)
                if options.split(|byte| *byte == b',').any(|option| option == b"memory") =>
            {
                Version::MemoryV1
            }
            _ => return None,
        };
        let mut fields = line[..separator].split(|byte| *byte == b' ').skip(3);
        Some(Mount { version, root: unescape(fields.next()?), point: unescape(fields.next()?) })
    }

    /// The counter file in this mount, if it is the hierarchy that has the memory controller.
    fn counter(&self, groups: &Groups) -> Option<PathBuf> {
        let (group, file) = match (&self.version, &groups.memory_v1) {
            (Version::MemoryV1, Some(group)) => (group, "memory.oom_control"),
            // The controller is in one hierarchy only; with v1 it is not here.
            (Version::V2, None) => (groups.v2.as_ref()?, "memory.events"),
            _ => return None,
        };
        let below = group.strip_prefix(&self.root).ok()?;
        Some(self.point.join(below).join(file))
    }
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let (mut plain, mut rest) = (Vec::with_capacity(field.len()), field);
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests;
