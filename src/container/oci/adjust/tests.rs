#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::container::oci::tests::Fixture;
use crate::nri::wire::{
    self, CdiDevice, LinuxContainerAdjustment, LinuxCpu, LinuxMemory, LinuxResources, OptionalBool,
    OptionalInt, OptionalString, OptionalUint32, OptionalUint64, PosixRlimit,
};

const GROUP: &str = "one";

/// The configuration of a bare container after the adjustment, as JSON.
fn adjusted(wanted: &ContainerAdjustment) -> Result<Value, String> {
    adjusted_on(&Fixture::new(), wanted)
}

fn adjusted_on(fixture: &Fixture, wanted: &ContainerAdjustment) -> Result<Value, String> {
    let mut spec = fixture.build().unwrap().spec;
    adjust(&mut spec, wanted, &fixture.host, GROUP).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(spec).unwrap())
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() }
}

fn limits(resources: LinuxResources) -> ContainerAdjustment {
    linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() })
}

fn mount(destination: &str) -> ContainerAdjustment {
    let mount = Mount {
        destination: destination.to_owned(),
        r#type: "bind".to_owned(),
        source: "/srv".to_owned(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    };
    ContainerAdjustment { mounts: vec![mount], ..ContainerAdjustment::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

fn newest() -> Fixture {
    Fixture::with(|fixture| fixture.host.oci_version = "1.3.0".to_owned())
}

#[test]
fn nothing_wanted_changes_nothing() {
    let fixture = Fixture::new();
    let plain = fixture.build().unwrap().spec;
    for nothing in [ContainerAdjustment::default(), linux(LinuxContainerAdjustment::default())] {
        let mut spec = plain.clone();
        adjust(&mut spec, &nothing, &fixture.host, GROUP).unwrap();
        assert_eq!(spec, plain);
    }
}

#[test]
fn process_annotations_and_hooks_are_as_wanted() {
    let hook = Hook {
        path: "/usr/bin/hook".to_owned(),
        args: vec!["hook".to_owned()],
        timeout: Some(OptionalInt { value: 5 }),
        ..Hook::default()
    };
    let wanted = ContainerAdjustment {
        annotations: BTreeMap::from([
            ("n".to_owned(), "1".to_owned()),
            ("-io.kubernetes.cri.container-type".to_owned(), String::new()),
        ]),
        env: vec![variable("NEW", "a=b"), variable("PATH", "/bin"), variable("-HOME", "")],
        args: vec!["/bin/other".to_owned()],
        hooks: Some(Hooks { poststart: vec![hook], ..Hooks::default() }),
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".to_owned(), hard: 9, soft: 8 }],
        ..ContainerAdjustment::default()
    };
    let spec = adjusted(&wanted).unwrap();
    assert_eq!(spec["annotations"]["n"], "1");
    assert!(spec["annotations"].get("io.kubernetes.cri.container-type").is_none());
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("NEW=a=b")) && env.contains(&json!("PATH=/bin")), "{env:?}");
    assert!(!env.iter().any(|entry| entry.as_str().unwrap().starts_with("HOME=")), "{env:?}");
    assert_eq!(spec["process"]["args"], json!(["/bin/other"]));
    let rlimit = json!([{ "type": "RLIMIT_NOFILE", "hard": 9, "soft": 8 }]);
    assert_eq!(spec["process"]["rlimits"], rlimit);
    let hook = json!([{ "path": "/usr/bin/hook", "args": ["hook"], "timeout": 5 }]);
    assert_eq!(spec["hooks"]["poststart"], hook);
}

#[test]
fn mounts_are_added_replaced_and_removed_parents_first() {
    let mut wanted = mount("/a/b");
    wanted.mounts.extend(mount("/a").mounts);
    wanted.mounts.extend(mount("/dev/shm").mounts);
    let spec = adjusted(&wanted).unwrap();
    let at = |path: &str| {
        let mounts = spec["mounts"].as_array().unwrap();
        let found: Vec<_> =
            (0..mounts.len()).filter(|&i| mounts[i]["destination"] == path).collect();
        assert_eq!(found.len(), 1, "{path}");
        (found[0], mounts[found[0]]["source"].clone())
    };
    assert!(at("/a").0 < at("/a/b").0 && at("/dev").0 < at("/dev/shm").0);
    assert_eq!(at("/dev/shm").1, "/srv");
}

#[test]
fn what_holds_a_container_together_stays() {
    for (path, problem) in [
        ("/", "would cover the root file system"),
        ("/proc", "cannot be replaced"),
        ("/proc/sys", "is below /proc"),
        ("/sys", "cannot be replaced"),
        ("/dev", "cannot be replaced"),
        ("relative", "is not an absolute path without .."),
        ("/a/../proc", "is not an absolute path without .."),
        ("-/proc", "cannot be removed"),
        ("-/etc/resolv.conf", "cannot be removed"),
        ("-/dev/shm", "cannot be removed"),
    ] {
        let error = adjusted(&mount(path)).unwrap_err();
        let path = path.trim_start_matches('-');
        assert_eq!(error, format!("adjustment by plugins: mounts {path}: {problem}"));
    }
    assert!(adjusted(&mount("/proc/cpuinfo")).is_ok());
}

#[test]
fn limits_and_devices_are_as_wanted() {
    let signed = |value| Some(OptionalInt { value });
    let unsigned = |value| Some(OptionalUint64 { value });
    let resources = LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(64 << 20),
            reservation: signed(32 << 20),
            swappiness: unsigned(10),
            disable_oom_killer: Some(OptionalBool { value: true }),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(7),
            quota: signed(-1),
            period: unsigned(100_000),
            realtime_runtime: signed(1),
            realtime_period: unsigned(2),
            cpus: "0-1".to_owned(),
            mems: "0".to_owned(),
        }),
        pids: Some(wire::LinuxPids { limit: 99 }),
        hugepage_limits: vec![wire::HugepageLimit { page_size: "2MB".to_owned(), limit: 4 }],
        ..LinuxResources::default()
    };
    let device = wire::LinuxDevice {
        path: "/dev/thing".to_owned(),
        r#type: "c".to_owned(),
        major: 10,
        minor: 200,
        file_mode: Some(OptionalUint32 { value: 0o600 }),
        ..wire::LinuxDevice::default()
    };
    let devices = vec![device];
    let wanted =
        LinuxContainerAdjustment { resources: Some(resources), devices, ..Default::default() };
    let fixture = Fixture::with(|fixture| fixture.host.hugetlb = true);
    let spec = adjusted_on(&fixture, &linux(wanted)).unwrap();
    let limits = &spec["linux"]["resources"];
    let memory = json!({
        "limit": 64 << 20, "reservation": 32 << 20, "swappiness": 10, "disableOOMKiller": true,
    });
    assert_eq!(limits["memory"], memory);
    let cpu = json!({
        "shares": 7, "quota": -1, "period": 100_000, "realtimeRuntime": 1, "realtimePeriod": 2,
        "cpus": "0-1", "mems": "0",
    });
    assert_eq!(limits["cpu"], cpu);
    assert_eq!(limits["pids"]["limit"], 99);
    assert_eq!(limits["hugepageLimits"], json!([{ "pageSize": "2MB", "limit": 4 }]));
    let rule = limits["devices"].as_array().unwrap().last().unwrap();
    let expected =
        json!({ "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm" });
    assert_eq!(*rule, expected);
    let node = spec["linux"]["devices"].as_array().unwrap().last().unwrap();
    assert_eq!((&node["path"], &node["fileMode"]), (&json!("/dev/thing"), &json!(0o600)));
}

#[test]
fn namespaces_sysctls_group_and_filter_are_as_wanted() {
    let namespace =
        |kind: &str, path: &str| Namespace { r#type: kind.to_owned(), path: path.to_owned() };
    let wanted = LinuxContainerAdjustment {
        namespaces: vec![namespace("network", "/run/other"), namespace("-ipc", "")],
        sysctl: BTreeMap::from([("net.core.somaxconn".to_owned(), "9".to_owned())]),
        cgroups_path: "/elsewhere/crisol-one".to_owned(),
        oom_score_adj: Some(OptionalInt { value: 500 }),
        seccomp_policy: Some(wire::LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".to_owned(),
            architectures: vec!["SCMP_ARCH_X86_64".to_owned()],
            syscalls: vec![wire::LinuxSyscall {
                names: vec!["chmod".to_owned()],
                action: "SCMP_ACT_ERRNO".to_owned(),
                errno_ret: Some(OptionalUint32 { value: 1 }),
                args: vec![wire::LinuxSeccompArg {
                    op: "SCMP_CMP_EQ".to_owned(),
                    ..Default::default()
                }],
            }],
            ..wire::LinuxSeccomp::default()
        }),
        ..LinuxContainerAdjustment::default()
    };
    let spec = adjusted(&linux(wanted)).unwrap();
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "network", "path": "/run/other" })));
    assert!(!namespaces.iter().any(|namespace| namespace["type"] == "ipc"));
    assert_eq!(spec["linux"]["sysctl"]["net.core.somaxconn"], "9");
    assert_eq!(spec["linux"]["cgroupsPath"], "/elsewhere/crisol-one");
    assert_eq!(spec["process"]["oomScoreAdj"], 500);
    assert_eq!(spec["linux"]["seccomp"]["syscalls"][0]["names"], json!(["chmod"]));
}

#[test]
fn what_came_later_needs_a_runtime_that_knows_it() {
    let wanted = LinuxContainerAdjustment {
        io_priority: Some(wire::LinuxIoPriority { class: 3, priority: 4 }),
        scheduler: Some(wire::LinuxScheduler { policy: 4, nice: 5, ..Default::default() }),
        net_devices: BTreeMap::from([(
            "eth9".to_owned(),
            wire::LinuxNetDevice { name: "e".to_owned() },
        )]),
        rdt: Some(wire::LinuxRdt {
            clos_id: Some(OptionalString { value: "gold".to_owned() }),
            enable_monitoring: Some(OptionalBool { value: true }),
            ..wire::LinuxRdt::default()
        }),
        memory_policy: Some(wire::LinuxMemoryPolicy {
            mode: 2,
            nodes: "0".to_owned(),
            flags: vec![0],
        }),
        ..LinuxContainerAdjustment::default()
    };
    let spec = adjusted_on(&newest(), &linux(wanted.clone())).unwrap();
    let priority = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 4 });
    assert_eq!(spec["process"]["ioPriority"], priority);
    assert_eq!(spec["process"]["scheduler"]["policy"], "SCHED_BATCH");
    assert_eq!(spec["linux"]["netDevices"]["eth9"]["name"], "e");
    assert_eq!(spec["linux"]["intelRdt"]["closID"], "gold");
    assert_eq!(spec["linux"]["memoryPolicy"]["mode"], "MPOL_BIND");
    let old = Fixture::with(|fixture| fixture.host.oci_version = "1.0.2-dev".to_owned());
    let only = |change: &dyn Fn(&mut LinuxContainerAdjustment)| {
        let mut only = LinuxContainerAdjustment::default();
        change(&mut only);
        adjusted_on(&old, &linux(only)).unwrap_err()
    };
    for error in [
        only(&|only| only.io_priority = wanted.io_priority),
        only(&|only| only.scheduler.clone_from(&wanted.scheduler)),
        only(&|only| only.net_devices.clone_from(&wanted.net_devices)),
        only(&|only| only.rdt.clone_from(&wanted.rdt)),
        only(&|only| only.memory_policy.clone_from(&wanted.memory_policy)),
    ] {
        assert!(error.contains("needs OCI runtime specification 1."), "{error}");
    }
}

#[test]
fn what_cannot_be_applied_is_named() {
    let text = |value: &str| Some(OptionalString { value: value.to_owned() });
    let cdi = vec![CdiDevice { name: "vendor/class=one".to_owned() }];
    let kernel = LinuxMemory { kernel: Some(OptionalInt { value: 1 }), ..LinuxMemory::default() };
    let rlimit = |r#type: &str, hard, soft| ContainerAdjustment {
        rlimits: vec![PosixRlimit { r#type: r#type.to_owned(), hard, soft }],
        ..ContainerAdjustment::default()
    };
    let group = |path: &str| {
        linux(LinuxContainerAdjustment { cgroups_path: path.to_owned(), ..Default::default() })
    };
    let score = OptionalInt { value: 2000 };
    let namespace = Namespace { r#type: "moon".to_owned(), path: String::new() };
    let cases = [
        (ContainerAdjustment { cdi_devices: cdi, ..Default::default() }, "cdi_devices"),
        (limits(LinuxResources { rdt_class: text("gold"), ..Default::default() }), "rdt_class"),
        (
            limits(LinuxResources { blockio_class: text("x"), ..Default::default() }),
            "blockio_class",
        ),
        (limits(LinuxResources { memory: Some(kernel), ..Default::default() }), "memory.kernel"),
        (
            limits(LinuxResources {
                unified: BTreeMap::from([("memory.high".to_owned(), "1".to_owned())]),
                ..Default::default()
            }),
            "unified",
        ),
        (rlimit("RLIMIT_NOTHING", 1, 1), "rlimits"),
        (rlimit("RLIMIT_CORE", 1, 2), "rlimits"),
        (group("/"), "cgroups_path"),
        (group("/pods/other"), "cgroups_path"),
        (group("/pods/../one"), "cgroups_path"),
        (group("/one"), "cgroups_path"),
        (group("a.slice:crisol:one"), "cgroups_path"),
        (
            linux(LinuxContainerAdjustment { oom_score_adj: Some(score), ..Default::default() }),
            "oom_score_adj",
        ),
        (
            linux(LinuxContainerAdjustment { namespaces: vec![namespace], ..Default::default() }),
            "namespaces",
        ),
        (
            linux(LinuxContainerAdjustment {
                seccomp_policy: Some(wire::LinuxSeccomp {
                    default_action: "SCMP_ACT_MAYBE".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            "seccomp_policy",
        ),
        (
            linux(LinuxContainerAdjustment {
                devices: vec![wire::LinuxDevice {
                    path: "/proc/x".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            "devices",
        ),
        (ContainerAdjustment { env: vec![variable("A=B", "")], ..Default::default() }, "env"),
    ];
    let fixture = Fixture::with(|fixture| fixture.host.cgroup_v2 = false);
    for (wanted, field) in cases {
        let error = adjusted_on(&fixture, &wanted).unwrap_err();
        assert!(error.contains(field), "{field}: {error}");
    }
}
