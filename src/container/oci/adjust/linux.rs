//! What plugins change of `linux`: devices, limits, control group, namespaces, kernel parameters,
//! system call filter, network devices, cache and memory policies.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxSeccomp};
use serde_json::{Value, json};

use super::super::{HostFacts, SpecError};
use super::{merge_map, namespaces, needs_version, parsed, refuse, resources};
use crate::nri::wire::{
    self, LinuxContainerAdjustment, LinuxMemoryPolicy, LinuxNetDevice, LinuxRdt,
};

/// The versions of the OCI specification that brought these.
const NET_DEVICES: (u32, u32) = (1, 3);
const MEMORY_POLICY: (u32, u32) = (1, 3);
const RDT_SCHEMATA: (u32, u32) = (1, 3);

/// Applies all of it.
pub(super) fn adjust(
    linux: &mut Linux,
    wanted: &LinuxContainerAdjustment,
    host: &HostFacts,
    own_group: &str,
) -> Result<(), SpecError> {
    devices(linux, &wanted.devices)?;
    if let Some(wanted) = &wanted.resources {
        let mut limits = linux.resources().clone().unwrap_or_default();
        resources::adjust(&mut limits, wanted, host)?;
        linux.set_resources(Some(limits));
    }
    if !wanted.cgroups_path.is_empty() {
        let path = cgroups_path(linux, &wanted.cgroups_path, own_group)?;
        linux.set_cgroups_path(Some(path));
    }
    if let Some(policy) = &wanted.seccomp_policy {
        if !host.seccomp {
            return Err(refuse("linux.seccomp_policy", "cannot be applied on this host"));
        }
        linux.set_seccomp(Some(seccomp(policy)?));
    }
    let mut all = linux.namespaces().clone().unwrap_or_default();
    namespaces(&mut all, &wanted.namespaces)?;
    linux.set_namespaces(Some(all));
    if !wanted.sysctl.is_empty() {
        let mut all = linux.sysctl().clone().unwrap_or_default();
        merge_map(&mut all, wanted.sysctl.iter().map(|(key, value)| (key, value.clone())));
        linux.set_sysctl(Some(all));
    }
    if !wanted.net_devices.is_empty() {
        needs_version("linux.net_devices", host, NET_DEVICES)?;
        let mut all = linux.net_devices().clone().unwrap_or_default();
        for (key, device) in &wanted.net_devices {
            let device = parsed("linux.net_devices", net_device(device))?;
            merge_map(&mut all, [(key, device)]);
        }
        linux.set_net_devices(Some(all));
    }
    if let Some(rdt) = &wanted.rdt {
        linux.set_intel_rdt(intel_rdt(rdt, host)?);
    }
    if let Some(policy) = &wanted.memory_policy {
        needs_version("linux.memory_policy", host, MEMORY_POLICY)?;
        linux.set_memory_policy(Some(parsed("linux.memory_policy", memory_policy(policy))?));
    }
    Ok(())
}

/// A node and the right to use it.
fn devices(linux: &mut Linux, wanted: &[wire::LinuxDevice]) -> Result<(), SpecError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut all = linux.devices().clone().unwrap_or_default();
    let mut limits = linux.resources().clone().unwrap_or_default();
    let mut rules = limits.devices().clone().unwrap_or_default();
    for device in wanted {
        let removed = device.path.strip_prefix('-');
        let path = Path::new(removed.unwrap_or(&device.path));
        let field = format!("linux.devices {}", path.display());
        all.retain(|old| old.path() != path);
        if removed.is_some() {
            continue;
        }
        let guarded = ["/proc", "/sys"].iter().any(|place| path.starts_with(place));
        if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) || guarded {
            return Err(refuse(field, "is not an absolute path outside of /proc and /sys"));
        }
        let mut value = json!({
            "path": path, "type": device.r#type, "major": device.major, "minor": device.minor,
        });
        let more = [("fileMode", &device.file_mode), ("uid", &device.uid), ("gid", &device.gid)];
        for (name, number) in more {
            if let Some(number) = number {
                value[name] = json!(number.value);
            }
        }
        let node: LinuxDevice = parsed(&field, value)?;
        let rule = json!({
            "allow": true, "type": device.r#type, "major": device.major, "minor": device.minor,
            "access": "rwm",
        });
        rules.push(parsed(&field, rule)?);
        all.push(node);
    }
    limits.set_devices(Some(rules));
    linux.set_resources(Some(limits));
    linux.set_devices(Some(all));
    Ok(())
}

/// Another place for the container's group, but a group of its own: it is killed and removed with
/// the container. The form says who makes groups, and stays.
fn cgroups_path(linux: &Linux, wanted: &str, own_group: &str) -> Result<PathBuf, SpecError> {
    let field = "linux.cgroups_path";
    let is_systemd = |path: &str| path.contains(':');
    let now = linux.cgroups_path().as_deref().map(|path| path.to_string_lossy().into_owned());
    let path = Path::new(wanted);
    let name = wanted.rsplit(['/', ':']).next().unwrap_or_default();
    if path.components().any(|part| part == Component::ParentDir) || wanted.contains('\0') {
        Err(refuse(field, format!("{wanted:?} has a `..`")))
    } else if is_systemd(wanted) != now.as_deref().is_some_and(is_systemd) {
        Err(refuse(field, format!("{wanted:?} is not of the cgroup driver's form")))
    } else if !is_systemd(wanted) && (!path.is_absolute() || path.components().count() < 3) {
        Err(refuse(field, format!("{wanted:?} is not an absolute path below a parent")))
    } else if !name.ends_with(own_group) {
        Err(refuse(field, format!("{wanted:?} does not end in the container's id")))
    } else {
        Ok(path.to_owned())
    }
}

fn seccomp(policy: &wire::LinuxSeccomp) -> Result<LinuxSeccomp, SpecError> {
    let mut value = json!({
        "defaultAction": policy.default_action,
        "architectures": policy.architectures,
        "flags": policy.flags,
        "syscalls": policy.syscalls.iter().map(system_call).collect::<Vec<_>>(),
    });
    if let Some(errno) = &policy.default_errno {
        value["defaultErrnoRet"] = json!(errno.value);
    }
    if !policy.listener_path.is_empty() {
        value["listenerPath"] = json!(policy.listener_path);
    }
    if !policy.listener_metadata.is_empty() {
        value["listenerMetadata"] = json!(policy.listener_metadata);
    }
    parsed("linux.seccomp_policy", value)
}

fn system_call(call: &wire::LinuxSyscall) -> Value {
    let arg = |arg: &wire::LinuxSeccompArg| json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op });
    let args: Vec<_> = call.args.iter().map(arg).collect();
    let mut value = json!({ "names": call.names, "action": call.action, "args": args });
    if let Some(errno) = &call.errno_ret {
        value["errnoRet"] = json!(errno.value);
    }
    value
}

fn net_device(device: &LinuxNetDevice) -> Value {
    match device.name.as_str() {
        "" => json!({}),
        name => json!({ "name": name }),
    }
}

fn intel_rdt(
    rdt: &LinuxRdt,
    host: &HostFacts,
) -> Result<Option<oci_spec::runtime::LinuxIntelRdt>, SpecError> {
    let mut value = json!({});
    if let Some(id) = &rdt.clos_id {
        value["closID"] = json!(id.value);
    }
    if let Some(schemata) = &rdt.schemata {
        needs_version("linux.rdt.schemata", host, RDT_SCHEMATA)?;
        value["schemata"] = json!(schemata.value);
    }
    if let Some(monitoring) = &rdt.enable_monitoring {
        needs_version("linux.rdt.enable_monitoring", host, RDT_SCHEMATA)?;
        value["enableMonitoring"] = json!(monitoring.value);
    }
    if rdt.remove || value == json!({}) {
        return Ok(None);
    }
    parsed("linux.rdt", value).map(Some)
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Value {
    let flags: Vec<_> = policy.flags().map(|flag| flag.as_str_name()).collect();
    let mut value = json!({ "mode": policy.mode().as_str_name(), "flags": flags });
    if !policy.nodes.is_empty() {
        value["nodes"] = json!(policy.nodes);
    }
    value
}
