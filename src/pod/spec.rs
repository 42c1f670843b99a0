//! [`PodSpec`]: what was asked for one pod, checked, in our own words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::container::spec::UserNamespace;
use crate::container::spec::{GroupsPolicy, NamespaceMode, Profile, Resources, SelinuxOptions};

/// The identity of a pod in requests (CRI `PodSandboxMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Kubernetes uid; may be empty.
    pub uid: String,
    /// Number of the try.
    pub attempt: u32,
}

/// One pod as requested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Identity.
    pub key: PodKey,
    /// Runtime handler as requested; empty = the default one. Echoed.
    pub handler: String,
    /// Host name; none = the default: the node's with the node's network, else the pod's name.
    pub hostname: Option<String>,
    /// Directory of the containers' logs, absolute.
    pub log_directory: Option<PathBuf>,
    /// resolv.conf; none = a copy of the node's, present but empty = an empty file.
    pub dns: Option<Dns>,
    /// Host ports; those with host port 0 are left out already.
    pub port_mappings: Vec<PortMapping>,
    /// Echoed unchanged.
    pub labels: BTreeMap<String, String>,
    /// Echoed unchanged; only the two bandwidth annotations steer anything.
    pub annotations: BTreeMap<String, String>,
    /// Parent control group: a path (cgroupfs) or a slice name (systemd); none = ours.
    pub cgroup_parent: Option<String>,
    /// Namespaced kernel parameters, checked against the namespaces asked for. The names are
    /// dotted, and a dot inside a part is a slash, as in sysctl(8); see [`sysctl_path`].
    pub sysctls: BTreeMap<String, String>,
    /// Process namespace of the pod's containers.
    pub pid: NamespaceMode,
    /// Network namespace.
    pub network: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// User namespace; none = the node's.
    pub user_namespace: Option<UserNamespace>,
    /// Containers may be privileged.
    pub privileged: bool,
    /// SELinux label parts for the pod's shared files.
    pub selinux: Option<SelinuxOptions>,
    /// System call filter of the sandbox.
    pub seccomp: Profile,
    /// User of the sandbox process, where there is one.
    pub run_as_user: Option<u32>,
    /// Group of the sandbox process.
    pub run_as_group: Option<u32>,
    /// Groups of the sandbox process.
    pub supplemental_groups: Vec<u32>,
    /// Which groups count.
    pub supplemental_groups_policy: GroupsPolicy,
    /// The sandbox's root is read-only.
    pub readonly_rootfs: bool,
    /// Extra resources of the pod (RuntimeClass overhead).
    pub overhead: Resources,
    /// Sum of the containers' resources.
    pub resources: Resources,
    /// The directory of the checkpoint that it was made from; none = from nothing.
    #[serde(default)]
    pub restored_from: Option<PathBuf>,
}

/// Where a parameter of [`PodSpec::sysctls`] is below `/proc/sys`.
pub fn sysctl_path(dotted: &str) -> PathBuf {
    let other = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    dotted.chars().map(other).collect::<String>().into()
}

/// Contents of resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the node that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the pod, 1 to 65535.
    pub container_port: u16,
    /// Port on the node, 1 to 65535.
    pub host_port: u16,
    /// Address on the node; none = all.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_kernel_parameter_is_found_where_its_parts_say() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), Path::new("net/ipv4/ip_forward"));
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/100.rp_filter"),
            Path::new("net/ipv4/conf/eth0.100/rp_filter")
        );
    }
}
