#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::cgroup::counters::{Cpu, DeviceIo, HugePages, Memory, Pressure, Psi, Stall, Tasks};
use crate::stats::network::Direction;

#[test]
fn every_metric_has_a_name_of_its_own_a_meaning_and_a_name_that_fits_its_kind() {
    let names: BTreeSet<_> = ALL.iter().map(|descriptor| descriptor.name).collect();
    assert_eq!(names.len(), ALL.len());
    for descriptor in ALL {
        assert!(descriptor.name.starts_with("container_") && !descriptor.help.is_empty());
        let total = descriptor.name.ends_with("_total");
        // The two that cAdvisor names otherwise: a counter without, a gauge with the suffix.
        let exception =
            matches!(descriptor.name, "container_memory_failcnt" | "container_fs_inodes_total");
        let counter = descriptor.kind == MetricKind::Counter;
        assert!(total == counter || exception, "{}", descriptor.name);
    }
}

fn reading() -> Reading {
    let stall = |total_us| Stall { avg10: 0.0, avg60: 0.0, avg300: 0.0, total_us };
    Reading {
        cpu: Cpu {
            usage_ns: Some(7_900_000_000),
            user_ns: Some(5_000_000_000),
            system_ns: Some(2_900_000_000),
            periods: Some(10),
            throttled_periods: Some(4),
            throttled_ns: Some(3_000_000_000),
        },
        memory: Memory {
            usage_bytes: Some(1000),
            working_set_bytes: Some(900),
            page_faults: Some(50),
            major_page_faults: Some(5),
            ..Memory::default()
        },
        tasks: Tasks { processes: Some(2), threads: Some(9), max_threads: None },
        hugepages: vec![HugePages {
            size: "2MB".to_owned(),
            usage_bytes: 2 << 20,
            max_usage_bytes: Some(4 << 20),
        }],
        pressure: Pressure {
            cpu: Some(Psi { some: stall(2_500_000), full: Some(stall(1_000_000)) }),
            ..Pressure::default()
        },
        ..Reading::default()
    }
}

fn value(metrics: &[Metric], name: &str, labels: &[&str]) -> Option<u64> {
    let found = metrics.iter().find(|m| m.descriptor.name == name && m.labels == labels);
    found.map(|metric| metric.value)
}

#[test]
fn the_counters_of_a_group_become_metrics_in_whole_seconds() {
    let mut metrics = Metrics::default();
    let reading = reading();
    cpu(&mut metrics, &reading);
    memory(&mut metrics, &reading);
    pressure(&mut metrics, &reading);
    hugepages(&mut metrics, &reading);
    for (name, labels, expected) in [
        ("container_cpu_usage_seconds_total", &["total"][..], Some(7)),
        ("container_cpu_cfs_throttled_seconds_total", &[], Some(3)),
        ("container_memory_working_set_bytes", &[], Some(900)),
        // Every container has it, also where the kernel does not count swap.
        ("container_memory_swap", &[], Some(0)),
        ("container_memory_failures_total", &["pgfault", "container"], Some(50)),
        ("container_memory_failures_total", &["pgmajfault", "hierarchy"], Some(5)),
        ("container_pressure_cpu_waiting_seconds_total", &[], Some(2)),
        ("container_pressure_cpu_stalled_seconds_total", &[], Some(1)),
        ("container_pressure_io_waiting_seconds_total", &[], None),
        ("container_hugetlb_max_usage_bytes", &["2MB"], Some(4 << 20)),
    ] {
        assert_eq!(value(&metrics.0, name, labels), expected, "{name}");
    }
}

#[test]
fn devices_and_interfaces_have_series_of_their_own() {
    let io =
        DeviceIo { major: 8, minor: 1, read_bytes: 10, written_bytes: 20, reads: 1, writes: 2 };
    let sample = ContainerSample {
        pod: crate::ids::PodId::random(),
        at_ns: 5_000_000_000,
        reading: reading(),
        nano_cores: 0,
        devices: vec![("/dev/sda1".to_owned(), io)],
        processes: Default::default(),
    };
    let mut metrics = Metrics::default();
    disk_traffic(&mut metrics, &sample);
    processes(&mut metrics, &sample);
    let labels = ["/dev/sda1", "8", "1", "Write"];
    assert_eq!(value(&metrics.0, "container_blkio_device_usage_total", &labels), Some(20));
    assert_eq!(value(&metrics.0, "container_fs_reads_total", &["/dev/sda1"]), Some(1));
    assert_eq!(value(&metrics.0, "container_threads", &[]), Some(9));
    assert_eq!(value(&metrics.0, "container_threads_max", &[]), Some(0));

    let received = Direction { bytes: 1, packets: 2, errors: 3, dropped: 4 };
    let interface = Interface { name: "eth0".to_owned(), received, sent: Direction::default() };
    let metrics = of_network(&[interface]);
    assert_eq!(metrics.len(), 8);
    let dropped = "container_network_receive_packets_dropped_total";
    assert_eq!(value(&metrics, dropped, &["eth0"]), Some(4));
}

#[test]
fn a_pod_without_a_group_of_its_own_has_no_metrics_of_one() {
    let mut sample = PodSample {
        at_ns: 1,
        group: None,
        reading: reading(),
        nano_cores: 0,
        processes: 2,
        interfaces: Vec::new(),
    };
    assert!(of_pod(&sample, 0).is_empty());
    sample.group = Some("kubepods/pod1".into());
    assert_eq!(value(&of_pod(&sample, 0), "container_processes", &[]), Some(2));
}
