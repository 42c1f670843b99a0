//! Device nodes, and which devices the container's cgroup lets it open.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{DeviceKind, HostDevice, Inputs, SpecError};

/// Most nodes of one container; a large storage host has some thousands.
const MAX_DEVICES: usize = 8192;

/// What every container may open: the nodes that a runtime makes (OCI "Default Devices"), and
/// terminals. Major and minor as in the kernel's `devices.txt`. `/dev/console` of a container is a
/// terminal of its own; the device of that name (5:1) is the node's.
const DEFAULT_OPEN: [(u32, Option<u32>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// Places below `/dev` that runtimes or our mounts fill; the host's nodes there are not copied
/// into a privileged container.
const FILLED_BY_OTHERS: [&str; 6] =
    ["/dev/console", "/dev/fd", "/dev/mqueue", "/dev/ptmx", "/dev/pts", "/dev/shm"];

/// `linux.devices`: nodes to make besides the runtime's own. The last of equal paths counts.
pub(super) fn nodes(inputs: &Inputs<'_>) -> Result<Vec<LinuxDevice>, SpecError> {
    Ok(wanted(inputs)?.into_iter().map(node).collect())
}

/// `linux.resources.devices`: deny all, then allow one by one; the last rule that fits counts.
pub(super) fn rules(inputs: &Inputs<'_>) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    if inputs.spec.security.privileged {
        return Ok(vec![rule(true, None, (None, None), "rwm")]);
    }
    let mut rules = vec![rule(false, None, (None, None), "rwm")];
    // Making a node is harmless as long as it cannot be opened.
    rules.push(rule(true, Some(LinuxDeviceType::C), (None, None), "m"));
    rules.push(rule(true, Some(LinuxDeviceType::B), (None, None), "m"));
    for (major, minor) in DEFAULT_OPEN {
        rules.push(rule(true, Some(LinuxDeviceType::C), (Some(major), minor), "rwm"));
    }
    for device in wanted(inputs)? {
        let numbers = (Some(device.major), Some(device.minor));
        rules.push(rule(true, Some(kind(device.kind)), numbers, &device.permissions));
    }
    Ok(rules)
}

/// The devices asked for, checked, in order.
fn wanted<'a>(inputs: &Inputs<'a>) -> Result<Vec<&'a HostDevice>, SpecError> {
    if inputs.host_devices.len() > MAX_DEVICES {
        return Err(SpecError::Device {
            path: PathBuf::from("/dev"),
            problem: "has more nodes than one container can have",
        });
    }
    let mut last: HashMap<&Path, usize> = HashMap::new();
    for (index, device) in inputs.host_devices.iter().enumerate() {
        let filled = FILLED_BY_OTHERS.iter().any(|place| device.path.starts_with(place));
        if inputs.spec.security.privileged && filled {
            continue;
        }
        check(device)?;
        last.insert(&device.path, index);
    }
    let mut indices: Vec<usize> = last.into_values().collect();
    indices.sort_unstable();
    Ok(indices.into_iter().map(|index| &inputs.host_devices[index]).collect())
}

fn check(device: &HostDevice) -> Result<(), SpecError> {
    let path = &device.path;
    let permissions = &device.permissions;
    let guarded = ["/proc", "/sys"].iter().any(|place| path.starts_with(place));
    let problem = if !path.is_absolute() || path.components().count() < 2 {
        "is not an absolute path below /"
    } else if path.components().any(|part| part == Component::ParentDir) {
        "has a `..`"
    } else if guarded {
        "is in a file system of the kernel"
    } else if permissions.is_empty() || !permissions.bytes().all(|c| b"rwm".contains(&c)) {
        "has permissions other than r, w and m"
    } else {
        return Ok(());
    };
    Err(SpecError::Device { path: path.clone(), problem })
}

fn node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(device.path.clone());
    node.set_typ(kind(device.kind));
    node.set_major(device.major.into());
    node.set_minor(device.minor.into());
    node.set_file_mode(Some(device.mode & 0o7777));
    node.set_uid(Some(device.uid));
    node.set_gid(Some(device.gid));
    node
}

fn kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

/// Numbers that are left out stand for all.
fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    (major, minor): (Option<u32>, Option<u32>),
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(kind);
    rule.set_major(major.map(i64::from));
    rule.set_minor(minor.map(i64::from));
    rule.set_access(Some(access.to_owned()));
    rule
}
