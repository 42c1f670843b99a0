//! Limits, both ways.

use std::collections::BTreeMap;

use super::{Field, Invalid, Mistakes, shown, text};
use crate::container::spec::Resources;
use crate::cri::pb;
use crate::pod::PodResources;

/// Below this the runtime's own init does not fit into the control group, and the container would
/// die of it before its program runs.
const MIN_MEMORY: i64 = 6 << 20;
/// Range of `cpu.shares` (Linux, sched/core).
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// Range of the CFS period in microseconds (Linux, sched/core).
const PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Smallest CFS quota in microseconds (Linux, sched/core).
const MIN_QUOTA: i64 = 1_000;
/// Largest CFS quota in microseconds that the kernel can count in nanoseconds.
const MAX_QUOTA: i64 = i64::MAX / 1_000;
/// Range of `/proc/PID/oom_score_adj` (proc(5)).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1_000..=1_000;
/// Processors and NUMA nodes are numbered below this on any kernel that is built today.
const MAX_CPU: u32 = 8_192;
/// Longest CPU list: every second processor of the largest machine.
const MAX_CPUSET: usize = 32 * 1024;
/// No architecture has more sizes of huge pages.
const MAX_HUGEPAGES: usize = 16;
/// Files of one control group that a request may set.
const MAX_UNIFIED: usize = 256;
/// Longest value of one of them; a write to a control group takes at most a page.
const MAX_UNIFIED_VALUE: usize = 4_096;

/// What the limits are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// One container: the kernel's own ranges apply.
    Container,
    /// A change of one container's limits: zero leaves one as it is.
    Update,
    /// A pod: sums that are not given to the kernel.
    Pod,
}

/// Checks limits. Absent ones are all zero: not asked.
pub(super) fn resources(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: Option<pb::LinuxContainerResources>,
    of: Of,
) -> Resources {
    let Some(r) = requested else { return Resources::default() };
    match of {
        Of::Container | Of::Update => {
            cpu(mistakes, field, &r);
            memory(mistakes, field, &r, of);
        }
        Of::Pod => sums(mistakes, field, &r),
    }
    if !OOM_SCORE_ADJ.contains(&r.oom_score_adj) {
        let problem = format_args!("{} is not within -1000 and 1000", r.oom_score_adj);
        mistakes.add(&field.at("oom_score_adj"), problem);
    }
    cpu_list(mistakes, &field.at("cpuset_cpus"), &r.cpuset_cpus);
    cpu_list(mistakes, &field.at("cpuset_mems"), &r.cpuset_mems);
    unified(mistakes, &field.at("unified"), &r.unified);
    Resources {
        hugepages: hugepages(mistakes, &field.at("hugepage_limits"), &r.hugepage_limits),
        cpu_period_us: r.cpu_period,
        cpu_quota_us: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_bytes: r.memory_limit_in_bytes,
        memory_swap_limit_bytes: r.memory_swap_limit_in_bytes,
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        unified: r.unified,
    }
}

/// The limits of an UpdateContainerResources request; zero = leave as it is.
pub fn update(linux: Option<pb::LinuxContainerResources>) -> Result<Resources, Invalid> {
    let mut mistakes = Mistakes::default();
    let field = Field::root("linux");
    if linux.is_none() {
        mistakes.add(&field, "is missing");
    }
    let resources = resources(&mut mistakes, &field, linux, Of::Update);
    mistakes.finish(resources)
}

/// What an UpdatePodSandboxResources request tells of a pod.
pub fn update_pod(
    overhead: Option<pb::LinuxContainerResources>,
    sums: Option<pb::LinuxContainerResources>,
) -> Result<PodResources, Invalid> {
    let mut mistakes = Mistakes::default();
    let resources = PodResources {
        overhead: resources(&mut mistakes, &Field::root("overhead"), overhead, Of::Pod),
        resources: resources(&mut mistakes, &Field::root("resources"), sums, Of::Pod),
    };
    mistakes.finish(resources)
}

fn cpu(mistakes: &mut Mistakes, field: &Field<'_>, r: &pb::LinuxContainerResources) {
    if r.cpu_shares != 0 && !SHARES.contains(&r.cpu_shares) {
        let problem = format_args!("{} is not within 2 and 262144", r.cpu_shares);
        mistakes.add(&field.at("cpu_shares"), problem);
    }
    if r.cpu_period != 0 && !PERIOD.contains(&r.cpu_period) {
        let problem = format_args!("{} is not within 1000 and 1000000", r.cpu_period);
        mistakes.add(&field.at("cpu_period"), problem);
    }
    if !matches!(r.cpu_quota, 0 | -1 | MIN_QUOTA..=MAX_QUOTA) {
        let problem = format_args!("{} is neither -1 nor at least 1000", r.cpu_quota);
        mistakes.add(&field.at("cpu_quota"), problem);
    }
}

fn memory(mistakes: &mut Mistakes, field: &Field<'_>, r: &pb::LinuxContainerResources, of: Of) {
    let (limit, swap) = (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes);
    if limit < -1 || (1..MIN_MEMORY).contains(&limit) {
        let problem = format_args!("{limit} is neither -1 nor at least {MIN_MEMORY}");
        mistakes.add(&field.at("memory_limit_in_bytes"), problem);
    }
    let here = field.at("memory_swap_limit_in_bytes");
    if swap < -1 {
        mistakes.add(&here, format_args!("{swap} is neither -1 nor a size"));
    } else if swap > 0 && (limit < 0 || limit == 0 && of != Of::Update) {
        mistakes.add(&here, "is given without a memory limit");
    } else if swap > 0 && swap < limit {
        mistakes
            .add(&here, format_args!("{swap} is less than the memory limit, which it includes"));
    }
}

fn sums(mistakes: &mut Mistakes, field: &Field<'_>, r: &pb::LinuxContainerResources) {
    for (name, value, least) in [
        ("cpu_period", r.cpu_period, 0),
        ("cpu_quota", r.cpu_quota, -1),
        ("cpu_shares", r.cpu_shares, 0),
        ("memory_limit_in_bytes", r.memory_limit_in_bytes, -1),
        ("memory_swap_limit_in_bytes", r.memory_swap_limit_in_bytes, -1),
    ] {
        if value < least {
            mistakes.add(&field.at(name), format_args!("{value} is negative"));
        }
    }
}

/// A list like `0-3,5` (cpuset(7), "List format").
fn cpu_list(mistakes: &mut Mistakes, field: &Field<'_>, list: &str) {
    let number = |text: &str| -> Option<u32> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|n| *n < MAX_CPU)
    };
    let range_ok = |range: &str| match range.split_once('-') {
        Some((first, last)) => {
            number(first).zip(number(last)).is_some_and(|(first, last)| first <= last)
        }
        None => number(range).is_some(),
    };
    if !list.is_empty() && (list.len() > MAX_CPUSET || !list.split(',').all(range_ok)) {
        mistakes.add(field, format_args!("{} is not a list like 0-3,5", shown(list)));
    }
}

fn hugepages(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    limits: &[pb::HugepageLimit],
) -> BTreeMap<String, u64> {
    text::at_most(mistakes, field, limits, MAX_HUGEPAGES);
    let mut checked = BTreeMap::new();
    for (n, limit) in limits.iter().take(MAX_HUGEPAGES).enumerate() {
        let here = field.index(n);
        let size = &limit.page_size;
        if !is_page_size(size) {
            mistakes.add(&here.at("page_size"), format_args!("{} is no page size", shown(size)));
        } else if limit.limit > i64::MAX as u64 {
            mistakes.add(&here.at("limit"), "is more than the kernel can count");
        } else if checked.insert(size.clone(), limit.limit).is_some() {
            mistakes.add(&here, format_args!("limits pages of {size} a second time"));
        }
    }
    checked
}

/// `64KB`, `2MB`, `1GB`: what the kernel and the OCI runtimes call the sizes.
fn is_page_size(text: &str) -> bool {
    let Some(unit) = ["KB", "MB", "GB"].into_iter().find(|unit| text.ends_with(unit)) else {
        return false;
    };
    let number = &text[..text.len() - unit.len()];
    let canonical = !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    canonical && number.parse::<u16>().is_ok_and(|n| n < 1024 && n.is_power_of_two())
}

fn unified(mistakes: &mut Mistakes, field: &Field<'_>, files: &BTreeMap<String, String>) {
    if files.len() > MAX_UNIFIED {
        mistakes.add(field, format_args!("has {} entries", files.len()));
        return;
    }
    for (file, value) in files {
        if !is_controller_file(file) {
            mistakes.add(&field.key(file), "is not a file of a control group's controller");
        }
        text::plain(mistakes, &field.key(file), value, MAX_UNIFIED_VALUE);
    }
}

/// `memory.high` and the like. Those of the group itself (`cgroup.procs`, `cgroup.kill`) are not
/// limits, and moving processes is nobody's business but the runtime's.
fn is_controller_file(name: &str) -> bool {
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    name.len() <= 255
        && name.split_once('.').is_some_and(|(controller, file)| {
            word(controller) && controller != "cgroup" && file.split('.').all(word)
        })
}

/// Limits as the wire has them.
pub fn resources_into_pb(resources: &Resources) -> pb::LinuxContainerResources {
    let r = resources.clone();
    let hugepage = |(page_size, limit)| pb::HugepageLimit { page_size, limit };
    pb::LinuxContainerResources {
        cpu_period: r.cpu_period_us,
        cpu_quota: r.cpu_quota_us,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_limit_bytes,
        oom_score_adj: r.oom_score_adj,
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        hugepage_limits: r.hugepages.into_iter().map(hugepage).collect(),
        unified: r.unified,
        memory_swap_limit_in_bytes: r.memory_swap_limit_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wire = pb::LinuxContainerResources;

    fn fails(change: impl FnOnce(&mut Wire)) -> Option<String> {
        let mut wire = Wire::default();
        change(&mut wire);
        let mut mistakes = Mistakes::default();
        resources(&mut mistakes, &Field::root("linux"), Some(wire), Of::Container);
        mistakes.finish(()).err().map(|error| error.to_string())
    }

    #[test]
    fn all_limits_survive_the_way_there_and_back() {
        let wire = Wire {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 2,
            memory_limit_in_bytes: MIN_MEMORY,
            oom_score_adj: -997,
            cpuset_cpus: "0-3,5".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![
                pb::HugepageLimit { page_size: "1GB".to_owned(), limit: 0 },
                pb::HugepageLimit { page_size: "2MB".to_owned(), limit: 4 << 20 },
            ],
            unified: BTreeMap::from([("memory.high".to_owned(), "max".to_owned())]),
            memory_swap_limit_in_bytes: MIN_MEMORY,
        };
        assert_eq!(resources_into_pb(&update(Some(wire.clone())).unwrap()), wire);
    }

    #[test]
    fn numbers_outside_the_kernels_ranges_are_refused_by_field() {
        type Case = (&'static str, fn(&mut Wire));
        let bad: [Case; 17] = [
            ("cpu_shares", |w| w.cpu_shares = -1),
            ("cpu_shares", |w| w.cpu_shares = 1),
            ("cpu_shares", |w| w.cpu_shares = i64::MAX),
            ("cpu_quota", |w| w.cpu_quota = 999),
            ("cpu_quota", |w| w.cpu_quota = -2),
            ("cpu_quota", |w| w.cpu_quota = i64::MAX),
            ("cpu_period", |w| w.cpu_period = 999),
            ("cpu_period", |w| w.cpu_period = 1_000_001),
            ("memory_limit_in_bytes", |w| w.memory_limit_in_bytes = 1),
            ("memory_limit_in_bytes", |w| w.memory_limit_in_bytes = -2),
            ("memory_swap_limit_in_bytes", |w| w.memory_swap_limit_in_bytes = 1 << 30),
            ("memory_swap_limit_in_bytes", |w| {
                w.memory_limit_in_bytes = 2 << 30;
                w.memory_swap_limit_in_bytes = 1 << 30;
            }),
            ("oom_score_adj", |w| w.oom_score_adj = 1_001),
            ("oom_score_adj", |w| w.oom_score_adj = -1_001),
            ("cpuset_cpus", |w| w.cpuset_cpus = "9999".to_owned()),
            ("cpuset_cpus", |w| w.cpuset_cpus = "0-".to_owned()),
            ("cpuset_mems", |w| w.cpuset_mems = "0-3,x".to_owned()),
        ];
        for (n, (field, change)) in bad.into_iter().enumerate() {
            let error = fails(change).unwrap_or_else(|| panic!("case {n} is accepted"));
            assert!(error.starts_with(&format!("linux.{field}: ")), "{n}: {error}");
        }
        assert_eq!(update(None).unwrap_err().to_string(), "linux: is missing");
        let bad = Wire { cpu_shares: -1, ..Wire::default() };
        let refused = update_pod(None, Some(bad)).unwrap_err().to_string();
        assert!(refused.starts_with("resources.cpu_shares: "), "{refused}");
        let sum = Wire { cpu_shares: 1 << 20, ..Wire::default() };
        assert_eq!(update_pod(None, Some(sum)).unwrap().resources.cpu_shares, 1 << 20);
        let swap_alone = Wire { memory_swap_limit_in_bytes: 1 << 30, ..Wire::default() };
        assert!(update(Some(swap_alone)).is_ok());
    }

    #[test]
    fn page_sizes_are_powers_of_two_and_given_once() {
        let limit = |size: &str| pb::HugepageLimit { page_size: size.to_owned(), limit: 1 };
        for bad in ["3MB", "2", "MB", "02MB", "2mb", "2MiB", "+2MB", "1024MB", "-2MB", "2TB", "äB"]
        {
            assert!(fails(|w| w.hugepage_limits = vec![limit(bad)]).is_some(), "{bad}");
        }
        for good in ["64KB", "2MB", "512MB", "16GB"] {
            assert_eq!(fails(|w| w.hugepage_limits = vec![limit(good)]), None);
        }
        assert!(fails(|w| w.hugepage_limits = vec![limit("2MB"), limit("2MB")]).is_some());
    }

    #[test]
    fn unified_files_are_those_of_controllers_with_one_line_each() {
        let set = |key: &str, value: &str| {
            fails(|w| w.unified = BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert_eq!(set("memory.swap.max", "0"), None);
        assert_eq!(set("hugetlb.2MB.max", "max"), None);
        for bad in
            ["../x", "memory.max\n1", "cgroup.procs", "memory", "", ".", "memory..x", "a/b.c"]
        {
            assert!(set(bad, "1").is_some(), "{bad:?}");
        }
        assert!(set("memory.max", "1\n2").is_some());
    }
}
