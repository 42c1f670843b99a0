//! [`ContainerSpec`]: what was asked for one container, checked, in our own words.
//!
//! The edge (`cri/convert`) makes it, the record keeps it, and `oci` turns it into the OCI
//! runtime's configuration. Types that a pod's request shares (namespaces, resources, profiles)
//! are defined here too, because pods know containers and not the other way round.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One container as requested. Every text is free of NUL and control bytes unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name within the pod.
    pub name: String,
    /// Number of the try, part of the identity.
    pub attempt: u32,
    /// The image as the request named it (CRI `ImageSpec`).
    pub image: ImageRequest,
    /// Replaces the image's entrypoint; then the image's command is dropped as well.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; none = the image's, else `/`.
    pub working_dir: Option<String>,
    /// Environment in order; the last of equal names wins. Values are UTF-8 without NUL, and may
    /// have several lines.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Volumes in request order.
    pub mounts: Vec<Mount>,
    /// Host device nodes.
    pub devices: Vec<Device>,
    /// CDI device names, fully qualified.
    pub cdi_devices: Vec<String>,
    /// Echoed unchanged.
    pub labels: BTreeMap<String, String>,
    /// Echoed unchanged; never steers the host.
    pub annotations: BTreeMap<String, String>,
    /// Path of the log below the pod's log directory, without `..`.
    pub log_path: Option<PathBuf>,
    /// Keep standard input open for attaching.
    pub stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// Give the process a terminal.
    pub tty: bool,
    /// Signal number that asks the process to end; none = the image's, else SIGTERM.
    pub stop_signal: Option<StopSignal>,
    /// Limits.
    pub resources: Resources,
    /// Identity and confinement.
    pub security: Security,
    /// The directory of the checkpoint whose processes it gets; none = it begins anew.
    #[serde(default)]
    pub restored_from: Option<PathBuf>,
}

/// An image as a request names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// Id, tag or digest reference.
    pub reference: String,
    /// What the user wrote in the pod, echoed.
    pub user_specified: String,
    /// Runtime handler that the image belongs to, echoed.
    pub runtime_handler: String,
    /// Echoed.
    pub annotations: BTreeMap<String, String>,
}

/// A stop signal: its CRI number to echo, and its name as the OCI runtime takes it (`SIGTERM`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSignal {
    /// Number in the CRI's own enumeration (`Signal`), not the kernel's.
    pub cri: i32,
    /// `SIGTERM`, `SIGRTMIN+3`, …
    pub name: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Path in the container, absolute and without `..`, as requested: the status repeats it.
    pub container_path: PathBuf,
    /// Where it comes from.
    pub source: MountSource,
    /// Mounted read-only.
    pub readonly: bool,
    /// Mounts below it are read-only too; needs `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
    /// Give the files the pod's SELinux label.
    pub selinux_relabel: bool,
    /// Further OCI mount options (`noexec`, `nodev`, `nosuid`).
    pub options: Vec<String>,
    /// Mapping of user ids for an idmapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Mapping of group ids for an idmapped mount.
    pub gid_mappings: Vec<IdMapping>,
}

/// Where a volume comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host, absolute and without `..`, as requested.
    Host(PathBuf),
    /// The contents of an image.
    Image {
        /// The image as the request named it.
        image: ImageRequest,
        /// Directory or file inside the image; empty = all of it.
        sub_path: PathBuf,
    },
}

/// How mounts made later below a volume travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all (`rprivate`).
    #[default]
    Private,
    /// From the host into the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// A range of user or group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// Mappings of a pod's own user namespace: one range of each kind, with id 0 in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// A host device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container, absolute.
    pub container_path: PathBuf,
    /// Path on the host, absolute; a directory stands for the nodes in it.
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Whose namespace a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the pod's containers.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod, by the id given in the request.
    Target(String),
}

/// Limits. 0 or empty = not asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period_us: i64,
    /// CFS quota in microseconds; -1 = none.
    pub cpu_quota_us: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Memory limit in bytes.
    pub memory_limit_bytes: i64,
    /// Memory plus swap limit in bytes; -1 = none.
    pub memory_swap_limit_bytes: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPU list, e.g. `0-3,5`.
    pub cpuset_cpus: String,
    /// NUMA node list.
    pub cpuset_mems: String,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// cgroup v2 file to text, verbatim.
    pub unified: BTreeMap<String, String>,
}

/// Identity and confinement of the container's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Who it runs as; none = the image's user.
    pub user: Option<User>,
    /// Group; only with a user.
    pub run_as_group: Option<u32>,
    /// Groups besides the primary one.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's groups of the user count too.
    pub supplemental_groups_policy: GroupsPolicy,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Changes to the default capabilities.
    pub capabilities: Capabilities,
    /// Process namespace.
    pub pid: NamespaceMode,
    /// Network namespace.
    pub network: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// User namespace; none = the pod's, whatever that is.
    pub user_namespace: Option<UserNamespace>,
    /// System call filter; unset = none (CRI: nil is unconfined).
    pub seccomp: Profile,
    /// AppArmor profile.
    pub apparmor: Profile,
    /// SELinux label parts.
    pub selinux: Option<SelinuxOptions>,
    /// Forbid gaining privileges through execve.
    pub no_new_privs: bool,
    /// Paths to hide instead of the defaults; empty = the defaults, unless both lists are empty in a
    /// pod with a user namespace.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only.
    pub readonly_paths: Vec<PathBuf>,
}

/// Who the process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// By number.
    Id(u32),
    /// By a name of the container's own `/etc/passwd`.
    Name(String),
}

/// Which supplementary groups count (KEP-3619).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those of the request and those of the image's `/etc/group`.
    #[default]
    Merge,
    /// Only those of the request.
    Strict,
}

/// Changes to the default capability set; names without `CAP_`, upper case, or `ALL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added.
    pub add: Vec<String>,
    /// Dropped, after adding.
    pub drop: Vec<String>,
    /// Ambient (and therefore inheritable) ones.
    pub ambient: Vec<String>,
}

/// A security profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// None asked.
    #[default]
    Unset,
    /// Ours.
    RuntimeDefault,
    /// None, on purpose.
    Unconfined,
    /// The operator's, by absolute path (seccomp) or name (AppArmor).
    Localhost(String),
}

/// SELinux label parts as requested; empty = not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub type_: String,
    /// Level, e.g. `s0:c1,c2`.
    pub level: String,
}
