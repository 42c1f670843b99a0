//! Volumes and devices of a container.

use std::path::{Component, Path, PathBuf};

use super::{Field, Mistakes, image, namespaces, shown, text};
use crate::container::spec::{Device, Mount, MountSource, Propagation};
use crate::cri::pb;

/// Volumes of one container. A mount costs the kernel and the runtime milliseconds, and the
/// runtimes pass all of them to the container's init in one message (CVE-2021-43784).
const MAX_MOUNTS: usize = 2_048;
/// Devices of one container, before directories are expanded.
const MAX_DEVICES: usize = 1_024;
/// Options besides those that other fields of a mount stand for (CRI `Mount.mount_options`).
const OPTIONS: &[&str] = &["nodev", "noexec", "nosuid"];
/// What may be mounted over below `/proc`: files that lxcfs and the like show in place of the
/// kernel's. Anything else would let a container fake what security labels are written to
/// (CVE-2019-16884), and the runtimes refuse it as well.
const PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Checks the volumes, in request order.
pub(super) fn mounts(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: Vec<pb::Mount>,
) -> Vec<Mount> {
    text::at_most(mistakes, field, &requested, MAX_MOUNTS);
    let one = |(n, mount)| convert(mistakes, &field.index(n), mount);
    requested.into_iter().take(MAX_MOUNTS).enumerate().map(one).collect()
}

fn convert(mistakes: &mut Mistakes, field: &Field<'_>, m: pb::Mount) -> Mount {
    let here = field.at("container_path");
    let container_path = text::absolute_path(mistakes, &here, &m.container_path);
    if let Some(problem) = covers(&container_path, &m.host_path) {
        mistakes.add(&here, problem);
    }
    let propagation = match pb::MountPropagation::try_from(m.propagation) {
        Ok(pb::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(pb::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(pb::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            let problem = format_args!("{} is not a propagation", m.propagation);
            mistakes.add(&field.at("propagation"), problem);
            Propagation::Private
        }
    };
    let here = field.at("recursive_read_only");
    if m.recursive_read_only && !m.readonly {
        mistakes.add(&here, "needs readonly");
    } else if m.recursive_read_only && propagation != Propagation::Private {
        mistakes.add(&here, "needs private propagation");
    }
    if m.uid_mappings.is_empty() != m.gid_mappings.is_empty() {
        mistakes.add(field, "has only one of uidMappings and gidMappings");
    }
    for (n, option) in m.mount_options.iter().enumerate() {
        if !OPTIONS.contains(&option.as_str()) {
            let problem = format_args!("{} is not one of {}", shown(option), OPTIONS.join(", "));
            mistakes.add(&field.at("mount_options").index(n), problem);
        }
    }
    let uids = namespaces::id_mappings(mistakes, &field.at("uidMappings"), &m.uid_mappings);
    let gids = namespaces::id_mappings(mistakes, &field.at("gidMappings"), &m.gid_mappings);
    Mount {
        container_path,
        readonly: m.readonly,
        recursive_read_only: m.recursive_read_only,
        propagation,
        selinux_relabel: m.selinux_relabel,
        uid_mappings: uids,
        gid_mappings: gids,
        source: source(mistakes, field, m.host_path, m.image, m.image_sub_path, m.readonly),
        options: m.mount_options,
    }
}

/// Why nothing may be mounted at `target`, if so.
fn covers(target: &Path, source: &str) -> Option<&'static str> {
    let at = |path: &str| target == Path::new(path);
    let from = |path: &str| Path::new(source) == Path::new(path);
    if at("/") {
        Some("is the root")
    } else if at("/proc") {
        (!from("/proc")).then_some("is /proc, which only the node's own /proc may cover")
    } else if target.starts_with("/proc") {
        let allowed = PROC.iter().any(|path| at(path));
        (!allowed).then_some("is below /proc")
    } else if target.starts_with("/sys/fs/selinux") {
        (!from("/sys/fs/selinux")).then_some("is where SELinux is set")
    } else {
        None
    }
}

fn source(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    host_path: String,
    image: Option<pb::ImageSpec>,
    sub_path: String,
    readonly: bool,
) -> MountSource {
    // COMPAT: an image without a name beside a host path is how some clients say "no image".
    let image = image.filter(|image| !image.image.is_empty() || host_path.is_empty());
    let Some(image) = image else {
        if !sub_path.is_empty() {
            mistakes.add(&field.at("image_sub_path"), "is given without an image");
        }
        let path = text::absolute_path(mistakes, &field.at("host_path"), &host_path);
        return MountSource::Host(path);
    };
    if !host_path.is_empty() {
        mistakes.add(&field.at("host_path"), "is given together with an image");
    }
    if !readonly {
        mistakes.add(&field.at("readonly"), "is not set, which an image needs");
    }
    let image = image::request(mistakes, &field.at("image"), Some(image));
    let sub_path = text::relative_path(mistakes, &field.at("image_sub_path"), &sub_path);
    MountSource::Image { image, sub_path }
}

/// Volumes as they were requested, for the status: the kubelet compares paths byte by byte.
pub fn mounts_into_pb(mounts: &[Mount]) -> Vec<pb::Mount> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let wire = |mount: &Mount| {
        let (host_path, image, image_sub_path) = match &mount.source {
            MountSource::Host(path) => (text(path), None, String::new()),
            MountSource::Image { image, sub_path } => {
                (String::new(), Some(image::image_into_pb(image)), text(sub_path))
            }
        };
        let propagation = match mount.propagation {
            Propagation::Private => pb::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => pb::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => pb::MountPropagation::PropagationBidirectional,
        };
        pb::Mount {
            container_path: text(&mount.container_path),
            host_path,
            readonly: mount.readonly,
            selinux_relabel: mount.selinux_relabel,
            propagation: propagation.into(),
            uid_mappings: namespaces::id_mappings_into_pb(&mount.uid_mappings),
            gid_mappings: namespaces::id_mappings_into_pb(&mount.gid_mappings),
            recursive_read_only: mount.recursive_read_only,
            image,
            image_sub_path,
            mount_options: mount.options.clone(),
        }
    };
    mounts.iter().map(wire).collect()
}

/// Checks the device nodes; whether the host has them is found out when they are looked up.
pub(super) fn devices(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: &[pb::Device],
) -> Vec<Device> {
    text::at_most(mistakes, field, requested, MAX_DEVICES);
    let mut checked = Vec::new();
    for (n, device) in requested.iter().take(MAX_DEVICES).enumerate() {
        let here = field.index(n);
        let target = here.at("container_path");
        let container_path = text::absolute_path(mistakes, &target, &device.container_path);
        let below = |dir: &str| container_path.starts_with(dir);
        let is_root = container_path.components().all(|part| part == Component::RootDir);
        if below("/proc") || below("/sys") || container_path.has_root() && is_root {
            mistakes.add(&target, "is no place for a device");
        }
        let has = |letter| device.permissions.contains(letter);
        let known = device.permissions.chars().all(|c| "rwm".contains(c));
        if device.permissions.is_empty() || !known {
            let problem = format_args!("{} is not some of rwm", shown(&device.permissions));
            mistakes.add(&here.at("permissions"), problem);
        }
        checked.push(Device {
            host_path: text::absolute_path(mistakes, &here.at("host_path"), &device.host_path),
            permissions: "rwm".chars().filter(|letter| has(*letter)).collect(),
            container_path,
        });
    }
    checked
}

/// Checks names of CDI devices: `vendor.example/class=name`.
pub(super) fn cdi_devices(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: &[pb::CdiDevice],
) -> Vec<String> {
    text::at_most(mistakes, field, requested, MAX_DEVICES);
    let mut checked = Vec::new();
    for (n, device) in requested.iter().take(MAX_DEVICES).enumerate() {
        if is_cdi_name(&device.name) {
            checked.push(device.name.clone());
        } else {
            let problem = format_args!("{} is not vendor/class=device", shown(&device.name));
            mistakes.add(&field.index(n).at("name"), problem);
        }
    }
    checked
}

/// The grammar of the Container Device Interface, "Device names".
fn is_cdi_name(text: &str) -> bool {
    fn word(text: &str, first: fn(u8) -> bool, between: &[u8]) -> bool {
        let bytes = text.as_bytes();
        matches!(bytes, [head, .., tail] if first(*head) && tail.is_ascii_alphanumeric())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || between.contains(b))
            || matches!(bytes, [only] if first(*only))
    }
    let letter = |b: u8| b.is_ascii_alphabetic();
    let any = |b: u8| b.is_ascii_alphanumeric();
    text.len() <= text::MAX_NAME
        && text
            .split_once('=')
            .and_then(|(kind, name)| Some((kind.split_once('/')?, name)))
            .is_some_and(|((vendor, class), name)| {
                word(vendor, letter, b"_-.")
                    && word(class, letter, b"_-")
                    && word(name, any, b"_-.:")
            })
}

#[cfg(test)]
mod tests;
