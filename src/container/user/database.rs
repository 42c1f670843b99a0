//! `/etc/passwd` and `/etc/group` of an image: opened inside the root file system, bounded, and
//! parsed line by line. Lines that are not entries (comments, NIS inclusions, ids out of range)
//! are passed over, as the C library does.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use super::{MAX_ID, UserError};

/// Most that is read of one file. The databases of real images have a few KiB; a directory
/// service dumped into a file with 100 000 entries stays below this.
const MAX_FILE: u64 = 8 << 20;

/// Longest line. A group line lists its members: 64 KiB are some 8 000 of them.
const MAX_LINE: usize = 64 << 10;

/// How often the kernel may ask us to resolve a path again: with `RESOLVE_IN_ROOT` it answers
/// EAGAIN when a rename anywhere raced with a `..`, see openat2(2).
const MAX_RETRIES: usize = 16;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Both files, as read. An absent file is an empty one.
pub(super) struct Database {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

/// A line of `/etc/passwd`, see passwd(5).
pub(super) struct UserEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) uid: u32,
    pub(super) gid: u32,
    home: &'a [u8],
}

/// A line of `/etc/group`, see group(5).
pub(super) struct GroupEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) gid: u32,
    members: &'a [u8],
}

impl Database {
    /// Reads both files below `rootfs`.
    pub(super) fn read(rootfs: &Path) -> Result<Self, UserError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(rootfs, flags, Mode::empty())
            .map_err(|errno| UserError::Rootfs { path: rootfs.to_owned(), source: errno.into() })?;
        Ok(Database { passwd: read_file(&root, PASSWD)?, group: read_file(&root, GROUP)? })
    }

    /// The first user that fits.
    pub(super) fn user(&self, fits: impl Fn(&UserEntry<'_>) -> bool) -> Option<UserEntry<'_>> {
        self.passwd
            .split(|byte| *byte == b'\n')
            .filter_map(UserEntry::parse)
            .find(|entry| fits(entry))
    }

    /// All groups in order.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        self.group.split(|byte| *byte == b'\n').filter_map(GroupEntry::parse)
    }
}

impl<'a> UserEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = entry_name(fields.next()?)?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(UserEntry { name, uid, gid, home })
    }

    /// The home directory, unless it is something that must not reach an environment variable
    /// which programs copy into other files: relative, overlong, or with control
    /// characters or line separators.
    pub(super) fn usable_home(&self) -> Option<String> {
        let home = str::from_utf8(self.home).ok()?;
        let usable = home.starts_with('/')
            && home.len() < libc::PATH_MAX as usize
            && !home.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        usable.then(|| home.to_owned())
    }
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = entry_name(fields.next()?)?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    }

    /// Names of the users that the group lists.
    pub(super) fn members(&self) -> impl Iterator<Item = &'a [u8]> {
        self.members.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
    }
}

/// The name of an entry; none for an empty line, a comment and an inclusion of NIS (`+name`).
fn entry_name(field: &[u8]) -> Option<&[u8]> {
    let first = *field.first()?;
    (!matches!(first, b'#' | b'+' | b'-')).then_some(field)
}

/// A plain decimal id in range.
fn id(field: &[u8]) -> Option<u32> {
    let plain = !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    let id: u32 = str::from_utf8(field).ok().filter(|_| plain)?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

/// Reads one database; empty if the image has none.
fn read_file(root: &OwnedFd, path: &'static str) -> Result<Vec<u8>, UserError> {
    let failed = |source: io::Error| UserError::Read { path, source };
    let found = match locate(root, path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(Errno::LOOP) => return Err(UserError::Loop { path }),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = fstat(&found).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UserError::NotAFile { path });
    }
    let too_large = UserError::TooLarge { path, limit: MAX_FILE };
    if u64::try_from(stat.st_size).is_ok_and(|size| size > MAX_FILE) {
        return Err(too_large);
    }
    // Only now opened for reading: opening a device can have effects of its own.
    let reopened = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(reopened, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large);
    }
    match bytes.split(|byte| *byte == b'\n').position(|line| line.len() > MAX_LINE) {
        Some(index) => Err(UserError::LineTooLong { path, line: index + 1, limit: MAX_LINE }),
        None => Ok(bytes),
    }
}

/// Finds a file below `root` as a process in that root would, without opening it.
fn locate(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RETRIES {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}
