//! All RPCs of both services, called as no kubelet should: with nothing, with ids of nothing, with
//! ids that are no ids, with the beginnings of ids, and by clients that hang up at once.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::layout::repository;
use e2e::node::{Node, Options};
use e2e::raw::{Patience, Raw};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use tonic::Code::{self, InvalidArgument, NotFound, Ok as Fine};
use tonic::Status;

use crate::support::{Running, add};

/// Objects whose ids begin with one of sixteen digits: of one more, two begin alike.
const CROWD: usize = 17;

/// Sends the RPC about the object with this id. Everything else in the request is as it should be.
type Send = fn(&Raw, &str) -> Result<(), Status>;

/// What an RPC is asked about.
enum About {
    /// No object.
    Nothing,
    /// A pod: the codes for one that is absent, and for one that is ready and has a container.
    Pod(Code, Code, Send),
    /// A container: the codes for one that is absent, and for one that runs.
    Container(Code, Code, Send),
}
use About::{Container, Nothing, Pod};

/// Name, code for an empty message, and the rest.
type Row = (&'static str, Code, About);

/// The codes are those of the policy: what is malformed is InvalidArgument, what is absent is
/// NotFound where something was to be done with it and fine where it was to go.
const ROWS: &[Row] = &[
    ("Version", Fine, Nothing),
    ("Status", Fine, Nothing),
    ("RuntimeConfig", Fine, Nothing),
    ("UpdateRuntimeConfig", InvalidArgument, Nothing),
    ("ListPodSandbox", Fine, Nothing),
    ("StreamPodSandboxes", Fine, Nothing),
    ("ListContainers", Fine, Nothing),
    ("StreamContainers", Fine, Nothing),
    ("ListContainerStats", Fine, Nothing),
    ("StreamContainerStats", Fine, Nothing),
    ("ListPodSandboxStats", Fine, Nothing),
    ("StreamPodSandboxStats", Fine, Nothing),
    ("ListMetricDescriptors", Fine, Nothing),
    ("ListPodSandboxMetrics", Fine, Nothing),
    ("StreamPodSandboxMetrics", Fine, Nothing),
    ("GetContainerEvents", Fine, Nothing),
    ("ListImages", Fine, Nothing),
    ("StreamImages", Fine, Nothing),
    ("ImageFsInfo", Fine, Nothing),
    ("ImageStatus", InvalidArgument, Nothing),
    ("PullImage", InvalidArgument, Nothing),
    ("RemoveImage", InvalidArgument, Nothing),
    ("RunPodSandbox", InvalidArgument, Nothing),
    ("CheckpointContainer", InvalidArgument, Nothing),
    ("CheckpointPod", InvalidArgument, Nothing),
    ("RestorePod", InvalidArgument, Nothing),
    (
        "StopPodSandbox",
        InvalidArgument,
        Pod(Fine, Fine, |raw, id| {
            raw.call("StopPodSandbox", pb::StopPodSandboxRequest { pod_sandbox_id: id.into() })
        }),
    ),
    (
        "RemovePodSandbox",
        InvalidArgument,
        Pod(Fine, Fine, |raw, id| {
            raw.call("RemovePodSandbox", pb::RemovePodSandboxRequest { pod_sandbox_id: id.into() })
        }),
    ),
    (
        "PodSandboxStatus",
        InvalidArgument,
        Pod(NotFound, Fine, |raw, id| {
            let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
            raw.call("PodSandboxStatus", request)
        }),
    ),
    (
        "UpdatePodSandboxResources",
        InvalidArgument,
        Pod(NotFound, Fine, |raw, id| {
            let request = pb::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: id.into(),
                ..Default::default()
            };
            raw.call("UpdatePodSandboxResources", request)
        }),
    ),
    (
        "CreateContainer",
        InvalidArgument,
        // The image is not here, and that is found out only in a pod that is.
        Pod(NotFound, NotFound, |raw, id| {
            let request = pb::CreateContainerRequest {
                pod_sandbox_id: id.into(),
                config: Some(request::container("other", "localhost/never:pulled", &["/bin/true"])),
                sandbox_config: None,
            };
            raw.call("CreateContainer", request)
        }),
    ),
    (
        "PodSandboxStats",
        InvalidArgument,
        Pod(NotFound, Fine, |raw, id| {
            raw.call("PodSandboxStats", pb::PodSandboxStatsRequest { pod_sandbox_id: id.into() })
        }),
    ),
    (
        "PortForward",
        InvalidArgument,
        Pod(NotFound, Fine, |raw, id| {
            let request = pb::PortForwardRequest { pod_sandbox_id: id.into(), port: vec![80] };
            raw.call("PortForward", request)
        }),
    ),
    (
        "StartContainer",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            raw.call("StartContainer", pb::StartContainerRequest { container_id: id.into() })
        }),
    ),
    (
        "StopContainer",
        InvalidArgument,
        Container(Fine, Fine, |raw, id| {
            let request = pb::StopContainerRequest { container_id: id.into(), timeout: 0 };
            raw.call("StopContainer", request)
        }),
    ),
    (
        "RemoveContainer",
        InvalidArgument,
        Container(Fine, Fine, |raw, id| {
            raw.call("RemoveContainer", pb::RemoveContainerRequest { container_id: id.into() })
        }),
    ),
    (
        "ContainerStatus",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let request = pb::ContainerStatusRequest { container_id: id.into(), verbose: true };
            raw.call("ContainerStatus", request)
        }),
    ),
    (
        "UpdateContainerResources",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let request = pb::UpdateContainerResourcesRequest {
                container_id: id.into(),
                linux: Some(pb::LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
                ..Default::default()
            };
            raw.call("UpdateContainerResources", request)
        }),
    ),
    (
        "ReopenContainerLog",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let request = pb::ReopenContainerLogRequest { container_id: id.into() };
            raw.call("ReopenContainerLog", request)
        }),
    ),
    (
        "ExecSync",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let cmd = vec!["/bin/true".to_owned()];
            raw.call("ExecSync", pb::ExecSyncRequest { container_id: id.into(), cmd, timeout: 20 })
        }),
    ),
    (
        "Exec",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let request = pb::ExecRequest {
                container_id: id.into(),
                cmd: vec!["/bin/true".to_owned()],
                stdout: true,
                ..Default::default()
            };
            raw.call("Exec", request)
        }),
    ),
    (
        "Attach",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            let request =
                pb::AttachRequest { container_id: id.into(), stdout: true, ..Default::default() };
            raw.call("Attach", request)
        }),
    ),
    (
        "ContainerStats",
        InvalidArgument,
        Container(NotFound, Fine, |raw, id| {
            raw.call("ContainerStats", pb::ContainerStatsRequest { container_id: id.into() })
        }),
    ),
];

/// Collects what is wrong instead of ending at the first.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn expect(&mut self, rpc: &str, case: &str, code: Code, answer: &Result<(), Status>) {
        let got = answer.as_ref().err().map_or(Fine, Status::code);
        if got != code {
            let message = answer.as_ref().err().map(Status::message).unwrap_or_default();
            self.0.push(format!("{rpc}, {case}: {got:?}, not {code:?}: {message}"));
        }
    }

    fn finish(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{} answers:\n{}", self.0.len(), self.0.join("\n"));
        Ok(())
    }
}

/// The RPCs about a pod or a container.
fn by_id() -> impl Iterator<Item = (&'static str, &'static About, Code, Code, Send)> {
    ROWS.iter().filter_map(|(rpc, _, about)| match about {
        Nothing => None,
        Pod(absent, there, send) | Container(absent, there, send) => {
            Some((*rpc, about, *absent, *there, *send))
        }
    })
}

pub(crate) fn the_table_has_every_rpc_of_the_interface(_: &Fixture) -> Result<()> {
    let text = fs::read_to_string(repository().join("proto/runtime/v1/api.proto"))?;
    let name = |line: &str| line.trim().strip_prefix("rpc ")?.split('(').next().map(str::to_owned);
    let defined: BTreeSet<String> = text.lines().filter_map(name).collect();
    let tabled: BTreeSet<String> = ROWS.iter().map(|(rpc, ..)| (*rpc).to_owned()).collect();
    ensure!(defined == tabled, "{:?}", defined.symmetric_difference(&tabled));
    ensure!(ROWS.len() == defined.len() && defined.len() > 40, "{} rows", ROWS.len());
    Ok(())
}

pub(crate) fn nothing_or_nonsense_gets_the_right_code(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let raw = Raw::new(&node.socket())?;
    // The connection is there before anything is counted, the bystander is not: what is kept open
    // for it goes with it.
    raw.call("Version", ())?;
    let before = node.traces();
    let pod_config = request::host_network_pod(&node, "bystander");
    let pod = node.cri().run_pod(&pod_config)?;
    let bystander = request::container("bystander", &image, &["/bin/sleep", "1000"]);
    let bystander = add(&node, &pod, &pod_config, bystander)?.id;
    node.cri().start(&bystander)?;
    let mut wrong = Wrong::default();
    for (rpc, empty, _) in ROWS {
        wrong.expect(rpc, "empty", *empty, &raw.call(rpc, ()));
    }
    let (hex, uuid) = ("0".repeat(64), "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    for (rpc, about, absent, _, send) in by_id() {
        // An object of the other kind is no object of this one.
        let other = if matches!(about, Pod(..)) { &bystander } else { &pod };
        for id in [&hex, uuid, other, "zzzz"] {
            wrong.expect(rpc, id, absent, &send(&raw, id));
        }
        for id in ["../x", "a/b", "a\nb", "-x", ".", "é", &"a".repeat(129)] {
            wrong.expect(rpc, id, InvalidArgument, &send(&raw, id));
        }
    }
    wrong.finish()?;
    let status = node.cri().container(&bystander)?;
    ensure!(status.state() == pb::ContainerState::ContainerRunning, "{status:?}");
    node.cri().drop_pod(&pod)?;
    ensure_nothing_new(&before, || node.traces())
}

/// A pod with a running container.
fn pair(node: &Node, image: &str, name: &str) -> Result<Running> {
    let pod_config = request::host_network_pod(node, name);
    let pod = node.cri().run_pod(&pod_config)?;
    let config = request::container("c", image, &["/bin/sleep", "1000"]);
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

fn id_for<'a>(about: &About, running: &'a Running) -> &'a str {
    if matches!(about, Pod(..)) { &running.pod } else { &running.id }
}

pub(crate) fn the_beginning_of_an_id_is_enough_unless_several_begin_so(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let raw = Raw::new(&node.socket())?;
    raw.call("Version", ())?;
    let before = node.traces();
    let mut wrong = Wrong::default();
    for (rpc, about, _, there, send) in by_id() {
        let running = pair(&node, &image, &rpc.to_lowercase())?;
        let short = &id_for(about, &running)[..13];
        wrong.expect(rpc, "short", there, &send(&raw, short));
        node.cri().drop_pod(&running.pod)?;
    }
    ensure_nothing_new(&before, || node.traces())?;

    let pod_config = request::host_network_pod(&node, "crowded");
    let pod = node.cri().run_pod(&pod_config)?;
    for number in 1..CROWD {
        node.cri().run_pod(&request::host_network_pod(&node, &format!("p{number}")))?;
    }
    for number in 0..CROWD {
        let config = request::container(&format!("c{number}"), &image, &["/bin/sleep", "1000"]);
        add(&node, &pod, &pod_config, config)?;
    }
    let pods: Vec<String> = node.cri().pods()?.into_iter().map(|pod| pod.id).collect();
    let containers: Vec<String> = node.cri().containers()?.into_iter().map(|c| c.id).collect();
    for (rpc, about, _, _, send) in by_id() {
        let ids = if matches!(about, Pod(..)) { &pods } else { &containers };
        let shared = shared_beginning(ids).context("no two ids begin alike")?;
        wrong.expect(rpc, "ambiguous", InvalidArgument, &send(&raw, &shared));
    }
    wrong.finish()?;
    // Nobody was stopped or removed by mistake.
    let ready = node.cri().pods()?;
    let is_ready = |pod: &pb::PodSandbox| pod.state() == pb::PodSandboxState::SandboxReady;
    ensure!(ready.len() == CROWD && ready.iter().all(is_ready));
    ensure!(node.cri().containers()?.len() == CROWD);
    Ok(())
}

/// The first digit that two of the ids begin with.
fn shared_beginning(ids: &[String]) -> Option<String> {
    let alike = |digit: &char| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1;
    "0123456789abcdef".chars().find(alike).map(String::from)
}

pub(crate) fn clients_that_hang_up_at_once_leave_nothing(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    Raw::new(&node.socket())?.call("Version", ())?;
    let before = node.traces();
    for patience in [0, 300, 3_000].map(|us| Patience::Only(Duration::from_micros(us))) {
        // A connection of its own, which goes with the client.
        let raw = Raw::new(&node.socket())?.with(patience);
        for (rpc, ..) in ROWS {
            raw.call(rpc, ()).ok();
        }
        let running = pair(&node, &image, "deserted")?;
        for (_, about, _, _, send) in by_id() {
            send(&raw, id_for(about, &running)).ok();
        }
        // Whatever was begun is done by now or will be; the pod can be removed either way.
        node.cri().drop_pod(&running.pod)?;
    }
    node.cri().version_rpc(pb::VersionRequest::default())?;
    ensure!(node.cri().pods()?.is_empty() && node.cri().containers()?.is_empty());
    ensure_nothing_new(&before, || node.traces())
}
