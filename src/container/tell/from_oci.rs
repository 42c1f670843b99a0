//! From a container's OCI configuration to the message that plugins are shown. Pure.

use oci_spec::runtime::{Linux, LinuxResources, Process, Spec};

use crate::nri::wire::{self, OptionalBool, OptionalInt, OptionalUint32, OptionalUint64};

/// Adds what the configuration says.
pub(super) fn fill(message: &mut wire::Container, spec: &Spec) {
    if let Some(process) = spec.process() {
        fill_process(message, process);
    }
    if let Some(annotations) = spec.annotations() {
        message.annotations.extend(annotations.clone());
    }
    message.mounts = spec.mounts().iter().flatten().map(mount).collect();
    if let Some(linux) = spec.linux() {
        let oom_score_adj = spec.process().as_ref().and_then(Process::oom_score_adj);
        message.linux = Some(wire::LinuxContainer {
            oom_score_adj: oom_score_adj.map(|value| OptionalInt { value: value.into() }),
            ..linux_part(linux)
        });
    }
}

fn fill_process(message: &mut wire::Container, process: &Process) {
    message.args = process.args().clone().unwrap_or_default();
    message.env = process.env().clone().unwrap_or_default();
    let limits = process.rlimits().iter().flatten();
    message.rlimits = limits
        .map(|limit| wire::PosixRlimit {
            r#type: word(&limit.typ()),
            hard: limit.hard(),
            soft: limit.soft(),
        })
        .collect();
}

fn mount(mount: &oci_spec::runtime::Mount) -> wire::Mount {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    wire::Mount {
        destination: text(mount.destination()),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    }
}

fn linux_part(linux: &Linux) -> wire::LinuxContainer {
    let namespaces = linux.namespaces().iter().flatten();
    let devices = linux.devices().iter().flatten();
    wire::LinuxContainer {
        namespaces: namespaces
            .map(|namespace| wire::LinuxNamespace {
                r#type: word(&namespace.typ()),
                path: namespace
                    .path()
                    .as_deref()
                    .map(|path| path.to_string_lossy().into_owned())
                    .unwrap_or_default(),
            })
            .collect(),
        devices: devices
            .map(|device| wire::LinuxDevice {
                path: device.path().to_string_lossy().into_owned(),
                r#type: word(&device.typ()),
                major: device.major(),
                minor: device.minor(),
                file_mode: device.file_mode().map(|value| OptionalUint32 { value }),
                uid: device.uid().map(|value| OptionalUint32 { value }),
                gid: device.gid().map(|value| OptionalUint32 { value }),
            })
            .collect(),
        resources: linux.resources().as_ref().map(resources),
        sysctl: linux.sysctl().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        ..wire::LinuxContainer::default()
    }
}

/// Limits, as a configuration file has them.
pub(super) fn resources(resources: &LinuxResources) -> wire::LinuxResources {
    let signed = |value: Option<i64>| value.map(|value| OptionalInt { value });
    let unsigned = |value: Option<u64>| value.map(|value| OptionalUint64 { value });
    wire::LinuxResources {
        memory: resources.memory().as_ref().map(|memory| wire::LinuxMemory {
            limit: signed(memory.limit()),
            reservation: signed(memory.reservation()),
            swap: signed(memory.swap()),
            kernel_tcp: signed(memory.kernel_tcp()),
            swappiness: unsigned(memory.swappiness()),
            disable_oom_killer: memory.disable_oom_killer().map(|value| OptionalBool { value }),
            use_hierarchy: memory.use_hierarchy().map(|value| OptionalBool { value }),
            kernel: None,
        }),
        cpu: resources.cpu().as_ref().map(|cpu| wire::LinuxCpu {
            shares: unsigned(cpu.shares()),
            quota: signed(cpu.quota()),
            period: unsigned(cpu.period()),
            realtime_runtime: signed(cpu.realtime_runtime()),
            realtime_period: unsigned(cpu.realtime_period()),
            cpus: cpu.cpus().clone().unwrap_or_default(),
            mems: cpu.mems().clone().unwrap_or_default(),
        }),
        hugepage_limits: resources
            .hugepage_limits()
            .iter()
            .flatten()
            .map(|limit| wire::HugepageLimit {
                page_size: limit.page_size().clone(),
                limit: u64::try_from(limit.limit()).unwrap_or_default(),
            })
            .collect(),
        unified: resources
            .unified()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        pids: resources.pids().map(|pids| wire::LinuxPids { limit: pids.limit() }),
        devices: resources
            .devices()
            .iter()
            .flatten()
            .map(|rule| wire::LinuxDeviceCgroup {
                allow: rule.allow(),
                r#type: rule.typ().map(|kind| word(&kind)).unwrap_or_default(),
                major: signed(rule.major()),
                minor: signed(rule.minor()),
                access: rule.access().clone().unwrap_or_default(),
            })
            .collect(),
        ..wire::LinuxResources::default()
    }
}

/// A word of an enumeration, as the configuration file has it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
