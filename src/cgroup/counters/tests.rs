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
