//! Which facts make the node ready, and what a reader of `Status` sees.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::host::cgroups::{CgroupVersion, Cgroups};
use crate::host::{Capabilities, Kernel, Security};
use crate::runtime::features;
use crate::runtime::handlers::HandlerReport;

fn host() -> Host {
    Host {
        cgroups: Cgroups {
            version: CgroupVersion::V2,
            unified: Some("/sys/fs/cgroup".into()),
            v1: BTreeMap::new(),
            unified_controllers: ["memory".to_owned()].into(),
        },
        systemd: true,
        capabilities: Capabilities::default(),
        oom_score_adj_min: -1000,
        security: Security { seccomp: true, apparmor: false, selinux: false },
        kernel: Kernel::parse("6.1.0"),
        boot_id: "b".to_owned(),
        cpus: 2,
    }
}

fn report(problem: Option<&'static str>) -> HandlerReport {
    let mut features = features::Features::unknown();
    features.recursive_read_only = true;
    let problem = problem.map(|reason| Problem { reason, message: "gone".to_owned() });
    HandlerReport { path: "/usr/bin/runc".into(), version: None, features, problem }
}

/// Everything is well.
struct Node {
    config: Config,
    host: Host,
    inventory: Inventory,
    recovery: Readiness,
    network: Readiness,
    in_flight: Vec<InFlight>,
    mapped_rootfs: Result<(), String>,
    troubles: Vec<Trouble>,
}

impl Node {
    fn well() -> Self {
        let handlers =
            BTreeMap::from([("runc".to_owned(), report(None)), ("crun".to_owned(), report(None))]);
        Self {
            config: Config::defaults(),
            host: host(),
            inventory: Inventory {
                handlers,
                monitor: None,
                criu: Err("criu is not here".to_owned()),
            },
            recovery: Readiness::Ready,
            network: Readiness::Ready,
            in_flight: Vec::new(),
            mapped_rootfs: Ok(()),
            troubles: Vec::new(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            host: &self.host,
            inventory: &self.inventory,
            recovery: &self.recovery,
            network: &self.network,
            in_flight: &self.in_flight,
            storage: Storage { images_bytes: 1, writable_bytes: 2, free_bytes: 3 },
            owed: 1,
            mapped_rootfs: &self.mapped_rootfs,
            unpacker_gaps: &[],
            troubles: &self.troubles,
        }
    }

    fn runtime_reason(&self) -> String {
        match status(&self.facts()).runtime {
            Readiness::Ready => String::new(),
            Readiness::NotReady { reason, .. } => reason,
        }
    }
}

#[test]
fn a_node_without_problems_is_ready() {
    let status = status(&Node::well().facts());
    assert_eq!((status.runtime, status.network), (Readiness::Ready, Readiness::Ready));
    assert!(status.features.supplemental_groups_policy);
}

#[test]
fn a_record_that_cannot_be_used_is_told_and_does_not_make_the_node_unready() {
    let mut node = Node::well();
    assert_eq!(status(&node.facts()).records, Readiness::Ready);
    node.troubles = vec![Trouble::aside("container", "/r/containers/x.damaged".into())];
    let status = status(&node.facts());
    assert_eq!(status.runtime, Readiness::Ready);
    let Readiness::NotReady { reason, message } = status.records else { panic!("is ready") };
    assert_eq!(reason, "UnusableRecords");
    assert!(message.contains("/r/containers/x.damaged"), "{message}");
    let told: serde_json::Value =
        serde_json::from_str(&info(&node.facts())["unusableRecords"]).unwrap();
    assert_eq!(told[0]["path"], "/r/containers/x.damaged");
    assert!(told[0]["do"].as_str().is_some_and(|told| told.contains("delete")), "{told}");
}

#[test]
fn the_runtime_is_ready_only_with_default_handler_monitor_and_records() {
    let mut node = Node::well();
    node.inventory.monitor = Some(Problem { reason: "MonitorMissing", message: "x".to_owned() });
    assert_eq!(node.runtime_reason(), "MonitorMissing");

    node.inventory.handlers.insert("runc".to_owned(), report(Some("RuntimeMissing")));
    assert_eq!(node.runtime_reason(), "RuntimeMissing");

    node.recovery = Readiness::NotReady { reason: "Recovering".to_owned(), message: String::new() };
    assert_eq!(node.runtime_reason(), "Recovering");
}

#[test]
fn a_broken_handler_that_is_not_the_default_only_leaves_the_list() {
    let mut node = Node::well();
    node.inventory.handlers.insert("crun".to_owned(), report(Some("RuntimeMissing")));
    assert_eq!(node.runtime_reason(), "");
    let names: Vec<_> = status(&node.facts()).handlers.into_iter().map(|h| h.name).collect();
    assert_eq!(names, ["", "runc"]);
}

#[test]
fn network_problems_are_passed_on_as_they_are() {
    let mut node = Node::well();
    node.network = Readiness::NotReady {
        reason: "NetworkPluginNotReady".to_owned(),
        message: "no configuration in /etc/cni/net.d".to_owned(),
    };
    let status = status(&node.facts());
    assert_eq!(status.network, node.network);
    assert_eq!(status.runtime, Readiness::Ready);
}

#[test]
fn recursive_read_only_needs_the_runtime_and_the_kernel() {
    let mut node = Node::well();
    assert!(status(&node.facts()).handlers.iter().all(|handler| handler.recursive_read_only));
    node.host.kernel = Kernel::parse("5.10.0");
    assert!(status(&node.facts()).handlers.iter().all(|handler| !handler.recursive_read_only));
}

#[test]
fn user_namespaces_need_the_runtime_and_the_file_system() {
    let offered = |node: &Node| -> Vec<(String, bool)> {
        let handlers = status(&node.facts()).handlers.into_iter();
        handlers.map(|handler| (handler.name, handler.user_namespaces)).collect()
    };
    let mut node = Node::well();
    for (name, idmapped_mounts) in [("runc", true), ("crun", false)] {
        let features = &mut node.inventory.handlers.get_mut(name).unwrap().features;
        features.idmapped_mounts = idmapped_mounts;
    }
    let named = [("", true), ("crun", false), ("runc", true)];
    assert_eq!(offered(&node), named.map(|(name, offered)| (name.to_owned(), offered)));
    node.mapped_rootfs = Err("idmapped mount of /x: Invalid argument".to_owned());
    assert!(offered(&node).iter().all(|(_, offered)| !offered));
    let why: serde_json::Value =
        serde_json::from_str(&info(&node.facts())["userNamespaces"]).unwrap();
    assert_eq!(why["problem"], "idmapped mount of /x: Invalid argument");
}

#[test]
fn the_kubelet_is_told_the_driver_in_force_never_auto() {
    let mut node = Node::well();
    assert_eq!(cgroup_driver(&node.config, &node.host), CgroupDriver::Systemd);
    node.host.systemd = false;
    assert_eq!(cgroup_driver(&node.config, &node.host), CgroupDriver::Cgroupfs);
    node.config.cgroup.driver = CgroupDriver::Systemd;
    assert_eq!(cgroup_driver(&node.config, &node.host), CgroupDriver::Systemd);
}

#[test]
fn every_value_of_the_verbose_answer_is_json() {
    let mut node = Node::well();
    node.in_flight.push(InFlight {
        operation: "RunPodSandbox".to_owned(),
        object: "default/web".to_owned(),
        step: "cni add".to_owned(),
        age: Duration::from_millis(1500),
    });
    let info = info(&node.facts());
    let value = |name: &str| -> serde_json::Value { serde_json::from_str(&info[name]).unwrap() };
    for name in info.keys() {
        value(name);
    }
    assert_eq!(value("config")["cri"]["listen"], "/run/crisol/crisol.sock");
    assert_eq!(value("criu")["problem"], "criu is not here");
    assert_eq!(value("handlers")["runc"]["checkpoint"], false);
    // What critest reads.
    assert_eq!(value("config")["stateDir"], "/run/crisol");
    assert_eq!(value("inFlight")[0]["ageSeconds"], 1.5);
    assert_eq!(value("inFlight")[0]["step"], "cni add");
    assert_eq!(value("cgroup")["driver"], "systemd");
    assert_eq!(value("handlers")["runc"]["ociVersion"], "1.0.2");
    assert_eq!(value("storage")["freeBytes"], 3);
    assert_eq!(value("owed"), 1);
}

#[test]
fn no_string_of_the_version_is_empty() {
    let version = version();
    let all = [version.kubelet_api, version.name, version.version, version.cri];
    assert!(all.iter().all(|text| !text.is_empty()), "the kubelet refuses empty ones");
    assert_eq!(version.cri, "v1");
    assert!(version.to_string().starts_with("crisol "));
    let json: serde_json::Value = serde_json::from_str(&version.to_json()).unwrap();
    assert_eq!(json["name"], "crisol");
}
