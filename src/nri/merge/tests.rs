use std::collections::BTreeMap;

use super::*;
use crate::nri::wire::{
    CdiDevice, ContainerEviction, Hook, LinuxContainer, LinuxContainerUpdate, LinuxCpu,
    LinuxDevice, LinuxMemory, LinuxNamespace, Mount, OptionalInt, OptionalString, OptionalUint64,
    PosixRlimit,
};

fn creation() -> Creation {
    Creation::of(Container {
        id: "c".to_owned(),
        env: vec!["A=1".to_owned(), "B=2".to_owned()],
        mounts: vec![mount("/data", "/old")],
        annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        ..Container::default()
    })
}

fn mount(destination: &str, source: &str) -> Mount {
    let (destination, source) = (destination.to_owned(), source.to_owned());
    Mount { destination, source, ..Mount::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

fn adjusts(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse { adjust: Some(adjust), ..CreateContainerResponse::default() }
}

fn linux(linux: LinuxContainerAdjustment) -> CreateContainerResponse {
    adjusts(ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() })
}

fn env(pairs: &[(&str, &str)]) -> CreateContainerResponse {
    let env = pairs.iter().map(|(key, value)| variable(key, value)).collect();
    adjusts(ContainerAdjustment { env, ..ContainerAdjustment::default() })
}

fn shares(value: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUint64 { value }), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn limit(value: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt { value }), ..LinuxMemory::default() };
    LinuxResources { memory: Some(memory), ..LinuxResources::default() }
}

fn update(container: &str, resources: LinuxResources) -> ContainerUpdate {
    super::update(container, resources, false)
}

#[test]
fn each_plugin_is_shown_what_the_ones_before_it_left() {
    let mut creation = creation();
    creation.add("00-a", env(&[("A", "one"), ("C", "3")])).expect("free");
    assert_eq!(creation.container.env, ["B=2", "A=one", "C=3"]);
    creation.add("10-b", env(&[("-B", "")])).expect("removed");
    assert_eq!(creation.container.env, ["A=one", "C=3"]);
    let all: Vec<_> = creation.adjust.env.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(all, ["A", "C", "-B"]);
}

#[test]
fn two_plugins_that_set_the_same_are_both_named() {
    let mut one = creation();
    one.add("00-a", env(&[("X", "1")])).expect("free");
    let error = one.add("10-b", env(&[("X", "2")])).expect_err("taken").to_string();
    assert_eq!(error, "plugins 00-a and 10-b both set variable \"X\" of container c");

    let mut two = creation();
    let score = |value| LinuxContainerAdjustment {
        oom_score_adj: Some(OptionalInt { value }),
        ..LinuxContainerAdjustment::default()
    };
    two.add("00-a", linux(score(1))).expect("free");
    let error = two.add("10-b", linux(score(1))).expect_err("taken").to_string();
    assert_eq!(error, "plugins 00-a and 10-b both set oom_score_adj of container c");
}

#[test]
fn who_removes_what_another_set_may_set_it_anew() {
    let mut creation = creation();
    creation.add("00-a", env(&[("X", "1")])).expect("free");
    creation.add("10-b", env(&[("-X", ""), ("X", "2")])).expect("removed first");
    assert_eq!(creation.adjust.env, [variable("X", "2")]);
    assert!(creation.container.env.contains(&"X=2".to_owned()));

    let mounts = |mounts| adjusts(ContainerAdjustment { mounts, ..ContainerAdjustment::default() });
    creation.add("00-a", mounts(vec![mount("/m", "/a")])).expect("free");
    creation.add("10-b", mounts(vec![mount("-/m", ""), mount("/m", "/b")])).expect("removed");
    assert_eq!(creation.adjust.mounts, [mount("/m", "/b")]);
    creation.add("20-c", mounts(vec![mount("-/data", "")])).expect("the request's own");
    assert_eq!(creation.adjust.mounts, [mount("/m", "/b"), mount("-/data", "")]);
    assert_eq!(creation.container.mounts, [mount("/m", "/b")]);

    let args = |args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        adjusts(ContainerAdjustment { args, ..ContainerAdjustment::default() })
    };
    creation.add("00-a", args(&["one"])).expect("free");
    creation.add("10-b", args(&["two"])).expect_err("taken");
    creation.add("10-b", args(&["", "two"])).expect("taken over");
    assert_eq!(creation.adjust.args, ["two"]);
}

#[test]
fn maps_lists_and_shared_fields_are_collected() {
    let mut creation = creation();
    let hook = || Hook { path: "/h".to_owned(), ..Hook::default() };
    let first = ContainerAdjustment {
        annotations: BTreeMap::from([
            ("-k".to_owned(), String::new()),
            ("n".to_owned(), "1".to_owned()),
        ]),
        hooks: Some(Hooks { poststop: vec![hook()], ..Hooks::default() }),
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".to_owned(), hard: 9, soft: 8 }],
        cdi_devices: vec![CdiDevice { name: "v/c=d".to_owned() }],
        linux: Some(LinuxContainerAdjustment {
            devices: vec![LinuxDevice { path: "/dev/x".to_owned(), ..LinuxDevice::default() }],
            namespaces: vec![LinuxNamespace { r#type: "-cgroup".to_owned(), ..Default::default() }],
            sysctl: BTreeMap::from([("net.x".to_owned(), "1".to_owned())]),
            resources: Some(shares(7)),
            rdt: Some(LinuxRdt {
                clos_id: Some(OptionalString { value: "gold".to_owned() }),
                ..LinuxRdt::default()
            }),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    creation.add("00-a", adjusts(first.clone())).expect("free");
    assert_eq!(creation.adjust, first);
    assert_eq!(creation.container.annotations, BTreeMap::from([("n".to_owned(), "1".to_owned())]));
    let shown = creation.container.linux.clone().expect("linux");
    let expected = LinuxContainer {
        devices: first.linux.clone().expect("linux").devices,
        sysctl: first.linux.clone().expect("linux").sysctl,
        resources: Some(shares(7)),
        rdt: first.linux.expect("linux").rdt,
        ..LinuxContainer::default()
    };
    assert_eq!(shown, expected);
    let hooks = Some(Hooks { poststop: vec![hook()], ..Hooks::default() });
    let more = ContainerAdjustment { hooks, ..ContainerAdjustment::default() };
    creation.add("10-b", adjusts(more)).expect("hooks are shared");
    assert_eq!(creation.adjust.hooks.as_ref().map(|hooks| hooks.poststop.len()), Some(2));
    let gone = LinuxRdt { remove: true, ..LinuxRdt::default() };
    let gone = LinuxContainerAdjustment { rdt: Some(gone), ..Default::default() };
    creation.add("10-b", linux(gone)).expect("removed");
    let rdt = creation.adjust.linux.and_then(|linux| linux.rdt).expect("rdt");
    assert!(rdt.remove && rdt.clos_id.is_none());
}

#[test]
fn updates_of_one_container_become_one_and_never_touch_the_one_being_made() {
    let mut creation = creation();
    let answer = |update| CreateContainerResponse { update, ..CreateContainerResponse::default() };
    creation.add("00-a", answer(vec![update("d", shares(2))])).expect("free");
    creation.add("10-b", answer(vec![update("d", limit(5)), update("e", limit(6))])).expect("free");
    let both = LinuxResources { cpu: shares(2).cpu, ..limit(5) };
    assert_eq!(creation.updates.all, [update("d", both), update("e", limit(6))]);
    let error = creation.add("20-x", answer(vec![update("d", shares(3))])).expect_err("taken");
    assert_eq!(error.to_string(), "plugins 00-a and 20-x both set cpu.shares of container d");
    let mut ignored = update("d", shares(3));
    ignored.ignore_failure = true;
    creation.add("20-x", answer(vec![ignored])).expect("its failure may be ignored");
    assert_eq!(creation.updates.all.len(), 2);
    let error = creation.add("20-x", answer(vec![update("c", shares(3))])).expect_err("itself");
    assert_eq!(error.to_string(), "plugin 20-x: updates container c, which is being created");
}

#[test]
fn an_update_request_is_what_plugins_make_of_it() {
    let (mut updates, mut owners) = (Updates::asked("c", limit(4)), Owners::default());
    updates.add(&mut owners, "00-a", vec![update("c", shares(9))]).expect("free");
    updates.add(&mut owners, "10-b", vec![update("c", limit(8))]).expect("the request's own");
    updates.add(&mut owners, "20-c", vec![update("c", limit(7))]).expect_err("taken");
    let made = LinuxResources { cpu: shares(9).cpu, ..limit(8) };
    let of = |update: &ContainerUpdate| update.linux.clone().and_then(|linux| linux.resources);
    assert_eq!(of(&updates.all[0]), Some(made));
    let bare = ContainerUpdate { container_id: "d".to_owned(), ..ContainerUpdate::default() };
    updates.add(&mut owners, "00-a", vec![bare]).expect("nothing");
    assert_eq!(
        updates.all[1].linux,
        Some(LinuxContainerUpdate::default()).map(|mut linux| {
            linux.resources = Some(LinuxResources::default());
            linux
        })
    );
}

#[test]
fn an_eviction_is_refused_and_not_forgotten() {
    let evict = vec![ContainerEviction { container_id: "d".to_owned(), ..Default::default() }];
    let answer = CreateContainerResponse { evict, ..CreateContainerResponse::default() };
    let error = creation().add("00-a", answer).expect_err("refused").to_string();
    assert_eq!(error, "plugin 00-a: asks to evict container d, which is not supported");
}
