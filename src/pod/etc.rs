//! The pod's /etc/hostname and /etc/resolv.conf, which its containers may write.
//!
//! They lie in a small tmpfs of the pod's own: what a container writes takes neither the node's /run,
//! without which nothing works any more, nor another pod's room.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::ids::PodId;
use crate::path::Layout;
use crate::sys::tmpfs::{self, Tmpfs};

use super::PodError;

/// Room in bytes for what containers add.
const ROOM: u64 = 1 << 20;

/// Two files, their directory, and extended attributes, which the kernel counts against inodes.
const INODES: u64 = 16;

/// What is in the files at first.
pub struct Contents<'a> {
    /// /etc/resolv.conf.
    pub resolv_conf: &'a [u8],
    /// /etc/hostname.
    pub hostname: &'a [u8],
}

/// Makes the files, of this owner. Blocks.
pub fn make(
    layout: &Layout,
    id: &PodId,
    contents: &Contents<'_>,
    owner: (u32, u32),
) -> Result<(), PodError> {
    let dir = layout.pod_etc(id);
    let made = DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(|source| failed("make directory", &dir, source))?;
    let files = [
        (layout.pod_resolv_conf(id), contents.resolv_conf),
        (layout.pod_hostname(id), contents.hostname),
    ];
    let own: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let options = Tmpfs {
        bytes: ROOM + own as u64,
        inodes: Some(INODES),
        // A runtime may walk here as the root of the pod's user namespace.
        mode: 0o710,
        owner: (0, owner.1),
    };
    let mounted = tmpfs::mount(&dir, "etc", &options);
    mounted.map_err(|source| failed("mount tmpfs on", &dir, source))?;
    for (path, bytes) in files {
        write(&path, bytes, owner).map_err(|source| failed("write", &path, source))?;
    }
    Ok(())
}

/// Where the files of a pod are: /etc/resolv.conf, then /etc/hostname. Those of a pod that an older
/// daemon made lie on /run itself. Looks at the disk.
pub fn paths(layout: &Layout, id: &PodId) -> (PathBuf, PathBuf) {
    let older = (layout.older_pod_resolv_conf(id), layout.older_pod_hostname(id));
    match older.0.exists() {
        true => older,
        false => (layout.pod_resolv_conf(id), layout.pod_hostname(id)),
    }
}

/// Takes the tmpfs with the files away; none there is fine. Blocks.
pub fn unmount(layout: &Layout, id: &PodId) -> Result<(), PodError> {
    let dir = layout.pod_etc(id);
    tmpfs::unmount(&dir).map_err(|source| failed("unmount", &dir, source))
}

fn write(path: &Path, bytes: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o644))?;
    chown(path, Some(uid), Some(gid))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PodError {
    PodError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_an_older_daemon_keeps_its_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (layout, id) = (Layout::new(dir.path(), dir.path()), PodId::random());
        assert_eq!(paths(&layout, &id), (layout.pod_resolv_conf(&id), layout.pod_hostname(&id)));
        fs::create_dir_all(layout.pod(&id)).expect("directory");
        fs::write(layout.pod(&id).join("resolv.conf"), "").expect("file");
        fs::write(layout.pod(&id).join("hostname"), "").expect("file");
        let (resolv_conf, hostname) = paths(&layout, &id);
        assert!(resolv_conf.exists() && hostname.exists(), "{resolv_conf:?} {hostname:?}");
        unmount(&layout, &id).expect("nothing to unmount");
    }
}
