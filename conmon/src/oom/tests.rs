//! The counter is found on every layout of hierarchies there is.

#![allow(clippy::unwrap_used)]

use super::*;

fn groups(text: &str) -> Groups {
    let mut groups = Groups::default();
    text.lines().for_each(|line| groups.see(line.as_bytes()));
    groups
}

fn find(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let groups = groups(cgroup);
    mountinfo.lines().find_map(|line| Mount::parse(line.as_bytes())?.counter(&groups))
}

const V2: &str = "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

#[test]
fn on_a_host_with_v2_alone_it_is_memory_events() {
    let found = find(V2, "0::/kubepods.slice/a.scope");
    assert_eq!(found, Some("/sys/fs/cgroup/kubepods.slice/a.scope/memory.events".into()));
}

#[test]
fn on_a_hybrid_host_it_is_the_v1_hierarchy_that_has_the_controller() {
    let mountinfo = "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                     32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     33 30 0:29 / /m\\040x rw master:1 propagate_from:2 - cgroup cgroup rw,memory\n";
    let cgroup = "4:memory,hugetlb:/a/b\n2:cpu:/c\n0::/d\n";
    assert_eq!(find(mountinfo, cgroup), Some("/m x/a/b/memory.oom_control".into()));
}

#[test]
fn a_mount_of_a_part_of_the_hierarchy_is_looked_at_from_its_root() {
    let mountinfo = "33 30 0:29 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
    let found = find(mountinfo, "0::/docker/x/pod");
    assert_eq!(found, Some("/sys/fs/cgroup/pod/memory.events".into()));
    assert_eq!(find(mountinfo, "0::/elsewhere"), None);
}

#[test]
fn nothing_is_found_where_nothing_is() {
    assert_eq!(find(V2, ""), None);
    assert_eq!(find("garbage\n1 2 3 - cgroup2\n - cgroup2 x y", "0::/a\n::\n:\n"), None);
}

#[test]
fn the_counter_is_read_from_both_forms() {
    assert_eq!(parse_counter(b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
    assert_eq!(parse_counter(b"low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n"), Some(2));
    assert_eq!(parse_counter(b"oom_kill_disable 0\n"), None);
    assert_eq!(parse_counter(b"oom_kill many\n"), None);
}

#[test]
fn a_process_that_nobody_killed_has_not_been_killed() {
    let counter = OomCounter::open(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(!counter.has_killed());
}
