//! Mounts whose ids are mapped (mount_setattr(2), `MOUNT_ATTR_IDMAP`): files keep their owners on
//! disk and show others through the mount. Nothing is copied and nothing is chowned.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::detached;

/// A copy of what is mounted at `path` (without what is mounted below), attached nowhere, through
/// which the ids are those that the user namespace maps them to. It ends with its descriptor.
///
/// # Errors
/// Those of the kernel. `EINVAL`: this file system cannot be mapped; `EPERM`: it is mapped already.
pub fn mapped_copy(path: &Path, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().cast_unsigned().into(),
    };
    detached::copy(path, &attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user_namespace::{Mappings, Range, unpinned};
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_show_other_owners_through_the_copy_alone() {
        let range = [Range { inside: 0, outside: 300_000, length: 1000 }];
        let namespace = unpinned(&Mappings { uids: &range, gids: &range }).expect("namespace");
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("file"), "x").expect("file");
        let copy = mapped_copy(dir.path(), namespace.as_fd()).expect("copy");
        let through = format!("/proc/self/fd/{}/file", copy.as_raw_fd());
        assert_eq!(fs::metadata(through).expect("mapped").uid(), 300_000);
        assert_eq!(fs::metadata(dir.path().join("file")).expect("plain").uid(), 0);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let range = [Range { inside: 0, outside: 300_000, length: 1000 }];
        let namespace = unpinned(&Mappings { uids: &range, gids: &range }).expect("namespace");
        let proc = mapped_copy(Path::new("/proc"), namespace.as_fd());
        assert_eq!(proc.expect_err("procfs").kind(), io::ErrorKind::InvalidInput);
    }
}
