//! A tmpfs of a given size that is gone after the test.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    pub(crate) fn mount(options: &str) -> Tmpfs {
        let dir = tempfile::Builder::new().prefix("conmon").tempdir().unwrap();
        let data = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, data.as_c_str()).unwrap();
        Tmpfs(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(self.0.path()).join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).ok();
    }
}
