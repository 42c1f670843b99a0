//! Where everything is on disk. The one place that joins paths.
//!
//! ```text
//! root/ (durable)                        state/ (tmpfs, gone at reboot)
//!   lock, identity                         lock, identity
//!                                          crisol.sock (by default)
//!   pods/ID.json        records            pods/ID/{etc,shm}/  mounts; resolv.conf, hostname
//!   containers/ID.json  records            pods/ID/ns/       net, ipc, uts, pid, user: pinned
//!   rw/ID/{upper,work}  writable layers    containers/ID/    bundle: config.json, rootfs/ (mount)
//!   images/             the image store    containers/ID/monitor/  socket, exit record
//!   rw/ID/checkpoint/   what it is restored from
//!   checkpoints/ID/     being made
//!   cni/                results            owed/ID           network namespaces owed a CNI DEL
//!   pod-ranges          told by the kubelet
//! ```

use std::path::{Path, PathBuf};

use crate::ids::{ContainerId, PodId};

/// The two directories everything lies below.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    state: PathBuf,
}

impl Layout {
    /// A layout below `root` (durable) and `state` (gone at reboot).
    pub fn new(root: &Path, state: &Path) -> Self {
        Self { root: root.to_owned(), state: state.to_owned() }
    }

    /// The durable directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that a reboot empties.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Locked by the daemon that owns `root`.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Locked by the daemon that owns `state`.
    pub fn state_lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Which root this is; the same text as in [`Self::state_identity`].
    pub fn root_identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// Which root the state is of.
    pub fn state_identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// Records of pods.
    pub fn pod_records(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Records of containers.
    pub fn container_records(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The image store's own directory; what is in it, only `image/` knows.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Results of CNI plugins, in libcni's format and below its own name.
    pub fn cni_cache(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// The ranges of pod addresses that the kubelet told last.
    pub fn pod_ranges(&self) -> PathBuf {
        self.root.join("pod-ranges")
    }

    /// Writable layers, one directory a container.
    pub fn writable_layers(&self) -> PathBuf {
        self.root.join("rw")
    }

    /// The writable layer of one container.
    pub fn writable_layer(&self, id: &ContainerId) -> PathBuf {
        self.writable_layers().join(id.to_string())
    }

    /// CRIU's images of a container that is still to be restored: as private as memory.
    pub fn restored_images(&self, id: &ContainerId) -> PathBuf {
        self.writable_layer(id).join("checkpoint")
    }

    /// CRIU's logs of restoring a container.
    pub fn restore_logs(&self, id: &ContainerId) -> PathBuf {
        self.writable_layer(id).join("criu")
    }

    /// Checkpoints that are being made, one directory a container.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The checkpoint of one container that is being made: while it is there, the container may be
    /// frozen.
    pub fn checkpoint(&self, id: &ContainerId) -> PathBuf {
        self.checkpoints().join(id.to_string())
    }

    /// Run-time files of all pods.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// Run-time files of one pod.
    pub fn pod(&self, id: &PodId) -> PathBuf {
        self.pods().join(id.to_string())
    }

    /// Pinned namespaces of one pod.
    pub fn pod_namespaces(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("ns")
    }

    /// Network namespaces of pods that are gone.
    pub fn owed_networks(&self) -> PathBuf {
        self.state.join("owed")
    }

    /// The network namespace of a pod that is gone but whose network could not be given back yet.
    pub fn owed_network(&self, id: &PodId) -> PathBuf {
        self.owed_networks().join(id.to_string())
    }

    /// Files of the pod's /etc: a file system of its own.
    pub fn pod_etc(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("etc")
    }

    /// The pod's /etc/resolv.conf.
    pub fn pod_resolv_conf(&self, id: &PodId) -> PathBuf {
        self.pod_etc(id).join("resolv.conf")
    }

    /// The pod's /etc/hostname.
    pub fn pod_hostname(&self, id: &PodId) -> PathBuf {
        self.pod_etc(id).join("hostname")
    }

    /// /etc/resolv.conf of a pod from before its files had a file system of their own.
    pub fn older_pod_resolv_conf(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("resolv.conf")
    }

    /// /etc/hostname of such a pod.
    pub fn older_pod_hostname(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("hostname")
    }

    /// The pod's /dev/shm.
    pub fn pod_shm(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("shm")
    }

    /// Bundles of all containers.
    pub fn bundles(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// The OCI bundle of one container.
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.bundles().join(id.to_string())
    }

    /// Where the container's root file system is mounted.
    pub fn rootfs(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("rootfs")
    }

    /// The monitor's directory: its socket and its exit record.
    pub fn monitor(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("monitor")
    }

    /// State directories of the runtimes.
    pub fn runtime_roots(&self) -> PathBuf {
        self.state.join("runtimes")
    }

    /// State directory for a runtime whose handler sets none.
    pub fn runtime_root(&self, handler: &str) -> PathBuf {
        self.runtime_roots().join(handler)
    }
}
