//! Changes the limits of a container that is created or runs.
//!
//! The runtime makes the change, because it knows the driver of the control groups; what runtimes
//! do not change by themselves (huge pages, files of the unified hierarchy) is written here. Either
//! everything is in force afterwards or nothing: the kernel's values are noted before and written
//! back when a part fails, without the runtime, which may be what failed.
//!
//! `oom_score_adj` is given to the first process at its start and inherited from there; no update
//! reaches it, so the limits that are reported keep the old one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::LinuxResources;

use crate::cgroup::Limits;
use crate::steps::{Operation, blocking};

use super::handle::Asker;
use super::spec::Resources;
use super::{ContainerError, ContainerRecord, Parts, bundle, oci, stop, tell};

/// Puts `change` into force and returns all limits that hold then. What a client asks for, plugins
/// may change before.
pub async fn update(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    change: Resources,
    by: Asker,
) -> Result<Resources, ContainerError> {
    let operation = parts.operations.begin("update container", record.id);
    let asks = by == Asker::Client && parts.plugins.are_there();
    let change = if asks {
        operation.step("plugins");
        let wanted = tell::resources(&change);
        let wanted = parts.plugins.update_container(tell::container(parts, record), wanted).await;
        tell::change(&wanted.map_err(ContainerError::Plugins)?)?
    } else {
        change
    };
    let changed = force(parts, record, &change, &operation).await?;
    if asks {
        operation.step("plugins");
        let updated = Some(changed.clone());
        let record = ContainerRecord { updated, ..record.clone() };
        parts.plugins.post_update_container(tell::container(parts, &record)).await;
    }
    Ok(changed)
}

async fn force(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    change: &Resources,
    operation: &Operation,
) -> Result<Resources, ContainerError> {
    let merged = merged(record.resources(), change);
    let wanted = wanted(&merged, change);
    let oci = limits(parts, record, &wanted)?;
    operation.step("memory in use");
    check_usage(parts, record, wanted.memory_limit_bytes).await?;
    operation.step("note limits");
    let noted = blocking({
        let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
        let more: Vec<String> = wanted.unified.keys().cloned().collect();
        move || cgroups.limits(&group, &more)
    })
    .await;
    let done = apply(parts, record, &wanted, oci, operation).await;
    if done.is_err() {
        operation.step("put back");
        put_back(record, noted).await;
    }
    done.map(|()| merged)
}

/// The limits in force after `change`. Swap is counted together with memory, so a new memory limit
/// alone keeps the amount of swap beyond it.
fn merged(now: &Resources, change: &Resources) -> Resources {
    let number = |now: i64, new: i64| if new == 0 { now } else { new };
    let text = |now: &str, new: &str| if new.is_empty() { now } else { new }.to_owned();
    let memory = number(now.memory_limit_bytes, change.memory_limit_bytes);
    let swap = match (now.memory_limit_bytes, now.memory_swap_limit_bytes) {
        _ if change.memory_swap_limit_bytes != 0 => change.memory_swap_limit_bytes,
        (_, swap) if swap > 0 && memory < 0 => -1,
        (limit, swap) if swap > 0 && limit > 0 => memory.saturating_add(swap - limit),
        (_, swap) => swap,
    };
    let mut hugepages = now.hugepages.clone();
    hugepages.extend(change.hugepages.clone());
    let mut unified = now.unified.clone();
    unified.extend(change.unified.clone());
    Resources {
        cpu_period_us: number(now.cpu_period_us, change.cpu_period_us),
        cpu_quota_us: number(now.cpu_quota_us, change.cpu_quota_us),
        cpu_shares: number(now.cpu_shares, change.cpu_shares),
        memory_limit_bytes: memory,
        memory_swap_limit_bytes: swap,
        oom_score_adj: now.oom_score_adj,
        cpuset_cpus: text(&now.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: text(&now.cpuset_mems, &change.cpuset_mems),
        hugepages,
        unified,
    }
}

/// What has to be set for `change`: limits that the kernel or a runtime takes only as a pair come
/// as a pair.
fn wanted(merged: &Resources, change: &Resources) -> Resources {
    let either = |one: i64, other: i64, value: i64| if one == 0 && other == 0 { 0 } else { value };
    let cpu = |value| either(change.cpu_period_us, change.cpu_quota_us, value);
    let memory = |value| either(change.memory_limit_bytes, change.memory_swap_limit_bytes, value);
    Resources {
        cpu_period_us: cpu(merged.cpu_period_us),
        cpu_quota_us: cpu(merged.cpu_quota_us),
        memory_limit_bytes: memory(merged.memory_limit_bytes),
        memory_swap_limit_bytes: memory(merged.memory_swap_limit_bytes),
        oom_score_adj: 0,
        ..change.clone()
    }
}

/// Checks the limits against this host, in the words of OCI.
fn limits(
    parts: &Parts,
    record: &ContainerRecord,
    wanted: &Resources,
) -> Result<LinuxResources, ContainerError> {
    let runtime = parts.runtime(&record.handler)?;
    let mut warnings = Vec::new();
    let facts = bundle::facts(parts, &runtime.features());
    let limits = oci::limits(wanted, &facts, &mut warnings)
        .map_err(|source| ContainerError::spec(record.spec.name.clone(), source))?;
    for warning in warnings {
        tracing::warn!(container = %record.id, warning, "limits are not changed as asked");
    }
    Ok(limits)
}

/// A limit below what is used would make the kernel kill something in the container.
async fn check_usage(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    limit: i64,
) -> Result<(), ContainerError> {
    let Ok(wanted) = u64::try_from(limit) else { return Ok(()) };
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    let used = blocking(move || cgroups.memory_in_use(&group)).await;
    let id = record.id;
    match used.map_err(|source| ContainerError::Cgroup { id, source })? {
        Some(used) if wanted != 0 && wanted < used => {
            Err(ContainerError::BelowUsage { id, limit, used })
        }
        _ => Ok(()),
    }
}

async fn apply(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    wanted: &Resources,
    mut oci: LinuxResources,
    operation: &Operation,
) -> Result<(), ContainerError> {
    let id = record.id;
    // Written below, whatever the runtime makes of them.
    oci.set_hugepage_limits(None).set_unified(None);
    if oci != bare() {
        operation.step("runtime update");
        let file = parts.layout.bundle(&id).join("update.json");
        blocking({
            let file = file.clone();
            move || write(&file, &oci)
        })
        .await?;
        let updated = parts.runtime(&record.handler)?.update(&id, &file, ended(record)).await;
        blocking(move || fs::remove_file(file).ok()).await;
        updated.map_err(|source| ContainerError::Update { id, source })?;
    }
    operation.step("control group");
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    let (pages, unified) = (wanted.hugepages.clone(), wanted.unified.clone());
    let hugetlb = parts.host.cgroups.controller("hugetlb").is_some();
    let pages = if hugetlb { pages } else { BTreeMap::new() };
    blocking(move || {
        pages.iter().try_for_each(|(size, bytes)| cgroups.limit_pages(&group, size, *bytes))?;
        unified.iter().try_for_each(|(file, value)| cgroups.set(&group, file, value))
    })
    .await
    .map_err(|source| ContainerError::Cgroup { id, source })
}

/// Waits for the end of the container's process: a runtime that hangs must not hold up what comes
/// after it. One that cannot be looked for is left to the runtime's deadline.
async fn ended(record: &ContainerRecord) {
    match stop::find(record) {
        Ok(Some(process)) => {
            if process.ended().await.is_err() {
                std::future::pending().await
            }
        }
        Ok(None) => {}
        Err(_) => std::future::pending().await,
    }
}

/// No limit at all.
fn bare() -> LinuxResources {
    let mut bare = LinuxResources::default();
    bare.set_devices(None);
    bare
}

fn write(file: &Path, limits: &LinuxResources) -> Result<(), ContainerError> {
    let text = serde_json::to_vec(limits).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(file, text)).map_err(|source| ContainerError::File {
        action: "write",
        path: file.to_owned(),
        source,
    })
}

async fn put_back(record: &ContainerRecord, noted: Limits) {
    if let Err(error) = blocking(move || noted.put_back()).await {
        let error = crate::error::chain(&error);
        tracing::error!(container = %record.id, error, "limits are not as they were");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_a_limit_as_it_is_and_swap_beyond_memory_stays() {
        let now = Resources {
            cpu_quota_us: 50_000,
            cpu_period_us: 100_000,
            memory_limit_bytes: 64 << 20,
            memory_swap_limit_bytes: 80 << 20,
            oom_score_adj: 500,
            cpuset_cpus: "0".to_owned(),
            ..Resources::default()
        };
        assert_eq!(merged(&now, &Resources::default()), now);
        assert_eq!(wanted(&now, &Resources::default()), Resources::default());

        let more = Resources { memory_limit_bytes: 128 << 20, ..Resources::default() };
        let after = merged(&now, &more);
        assert_eq!(after.memory_swap_limit_bytes, 144 << 20);
        let set = wanted(&after, &more);
        assert_eq!(set.memory_swap_limit_bytes, 144 << 20, "only together with memory");
        assert_eq!((set.cpu_quota_us, set.cpuset_cpus.as_str()), (0, ""));

        let all = Resources { memory_limit_bytes: -1, ..Resources::default() };
        assert_eq!(merged(&now, &all).memory_swap_limit_bytes, -1);

        let quota = Resources { cpu_quota_us: -1, oom_score_adj: 7, ..Resources::default() };
        let after = merged(&now, &quota);
        assert_eq!((after.cpu_quota_us, after.oom_score_adj), (-1, 500));
        assert_eq!(wanted(&after, &quota).cpu_period_us, 100_000);
    }
}
