//! Mounts: the kernel's own file systems, the pod's files, then the request's volumes, parents
//! before children.
//!
//! INVARIANT: `/dev` is a fresh tmpfs or a volume, never the image's directory: there, a link
//! made by the image would send the runtime's device nodes and console elsewhere.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount as OciMount;

use super::namespaces::{has_node_pids, mappings};
use super::{Inputs, SpecError};
use crate::container::spec::{ContainerSpec, Mount, MountSource, Propagation};

/// Group that owns terminals (`tty`) on every distribution.
const TTY_GROUP: u32 = 5;

/// Files below `/proc` that may be replaced, for tools that show a container its own limits
/// (lxcfs). Runtimes refuse any other.
pub(super) const REPLACEABLE_IN_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// `mounts` of the configuration.
pub(super) fn mounts(
    inputs: &Inputs<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<OciMount>, SpecError> {
    let volumes = volumes(inputs, warnings)?;
    let overridden =
        |path: &Path| volumes.iter().any(|(volume, _)| path.starts_with(&volume.container_path));
    let mut list = kernel_mounts(inputs);
    list.extend(pod_mounts(inputs));
    list.retain(|mount| !overridden(mount.destination()));
    for (volume, image) in &volumes {
        list.push(volume_mount(inputs, volume, image.as_deref())?);
    }
    Ok(list)
}

/// How the root file system itself must propagate mounts so that its volumes can.
pub(super) fn rootfs_propagation(spec: &ContainerSpec) -> Option<String> {
    let wants = |wanted| spec.mounts.iter().any(|mount| mount.propagation == wanted);
    if wants(Propagation::Bidirectional) {
        Some("rshared".to_owned())
    } else if wants(Propagation::HostToContainer) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

/// What the kernel offers every container.
fn kernel_mounts(inputs: &Inputs<'_>) -> Vec<OciMount> {
    let pod = inputs.pod;
    let privileged = inputs.spec.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    // A new instance of proc, sysfs or mqueue can be mounted only by who owns the namespace that
    // it shows. A container in the pod's user namespace does not own the node's.
    let owns = |is_own: bool| pod.user.is_none() || is_own;

    let proc = if owns(!has_node_pids(inputs)) {
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])
    } else {
        mount("/proc", "bind", "/proc", &["rbind", "nosuid", "noexec", "nodev"])
    };
    let mqueue = if owns(pod.ipc.is_some()) {
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])
    } else {
        mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"])
    };
    let sys = if owns(pod.net.is_some()) {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])
    } else {
        mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", access])
    };
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", access];
    vec![
        proc,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        devpts(inputs),
        mqueue,
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup),
    ]
}

fn devpts(inputs: &Inputs<'_>) -> OciMount {
    let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // Without a mapping for the group the kernel refuses the option.
    let has_tty_group = inputs.pod.user.is_none_or(|user| {
        user.gids.iter().any(|range| {
            TTY_GROUP.checked_sub(range.container_id).is_some_and(|nth| nth < range.length)
        })
    });
    if has_tty_group {
        options.push("gid=5");
    }
    mount("/dev/pts", "devpts", "devpts", &options)
}

/// What the pod's containers share. The options are all named: a runtime takes away what is not.
fn pod_mounts(inputs: &Inputs<'_>) -> [OciMount; 3] {
    let pod = inputs.pod;
    let access = if inputs.spec.security.readonly_rootfs { "ro" } else { "rw" };
    let bind = |at, from, access| {
        mount(at, "bind", from, &["rbind", "rprivate", "nosuid", "noexec", "nodev", access])
    };
    [
        bind("/dev/shm", pod.shm, "rw"),
        bind("/etc/resolv.conf", pod.resolv_conf, access),
        bind("/etc/hostname", pod.hostname_file, access),
    ]
}

/// The request's volumes with their mounted images, the last of equal paths only, parents first.
fn volumes<'a>(
    inputs: &Inputs<'a>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(&'a Mount, Option<PathBuf>)>, SpecError> {
    let mut last: HashMap<&Path, usize> = HashMap::new();
    for (index, volume) in inputs.spec.mounts.iter().enumerate() {
        check_volume(volume)?;
        if last.insert(&volume.container_path, index).is_some() {
            let path = volume.container_path.display();
            warnings.push(format!("several mounts at {path}, only the last is used"));
        }
    }
    let mut indices: Vec<usize> = last.into_values().collect();
    indices.sort_by_key(|&index| (depth(&inputs.spec.mounts[index].container_path), index));
    Ok(indices
        .into_iter()
        .map(|index| {
            (&inputs.spec.mounts[index], inputs.image_volumes.get(index).cloned().flatten())
        })
        .collect())
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn check_volume(volume: &Mount) -> Result<(), SpecError> {
    let path = &volume.container_path;
    let problem = if !path.is_absolute() {
        "is not absolute"
    } else if path.components().any(|part| part == Component::ParentDir) {
        "has a `..`"
    } else if depth(path) < 2 {
        "is the root file system"
    } else if !may_cover_proc(volume) {
        "must not be covered"
    } else if volume.recursive_read_only && !volume.readonly {
        "has recursive_read_only without readonly"
    } else if volume.recursive_read_only && volume.propagation != Propagation::Private {
        "has recursive_read_only with mount propagation"
    } else if volume.uid_mappings.is_empty() != volume.gid_mappings.is_empty() {
        "has only one of uid_mappings and gid_mappings"
    } else {
        return Ok(());
    };
    Err(SpecError::Mount { path: path.clone(), problem })
}

/// A volume at or below `/proc` would take the kernel's word from runtime and LSM: allowed are
/// the host's own `/proc`, and a few files.
fn may_cover_proc(volume: &Mount) -> bool {
    match volume.container_path.strip_prefix("/proc") {
        Err(_) => true,
        Ok(below) if below.as_os_str().is_empty() => {
            matches!(&volume.source, MountSource::Host(path) if path == Path::new("/proc"))
        }
        Ok(below) => REPLACEABLE_IN_PROC.iter().any(|file| below == Path::new(file)),
    }
}

fn volume_mount(
    inputs: &Inputs<'_>,
    volume: &Mount,
    image: Option<&Path>,
) -> Result<OciMount, SpecError> {
    let path = &volume.container_path;
    let (source, is_image) = match (&volume.source, image) {
        (MountSource::Host(source), _) => (source.as_path(), false),
        (MountSource::Image { .. }, Some(source)) => (source, true),
        (MountSource::Image { .. }, None) => {
            return Err(SpecError::ImageVolumeMissing(path.clone()));
        }
    };
    let propagation = match volume.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    // An image is never writable, whatever the request says: other containers use it too.
    let access = if volume.readonly || is_image { "ro" } else { "rw" };
    let mut options = vec!["rbind", propagation, access];
    if volume.recursive_read_only {
        if !inputs.host.rro {
            return Err(SpecError::RecursiveReadOnlyUnsupported(path.clone()));
        }
        options.push("rro");
    }
    options.extend(volume.options.iter().map(String::as_str));

    let mut mount = mount(path, "bind", source, &options);
    // An image is mounted with its layers mapped already.
    if !volume.uid_mappings.is_empty() && !is_image {
        if !inputs.host.idmap {
            return Err(SpecError::IdmapUnsupported(path.clone()));
        }
        mount.set_uid_mappings(Some(mappings(&volume.uid_mappings)));
        mount.set_gid_mappings(Some(mappings(&volume.gid_mappings)));
    }
    Ok(mount)
}

fn mount(
    destination: impl AsRef<Path>,
    kind: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> OciMount {
    let mut mount = OciMount::default();
    mount.set_destination(destination.as_ref().to_owned());
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(source.as_ref().to_owned()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}
