//! Writes a container's `config.json`: gathers what the pure part (`oci`) must not look up itself.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Stat};

use crate::host::CgroupVersion;
use crate::ids::ContainerId;
use crate::image::Image;
use crate::nri::wire::ContainerAdjustment;
use crate::rootfs::Mapping;
use crate::runtime::Features;
use crate::sys::tree::Walk;
use crate::trust::Trust;

use super::oci::{
    self, DeviceKind, HostDevice, HostFacts, ImageDefaults, Inputs, PodPaths, PodUserNamespace,
};
use super::record::ContainerRecord;
use super::spec::{NamespaceMode, Profile, Security};
use super::user::Identity;
use super::{ContainerError, Parts, PodPlace, stop, tell};

/// The largest seccomp profile read; those of the field are some 50 KiB.
const MAX_PROFILE: u64 = 1 << 20;

/// The most device nodes one container gets; a directory of devices is walked to here.
const MAX_DEVICES: usize = 4096;

/// The most files that a directory of devices may have, whatever they are.
const MAX_DEVICE_FILES: usize = 65_536;

/// Builds the configuration. Blocks.
pub fn build(
    parts: &Parts,
    record: &ContainerRecord,
    pod: &PodPlace,
    image: &Image,
    identity: &Identity,
    volumes: &[Option<PathBuf>],
) -> Result<Spec, ContainerError> {
    let spec = &record.spec;
    let runtime = parts.runtime(&record.handler)?;
    let seccomp = localhost_profile(&spec.security)?;
    let devices = devices(record)?;
    let target = pid_target(parts, &spec.security, pod)?;
    let inputs = Inputs {
        spec,
        image: &ImageDefaults {
            entrypoint: &image.config.entrypoint,
            cmd: &image.config.cmd,
            env: &image.config.env,
            working_dir: &image.config.working_dir,
        },
        pod: &PodPaths {
            id: &pod.id.to_string(),
            name: &pod.name,
            namespace: &pod.namespace,
            uid: &pod.uid,
            hostname: &pod.hostname,
            net: pod.net.as_deref(),
            ipc: pod.ipc.as_deref(),
            uts: pod.uts.as_deref(),
            pid: pod.pid.as_deref(),
            user: pod.user.as_ref().map(|user| PodUserNamespace {
                path: &user.namespace,
                uids: &user.ids.uids,
                gids: &user.ids.gids,
            }),
            pid_target: target.as_deref(),
            resolv_conf: &pod.resolv_conf,
            hostname_file: &pod.hostname_file,
            shm: &pod.shm,
            cgroups_path: &record.cgroup,
        },
        host: &facts(parts, &runtime.features()),
        identity,
        rootfs: &parts.layout.rootfs(&record.id),
        image_volumes: volumes,
        localhost_seccomp: seccomp.as_deref(),
        host_devices: &devices,
    };
    let built =
        oci::build(&inputs).map_err(|source| ContainerError::spec(spec.name.clone(), source))?;
    for warning in &built.warnings {
        tracing::warn!(container = %record.id, name = spec.name, warning, "not as asked");
    }
    Ok(built.spec)
}

/// Changes the configuration as plugins of the node want it.
pub fn adjust(
    parts: &Parts,
    record: &mut ContainerRecord,
    config: &mut Spec,
    wanted: &ContainerAdjustment,
) -> Result<(), ContainerError> {
    let facts = facts(parts, &parts.runtime(&record.handler)?.features());
    oci::adjust(config, wanted, &facts, &record.id.to_string())
        .map_err(|source| ContainerError::Spec { name: record.spec.name.clone(), source })?;
    let group = config.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    if let Some(group) = group {
        record.cgroup = group.to_string_lossy().into_owned();
    }
    let linux = wanted.linux.as_ref();
    if linux.is_some_and(|linux| linux.resources.is_some() || linux.oom_score_adj.is_some()) {
        record.updated = Some(tell::created_with(config)?);
    }
    Ok(())
}

/// Makes the directory of a bundle, for root alone. The root of a user namespace may walk through it
/// to the root file system: by its group, which nobody else on the node has.
pub fn directory(path: &Path, user: Option<&Mapping>) -> Result<(), ContainerError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| {
        let Some(user) = user else { return Ok(()) };
        let (_, gid) = user.owner((0, 0));
        chown(path, None, Some(gid))?;
        fs::set_permissions(path, Permissions::from_mode(0o710))
    });
    made.map_err(|source| ContainerError::File {
        action: "make directory",
        path: path.to_owned(),
        source,
    })
}

/// Closes a bundle of an older version, which let everybody walk through, to all but the root of its
/// user namespace: the group of its writable layer. Blocks.
pub fn tighten(parts: &Parts, id: &ContainerId) {
    let path = parts.layout.bundle(id);
    if let Err(error) = close(&path, &parts.layout.writable_layer(id).join("upper")) {
        tracing::warn!(path = %path.display(), %error, "stays open to users of the node");
    }
}

/// Leaves what is closed as it is, whoever its group; absent is fine.
fn close(bundle: &Path, upper: &Path) -> io::Result<()> {
    let absent = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    match bundle.symlink_metadata().map(Some).or_else(absent)? {
        Some(metadata) if metadata.mode() & 0o007 != 0 => {}
        _ => return Ok(()),
    }
    let upper = upper.symlink_metadata().map(Some).or_else(absent)?;
    chown(bundle, None, Some(upper.map_or(0, |upper| upper.gid())))?;
    fs::set_permissions(bundle, Permissions::from_mode(0o710))
}

/// Writes the configuration into the bundle. Blocks.
pub fn write(parts: &Parts, id: &ContainerId, config: &Spec) -> Result<(), ContainerError> {
    let path = parts.layout.bundle(id).join("config.json");
    let written = serde_json::to_vec(config).map_err(io::Error::from).and_then(|text| {
        // The environment has secrets, and the bundle may be open to a pod's user namespace.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path)?.write_all(&text)
    });
    written.map_err(|source| ContainerError::File { action: "write", path, source })
}

/// What this host and this runtime can do.
pub(super) fn facts(parts: &Parts, features: &Features) -> HostFacts {
    let host = &parts.host;
    let grantable = host.capabilities.grantable().into_iter();
    HostFacts {
        oci_version: features.oci_version.clone(),
        kernel: host.kernel.version,
        cgroup_v2: host.cgroups.version == CgroupVersion::V2,
        bounding: grantable.map(|name| name.trim_start_matches("CAP_").to_owned()).collect(),
        oom_score_adj_min: host.oom_score_adj_min.into(),
        seccomp: host.security.seccomp && features.seccomp.unwrap_or(true),
        apparmor: parts.apparmor.is_enabled(),
        selinux: host.security.selinux,
        default_apparmor: parts.apparmor.default_profile(),
        rro: features.recursive_read_only && host.kernel.has_mount_setattr(),
        idmap: features.idmapped_mounts,
        hugetlb: host.cgroups.controller("hugetlb").is_some(),
        swap_accounting: host.cgroups.counts_swap(),
    }
}

/// The process namespace of another container of the pod (an ephemeral container's target).
fn pid_target(
    parts: &Parts,
    security: &Security,
    pod: &PodPlace,
) -> Result<Option<PathBuf>, ContainerError> {
    let NamespaceMode::Target(id) = &security.pid else { return Ok(None) };
    let refuse = |problem: &str| ContainerError::Request {
        field: "config.linux.security_context.namespace_options.target_id".to_owned(),
        problem: format!("container {id:?} {problem}"),
    };
    let absent = || ContainerError::NotFound { query: id.clone() };
    let id: ContainerId = id.parse().map_err(|_| absent())?;
    let loaded = parts.records.load(&id);
    let loaded = loaded.map_err(|source| ContainerError::Record { id, source })?;
    let target: ContainerRecord = loaded.ok_or_else(absent)?;
    if target.pod != pod.id {
        return Err(refuse("is not in this pod"));
    }
    // A number that passed on to another process must not open that one's namespace.
    let lives = |source| ContainerError::File {
        action: "look for process of",
        path: id.to_string().into(),
        source,
    };
    match (target.process, stop::find(&target).map_err(lives)?) {
        (Some(process), Some(_)) => Ok(Some(format!("/proc/{}/ns/pid", process.pid).into())),
        _ => Err(ContainerError::TargetEnded { id }),
    }
}

/// The profile that the kubelet names. Who may change it is not looked at: it can take away of a
/// container's confinement no more than the request itself could, and operators of profiles have
/// users of their own for them.
fn localhost_profile(security: &Security) -> Result<Option<String>, ContainerError> {
    let Profile::Localhost(path) = &security.seccomp else { return Ok(None) };
    if security.privileged {
        return Ok(None);
    }
    let mut text = String::new();
    let read =
        Trust::Everybody.open(Path::new(path)).and_then(|file| match file.metadata()?.is_file() {
            true => file.take(MAX_PROFILE + 1).read_to_string(&mut text),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        });
    let problem = match read {
        Ok(bytes) if bytes as u64 > MAX_PROFILE => "is larger than 1 MiB".to_owned(),
        Ok(_) => return Ok(Some(text)),
        Err(error) => error.to_string(),
    };
    Err(ContainerError::Request {
        field: "config.linux.security_context.seccomp.localhost_ref".to_owned(),
        problem: format!("{path:?}: {problem}"),
    })
}

/// The host's device nodes that the container gets: all of them when privileged, else those asked
/// for, a directory standing for the nodes in it.
fn devices(record: &ContainerRecord) -> Result<Vec<HostDevice>, ContainerError> {
    let spec = &record.spec;
    let mut found = Vec::new();
    if spec.security.privileged {
        let dev = Path::new("/dev");
        expand(dev, dev, "rwm", &mut found).map_err(|source| ContainerError::File {
            action: "look for devices in",
            path: dev.to_owned(),
            source,
        })?;
    }
    for (index, device) in spec.devices.iter().enumerate() {
        let before = found.len();
        let refuse = |problem: String| ContainerError::Request {
            field: format!("config.devices[{index}].host_path"),
            problem: format!("{} {problem}", device.host_path.display()),
        };
        expand(&device.host_path, &device.container_path, &device.permissions, &mut found)
            .map_err(|error| refuse(error.to_string()))?;
        if found.len() == before {
            return Err(refuse("is no device and holds none".to_owned()));
        }
    }
    Ok(found)
}

fn expand(
    host: &Path,
    inside: &Path,
    permissions: &str,
    found: &mut Vec<HostDevice>,
) -> io::Result<()> {
    // A node that goes meanwhile (a USB stick) is not there; that is no error.
    let Ok(node) = rustix::fs::stat(host) else { return Ok(()) };
    if FileType::from_raw_mode(node.st_mode) != FileType::Directory {
        found.extend(device(&node, inside.to_owned(), permissions));
        return Ok(());
    }
    let mut walk = Walk::new(File::open(host)?.into())?;
    for _ in 0..MAX_DEVICE_FILES {
        let Some(entry) = walk.next_entry()? else { return Ok(()) };
        // Those the runtime makes itself are no devices of the host.
        let skipped = ["pts", "shm", "fd", "mqueue", "console", "core"];
        if skipped.iter().any(|skip| entry.name.as_bytes() == skip.as_bytes()) {
            walk.skip();
            continue;
        }
        if found.len() < MAX_DEVICES {
            let way = PathBuf::from(OsString::from_vec(walk.below()));
            let path = inside.join(way).join(OsStr::from_bytes(entry.name.as_bytes()));
            found.extend(device(&entry.stat, path, permissions));
        }
    }
    Err(io::Error::other(format!("holds more than {MAX_DEVICE_FILES} files")))
}

/// The node at `path` inside, if it is a device.
fn device(node: &Stat, path: PathBuf, permissions: &str) -> Option<HostDevice> {
    let kind = match FileType::from_raw_mode(node.st_mode) {
        FileType::CharacterDevice => DeviceKind::Char,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return None,
    };
    Some(HostDevice {
        path,
        kind,
        major: rustix::fs::major(node.st_rdev),
        minor: rustix::fs::minor(node.st_rdev),
        mode: node.st_mode & 0o7777,
        uid: node.st_uid,
        gid: node.st_gid,
        permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn an_open_bundle_is_closed_to_all_but_its_user_namespace_and_a_closed_one_is_left() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (bundle, upper) = (dir.path().join("bundle"), dir.path().join("upper"));
        let look = || {
            let metadata = bundle.symlink_metadata().expect("metadata");
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        };
        let open = |mode| {
            fs::set_permissions(&bundle, Permissions::from_mode(mode)).expect("mode");
            chown(&bundle, None, Some(0)).expect("group");
        };
        close(&bundle, &upper).expect("an absent one");
        assert!(!bundle.exists());
        fs::create_dir(&bundle).expect("directory");

        open(0o711);
        close(&bundle, &upper).expect("without a layer");
        assert_eq!(look(), (0o710, 0, 0));

        fs::create_dir(&upper).expect("directory");
        chown(&upper, Some(100_000), Some(200_000)).expect("owner");
        close(&bundle, &upper).expect("a closed one");
        assert_eq!(look(), (0o710, 0, 0), "it was closed already");
        for mode in [0o711, 0o755, 0o704] {
            open(mode);
            close(&bundle, &upper).expect("an open one");
            assert_eq!(look(), (0o710, 0, 200_000), "{mode:o}");
        }

        // Whose it is could not be told: better closed later than to the wrong group.
        open(0o711);
        let through_a_file = dir.path().join("file/upper");
        fs::write(dir.path().join("file"), "").expect("file");
        close(&bundle, &through_a_file).expect_err("not a directory");
        assert_eq!(look(), (0o711, 0, 0));
    }
}
