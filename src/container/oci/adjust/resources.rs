//! What plugins change of the limits.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde_json::json;

use super::super::{HostFacts, SpecError};
use super::{parsed, refuse};
use crate::nri::wire;

/// Applies them over the request's.
pub(super) fn adjust(
    limits: &mut LinuxResources,
    wanted: &wire::LinuxResources,
    host: &HostFacts,
) -> Result<(), SpecError> {
    // Their meaning is in configuration files of the node that we have none of.
    let classes = [
        ("linux.resources.blockio_class", &wanted.blockio_class),
        ("linux.resources.rdt_class", &wanted.rdt_class),
    ];
    if let Some((field, class)) = classes.iter().find(|(_, class)| class.is_some()) {
        let name = class.as_ref().map(|class| class.value.as_str()).unwrap_or_default();
        return Err(refuse(*field, format!("{name:?}: no classes are configured")));
    }
    if let Some(wanted) = &wanted.memory {
        let mut memory = (*limits.memory()).unwrap_or_default();
        adjust_memory(&mut memory, wanted, host)?;
        limits.set_memory((memory != LinuxMemory::default()).then_some(memory));
    }
    if let Some(wanted) = &wanted.cpu {
        let mut cpu = limits.cpu().clone().unwrap_or_default();
        adjust_cpu(&mut cpu, wanted)?;
        limits.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    }
    if let Some(wanted) = &wanted.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(wanted.limit);
        limits.set_pids(Some(pids));
    }
    hugepages(limits, &wanted.hugepage_limits, host)?;
    if !wanted.unified.is_empty() {
        if !host.cgroup_v2 {
            let problem = "needs the unified cgroup hierarchy";
            return Err(refuse("linux.resources.unified", problem));
        }
        let mut unified = limits.unified().clone().unwrap_or_default();
        unified.extend(wanted.unified.clone());
        limits.set_unified(Some(unified));
    }
    let mut rules = limits.devices().clone().unwrap_or_default();
    for rule in &wanted.devices {
        let mut value = json!({ "allow": rule.allow, "access": rule.access });
        if !rule.r#type.is_empty() {
            value["type"] = json!(rule.r#type);
        }
        for (name, number) in [("major", &rule.major), ("minor", &rule.minor)] {
            if let Some(number) = number {
                value[name] = json!(number.value);
            }
        }
        rules.push(parsed("linux.resources.devices", value)?);
    }
    limits.set_devices(Some(rules));
    Ok(())
}

fn adjust_memory(
    memory: &mut LinuxMemory,
    wanted: &wire::LinuxMemory,
    host: &HostFacts,
) -> Result<(), SpecError> {
    if wanted.kernel.is_some() {
        let problem = "the kernel has had no such limit since 5.4";
        return Err(refuse("linux.resources.memory.kernel", problem));
    }
    if let Some(limit) = &wanted.limit {
        memory.set_limit(Some(limit.value));
    }
    if let Some(reservation) = &wanted.reservation {
        memory.set_reservation(Some(reservation.value));
    }
    if let Some(swap) = &wanted.swap {
        if !host.swap_accounting {
            return Err(refuse("linux.resources.memory.swap", "this kernel does not count swap"));
        }
        memory.set_swap(Some(swap.value));
    }
    if let Some(limit) = &wanted.kernel_tcp {
        memory.set_kernel_tcp(Some(limit.value));
    }
    if let Some(swappiness) = &wanted.swappiness {
        memory.set_swappiness(Some(swappiness.value));
    }
    if let Some(disable) = &wanted.disable_oom_killer {
        memory.set_disable_oom_killer(Some(disable.value));
    }
    if let Some(use_hierarchy) = &wanted.use_hierarchy {
        memory.set_use_hierarchy(Some(use_hierarchy.value));
    }
    Ok(())
}

fn adjust_cpu(cpu: &mut LinuxCpu, wanted: &wire::LinuxCpu) -> Result<(), SpecError> {
    if let Some(shares) = &wanted.shares {
        cpu.set_shares(Some(shares.value));
    }
    if let Some(quota) = &wanted.quota {
        cpu.set_quota(Some(quota.value));
    }
    if let Some(period) = &wanted.period {
        cpu.set_period(Some(period.value));
    }
    if let Some(runtime) = &wanted.realtime_runtime {
        cpu.set_realtime_runtime(Some(runtime.value));
    }
    if let Some(period) = &wanted.realtime_period {
        cpu.set_realtime_period(Some(period.value));
    }
    if !wanted.cpus.is_empty() {
        cpu.set_cpus(Some(wanted.cpus.clone()));
    }
    if !wanted.mems.is_empty() {
        cpu.set_mems(Some(wanted.mems.clone()));
    }
    Ok(())
}

fn hugepages(
    limits: &mut LinuxResources,
    wanted: &[wire::HugepageLimit],
    host: &HostFacts,
) -> Result<(), SpecError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let field = "linux.resources.hugepage_limits";
    if !host.hugetlb {
        return Err(refuse(field, "there is no hugetlb controller"));
    }
    let mut all = limits.hugepage_limits().clone().unwrap_or_default();
    for limit in wanted {
        all.retain(|old| *old.page_size() != limit.page_size);
        all.push(parsed(field, json!({ "pageSize": limit.page_size, "limit": limit.limit }))?);
    }
    limits.set_hugepage_limits(Some(all));
    Ok(())
}
