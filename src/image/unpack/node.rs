//! Owner, mode, attributes and times of one file that was just made.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::UnpackError;
use super::archive::Member;

/// Marks a directory as opaque (kernel: overlayfs.rst, "whiteouts and opaque directories").
const OPAQUE: &str = "trusted.overlay.opaque";

/// Whether an extended attribute is taken from an archive. `trusted.overlay.*` would steer
/// overlayfs, `user.overlay.*` overlayfs in a user namespace, and `security.selinux` is for the
/// host's policy to say; so these and all others nobody needs are left out (R29).
pub fn is_taken(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Makes a file or directory what its member says, the times last.
pub(super) fn describe(fd: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
    let failed = |what| move |error: Errno| UnpackError::file(what, &member.path, error);
    rustix::fs::fchown(fd, Some(uid(member)), Some(gid(member)))
        .map_err(failed("change owner of"))?;
    // chown(2) clears the set-user-id bit and the capabilities, so both come behind it.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(member.mode)).map_err(failed("change mode of"))?;
    for (name, value) in member.xattrs.iter().filter(|(name, _)| is_taken(name)) {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // The file system has no such attributes; the image works without, as far as it can.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(failed("set attribute of")(error)),
        }
    }
    rustix::fs::futimens(fd, &times(member)).map_err(failed("set times of"))
}

/// The same for what can not be opened: links, devices and fifos. They get no attributes.
pub(super) fn describe_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    member: &Member,
) -> Result<(), UnpackError> {
    let failed = |what| move |error: Errno| UnpackError::file(what, &member.path, error);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, Some(uid(member)), Some(gid(member)), nofollow)
        .map_err(failed("change owner of"))?;
    if member.kind != super::archive::MemberKind::Symlink {
        // It was made a moment ago and is no link, so there is none to follow.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(member.mode), AtFlags::empty())
            .map_err(failed("change mode of"))?;
    }
    rustix::fs::utimensat(dir, name, &times(member), nofollow).map_err(failed("set times of"))
}

fn uid(member: &Member) -> Uid {
    Uid::from_raw(member.uid)
}

fn gid(member: &Member) -> Gid {
    Gid::from_raw(member.gid)
}

/// Modification time; the access time is the same, as archives seldom have one.
pub(super) fn times(member: &Member) -> Timestamps {
    let (tv_sec, nanos) = member.mtime;
    let time = Timespec { tv_sec, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The times a file has.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        },
    }
}

/// What is at a name, links not followed; none if nothing is.
pub(super) fn stat(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is a whiteout: a character device 0:0. No other such device is ever made.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether it is a directory.
pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Hides what the layers below have in a directory.
pub(super) fn make_opaque(dir: impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether a directory hides what is below it.
pub(super) fn is_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, value.as_mut_slice()) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}
