//! Plugins of the tests' own over a real socket: see [`puppet`].

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;

use super::wire::{
    ConfigureResponse, ContainerAdjustment, ContainerRequest, CreateContainerResponse, KeyValue,
    LinuxContainerUpdate, LinuxCpu, LinuxResources, OptionalUint64, StopContainerResponse,
    SynchronizeRequest, UpdateContainerResponse, UpdateContainersRequest, UpdateContainersResponse,
    ValidateRequest, ValidateResponse,
};
use super::*;

mod puppet;
mod trouble;

use puppet::{Puppet, Reaction};

/// How long anything that must happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Pods and containers of a test, as core would keep them.
#[derive(Default)]
struct Objects {
    containers: Mutex<BTreeMap<String, Told>>,
    updates: Mutex<Vec<ContainerUpdate>>,
}

impl Objects {
    fn add(&self, id: &str) -> Told {
        let told = Told::default();
        self.containers.lock().unwrap().insert(id.to_owned(), told.clone());
        told
    }
}

impl Host for Objects {
    fn pod(&self, id: &str) -> Option<Pod> {
        Some(Pod { id: id.to_owned(), name: "pod".to_owned(), ..Pod::default() })
    }

    fn picture(&self) -> Work<'_, Picture> {
        let containers = self.containers.lock().unwrap();
        let shown = containers.iter().filter(|(_, told)| told.is_shown());
        let containers = shown.map(|(id, _)| container(id)).collect();
        Box::pin(async { Picture { pods: Vec::new(), containers } })
    }

    fn update<'a>(&'a self, update: &'a ContainerUpdate) -> Work<'a, Result<(), String>> {
        let known = self.containers.lock().unwrap().contains_key(&update.container_id);
        self.updates.lock().unwrap().push(update.clone());
        Box::pin(async move { if known { Ok(()) } else { Err("does not exist".to_owned()) } })
    }
}

fn container(id: &str) -> Container {
    Container { id: id.to_owned(), pod_id: "p".to_owned(), ..Container::default() }
}

/// A node with plugins and nothing else.
struct Node {
    plugins: Plugins,
    objects: Arc<Objects>,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut config::Nri)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config::Nri {
            trust: crate::trust::Trust::RootAlone,
            enable: true,
            socket: dir.path().join("nri.sock"),
            disable_connections: false,
            plugin_dir: dir.path().join("plugins"),
            plugin_config_dir: dir.path().join("conf.d"),
            registration_timeout: SOON,
            request_timeout: SOON,
        };
        change(&mut config);
        let plugins = Plugins::new(&config, ("crisol", "1.2.3"));
        let objects = Arc::new(Objects::default());
        plugins.serve(&config, objects.clone()).await;
        Self { plugins, objects, socket: config.socket, _dir: dir }
    }

    /// Makes a container as core does; it is known to the host from the beginning.
    async fn create(&self, id: &str) -> Result<Option<ContainerAdjustment>, NriError> {
        let told = self.objects.add(id);
        self.plugins.create_container(&told, async { container(id) }).await
    }

    fn told(&self, id: &str) -> Told {
        self.objects.containers.lock().unwrap()[id].clone()
    }

    /// Waits until that many plugins are in the list.
    async fn has_plugins(&self, count: usize) {
        let wait = async {
            while self.plugins.lock().len() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("plugins come and go");
    }
}

fn adjust_env(key: &str, value: &str) -> Vec<u8> {
    let env = vec![KeyValue { key: key.to_owned(), value: value.to_owned() }];
    let adjust = Some(ContainerAdjustment { env, ..ContainerAdjustment::default() });
    CreateContainerResponse { adjust, ..CreateContainerResponse::default() }.encode_to_vec()
}

fn shares(container: &str, value: u64) -> ContainerUpdate {
    let cpu = Some(LinuxCpu { shares: Some(OptionalUint64 { value }), ..LinuxCpu::default() });
    let resources = Some(LinuxResources { cpu, ..LinuxResources::default() });
    let linux = Some(LinuxContainerUpdate { resources });
    ContainerUpdate { container_id: container.to_owned(), linux, ignore_failure: false }
}

fn id_in(payload: &[u8]) -> String {
    ContainerRequest::decode(payload).unwrap().container.unwrap_or_default().id
}

#[tokio::test]
async fn a_plugin_hears_of_a_life_from_its_beginning_to_its_end_in_order() {
    let node = Node::start().await;
    let puppet = Puppet::join(&node, "10", "a", |method, _| match method {
        "CreateContainer" => Reaction::Answer(adjust_env("X", "1")),
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let told = Told::default();
    let pod = || Pod { id: "p".to_owned(), ..Pod::default() };
    node.plugins.run_pod(&told, pod).await.unwrap();
    let adjustment = node.create("c").await.unwrap().expect("somebody was asked");
    assert_eq!(adjustment.env, [KeyValue { key: "X".to_owned(), value: "1".to_owned() }]);
    node.plugins.post_create_container(async { container("c") }).await;
    node.plugins.start_container(async { container("c") }).await.unwrap();
    node.plugins.post_start_container(async { container("c") }).await;
    let wanted = node.plugins.update_container(async { container("c") }, LinuxResources::default());
    assert_eq!(wanted.await.unwrap(), LinuxResources::default());
    node.plugins.post_update_container(async { container("c") }).await;
    for _ in 0..2 {
        node.plugins.stop_container(&node.told("c"), async { container("c") }).await;
    }
    for _ in 0..2 {
        node.plugins.remove_container(&node.told("c"), async { container("c") }).await;
    }
    let limits = || (LinuxResources::default(), LinuxResources::default());
    node.plugins.update_pod(pod, limits).await.unwrap();
    node.plugins.post_update_pod(pod).await;
    node.plugins.stop_pod(&told, pod).await;
    node.plugins.stop_pod(&told, pod).await;
    node.plugins.remove_pod(&told, pod).await;
    node.plugins.shut_down().await;
    let expected = [
        "Configure",
        "Synchronize",
        "RunPodSandbox",
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "Shutdown",
    ];
    assert_eq!(puppet.methods(), expected);
    let request = ContainerRequest::decode(puppet.payload("StartContainer").as_slice()).unwrap();
    assert_eq!(request.pod.unwrap().name, "pod");
    let configure = wire::ConfigureRequest::decode(puppet.payload("Configure").as_slice()).unwrap();
    assert_eq!((configure.runtime_name.as_str(), configure.request_timeout), ("crisol", 20_000));
}

#[tokio::test]
async fn without_plugins_nothing_is_gathered_and_all_is_announced() {
    let node = Node::start().await;
    let told = node.objects.add("c");
    let nobody = async { unreachable!("there is nobody to show it to") };
    assert_eq!(node.plugins.create_container(&told, nobody).await.unwrap(), None);
    assert!(told.is_shown());
}

#[tokio::test]
async fn plugins_are_asked_by_index_and_only_for_what_they_want() {
    let node = Node::start().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut puppets = Vec::new();
    for index in ["30", "10", "20"] {
        let order = order.clone();
        let puppet = Puppet::join(&node, index, "p", move |method, _| match method {
            // CreateContainer and StartContainer, as bits.
            "Configure" if index == "20" => {
                Reaction::Answer(ConfigureResponse { events: 1 << 5 }.encode_to_vec())
            }
            "Configure" => Reaction::Answer(ConfigureResponse { events: 1 << 3 }.encode_to_vec()),
            "CreateContainer" | "StartContainer" => {
                order.lock().unwrap().push((index, method.to_owned()));
                Reaction::Answer(Vec::new())
            }
            _ => Reaction::Answer(Vec::new()),
        });
        puppets.push(puppet.await);
    }
    node.create("c").await.unwrap();
    node.plugins.start_container(async { container("c") }).await.unwrap();
    node.plugins.post_start_container(async { container("c") }).await;
    let order = order.lock().unwrap().clone();
    let create = "CreateContainer".to_owned();
    let expected = [("10", create.clone()), ("30", create), ("20", "StartContainer".to_owned())];
    assert_eq!(order, expected);
}

#[tokio::test]
async fn conflicting_plugins_are_both_named_and_both_told_that_the_container_is_gone() {
    let node = Node::start().await;
    let answer = |method: &str, _: &[u8]| match method {
        "CreateContainer" => Reaction::Answer(adjust_env("X", "1")),
        _ => Reaction::Answer(Vec::new()),
    };
    let one = Puppet::join(&node, "00", "one", answer).await;
    let two = Puppet::join(&node, "10", "two", answer).await;
    let error = node.create("c").await.unwrap_err().to_string();
    assert_eq!(error, "plugins 00-one and 10-two both set variable \"X\" of container c");
    for puppet in [one, two] {
        let methods = puppet.methods();
        assert_eq!(methods[methods.len() - 2..], ["StopContainer", "RemoveContainer"]);
    }
    assert!(!node.told("c").is_shown());
}

#[tokio::test]
async fn a_refusal_counts_and_a_validator_has_the_last_word() {
    let node = Node::start().await;
    let first = Puppet::join(&node, "00", "first", |method, payload| match method {
        "CreateContainer" if id_in(payload) == "good" => Reaction::Answer(adjust_env("X", "1")),
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let _second = Puppet::join(&node, "10", "second", |method, payload| match method {
        "CreateContainer" if id_in(payload) == "refused" => Reaction::Refuse(2, "not here"),
        "StartContainer" => Reaction::Refuse(2, "not now"),
        "ValidateContainerAdjustment" => {
            let request = ValidateRequest::decode(payload).unwrap();
            let owners = &request.owners.unwrap().owners;
            let owner = owners.get("good").map(|of| of.compound[&6].owners["X"].clone());
            let reject = owner.is_some();
            let reason = format!("X is of {}", owner.unwrap_or_default());
            Reaction::Answer(ValidateResponse { reject, reason }.encode_to_vec())
        }
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let error = node.create("refused").await.unwrap_err().to_string();
    assert_eq!(error, "plugin 10-second refused CreateContainer: not here");
    let error = node.create("good").await.unwrap_err().to_string();
    assert_eq!(error, "plugin 10-second refused ValidateContainerAdjustment: X is of 00-first");
    node.create("other").await.expect("nobody minds");
    let error = node.plugins.start_container(async { container("other") }).await.unwrap_err();
    assert_eq!(error.to_string(), "plugin 10-second refused StartContainer: not now");
    // Who had accepted what came to nothing was told.
    let gone = first.methods().iter().filter(|method| *method == "RemoveContainer").count();
    assert_eq!(gone, 2);
}

#[tokio::test]
async fn plugins_change_other_containers_with_and_without_being_asked() {
    let node = Node::start().await;
    let puppet = Puppet::join(&node, "00", "a", |method, _| {
        let update = vec![shares("old", 7)];
        Reaction::Answer(match method {
            "CreateContainer" => {
                CreateContainerResponse { update, ..CreateContainerResponse::default() }
                    .encode_to_vec()
            }
            "UpdateContainer" => {
                let update = vec![shares("new", 9), shares("old", 8)];
                UpdateContainerResponse { update, ..UpdateContainerResponse::default() }
                    .encode_to_vec()
            }
            "StopContainer" => {
                StopContainerResponse { update: vec![shares("old", 6)] }.encode_to_vec()
            }
            _ => Vec::new(),
        })
    })
    .await;
    node.objects.add("old");
    node.create("new").await.unwrap();
    let own = node.plugins.update_container(async { container("new") }, LinuxResources::default());
    let own = own.await.unwrap();
    assert_eq!(Some(own), shares("new", 9).linux.unwrap().resources);
    node.plugins.stop_container(&node.told("new"), async { container("new") }).await;
    let request = UpdateContainersRequest {
        update: vec![shares("old", 5), shares("absent", 5)],
        ..UpdateContainersRequest::default()
    };
    let answer = puppet.call("UpdateContainers", request.encode_to_vec()).await.unwrap();
    let failed = UpdateContainersResponse::decode(answer.as_slice()).unwrap().failed;
    assert_eq!(failed, [shares("absent", 5)]);
    let updates = node.objects.updates.lock().unwrap().clone();
    let expected = [
        shares("old", 7),
        shares("old", 8),
        shares("old", 6),
        shares("old", 5),
        shares("absent", 5),
    ];
    assert_eq!(updates, expected);
    let evict =
        vec![wire::ContainerEviction { container_id: "old".to_owned(), ..Default::default() }];
    let request = UpdateContainersRequest { evict, ..UpdateContainersRequest::default() };
    let (_, refused) = puppet.call("UpdateContainers", request.encode_to_vec()).await.unwrap_err();
    assert!(refused.contains("evict"), "{refused}");
    // A creation fails when another container cannot be changed as it needs.
    node.objects.containers.lock().unwrap().remove("old");
    let error = node.create("next").await.unwrap_err().to_string();
    assert_eq!(error, "update of container old asked by a plugin: does not exist");
}

#[tokio::test]
async fn an_older_plugin_gets_changes_of_state_instead() {
    let node = Node::start().await;
    let puppet = Puppet::join(&node, "00", "old", |method, _| match method {
        "Configure" | "Synchronize" | "StateChange" | "CreateContainer" => {
            Reaction::Answer(Vec::new())
        }
        _ => Reaction::Refuse(12, "no such method"),
    })
    .await;
    node.create("c").await.unwrap();
    node.plugins.start_container(async { container("c") }).await.unwrap();
    assert!(puppet.methods().ends_with(&["StartContainer".to_owned(), "StateChange".to_owned()]));
    let change = wire::StateChange::decode(puppet.payload("StateChange").as_slice()).unwrap();
    assert_eq!(change.event(), wire::Event::StartContainer);
    assert_eq!(change.container.unwrap().id, "c");
}

#[tokio::test]
async fn who_joins_while_containers_are_made_sees_each_exactly_once() {
    const CONTAINERS: usize = 200;
    const LATE: usize = 8;
    let node = Arc::new(Node::start().await);
    let slow = |method: &str, _: &[u8]| match method {
        "CreateContainer" => Reaction::After(Duration::from_millis(3), Vec::new()),
        "Synchronize" => Reaction::After(Duration::from_millis(30), Vec::new()),
        _ => Reaction::Answer(Vec::new()),
    };
    let first = Puppet::join(&node, "50", "first", slow).await;
    let mut creations = tokio::task::JoinSet::new();
    for number in 0..CONTAINERS {
        let node = node.clone();
        creations.spawn(async move {
            tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
            let id = format!("c{number}");
            node.create(&id).await.unwrap();
            // Some go at once, some stay.
            if number % 3 == 0 {
                node.plugins.remove_container(&node.told(&id), async { container(&id) }).await;
            }
        });
    }
    let mut puppets = vec![first];
    for number in 0..LATE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        puppets.push(Puppet::join(&node, &format!("{number:02}"), "late", slow).await);
    }
    while let Some(created) = creations.join_next().await {
        created.unwrap();
    }
    let mut late = 0;
    for puppet in puppets {
        let (mut seen, mut gone) = (Vec::new(), BTreeSet::new());
        let mut has_picture = false;
        for (method, payload) in puppet.heard() {
            match method.as_str() {
                "Synchronize" => {
                    has_picture = true;
                    let picture = SynchronizeRequest::decode(payload.as_slice()).unwrap();
                    late += usize::from(!picture.containers.is_empty());
                    seen.extend(picture.containers.into_iter().map(|c| c.id));
                }
                "CreateContainer" => {
                    assert!(has_picture, "an event before the picture");
                    seen.push(id_in(&payload));
                }
                "RemoveContainer" => {
                    let id = id_in(&payload);
                    assert!(seen.contains(&id), "{id} goes but never came");
                    assert!(gone.insert(id), "gone twice");
                }
                _ => {}
            }
        }
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "a container twice");
        // Absent may be only what was gone before the plugin came.
        for number in 0..CONTAINERS {
            let id = format!("c{number}");
            assert!(once.contains(&id) || number % 3 == 0, "{id} was lost");
            assert!(number % 3 != 0 || once.contains(&id) == gone.contains(&id), "{id} is a ghost");
        }
    }
    assert!(late >= LATE / 2, "only {late} plugins joined in the middle");
}
