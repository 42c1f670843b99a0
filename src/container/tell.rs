//! A container as plugins of the Node Resource Interface are shown it, and the limits that they
//! want, in our words. Our record says who and what it is, its configuration file the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::nri::wire::{self, OptionalInt, OptionalUint64};
use crate::steps::blocking;

use super::record::ContainerRecord;
use super::spec::Resources;
use super::state::State;
use super::{ContainerError, Parts};

mod from_oci;

/// The container with what its configuration file says, as far as there is one.
pub async fn container(parts: &Arc<Parts>, record: &ContainerRecord) -> wire::Container {
    let file = parts.layout.bundle(&record.id).join("config.json");
    let spec = blocking(move || Spec::load(file).ok()).await;
    message(record, spec.as_ref())
}

/// The container with this configuration.
pub fn message(record: &ContainerRecord, spec: Option<&Spec>) -> wire::Container {
    let mut message = wire::Container {
        id: record.id.to_string(),
        pod_id: record.pod.to_string(),
        name: record.spec.name.clone(),
        state: state(record.state).into(),
        labels: record.spec.labels.clone(),
        annotations: record.spec.annotations.clone(),
        created_at: record.created_at_ns,
        started_at: record.started_at_ns,
        pid: record.process.and_then(|process| u32::try_from(process.pid).ok()).unwrap_or(0),
        cdi_devices: record.spec.cdi_devices.iter().map(|name| cdi(name)).collect(),
        image: Some(wire::Image {
            name: record.spec.image.user_specified.clone(),
            digest: record.image.as_ref().map(|i| i.reference.clone()).unwrap_or_default(),
            config_digest: record.image.as_ref().map(|i| i.id.to_string()).unwrap_or_default(),
        }),
        user: record.user.as_ref().map(|user| wire::User {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids.clone(),
        }),
        ..wire::Container::default()
    };
    if let Some(ended) = &record.ended {
        message.finished_at = ended.at_ns;
        message.exit_code = ended.code;
        message.status_reason.clone_from(&ended.reason);
        message.status_message.clone_from(&ended.message);
    }
    if let Some(spec) = spec {
        from_oci::fill(&mut message, spec);
    }
    let linux = message.linux.get_or_insert_default();
    linux.cgroups_path.clone_from(&record.cgroup);
    let told = resources(record.resources());
    match &mut linux.resources {
        Some(created) if record.updated.is_some() => replace(created, told),
        Some(_) => {}
        None => linux.resources = Some(told),
    }
    message
}

fn cdi(name: &str) -> wire::CdiDevice {
    wire::CdiDevice { name: name.to_owned() }
}

fn state(state: State) -> wire::ContainerState {
    match state {
        State::Creating | State::Created | State::Starting => {
            wire::ContainerState::ContainerCreated
        }
        State::Running | State::Stopping => wire::ContainerState::ContainerRunning,
        State::Exited | State::Removing => wire::ContainerState::ContainerStopped,
        State::Unknown => wire::ContainerState::ContainerUnknown,
    }
}

/// Limits as plugins are told them: what was not asked is absent.
pub fn resources(resources: &Resources) -> wire::LinuxResources {
    let signed = |value: i64| (value != 0).then_some(OptionalInt { value });
    let unsigned = |value: i64| {
        u64::try_from(value).ok().filter(|v| *v != 0).map(|value| OptionalUint64 { value })
    };
    wire::LinuxResources {
        memory: Some(wire::LinuxMemory {
            limit: signed(resources.memory_limit_bytes),
            swap: signed(resources.memory_swap_limit_bytes),
            ..wire::LinuxMemory::default()
        }),
        cpu: Some(wire::LinuxCpu {
            shares: unsigned(resources.cpu_shares),
            quota: signed(resources.cpu_quota_us),
            period: unsigned(resources.cpu_period_us),
            cpus: resources.cpuset_cpus.clone(),
            mems: resources.cpuset_mems.clone(),
            ..wire::LinuxCpu::default()
        }),
        hugepage_limits: resources
            .hugepages
            .iter()
            .map(|(page_size, limit)| wire::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: resources.unified.clone(),
        ..wire::LinuxResources::default()
    }
}

/// Puts those limits that can be changed of a container that exists in the place of those that it
/// was created with; the others (processes, devices) stay.
fn replace(created: &mut wire::LinuxResources, now: wire::LinuxResources) {
    let memory = now.memory.unwrap_or_default();
    let of_memory = created.memory.get_or_insert_default();
    (of_memory.limit, of_memory.swap) = (memory.limit, memory.swap);
    let of_cpu = created.cpu.get_or_insert_default();
    let realtime = (of_cpu.realtime_runtime, of_cpu.realtime_period);
    *of_cpu = now.cpu.unwrap_or_default();
    (of_cpu.realtime_runtime, of_cpu.realtime_period) = realtime;
    created.hugepage_limits = now.hugepage_limits;
    created.unified = now.unified;
}

/// The limits that a container is created with, in our words.
///
/// # Errors
/// [`ContainerError::Request`] for a number that is too large for us.
pub fn created_with(config: &Spec) -> Result<Resources, ContainerError> {
    let limits = config.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let score = config.process().as_ref().and_then(|process| process.oom_score_adj());
    let limits = limits.map(from_oci::resources).unwrap_or_default();
    Ok(Resources { oom_score_adj: score.unwrap_or_default().into(), ..in_our_words(&limits)? })
}

/// The limits of a container that exists, as plugins want them.
///
/// # Errors
/// [`ContainerError::Request`] for what cannot be changed any more.
pub fn change(wanted: &wire::LinuxResources) -> Result<Resources, ContainerError> {
    let memory = wanted.memory.unwrap_or_default();
    let cpu = wanted.cpu.clone().unwrap_or_default();
    let fixed = [
        ("memory.reservation", memory.reservation.is_some()),
        ("memory.kernel", memory.kernel.is_some()),
        ("memory.kernel_tcp", memory.kernel_tcp.is_some()),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disable_oom_killer", memory.disable_oom_killer.is_some()),
        ("memory.use_hierarchy", memory.use_hierarchy.is_some()),
        ("cpu.realtime_runtime", cpu.realtime_runtime.is_some()),
        ("cpu.realtime_period", cpu.realtime_period.is_some()),
        ("pids", wanted.pids.is_some()),
        ("blockio_class", wanted.blockio_class.is_some()),
        ("rdt_class", wanted.rdt_class.is_some()),
        ("devices", !wanted.devices.is_empty()),
    ];
    if let Some((field, _)) = fixed.iter().find(|(_, set)| *set) {
        return Err(refuse(field, "cannot be changed of a container that exists"));
    }
    in_our_words(wanted)
}

fn refuse(field: &str, problem: &str) -> ContainerError {
    let field = format!("linux_resources.{field}");
    ContainerError::Request { field, problem: problem.to_owned() }
}

fn in_our_words(limits: &wire::LinuxResources) -> Result<Resources, ContainerError> {
    let memory = limits.memory.unwrap_or_default();
    let cpu = limits.cpu.clone().unwrap_or_default();
    let number = |value: Option<OptionalInt>| value.map(|v| v.value).unwrap_or_default();
    let unsigned = |field: &str, value: Option<OptionalUint64>| {
        let value = value.map(|v| v.value).unwrap_or_default();
        i64::try_from(value).map_err(|_| refuse(field, "is too large"))
    };
    Ok(Resources {
        cpu_period_us: unsigned("cpu.period", cpu.period)?,
        cpu_quota_us: number(cpu.quota),
        cpu_shares: unsigned("cpu.shares", cpu.shares)?,
        memory_limit_bytes: number(memory.limit),
        memory_swap_limit_bytes: number(memory.swap),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepages: limits
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect::<BTreeMap<_, _>>(),
        unified: limits.unified.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_as_they_went() {
        let limits = Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: -1,
            cpu_shares: 512,
            memory_limit_bytes: 64 << 20,
            memory_swap_limit_bytes: -1,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepages: BTreeMap::from([("2MB".to_owned(), 4 << 20)]),
            unified: BTreeMap::from([("memory.high".to_owned(), "max".to_owned())]),
            oom_score_adj: 0,
        };
        assert_eq!(change(&resources(&limits)).expect("all can be changed"), limits);
        let nothing = resources(&Resources::default());
        assert_eq!(nothing.memory.as_ref().and_then(|memory| memory.limit), None);
        assert_eq!(change(&nothing).expect("nothing"), Resources::default());
    }

    #[test]
    fn what_cannot_be_changed_is_named_and_never_dropped() {
        let pids = wire::LinuxResources {
            pids: Some(wire::LinuxPids { limit: 9 }),
            ..wire::LinuxResources::default()
        };
        let error = change(&pids).expect_err("fixed").to_string();
        assert_eq!(error, "linux_resources.pids: cannot be changed of a container that exists");
    }
}
