//! cgroup limits, for a new container and for updating a running one.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{HostFacts, SpecError};
use crate::container::spec::Resources;

/// Range of `cpu.shares`, as the kernel takes it.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

/// Smallest CFS quota and period, and largest period, in microseconds (kernel document
/// "CFS Bandwidth Control").
const MIN_CFS_US: i64 = 1_000;
const MAX_CFS_US: i64 = 1_000_000;

/// Smallest memory limit in bytes: below, not even the runtime's own start fits, and the failure
/// would be an obscure one.
const MIN_MEMORY: i64 = 6 << 20;

/// Page sizes as the kernel names them in files of the hugetlb controller.
const PAGE_UNITS: [&str; 3] = ["KB", "MB", "GB"];

/// The limits of a request in the words of OCI; what was not asked is left out, so that an update
/// changes only what it names. Device rules are not limits and are not set here.
///
/// # Errors
/// [`SpecError::Resource`] for a value out of range.
pub fn limits(
    resources: &Resources,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<LinuxResources, SpecError> {
    let mut oci = LinuxResources::default();
    oci.set_cpu(cpu(resources)?);
    oci.set_memory(memory(resources, host, warnings)?);
    oci.set_hugepage_limits(hugepages(resources, host, warnings)?);
    if !resources.unified.is_empty() {
        check_unified(resources, host)?;
        let unified = resources.unified.iter();
        oci.set_unified(Some(unified.map(|(key, value)| (key.clone(), value.clone())).collect()));
    }
    Ok(oci)
}

fn refused(field: &'static str, value: impl ToString, problem: &'static str) -> SpecError {
    SpecError::Resource { field, value: value.to_string(), problem }
}

fn cpu(resources: &Resources) -> Result<Option<LinuxCpu>, SpecError> {
    let Resources { cpu_shares: shares, cpu_quota_us: quota, cpu_period_us: period, .. } =
        *resources;
    if shares != 0 && !SHARES.contains(&shares) {
        return Err(refused("cpu_shares", shares, "is not between 2 and 262144"));
    }
    if !matches!(quota, -1 | 0) && quota < MIN_CFS_US {
        return Err(refused("cpu_quota", quota, "is neither -1 nor at least 1000 microseconds"));
    }
    if period != 0 && !(MIN_CFS_US..=MAX_CFS_US).contains(&period) {
        return Err(refused("cpu_period", period, "is not between 1000 and 1000000 microseconds"));
    }
    let lists = [("cpuset_cpus", &resources.cpuset_cpus), ("cpuset_mems", &resources.cpuset_mems)];
    for (field, list) in lists {
        if !list.is_empty() && !is_number_list(list) {
            return Err(refused(field, list, "is not a list of numbers and ranges"));
        }
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(u64::try_from(shares).ok().filter(|shares| *shares != 0));
    cpu.set_quota((quota != 0).then_some(quota));
    cpu.set_period(u64::try_from(period).ok().filter(|period| *period != 0));
    cpu.set_cpus(non_empty(&resources.cpuset_cpus));
    cpu.set_mems(non_empty(&resources.cpuset_mems));
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a text is a list as in cpuset(7), "List format": `0-3,5`.
fn is_number_list(text: &str) -> bool {
    // Four digits: more CPUs or nodes than any kernel is built for.
    let number = |text: &str| {
        let plain = (1..=4).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| plain)
    };
    text.trim_end_matches('\n').split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
        None => number(part).is_some(),
    })
}

fn memory(
    resources: &Resources,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = resources.memory_limit_bytes;
    let swap = resources.memory_swap_limit_bytes;
    if !matches!(limit, -1 | 0) && limit < MIN_MEMORY {
        return Err(refused("memory_limit_in_bytes", limit, "is neither -1 nor at least 6 MiB"));
    }
    let field = "memory_swap_limit_in_bytes";
    if swap < -1 {
        return Err(refused(field, swap, "is negative"));
    }
    if swap > 0 && limit > 0 && swap < limit {
        return Err(refused(field, swap, "is less than memory_limit_in_bytes, which it includes"));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit((limit != 0).then_some(limit));
    if swap != 0 {
        if host.swap_accounting {
            memory.set_swap(Some(swap));
        } else {
            warnings.push(format!("{field} {swap} left out: this kernel does not count swap"));
        }
    }
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn hugepages(
    resources: &Resources,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let field = "hugepage_limits";
    let mut limits = Vec::new();
    for (size, &bytes) in &resources.hugepages {
        if !is_page_size(size) {
            return Err(refused(field, size, "is not a page size such as 2MB"));
        }
        let limit = i64::try_from(bytes).map_err(|_| refused(field, bytes, "is too large"))?;
        // The kubelet sends a zero for every size there is: asked for, and enforced where the
        // controller exists.
        if host.hugetlb {
            let mut entry = LinuxHugepageLimit::default();
            entry.set_page_size(size.clone());
            entry.set_limit(limit);
            limits.push(entry);
        } else if limit != 0 {
            warnings.push(format!("{field} {size} left out: there is no hugetlb controller"));
        }
    }
    Ok((!limits.is_empty()).then_some(limits))
}

/// A power of two and a unit.
fn is_page_size(text: &str) -> bool {
    let number = PAGE_UNITS.iter().find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| {
        number.bytes().all(|c| c.is_ascii_digit())
            && !number.starts_with('0')
            && number.parse::<u64>().is_ok_and(u64::is_power_of_two)
    })
}

/// Files of the unified hierarchy are written as given, so their names must be those of a
/// controller: `cgroup.procs` or `../x` would reach other containers.
fn check_unified(resources: &Resources, host: &HostFacts) -> Result<(), SpecError> {
    let field = "unified";
    for (key, value) in &resources.unified {
        if !host.cgroup_v2 {
            return Err(refused(field, key, "needs the unified cgroup hierarchy"));
        }
        let is_file = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        let controller = key.split_once('.').map(|(controller, _)| controller);
        let named = controller.is_some_and(|name| !name.is_empty() && name != "cgroup");
        if !named || !key.bytes().all(is_file) || key.contains("..") {
            return Err(refused(field, key, "is not a file of a controller"));
        }
        if value.contains('\0') {
            return Err(refused(field, key, "has a value with a NUL byte"));
        }
    }
    Ok(())
}
