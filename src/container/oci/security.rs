//! Confinement other than system calls: capabilities, masked paths, AppArmor.

use std::collections::{BTreeSet, HashSet};
use std::path::{Component, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::{Inputs, SpecError};
use crate::container::spec::Profile;

/// What a container may do unless told otherwise; the set that all engines agree on.
pub(super) const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Every capability without `CAP_`, at the position of its number (`linux/capability.h`), which
/// is also its bit in `CapBnd` of `/proc/<pid>/status`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Hidden when the request does not say: they show or change the node, not the container.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only when the request does not say.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CapabilitySet {
    held: BTreeSet<&'static str>,
    ambient: BTreeSet<&'static str>,
}

impl CapabilitySet {
    /// Whether the container has this one, by its name without `CAP_`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.held.contains(name)
    }

    /// In the words of OCI. For a user other than root the kernel clears the effective and
    /// permitted sets at execve(2), except for the ambient ones.
    ///
    /// The inheritable set stays empty without ambient ones: files with inheritable
    /// capabilities in the image would otherwise give them to any user.
    pub(super) fn to_oci(&self) -> LinuxCapabilities {
        let mut oci = LinuxCapabilities::default();
        oci.set_bounding(Some(known(&self.held)));
        oci.set_effective(Some(known(&self.held)));
        oci.set_permitted(Some(known(&self.held)));
        oci.set_inheritable(Some(known(&self.ambient)));
        oci.set_ambient(Some(known(&self.ambient)));
        oci
    }
}

fn known(names: &BTreeSet<&'static str>) -> HashSet<Capability> {
    names.iter().filter_map(|name| Capability::from_str(name).ok()).collect()
}

/// The defaults with the request's changes, within what the daemon itself may give away.
///
/// `ALL` counts before single names, and dropping after adding, so that "drop ALL, add X" gives
/// X alone.
pub(super) fn capabilities(
    inputs: &Inputs<'_>,
    warnings: &mut Vec<String>,
) -> Result<CapabilitySet, SpecError> {
    let asked = &inputs.spec.security.capabilities;
    let add = names(&asked.add)?;
    let drop = names(&asked.drop)?;
    let mut ambient = names(&asked.ambient)?;
    let mut held = if inputs.spec.security.privileged {
        BTreeSet::from(CAPABILITIES)
    } else {
        let mut held = match (is_all(&asked.add), is_all(&asked.drop)) {
            (_, true) => BTreeSet::new(),
            (true, false) => BTreeSet::from(CAPABILITIES),
            (false, false) => BTreeSet::from(DEFAULT),
        };
        if !is_all(&asked.add) {
            held.extend(&add);
        }
        held.extend(&ambient);
        if !is_all(&asked.drop) {
            held.retain(|name| !drop.contains(name));
        }
        held
    };
    let missing: Vec<&str> = held
        .iter()
        .copied()
        .filter(|name| !inputs.host.bounding.iter().any(|bound| bound == name))
        .collect();
    if !missing.is_empty() {
        warnings.push(format!(
            "capabilities left out because this daemon or kernel lacks them: {}",
            missing.join(", ")
        ));
        held.retain(|name| !missing.contains(name));
    }
    // An ambient capability must be permitted, or the runtime fails.
    ambient.retain(|name| held.contains(name));
    Ok(CapabilitySet { held, ambient })
}

fn is_all(names: &[String]) -> bool {
    names.iter().any(|name| name == "ALL")
}

/// Checked names; `ALL` stands for every one.
fn names(names: &[String]) -> Result<BTreeSet<&'static str>, SpecError> {
    let mut set = BTreeSet::new();
    for name in names {
        match CAPABILITIES.into_iter().find(|known| known == name) {
            Some(known) => drop(set.insert(known)),
            None if name == "ALL" => set.extend(CAPABILITIES),
            None => return Err(SpecError::UnknownCapability(name.clone())),
        }
    }
    Ok(set)
}

/// `linux.maskedPaths`.
pub(super) fn masked_paths(inputs: &Inputs<'_>) -> Result<Vec<String>, SpecError> {
    guarded(inputs, "masked_paths", &inputs.spec.security.masked_paths, &MASKED)
}

/// `linux.readonlyPaths`.
pub(super) fn readonly_paths(inputs: &Inputs<'_>) -> Result<Vec<String>, SpecError> {
    guarded(inputs, "readonly_paths", &inputs.spec.security.readonly_paths, &READONLY)
}

/// The kubelet always sends both lists, and sends both empty for `procMount: Unmasked`; other
/// clients that never thought about it send them empty too. Kubernetes admits `Unmasked` only in
/// pods with a user namespace of their own, so that is where two empty lists mean none; any other
/// empty list means its defaults.
fn guarded(
    inputs: &Inputs<'_>,
    field: &'static str,
    asked: &[PathBuf],
    defaults: &[&str],
) -> Result<Vec<String>, SpecError> {
    let security = &inputs.spec.security;
    if security.privileged {
        return Ok(Vec::new());
    }
    let unasked = security.masked_paths.is_empty() && security.readonly_paths.is_empty();
    let unmasked = unasked && inputs.pod.user.is_some();
    if asked.is_empty() && !unmasked {
        return Ok(defaults.iter().map(|path| (*path).to_owned()).collect());
    }
    asked
        .iter()
        .map(|path| {
            let below_root = path.is_absolute()
                && path.components().count() > 1
                && !path.components().any(|part| part == Component::ParentDir);
            let text = path.to_str().filter(|_| below_root);
            text.map(str::to_owned)
                .ok_or_else(|| SpecError::GuardedPath { field, path: path.clone() })
        })
        .collect()
}

/// `process.apparmorProfile`; none leaves the process unconfined.
///
/// A container that names no profile has ours, unless it is privileged: that is what Kubernetes
/// promises of a node with AppArmor. A privileged one is confined only by what it names itself.
pub(super) fn apparmor(inputs: &Inputs<'_>) -> Result<Option<String>, SpecError> {
    match &inputs.spec.security.apparmor {
        Profile::Localhost(name) if inputs.host.apparmor => Ok(Some(name.clone())),
        Profile::Localhost(name) => {
            Err(SpecError::ProfileUnsupported { field: "apparmor", name: name.clone() })
        }
        Profile::Unset | Profile::RuntimeDefault if !inputs.spec.security.privileged => {
            Ok(inputs.host.default_apparmor.map(str::to_owned))
        }
        Profile::Unset | Profile::RuntimeDefault | Profile::Unconfined => Ok(None),
    }
}
