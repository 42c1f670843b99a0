//! From a [`ContainerSpec`], its image, its pod and this host to the configuration that an OCI
//! runtime takes (`config.json`). Pure: everything that has to be looked up comes in [`Inputs`].
//!
//! ```text
//!  spec ──┐            ┌─ process      args, env, cwd, user, limits of the process
//!  image ─┤            ├─ security     capabilities, masked paths, AppArmor
//!  pod ───┼─► build ───┼─ seccomp      our default profile, or the operator's
//!  host ──┤            ├─ namespaces   own, the pod's, the node's
//!  found ─┘            ├─ mounts       kernel file systems, the pod's files, volumes
//!                      ├─ devices      nodes and who may open them
//!                      └─ resources    cgroup limits; also used for updates
//! ```
//!
//! Annotations of the request never reach the runtime: some runtimes take orders from them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Root, Spec};

use crate::container::spec::{ContainerSpec, IdMapping};
use crate::container::user::Identity;

pub use self::adjust::adjust;
pub use self::error::SpecError;
pub use self::process::exec_process;
pub use self::resources::limits;
pub use self::security::CAPABILITIES;

mod adjust;
mod devices;
mod error;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod security;

#[cfg(test)]
mod tests;

/// Everything a container's configuration follows from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The request.
    pub spec: &'a ContainerSpec,
    /// What the image says where the request does not.
    pub image: &'a ImageDefaults<'a>,
    /// The pod it joins.
    pub pod: &'a PodPaths<'a>,
    /// What this host can do.
    pub host: &'a HostFacts,
    /// Who it runs as.
    pub identity: &'a Identity,
    /// Its root file system, mounted; absolute.
    pub rootfs: &'a Path,
    /// Parallel to `spec.mounts`: where the image of an image volume was mounted (with its sub
    /// path applied); `None` for volumes of the host.
    pub image_volumes: &'a [Option<PathBuf>],
    /// Text of the file that a `Localhost` seccomp profile names.
    pub localhost_seccomp: Option<&'a str>,
    /// Nodes found for `spec.devices`; for a privileged container also all of the host's.
    pub host_devices: &'a [HostDevice],
}

/// What the image says where the request does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageDefaults<'a> {
    /// Program and leading arguments.
    pub entrypoint: &'a [String],
    /// Arguments, or all of it without an entrypoint.
    pub cmd: &'a [String],
    /// `NAME=value` in order.
    pub env: &'a [String],
    /// Working directory; empty = `/`.
    pub working_dir: &'a str,
}

/// The pod's names, pinned namespaces and files. A namespace without a path is the node's.
#[derive(Clone, Copy, Debug)]
pub struct PodPaths<'a> {
    /// Id of the pod.
    pub id: &'a str,
    /// Its Kubernetes name.
    pub name: &'a str,
    /// Its Kubernetes namespace.
    pub namespace: &'a str,
    /// Its Kubernetes uid.
    pub uid: &'a str,
    /// Its host name, for the environment.
    pub hostname: &'a str,
    /// Network namespace.
    pub net: Option<&'a Path>,
    /// IPC namespace.
    pub ipc: Option<&'a Path>,
    /// UTS namespace; the host name is set in it already.
    pub uts: Option<&'a Path>,
    /// Process namespace shared by the pod's containers; without one, a container that asks for
    /// the pod's gets its own.
    pub pid: Option<&'a Path>,
    /// Process namespace of the container that `NamespaceMode::Target` names.
    pub pid_target: Option<&'a Path>,
    /// User namespace.
    pub user: Option<PodUserNamespace<'a>>,
    /// File for `/etc/resolv.conf`.
    pub resolv_conf: &'a Path,
    /// File for `/etc/hostname`.
    pub hostname_file: &'a Path,
    /// Directory for `/dev/shm`: the pod's tmpfs, or the node's own with the node's IPC.
    pub shm: &'a Path,
    /// The container's cgroup as the runtime takes it: a path, or `slice:prefix:name` (systemd).
    pub cgroups_path: &'a str,
}

/// A pinned user namespace and its mappings.
#[derive(Clone, Copy, Debug)]
pub struct PodUserNamespace<'a> {
    /// The pinned file.
    pub path: &'a Path,
    /// User ids.
    pub uids: &'a [IdMapping],
    /// Group ids.
    pub gids: &'a [IdMapping],
}

/// What this host, this daemon and the runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// `ociVersion` to write: the newest that the runtime says it takes.
    pub oci_version: String,
    /// Kernel version, for profiles that ask for a minimum.
    pub kernel: (u32, u32),
    /// Control groups are the unified hierarchy.
    pub cgroup_v2: bool,
    /// Capabilities in the daemon's bounding set, without `CAP_`.
    pub bounding: Vec<String>,
    /// The daemon may not set an OOM score below this.
    pub oom_score_adj_min: i64,
    /// Kernel and runtime can filter system calls.
    pub seccomp: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// Our own AppArmor profile, where it can be loaded.
    pub default_apparmor: Option<&'static str>,
    /// Kernel and runtime can make mounts read-only recursively.
    pub rro: bool,
    /// Kernel and runtime can do idmapped mounts.
    pub idmap: bool,
    /// There is a hugetlb controller.
    pub hugetlb: bool,
    /// The memory controller counts swap.
    pub swap_accounting: bool,
}

/// A device node to put into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the container.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits of the node (no file type).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `r`, `w`, `m`: what the cgroup allows.
    pub permissions: String,
}

/// Kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Character.
    Char,
    /// Block.
    Block,
}

/// A configuration, and what could not be done exactly as asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// The configuration.
    pub spec: Spec,
    /// Sentences for the log, in the order found.
    pub warnings: Vec<String>,
}

/// What is not done here must not look as if it were: a device that is missing fails the container,
/// a label that is missing is told of.
fn not_done(inputs: &Inputs<'_>, warnings: &mut Vec<String>) -> Result<(), SpecError> {
    if let Some(name) = inputs.spec.cdi_devices.first() {
        let problem = format!("{name:?} cannot be resolved here");
        return Err(SpecError::Unsupported { field: "config.CDI_devices[0].name", problem });
    }
    let security = &inputs.spec.security;
    if security.selinux.is_some() && inputs.host.selinux && !security.privileged {
        warnings.push("selinux_options are not applied: containers get no label here".to_owned());
    }
    Ok(())
}

/// Builds the configuration of a container.
///
/// # Errors
/// [`SpecError`], naming the field of the request; [`crate::error::Kind::Invalid`] unless this
/// host lacks something.
pub fn build(inputs: &Inputs<'_>) -> Result<Built, SpecError> {
    let mut warnings = Vec::new();
    not_done(inputs, &mut warnings)?;
    let capabilities = security::capabilities(inputs, &mut warnings)?;

    // Every field that the crate would fill with an example of its own is set here; the test
    // `nothing_but_what_was_asked_is_in_the_configuration` guards this.
    let mut root = Root::default();
    root.set_path(inputs.rootfs.to_owned());
    root.set_readonly(Some(inputs.spec.security.readonly_rootfs));

    let mut spec = Spec::default();
    spec.set_version(inputs.host.oci_version.clone());
    spec.set_root(Some(root));
    spec.set_hostname(None);
    spec.set_process(Some(process::process(inputs, &capabilities, &mut warnings)?));
    spec.set_mounts(Some(mounts::mounts(inputs, &mut warnings)?));
    spec.set_annotations(Some(annotations(inputs)));
    spec.set_linux(Some(linux(inputs, &capabilities, &mut warnings)?));
    Ok(Built { spec, warnings })
}

fn linux(
    inputs: &Inputs<'_>,
    capabilities: &security::CapabilitySet,
    warnings: &mut Vec<String>,
) -> Result<Linux, SpecError> {
    let mut resources = limits(&inputs.spec.resources, inputs.host, warnings)?;
    resources.set_devices(Some(devices::rules(inputs)?));

    let mut linux = Linux::default();
    linux.set_resources(Some(resources));
    linux.set_cgroups_path(Some(PathBuf::from(inputs.pod.cgroups_path)));
    linux.set_namespaces(Some(namespaces::namespaces(inputs)?));
    linux.set_uid_mappings(inputs.pod.user.map(|user| namespaces::mappings(user.uids)));
    linux.set_gid_mappings(inputs.pod.user.map(|user| namespaces::mappings(user.gids)));
    linux.set_devices(Some(devices::nodes(inputs)?));
    linux.set_rootfs_propagation(mounts::rootfs_propagation(inputs.spec));
    linux.set_masked_paths(Some(security::masked_paths(inputs)?));
    linux.set_readonly_paths(Some(security::readonly_paths(inputs)?));
    linux.set_seccomp(seccomp::seccomp(inputs, capabilities, warnings)?);
    Ok(linux)
}

/// The annotation that names the container's pod.
pub const POD_ID: &str = "io.kubernetes.cri.sandbox-id";

/// Tells tools on the node (cAdvisor, tracers) what the container is. The keys are those that
/// containerd introduced and such tools read.
fn annotations(inputs: &Inputs<'_>) -> HashMap<String, String> {
    [
        ("container-type", "container"),
        ("sandbox-name", inputs.pod.name),
        ("sandbox-namespace", inputs.pod.namespace),
        ("sandbox-uid", inputs.pod.uid),
        ("container-name", &inputs.spec.name),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .chain([(POD_ID.to_owned(), inputs.pod.id.to_owned())])
    .collect()
}
