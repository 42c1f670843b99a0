#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::*;

/// A hybrid host below `root`: `cpuacct`, `memory` and `pids` in v1, pressure in v2.
fn hybrid(root: &Path) -> host::Cgroups {
    let names = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"];
    host::Cgroups {
        version: CgroupVersion::Hybrid,
        unified: Some(root.join("unified")),
        v1: names.map(|name| (name.to_owned(), root.join(name))).into(),
        unified_controllers: BTreeSet::new(),
    }
}

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_hybrid_host_gives_counters_from_v1_and_pressure_from_v2() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "cpuacct/g/cpuacct.usage", "12\n");
    write(root, "memory/g/memory.usage_in_bytes", "100\n");
    write(root, "pids/g/pids.current", "3\n");
    write(root, "unified/g/cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n");
    let mut counters = Counters::open(&hybrid(root), Path::new("g"));
    let reading = counters.read().unwrap();
    assert_eq!(reading.cpu.usage_ns, Some(12));
    assert_eq!(reading.memory.usage_bytes, Some(100));
    assert_eq!(reading.tasks.threads, Some(3));
    assert_eq!(reading.pressure.cpu.unwrap().some.total_us, 5);
    assert_eq!(reading.pressure.memory, None);
}

#[test]
fn every_file_of_v1_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (file, text) in [
        ("cpu/g/cpu.stat", "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n"),
        ("cpuacct/g/cpuacct.usage", "1000000000\n"),
        ("cpuacct/g/cpuacct.stat", "user 5\nsystem 6\n"),
        ("memory/g/memory.usage_in_bytes", "100\n"),
        ("memory/g/memory.max_usage_in_bytes", "200\n"),
        ("memory/g/memory.limit_in_bytes", "300\n"),
        ("memory/g/memory.failcnt", "7\n"),
        ("memory/g/memory.kmem.usage_in_bytes", "8\n"),
        ("memory/g/memory.stat", "total_rss 50\ntotal_inactive_file 10\n"),
        ("memory/g/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 9\n"),
        ("memory/g/memory.memsw.usage_in_bytes", "130\n"),
        ("memory/g/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
        ("blkio/g/blkio.throttle.io_service_bytes", "8:0 Read 11\nTotal 11\n"),
        ("blkio/g/blkio.throttle.io_serviced", "8:0 Read 1\nTotal 1\n"),
        ("pids/g/pids.current", "12\n"),
        ("pids/g/pids.max", "1000\n"),
        ("pids/g/cgroup.procs", "1\n2\n"),
    ] {
        write(root, file, text);
    }
    let mut counters = Counters::open(&hybrid(root), Path::new("g"));
    let reading = counters.read().unwrap();
    assert_eq!((reading.cpu.usage_ns, reading.cpu.throttled_ns), (Some(1_000_000_000), Some(2)));
    assert!(reading.cpu.user_ns.is_some() && reading.cpu.system_ns.is_some());
    let memory = reading.memory;
    assert_eq!((memory.usage_bytes, memory.max_usage_bytes), (Some(100), Some(200)));
    assert_eq!((memory.limit_bytes, memory.working_set_bytes), (Some(300), Some(90)));
    assert_eq!((memory.limit_hits, memory.kernel_bytes), (Some(7), Some(8)));
    assert_eq!((memory.rss_bytes, memory.oom_kills), (Some(50), Some(9)));
    assert_eq!(reading.swap, Swap { usage_bytes: Some(30), limit_bytes: None });
    assert_eq!((reading.io[0].read_bytes, reading.io[0].reads), (11, 1));
    let tasks = Tasks { processes: Some(2), threads: Some(12), max_threads: Some(1000) };
    assert_eq!(reading.tasks, tasks);
    assert_eq!(counters.processes(), [1, 2]);
}

#[test]
fn every_file_of_v2_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
    for (file, text) in [
        ("g/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\n"),
        ("g/memory.current", "100\n"),
        ("g/memory.peak", "200\n"),
        ("g/memory.max", "max\n"),
        ("g/memory.stat", "anon 50\nfile 40\nkernel 8\ninactive_file 10\n"),
        ("g/memory.events", "max 7\noom_kill 9\n"),
        ("g/memory.swap.current", "30\n"),
        ("g/memory.swap.max", "300\n"),
        ("g/io.stat", "8:0 rbytes=11 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"),
        ("g/pids.current", "12\n"),
        ("g/pids.max", "max\n"),
        ("g/cgroup.procs", "1\n2\n"),
        ("g/cpu.pressure", pressure),
        ("g/memory.pressure", pressure),
        ("g/io.pressure", pressure),
    ] {
        write(root, file, text);
    }
    let mounted = host::Cgroups {
        version: CgroupVersion::V2,
        unified: Some(root.to_owned()),
        v1: BTreeMap::new(),
        unified_controllers: BTreeSet::new(),
    };
    let mut counters = Counters::open(&mounted, Path::new("g"));
    let reading = counters.read().unwrap();
    assert_eq!((reading.cpu.usage_ns, reading.cpu.periods), (Some(5000), Some(4)));
    let memory = reading.memory;
    assert_eq!((memory.usage_bytes, memory.max_usage_bytes), (Some(100), Some(200)));
    assert_eq!((memory.limit_bytes, memory.working_set_bytes), (None, Some(90)));
    assert_eq!((memory.limit_hits, memory.kernel_bytes), (Some(7), Some(8)));
    assert_eq!((memory.rss_bytes, memory.oom_kills), (Some(50), Some(9)));
    assert_eq!(reading.swap, Swap { usage_bytes: Some(30), limit_bytes: Some(300) });
    assert_eq!(reading.io[0].read_bytes, 11);
    let tasks = Tasks { processes: Some(2), threads: Some(12), max_threads: None };
    assert_eq!(reading.tasks, tasks);
    let total = |psi: Option<Psi>| psi.unwrap().some.total_us;
    let Pressure { cpu, memory, io } = reading.pressure;
    assert_eq!([total(cpu), total(memory), total(io)], [3, 3, 3]);
}

#[test]
fn the_most_that_was_seen_stands_in_for_a_peak_that_the_kernel_does_not_tell() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let file = "memory/g/memory.usage_in_bytes";
    write(root, file, "100\n");
    let mut counters = Counters::open(&hybrid(root), Path::new("g"));
    assert_eq!(counters.read().unwrap().memory.max_usage_bytes, Some(100));
    write(root, file, "70\n");
    let memory = counters.read().unwrap().memory;
    assert_eq!((memory.usage_bytes, memory.max_usage_bytes), (Some(70), Some(100)));
}

#[test]
fn a_group_that_is_not_there_reads_as_gone() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Counters::open(&hybrid(dir.path()), Path::new("absent")).read(), None);
    let nothing = host::Cgroups {
        version: CgroupVersion::None,
        unified: None,
        v1: BTreeMap::new(),
        unified_controllers: BTreeSet::new(),
    };
    assert_eq!(Counters::open(&nothing, Path::new("g")).read(), None);
}

/// A group of this machine's own, removed when dropped.
struct Group(Vec<PathBuf>);

impl Group {
    fn make(mounted: &host::Cgroups, name: &str) -> Self {
        let roots: BTreeSet<_> = mounted.v1.values().chain(&mounted.unified).collect();
        Self(
            roots
                .into_iter()
                .map(|root| root.join(name))
                .filter(|dir| fs::create_dir(dir).is_ok())
                .collect(),
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.0 {
            fs::remove_dir(dir).ok();
        }
    }
}

/// A process that is killed when dropped.
struct Sleeper(std::process::Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn processes_that_come_and_go_are_seen_however_often_is_looked() {
    let mounted = host::Host::gather().unwrap().cgroups;
    let name = format!("crisol-counters-procs-{}", std::process::id());
    let group = Group::make(&mounted, &name);
    if group.0.is_empty() {
        return; // Not root: nothing of it can be tried here.
    }
    let mut counters = Counters::open(&mounted, Path::new(&name));
    assert_eq!(counters.read().unwrap().tasks.processes, Some(0));
    let mut sleepers = Vec::new();
    for expected in 1..=3 {
        let null = std::process::Stdio::null;
        let mut command = std::process::Command::new("sleep");
        let child = command.arg("60").stdout(null()).stderr(null()).spawn();
        let sleeper = Sleeper(child.unwrap());
        for dir in &group.0 {
            // A group of cpuset takes nobody before it has processors.
            fs::write(dir.join("cgroup.procs"), sleeper.0.id().to_string()).ok();
        }
        sleepers.push(sleeper);
        assert_eq!(counters.read().unwrap().tasks.processes, Some(expected));
    }
    drop(sleepers);
    assert_eq!(counters.read().unwrap().tasks.processes, Some(0));
}

#[test]
fn a_real_group_is_read_until_it_is_removed_and_a_new_one_of_its_name_is_another() {
    let mounted = host::Host::gather().unwrap().cgroups;
    let name = format!("crisol-counters-{}", std::process::id());
    let group = Group::make(&mounted, &name);
    if group.0.is_empty() {
        return; // Not root: nothing of it can be tried here.
    }
    let mut counters = Counters::open(&mounted, Path::new(&name));
    let reading = counters.read().unwrap();
    assert_eq!(reading.cpu.usage_ns, Some(0));
    assert_eq!(reading.memory.limit_bytes, None);
    assert_eq!(reading.tasks.threads, Some(0));
    drop(group);
    assert_eq!(counters.read(), None);
    let _again = Group::make(&mounted, &name);
    assert_eq!(counters.read(), None);
}
