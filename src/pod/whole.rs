//! Whether a pod still has what its containers share: the pins of its namespaces and its /dev/shm.
//!
//! A container that is created in a pod without them fails or, worse, gets the node's. Such a pod is
//! stopped, so that the kubelet makes another one. It is looked at when it is found again, and from
//! time to time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::container::spec::NamespaceMode;
use crate::path::Layout;
use crate::steps::blocking;
use crate::sys::namespaces;

use super::Pods;
use super::record::PodRecord;
use super::state::State;

/// What is certainly gone of the pod of `record`, if anything is: an error while looking is not.
pub fn lost(layout: &Layout, record: &PodRecord) -> Option<&'static str> {
    let (spec, pins) = (&record.spec, layout.pod_namespaces(&record.id));
    let network = spec.network != NamespaceMode::Node;
    let ipc = spec.ipc != NamespaceMode::Node;
    let expected = [
        ("net", network),
        ("uts", network),
        ("ipc", ipc),
        ("user", spec.user_namespace.is_some()),
        ("pid", record.pause.is_some()),
    ];
    let is_gone = |name: &str| matches!(namespaces::is_pinned(&pins.join(name)), Ok(false));
    let lost = expected.into_iter().find(|(name, own)| *own && is_gone(name));
    let shm =
        || (ipc && matches!(is_mounted(&layout.pod_shm(&record.id)), Ok(false))).then_some("shm");
    lost.map(|(name, _)| name).or_else(shm)
}

/// Whether another file system than its parent's begins here; not if there is nothing.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let device = |path: &Path| match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    let here = device(path)?;
    Ok(here.is_some() && here != device(parent)?)
}

impl Pods {
    /// Tells the owners of pods that are ready and not whole. Called now and then.
    pub async fn look_at_parts(&self) {
        let all = self.clone();
        blocking(move || {
            for handle in all.registry.list() {
                let record = handle.record();
                if record.state == State::Ready && lost(&all.parts.layout, &record).is_some() {
                    handle.torn.notify_one();
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_from_a_directory_and_from_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shm = dir.path().join("shm");
        assert!(!is_mounted(&shm).expect("look"));
        fs::create_dir(&shm).expect("directory");
        assert!(!is_mounted(&shm).expect("look"));
        let options =
            crate::sys::tmpfs::Tmpfs { bytes: 4096, inodes: None, mode: 0o700, owner: (0, 0) };
        crate::sys::tmpfs::mount(&shm, "shm", &options).expect("mount");
        assert!(is_mounted(&shm).expect("look"));
        crate::sys::tmpfs::unmount(&shm).expect("unmount");
        assert!(!is_mounted(&shm).expect("look"));
        is_mounted(&Path::new("/proc/version").join("x")).expect_err("ENOTDIR says nothing");
    }
}
