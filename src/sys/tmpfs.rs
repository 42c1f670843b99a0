//! A tmpfs for a pod's /dev/shm.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount_fs, umount2};

/// Mounts a tmpfs of at most `bytes` on `target`, writable for all as /dev/shm is, of this owner.
pub fn mount(target: &Path, bytes: u64, (uid, gid): (u32, u32)) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=1777,size={bytes},uid={uid},gid={gid}");
    mount_fs(Some("shm"), target, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Unmounts `target`; nothing mounted there is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
