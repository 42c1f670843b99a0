//! Copies of mounts that are attached nowhere (open_tree(2), mount_setattr(2)): whoever has one of a
//! directory reaches what is below it and, by `..`, nothing above.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// A directory, open for reading, on a mount of its own that has no devices, no set-user-id programs
/// and no programs at all. What is mounted below it is not there.
///
/// # Errors
/// Those of the kernel; `ENOSYS` before Linux 5.12.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    let attr_set = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    opened(&copy(path, &attributes)?)
}

/// The same with the devices and programs of the mount that it is a copy of.
///
/// # Errors
/// Those of the kernel.
pub fn directory_with_devices(path: &Path) -> io::Result<OwnedFd> {
    opened(&clone(path)?)
}

fn opened(copy: &OwnedFd) -> io::Result<OwnedFd> {
    // The copy is a mere place: files can be made in what is opened of it, not in itself.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(copy, ".", flags, Mode::empty())?)
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// A copy of what is mounted at `path` (without what is mounted below) with these attributes. It ends
/// with its descriptor and those that were opened through it.
pub(super) fn copy(path: &Path, attributes: &libc::mount_attr) -> io::Result<OwnedFd> {
    let copy = clone(path)?;
    // SAFETY: the path is a literal that ends in zero and the kernel reads as many bytes of
    // `attributes` as the last argument says; both live longer than the call. The descriptors are
    // open for as long as they are owned here or borrowed by who made `attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            copy.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    if result == 0 { Ok(copy) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn nothing_leads_above_and_devices_can_be_made_but_not_opened() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let below = dir.path().join("below");
        fs::create_dir(&below).expect("directory");
        fs::write(dir.path().join("secret"), "x").expect("file");
        let open = directory(&below).expect("a copy");
        let up = rustix::fs::statat(&open, "..", rustix::fs::AtFlags::empty()).expect("stat");
        assert_eq!(up.st_ino, fs::metadata(&below).expect("stat").ino());
        let secret = rustix::fs::openat(&open, "../secret", OFlags::RDONLY, Mode::empty());
        assert_eq!(secret.expect_err("above"), rustix::io::Errno::NOENT);
        let (kind, null) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        rustix::fs::mknodat(&open, "null", kind, Mode::RUSR, null).expect("a device");
        let device = rustix::fs::openat(&open, "null", OFlags::RDONLY, Mode::empty());
        assert_eq!(device.expect_err("no devices here"), rustix::io::Errno::ACCESS);
        let open = directory_with_devices(&below).expect("a copy");
        let secret = rustix::fs::openat(&open, "../secret", OFlags::RDONLY, Mode::empty());
        assert_eq!(secret.expect_err("above"), rustix::io::Errno::NOENT);
        // The directory itself is as it was: it can be renamed and removed meanwhile.
        fs::rename(&below, dir.path().join("other")).expect("rename");
        fs::remove_file(dir.path().join("other/null")).expect("what was made is there");
    }
}
