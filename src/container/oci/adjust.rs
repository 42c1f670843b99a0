//! What plugins change of a container's configuration before it is created.
//!
//! Everything is applied or is an error that names it. A runtime ignores fields that it does not
//! know, so what came into the OCI specification later needs a runtime that says it has that
//! version. What holds the container together (the kernel's file systems, the pod's files, its
//! root) cannot be taken away.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    LinuxNamespace, LinuxNamespaceType, Mount as OciMount, PosixRlimit, Process, Spec,
};
use serde_json::{Value, json};

use super::mounts::REPLACEABLE_IN_PROC;
use super::{HostFacts, SpecError};
use crate::nri::wire::{
    ContainerAdjustment, Hook, Hooks, KeyValue, LinuxNamespace as Namespace, Mount,
};

mod linux;
mod process;
mod resources;

/// Mounts that no plugin removes, and that only the first three of this list may replace.
const HELD: [&str; 9] = [
    "/dev/shm",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev",
    "/dev/mqueue",
    "/dev/pts",
    "/proc",
    "/sys",
    "/sys/fs/cgroup",
];

/// How many of [`HELD`] may be replaced.
const REPLACEABLE: usize = 3;

/// Changes `spec` as plugins want. `own_group` is the end of the name that the container's control
/// group must have, wherever they put it.
///
/// # Errors
/// [`SpecError::Adjustment`], naming the field.
pub fn adjust(
    spec: &mut Spec,
    wanted: &ContainerAdjustment,
    host: &HostFacts,
    own_group: &str,
) -> Result<(), SpecError> {
    if let Some(device) = wanted.cdi_devices.first() {
        let problem = format!("{:?} cannot be resolved here", device.name);
        return Err(refuse("cdi_devices", problem));
    }
    annotations(spec, wanted);
    mounts(spec, &wanted.mounts)?;
    hooks(spec, wanted.hooks.as_ref())?;
    if let Some(process) = spec.process_mut().as_mut() {
        environment(process, &wanted.env)?;
        if !wanted.args.is_empty() {
            process.set_args(Some(wanted.args.clone()));
        }
        rlimits(process, wanted)?;
        if let Some(wanted) = &wanted.linux {
            process::adjust(process, wanted, host)?;
        }
    }
    if let (Some(linux), Some(wanted)) = (spec.linux_mut().as_mut(), &wanted.linux) {
        linux::adjust(linux, wanted, host, own_group)?;
    }
    Ok(())
}

fn refuse(field: impl Into<String>, problem: impl Into<String>) -> SpecError {
    SpecError::Adjustment { field: field.into(), problem: problem.into() }
}

/// A part of the configuration from its JSON, which checks words and numbers.
fn parsed<T: serde::de::DeserializeOwned>(field: &str, value: Value) -> Result<T, SpecError> {
    serde_json::from_value(value).map_err(|error| refuse(field, error.to_string()))
}

/// Refuses what the runtime would ignore.
fn needs_version(
    field: &str,
    host: &HostFacts,
    (major, minor): (u32, u32),
) -> Result<(), SpecError> {
    let mut parts = host.oci_version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let has = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if has >= (major, minor) {
        return Ok(());
    }
    let version = &host.oci_version;
    let problem =
        format!("needs OCI runtime specification {major}.{minor}, the runtime has {version}");
    Err(refuse(field, problem))
}

/// Sets what is named and removes what has a `-` in front.
fn merge_map<'a, V: Clone + 'a>(
    into: &mut HashMap<String, V>,
    wanted: impl IntoIterator<Item = (&'a String, V)>,
) {
    for (key, value) in wanted {
        match key.strip_prefix('-') {
            Some(removed) => drop(into.remove(removed)),
            None => drop(into.insert(key.clone(), value)),
        }
    }
}

fn annotations(spec: &mut Spec, wanted: &ContainerAdjustment) {
    let mut all = spec.annotations().clone().unwrap_or_default();
    merge_map(&mut all, wanted.annotations.iter().map(|(key, value)| (key, value.clone())));
    spec.set_annotations(Some(all));
}

fn mounts(spec: &mut Spec, wanted: &[Mount]) -> Result<(), SpecError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut all = spec.mounts().clone().unwrap_or_default();
    for mount in wanted {
        let removed = mount.destination.strip_prefix('-');
        let destination = Path::new(removed.unwrap_or(&mount.destination));
        let field = || format!("mounts {}", destination.display());
        let held = HELD.iter().position(|held| destination == Path::new(held));
        if removed.is_some() {
            if held.is_some() {
                return Err(refuse(field(), "cannot be removed"));
            }
        } else {
            check_destination(destination, held).map_err(|problem| refuse(field(), problem))?;
        }
        all.retain(|old| old.destination() != destination);
        if removed.is_none() {
            let mut oci = OciMount::default();
            oci.set_destination(destination.to_owned());
            oci.set_typ((!mount.r#type.is_empty()).then(|| mount.r#type.clone()));
            oci.set_source((!mount.source.is_empty()).then(|| PathBuf::from(&mount.source)));
            oci.set_options(Some(mount.options.clone()));
            all.push(oci);
        }
    }
    // Parents first; what is at one depth stays in order.
    all.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(all));
    Ok(())
}

fn check_destination(path: &Path, held: Option<usize>) -> Result<(), &'static str> {
    let below_proc = path.strip_prefix("/proc").ok();
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        Err("is not an absolute path without ..")
    } else if path.components().count() < 2 {
        Err("would cover the root file system")
    } else if held.is_some_and(|position| position >= REPLACEABLE) {
        Err("cannot be replaced")
    } else if below_proc.is_some_and(|p| !REPLACEABLE_IN_PROC.iter().any(|f| p == Path::new(f))) {
        Err("is below /proc")
    } else {
        Ok(())
    }
}

fn environment(process: &mut Process, wanted: &[KeyValue]) -> Result<(), SpecError> {
    let mut all = process.env().clone().unwrap_or_default();
    for KeyValue { key, value } in wanted {
        let removed = key.strip_prefix('-');
        let name = removed.unwrap_or(key);
        if name.is_empty() || name.contains(['=', '\0', '\n']) || value.contains('\0') {
            return Err(refuse(format!("env {name:?}"), "is not a variable"));
        }
        let is_it =
            |entry: &String| entry.split_once('=').map_or(entry.as_str(), |(n, _)| n) == name;
        match (removed, all.iter().position(is_it)) {
            (Some(_), Some(position)) => drop(all.remove(position)),
            (Some(_), None) => {}
            (None, Some(position)) => all[position] = format!("{name}={value}"),
            (None, None) => all.push(format!("{name}={value}")),
        }
    }
    process.set_env(Some(all));
    Ok(())
}

fn rlimits(process: &mut Process, wanted: &ContainerAdjustment) -> Result<(), SpecError> {
    if wanted.rlimits.is_empty() {
        return Ok(());
    }
    let mut all = process.rlimits().clone().unwrap_or_default();
    for limit in &wanted.rlimits {
        let field = format!("rlimits {:?}", limit.r#type);
        if limit.soft > limit.hard {
            return Err(refuse(field, "has a soft limit above the hard one"));
        }
        let value = json!({ "type": limit.r#type, "hard": limit.hard, "soft": limit.soft });
        let limit: PosixRlimit = parsed(&field, value)?;
        all.retain(|old| old.typ() != limit.typ());
        all.push(limit);
    }
    process.set_rlimits(Some(all));
    Ok(())
}

/// Plugins' hooks come after our own, of which there are none.
fn hooks(spec: &mut Spec, wanted: Option<&Hooks>) -> Result<(), SpecError> {
    let Some(wanted) = wanted.filter(|hooks| **hooks != Hooks::default()) else { return Ok(()) };
    let list = |hooks: &[Hook]| hooks.iter().map(hook).collect::<Vec<_>>();
    let value = json!({
        "prestart": list(&wanted.prestart),
        "createRuntime": list(&wanted.create_runtime),
        "createContainer": list(&wanted.create_container),
        "startContainer": list(&wanted.start_container),
        "poststart": list(&wanted.poststart),
        "poststop": list(&wanted.poststop),
    });
    spec.set_hooks(Some(parsed("hooks", value)?));
    Ok(())
}

fn hook(hook: &Hook) -> Value {
    let mut value = json!({ "path": hook.path });
    if !hook.args.is_empty() {
        value["args"] = json!(hook.args);
    }
    if !hook.env.is_empty() {
        value["env"] = json!(hook.env);
    }
    if let Some(timeout) = &hook.timeout {
        value["timeout"] = json!(timeout.value);
    }
    value
}

fn namespaces(all: &mut Vec<LinuxNamespace>, wanted: &[Namespace]) -> Result<(), SpecError> {
    for Namespace { r#type: kind, path } in wanted {
        let removed = kind.strip_prefix('-');
        let name = removed.unwrap_or(kind);
        let field = format!("linux.namespaces {name:?}");
        let kind: LinuxNamespaceType = parsed(&field, json!(name))?;
        if removed.is_some() && kind == LinuxNamespaceType::Mount {
            return Err(refuse(field, "cannot be removed"));
        }
        if !path.is_empty() && !Path::new(path).is_absolute() {
            return Err(refuse(field, "has a path that is not absolute"));
        }
        all.retain(|old| old.typ() != kind);
        if removed.is_none() {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace.set_path((!path.is_empty()).then(|| PathBuf::from(path)));
            all.push(namespace);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
