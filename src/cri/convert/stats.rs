//! Samples as the wire's statistics.

use std::path::Path;
use std::time::SystemTime;

use crate::cgroup::counters::{Memory, Psi, Reading, Stall};
use crate::container::ContainerRecord;
use crate::cri::pb;
use crate::network::INTERFACE;
use crate::pod::PodRecord;
use crate::stats::{ContainerSample, Interface, LayerUsage, PodSample};

use super::container::metadata_into_pb as container_metadata;
use super::pod::metadata_into_pb as pod_metadata;

/// A container's statistics. One that does not run has no sample, but a writable layer.
pub fn container_stats(
    record: &ContainerRecord,
    sample: Option<&ContainerSample>,
    layer: Option<(LayerUsage, &Path)>,
) -> pb::ContainerStats {
    let used = sample.map(|sample| Used {
        at_ns: sample.at_ns,
        reading: &sample.reading,
        nano_cores: sample.nano_cores,
    });
    let used = used.as_ref();
    pb::ContainerStats {
        attributes: Some(pb::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(container_metadata(&record.spec)),
            labels: record.spec.labels.clone(),
            annotations: record.spec.annotations.clone(),
        }),
        cpu: used.map(Used::cpu),
        memory: used.map(Used::memory),
        writable_layer: layer.map(|(usage, dir)| writable_layer(usage, dir)),
        swap: used.and_then(Used::swap),
        io: used.and_then(Used::io),
    }
}

/// A pod's statistics. One that is not ready has no sample.
pub fn pod_stats(
    record: &PodRecord,
    sample: Option<&PodSample>,
    containers: Vec<pb::ContainerStats>,
) -> pb::PodSandboxStats {
    let used = sample.map(|sample| Used {
        at_ns: sample.at_ns,
        reading: &sample.reading,
        nano_cores: sample.nano_cores,
    });
    let used = used.as_ref();
    pb::PodSandboxStats {
        attributes: Some(pb::PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(pod_metadata(&record.spec.key)),
            labels: record.spec.labels.clone(),
            annotations: record.spec.annotations.clone(),
        }),
        linux: Some(pb::LinuxPodSandboxStats {
            cpu: used.map(Used::cpu),
            memory: used.map(Used::memory),
            network: sample.and_then(network),
            process: sample.map(|sample| pb::ProcessUsage {
                timestamp: sample.at_ns,
                process_count: number(Some(sample.processes)),
            }),
            containers,
            io: used.and_then(Used::io),
        }),
        windows: None,
    }
}

/// What a container or a pod used at one moment.
struct Used<'a> {
    at_ns: i64,
    reading: &'a Reading,
    nano_cores: u64,
}

impl Used<'_> {
    fn cpu(&self) -> pb::CpuUsage {
        pb::CpuUsage {
            timestamp: self.at_ns,
            usage_core_nano_seconds: number(self.reading.cpu.usage_ns),
            usage_nano_cores: number(self.reading.cpu.usage_ns.map(|_| self.nano_cores)),
            psi: self.reading.pressure.cpu.as_ref().map(psi),
        }
    }

    fn memory(&self) -> pb::MemoryUsage {
        let memory = &self.reading.memory;
        pb::MemoryUsage {
            timestamp: self.at_ns,
            working_set_bytes: number(memory.working_set_bytes),
            available_bytes: number(available(memory)),
            usage_bytes: number(memory.usage_bytes),
            rss_bytes: number(memory.rss_bytes),
            page_faults: number(memory.page_faults),
            major_page_faults: number(memory.major_page_faults),
            psi: self.reading.pressure.memory.as_ref().map(psi),
        }
    }

    fn swap(&self) -> Option<pb::SwapUsage> {
        let swap = &self.reading.swap;
        let usage = swap.usage_bytes?;
        let available = swap.limit_bytes.map(|limit| limit.saturating_sub(usage));
        Some(pb::SwapUsage {
            timestamp: self.at_ns,
            swap_available_bytes: number(available),
            swap_usage_bytes: number(Some(usage)),
        })
    }

    fn io(&self) -> Option<pb::IoUsage> {
        let pressure = self.reading.pressure.io.as_ref()?;
        Some(pb::IoUsage { timestamp: self.at_ns, psi: Some(psi(pressure)) })
    }
}

/// Absent without a limit (CRI `MemoryUsage`).
fn available(memory: &Memory) -> Option<u64> {
    Some(memory.limit_bytes?.saturating_sub(memory.working_set_bytes?))
}

fn psi(psi: &Psi) -> pb::PsiStats {
    let data = |stall: Stall| pb::PsiData {
        total: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    pb::PsiStats { full: psi.full.map(data), some: Some(data(psi.some)) }
}

/// The interface that CNI gave the pod is its default one; without one there is no network of its
/// own to measure.
fn network(sample: &PodSample) -> Option<pb::NetworkUsage> {
    let default = sample.interfaces.iter().find(|interface| interface.name == INTERFACE)?;
    Some(pb::NetworkUsage {
        timestamp: sample.at_ns,
        default_interface: Some(interface(default)),
        interfaces: sample.interfaces.iter().map(interface).collect(),
    })
}

fn interface(interface: &Interface) -> pb::NetworkInterfaceUsage {
    pb::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(Some(interface.received.bytes)),
        rx_errors: number(Some(interface.received.errors)),
        tx_bytes: number(Some(interface.sent.bytes)),
        tx_errors: number(Some(interface.sent.errors)),
    }
}

fn writable_layer(usage: LayerUsage, dir: &Path) -> pb::FilesystemUsage {
    let since = usage.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    pb::FilesystemUsage {
        timestamp: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        fs_id: Some(pb::FilesystemIdentifier { mountpoint: dir.display().to_string() }),
        used_bytes: number(Some(usage.used_bytes)),
        inodes_used: number(Some(usage.inodes_used)),
    }
}

fn number(value: Option<u64>) -> Option<pb::UInt64Value> {
    value.map(|value| pb::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::counters::{Cpu, Pressure, Swap};

    #[test]
    fn what_the_kernel_does_not_offer_is_absent_and_not_zero() {
        let reading = Reading {
            cpu: Cpu { usage_ns: Some(5), ..Cpu::default() },
            memory: Memory { working_set_bytes: Some(7), ..Memory::default() },
            ..Reading::default()
        };
        let used = Used { at_ns: 1, reading: &reading, nano_cores: 3 };
        assert_eq!(used.cpu().usage_nano_cores, number(Some(3)));
        assert_eq!(used.cpu().psi, None);
        assert_eq!(used.memory().available_bytes, None);
        assert_eq!(used.memory().usage_bytes, None);
        assert_eq!((used.swap(), used.io()), (None, None));
    }

    #[test]
    fn limits_leave_what_is_available() {
        let limit_bytes = Some(100);
        let reading = Reading {
            memory: Memory { working_set_bytes: Some(70), limit_bytes, ..Memory::default() },
            swap: Swap { usage_bytes: Some(130), limit_bytes },
            pressure: Pressure {
                io: Some(Psi {
                    some: Stall { avg10: 1.5, avg60: 0.5, avg300: 0.1, total_us: 9 },
                    full: None,
                }),
                ..Pressure::default()
            },
            ..Reading::default()
        };
        let used = Used { at_ns: 1, reading: &reading, nano_cores: 0 };
        assert_eq!(used.memory().available_bytes, number(Some(30)));
        let swap = used.swap().expect("counted");
        assert_eq!(swap.swap_available_bytes, number(Some(0)), "more than the limit is in use");
        let psi = used.io().and_then(|io| io.psi).expect("measured");
        assert_eq!(psi.full, None);
        assert_eq!(psi.some.map(|some| (some.total, some.avg10)), Some((9, 1.5)));
    }
}
