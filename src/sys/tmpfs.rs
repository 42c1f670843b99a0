//! A tmpfs for what a pod's containers write: /dev/shm, and files of /etc.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount_fs, umount2};

/// What a tmpfs may hold and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Tmpfs {
    /// Most bytes of all its files.
    pub bytes: u64,
    /// Most files and directories, its own one included; none = the kernel's default.
    pub inodes: Option<u64>,
    /// Permissions of its directory.
    pub mode: u32,
    /// User and group of its directory.
    pub owner: (u32, u32),
}

/// Mounts a tmpfs on `target`: no programs, no devices. `name` is what mountinfo calls it.
pub fn mount(target: &Path, name: &str, options: &Tmpfs) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let Tmpfs { bytes, inodes, mode, owner: (uid, gid) } = options;
    let inodes = inodes.map(|most| format!(",nr_inodes={most}")).unwrap_or_default();
    let options = format!("mode={mode:o},size={bytes},uid={uid},gid={gid}{inodes}");
    mount_fs(Some(name), target, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Unmounts `target`; nothing mounted there is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
