//! The metrics of containers that Kubernetes knows from cAdvisor, made of samples. Pure.
//!
//! Values are whole numbers on the wire, so times are whole seconds. A metric whose figure the
//! kernel does not offer is left out, but for those that every container has by cAdvisor's custom:
//! they are 0.

use crate::cgroup::counters::Reading;
use crate::container::ContainerRecord;

use super::{ContainerSample, Interface, LayerUsage, PodSample, Room};

mod descriptors;

pub use descriptors::{ALL, Descriptor, MetricKind};

use descriptors as d;

/// cAdvisor counts and limits nothing above this: it is what "no limit" looks like.
const UNLIMITED: i64 = 1 << 62;

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// What was measured.
    pub descriptor: &'static Descriptor,
    /// Values of the descriptor's own labels, in their order.
    pub labels: Vec<String>,
    /// The figure.
    pub value: u64,
}

/// Collects metrics.
#[derive(Default)]
struct Metrics(Vec<Metric>);

impl Metrics {
    fn add(&mut self, descriptor: &'static Descriptor, value: u64) {
        self.add_with(descriptor, &[], value);
    }

    /// Leaves out what is absent.
    fn add_some(&mut self, descriptor: &'static Descriptor, value: Option<u64>) {
        if let Some(value) = value {
            self.add(descriptor, value);
        }
    }

    fn add_with(&mut self, descriptor: &'static Descriptor, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), descriptor.labels.len(), "{}", descriptor.name);
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.push(Metric { descriptor, labels, value });
    }
}

/// The metrics of a running container.
pub fn of_container(
    record: &ContainerRecord,
    sample: &ContainerSample,
    layer: Option<LayerUsage>,
    room: &Room,
) -> Vec<Metric> {
    let mut metrics = Metrics::default();
    cpu(&mut metrics, &sample.reading);
    memory(&mut metrics, &sample.reading);
    pressure(&mut metrics, &sample.reading);
    hugepages(&mut metrics, &sample.reading);
    disk(&mut metrics, layer, room);
    disk_traffic(&mut metrics, sample);
    processes(&mut metrics, sample);
    spec(&mut metrics, record);
    metrics.add(&d::LAST_SEEN, seconds_of(sample.at_ns));
    metrics.add(&d::START_TIME, seconds_of(record.started_at_ns));
    metrics.0
}

/// The metrics of a pod's own control group; none if it has none.
pub fn of_pod(sample: &PodSample, created_at_ns: i64) -> Vec<Metric> {
    let mut metrics = Metrics::default();
    if sample.group.is_some() {
        cpu(&mut metrics, &sample.reading);
        memory(&mut metrics, &sample.reading);
        pressure(&mut metrics, &sample.reading);
        hugepages(&mut metrics, &sample.reading);
        metrics.add(&d::PROCESSES, sample.processes);
        metrics.add_some(&d::THREADS, sample.reading.tasks.threads);
        metrics.add(&d::LAST_SEEN, seconds_of(sample.at_ns));
        metrics.add(&d::START_TIME, seconds_of(created_at_ns));
    }
    metrics.0
}

/// The metrics of a pod's interfaces.
pub fn of_network(interfaces: &[Interface]) -> Vec<Metric> {
    let mut metrics = Metrics::default();
    for Interface { name, received, sent } in interfaces {
        for (descriptor, value) in [
            (&d::RECEIVED_BYTES, received.bytes),
            (&d::RECEIVED_PACKETS, received.packets),
            (&d::RECEIVE_ERRORS, received.errors),
            (&d::RECEIVED_DROPPED, received.dropped),
            (&d::SENT_BYTES, sent.bytes),
            (&d::SENT_PACKETS, sent.packets),
            (&d::SEND_ERRORS, sent.errors),
            (&d::SENT_DROPPED, sent.dropped),
        ] {
            metrics.add_with(descriptor, &[name], value);
        }
    }
    metrics.0
}

fn cpu(metrics: &mut Metrics, Reading { cpu, .. }: &Reading) {
    let seconds = |ns: Option<u64>| ns.map(|ns| ns / 1_000_000_000);
    if let Some(usage) = seconds(cpu.usage_ns) {
        metrics.add_with(&d::CPU_USAGE, &["total"], usage);
    }
    metrics.add_some(&d::CPU_USER, seconds(cpu.user_ns));
    metrics.add_some(&d::CPU_SYSTEM, seconds(cpu.system_ns));
    metrics.add_some(&d::CPU_PERIODS, cpu.periods);
    metrics.add_some(&d::CPU_THROTTLED_PERIODS, cpu.throttled_periods);
    metrics.add_some(&d::CPU_THROTTLED, seconds(cpu.throttled_ns));
}

fn memory(metrics: &mut Metrics, Reading { memory, swap, .. }: &Reading) {
    if memory.usage_bytes.is_none() {
        return;
    }
    for (descriptor, value) in [
        (&d::MEMORY_USAGE, memory.usage_bytes),
        (&d::MEMORY_MAX_USAGE, memory.max_usage_bytes),
        (&d::MEMORY_WORKING_SET, memory.working_set_bytes),
        (&d::MEMORY_CACHE, memory.cache_bytes),
        (&d::MEMORY_RSS, memory.rss_bytes),
        (&d::MEMORY_MAPPED_FILE, memory.mapped_file_bytes),
        (&d::MEMORY_KERNEL, memory.kernel_bytes),
        (&d::MEMORY_SWAP, swap.usage_bytes),
        (&d::MEMORY_LIMIT_HITS, memory.limit_hits),
        (&d::OOM_EVENTS, memory.oom_kills),
    ] {
        metrics.add(descriptor, value.unwrap_or(0));
    }
    for (kind, value) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)]
    {
        for scope in ["container", "hierarchy"] {
            metrics.add_with(&d::MEMORY_FAILURES, &[kind, scope], value.unwrap_or(0));
        }
    }
}

fn pressure(metrics: &mut Metrics, Reading { pressure, .. }: &Reading) {
    for (waiting, stalled, psi) in [
        (&d::PRESSURE_CPU_WAITING, &d::PRESSURE_CPU_STALLED, &pressure.cpu),
        (&d::PRESSURE_MEMORY_WAITING, &d::PRESSURE_MEMORY_STALLED, &pressure.memory),
        (&d::PRESSURE_IO_WAITING, &d::PRESSURE_IO_STALLED, &pressure.io),
    ] {
        let Some(psi) = psi else { continue };
        metrics.add(waiting, psi.some.total_us / 1_000_000);
        metrics.add_some(stalled, psi.full.map(|full| full.total_us / 1_000_000));
    }
}

fn hugepages(metrics: &mut Metrics, Reading { hugepages, .. }: &Reading) {
    for pages in hugepages {
        metrics.add_with(&d::HUGEPAGES_USAGE, &[&pages.size], pages.usage_bytes);
        let most = pages.max_usage_bytes.unwrap_or(pages.usage_bytes);
        metrics.add_with(&d::HUGEPAGES_MAX_USAGE, &[&pages.size], most);
    }
}

fn disk(metrics: &mut Metrics, layer: Option<LayerUsage>, room: &Room) {
    let device = [room.device.as_str()];
    metrics.add_with(&d::FS_USAGE, &device, layer.map_or(0, |layer| layer.used_bytes));
    metrics.add_with(&d::FS_LIMIT, &device, room.bytes);
    metrics.add_with(&d::FS_INODES, &device, room.inodes);
    metrics.add_with(&d::FS_INODES_FREE, &device, room.inodes_free);
}

fn disk_traffic(metrics: &mut Metrics, sample: &ContainerSample) {
    for (device, io) in &sample.devices {
        metrics.add_with(&d::FS_READ_BYTES, &[device], io.read_bytes);
        metrics.add_with(&d::FS_READS, &[device], io.reads);
        metrics.add_with(&d::FS_WRITTEN_BYTES, &[device], io.written_bytes);
        metrics.add_with(&d::FS_WRITES, &[device], io.writes);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
            metrics.add_with(&d::DEVICE_USAGE, &[device, &major, &minor, operation], bytes);
        }
    }
}

fn processes(metrics: &mut Metrics, sample: &ContainerSample) {
    let tasks = &sample.reading.tasks;
    metrics.add(&d::PROCESSES, tasks.processes.unwrap_or(0));
    metrics.add(&d::THREADS, tasks.threads.unwrap_or(0));
    metrics.add(&d::THREADS_MAX, tasks.max_threads.unwrap_or(0));
    metrics.add(&d::DESCRIPTORS, sample.processes.descriptors);
    metrics.add(&d::SOCKETS, sample.processes.sockets);
    if let Some(most) = sample.processes.max_open_files {
        metrics.add_with(&d::ULIMITS, &["max_open_files"], most);
    }
}

fn spec(metrics: &mut Metrics, record: &ContainerRecord) {
    let resources = record.resources();
    let positive = |value: i64| u64::try_from(value).unwrap_or(0);
    let bytes = |value: i64| if value < UNLIMITED { positive(value) } else { 0 };
    let reserved = resources.unified.get("memory.min").and_then(|text| text.trim().parse().ok());
    metrics.add(&d::SPEC_CPU_PERIOD, positive(resources.cpu_period_us));
    metrics.add(&d::SPEC_CPU_SHARES, positive(resources.cpu_shares));
    if resources.cpu_quota_us > 0 {
        metrics.add(&d::SPEC_CPU_QUOTA, positive(resources.cpu_quota_us));
    }
    metrics.add(&d::SPEC_MEMORY_LIMIT, bytes(resources.memory_limit_bytes));
    metrics.add(&d::SPEC_MEMORY_SWAP_LIMIT, bytes(resources.memory_swap_limit_bytes));
    metrics.add(&d::SPEC_MEMORY_RESERVATION, bytes(reserved.unwrap_or(0)));
}

fn seconds_of(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or(0) / 1_000_000_000
}

#[cfg(test)]
mod tests;
