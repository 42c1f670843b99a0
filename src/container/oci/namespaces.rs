//! Namespaces: the container's own, the pod's, or the node's.

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
};

use super::{Inputs, SpecError};
use crate::container::spec::{IdMapping, NamespaceMode};

/// `linux.namespaces`. A namespace that is not in the list is the node's.
///
/// Network, IPC and UTS follow the pod: containers of a pod share them by definition, so what a
/// container asks for there cannot differ.
pub(super) fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let pod = inputs.pod;
    let mut list = vec![namespace(Mount, None)];
    // Runtimes enter the user namespace before all others, wherever it stands in this list.
    list.extend(pod.user.map(|user| namespace(User, Some(user.path))));
    list.extend(pod.net.map(|path| namespace(Network, Some(path))));
    list.extend(pod.ipc.map(|path| namespace(Ipc, Some(path))));
    list.extend(pod.uts.map(|path| namespace(Uts, Some(path))));
    match &inputs.spec.security.pid {
        NamespaceMode::Pod => list.push(namespace(Pid, pod.pid)),
        NamespaceMode::Container => list.push(namespace(Pid, None)),
        NamespaceMode::Node => {}
        NamespaceMode::Target(id) => {
            let path = pod.pid_target.ok_or_else(|| SpecError::NoTarget(id.clone()))?;
            list.push(namespace(Pid, Some(path)));
        }
    }
    // With the unified hierarchy, the container sees its own cgroup as the root. A privileged
    // one sees the node's, because it may have come to manage them.
    if inputs.host.cgroup_v2 && !inputs.spec.security.privileged {
        list.push(namespace(Cgroup, None));
    }
    Ok(list)
}

/// Whether the container lives in the node's process namespace.
pub(super) fn has_node_pids(inputs: &Inputs<'_>) -> bool {
    inputs.spec.security.pid == NamespaceMode::Node
}

/// Id mappings in the words of OCI.
pub(super) fn mappings(mappings: &[IdMapping]) -> Vec<LinuxIdMapping> {
    let to_oci = |mapping: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .host_id(mapping.host_id)
            .container_id(mapping.container_id)
            .size(mapping.length)
            .build()
            .expect("no field of a mapping is required")
    };
    mappings.iter().map(to_oci).collect()
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace.set_path(path.map(Path::to_owned));
    namespace
}
