//! GetContainerEvents, as the kubelet and as crictl listen to it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::cri::Events;
use e2e::crictl;
use e2e::node::{Node, Options};
use e2e::program::Program;
use e2e::request;
use e2e::runner::Fixture;
use e2e::wait::eventually;
use pb::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use pb::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
use pb::PodSandboxState::{SandboxNotready, SandboxReady};
use serde_json::Value;

use crate::support::{END, add, run};

/// One event as the tests look at it: what, the state of the pod, the states of its containers.
type Seen = (pb::ContainerEventType, pb::PodSandboxState, Vec<pb::ContainerState>);

/// The next event of this pod; checks what all events have in common.
fn next(events: &mut Events, pod: &str, last: &mut i64) -> Result<pb::ContainerEventResponse> {
    loop {
        let event = events.next(END)?.context("the stream has ended")?;
        ensure!(event.created_at >= *last, "time goes back");
        *last = event.created_at;
        let status = event.pod_sandbox_status.as_ref().context("no status of the pod")?;
        let metadata = status.metadata.as_ref().context("no metadata")?;
        ensure!(!metadata.uid.is_empty() && !metadata.name.is_empty(), "{metadata:?}");
        if status.id == pod {
            return Ok(event);
        }
    }
}

fn seen(event: &pb::ContainerEventResponse) -> Seen {
    let pod = event.pod_sandbox_status.as_ref().map(pb::PodSandboxStatus::state);
    let containers = event.containers_statuses.iter().map(pb::ContainerStatus::state).collect();
    (event.container_event_type(), pod.unwrap_or(SandboxNotready), containers)
}

pub(crate) fn a_pods_life_is_told_in_its_order(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut events = node.cri().events()?;
    let shown = Crictl::listen(fixture, &node)?;

    let running = run(&node, request::container("told", &image, &["/bin/sleep", "1000"]))?;
    node.cri().stop(&running.id, 0)?;
    node.cri().remove(&running.id)?;
    node.cri().drop_pod(&running.pod)?;

    let (pod, container) = (&running.pod, &running.id);
    let expected: [(&str, Seen); 8] = [
        (pod, (Created, SandboxReady, vec![])),
        (pod, (Started, SandboxReady, vec![])),
        (container, (Created, SandboxReady, vec![ContainerCreated])),
        (container, (Started, SandboxReady, vec![ContainerRunning])),
        (container, (Stopped, SandboxReady, vec![ContainerExited])),
        (container, (Deleted, SandboxReady, vec![ContainerExited])),
        (pod, (Stopped, SandboxNotready, vec![])),
        (pod, (Deleted, SandboxNotready, vec![])),
    ];
    let mut last = 0;
    for (id, wanted) in &expected {
        let event = next(&mut events, pod, &mut last)?;
        ensure!(event.container_id == *id && seen(&event) == *wanted, "not {wanted:?}: {event:?}");
        if let [status] = event.containers_statuses.as_slice() {
            ensure!(status.id == *container && status.created_at > 0, "{status:?}");
            let ended = status.state() == ContainerExited;
            ensure!((status.finished_at > 0) == ended, "{status:?}");
            ensure!(!ended || status.exit_code == 137, "{status:?}");
        }
    }
    let names =
        ["CREATED", "STARTED", "CREATED", "STARTED", "STOPPED", "DELETED", "STOPPED", "DELETED"];
    eventually("crictl shows the same", END, || {
        let of_pod: Vec<String> = shown.events_of(pod)?;
        let wanted: Vec<_> = names.iter().map(|name| format!("CONTAINER_{name}_EVENT")).collect();
        ensure!(of_pod == wanted, "{of_pod:?}");
        Ok(())
    })
}

/// `crictl events` in the background.
struct Crictl(Program);

impl Crictl {
    /// Starts it and waits until it hears something.
    fn listen(fixture: &Fixture, node: &Node) -> Result<Self> {
        let log = fixture.dir().join("crictl-events.log");
        let mut command = crictl::command(&node.socket(), &["events", "-o", "json"])?;
        let shown = Self(Program::start(&mut command, &log)?);
        eventually("crictl listens", END, || {
            let pod = node.cri().run_pod(&request::host_network_pod(node, "sound-check"))?;
            node.cri().drop_pod(&pod)?;
            ensure!(!shown.events_of(&pod)?.is_empty(), "nothing heard: {}", shown.0.printed());
            Ok(())
        })?;
        Ok(shown)
    }

    /// The names of the events of one pod so far.
    fn events_of(&self, pod: &str) -> Result<Vec<String>> {
        let printed = self.0.printed();
        let events = serde_json::Deserializer::from_str(&printed).into_iter::<Value>();
        // The last one may still be on its way into the file.
        let events = events.take_while(Result::is_ok).flatten();
        let of_pod = events.filter(|event| event["podSandboxStatus"]["id"] == pod);
        of_pod
            .map(|event| Ok(event["containerEventType"].as_str().context("type")?.to_owned()))
            .collect()
    }
}

pub(crate) fn an_end_that_overtakes_the_start_is_told_after_it(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut events = node.cri().events()?;
    for round in 0..10 {
        // Often gone before the runtime's start has returned.
        let running = run(&node, request::container("mayfly", &image, &["/bin/true"]))?;
        let mut last = 0;
        for wanted in [Created, Started, Created, Started, Stopped] {
            let event = next(&mut events, &running.pod, &mut last)?;
            ensure!(event.container_event_type() == wanted, "round {round}: {event:?}");
        }
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

pub(crate) fn who_never_reads_is_cut_off_and_the_other_hears_everything(
    fixture: &Fixture,
) -> Result<()> {
    /// Their events are more than the daemon's queue for one listener and the socket hold.
    const PODS: usize = 340;
    /// Bytes that make every event large, so that the socket holds few.
    const LARGE: usize = 64 << 10;
    let node = fixture.node();
    let mut idle = node.cri().events()?;
    let mut busy = node.cri().events()?;
    let (pods, heard) = std::thread::scope(|scope| -> Result<_> {
        let listener = scope.spawn(|| -> Result<_> {
            let mut heard: BTreeMap<String, Vec<pb::ContainerEventType>> = BTreeMap::new();
            let mut deleted = 0;
            while deleted < PODS {
                let event = busy.next(END)?.context("the stream has ended")?;
                deleted += usize::from(event.container_event_type() == Deleted);
                let what = event.container_event_type();
                heard.entry(event.container_id).or_default().push(what);
            }
            Ok(heard)
        });
        let mut pods = Vec::new();
        for _ in 0..PODS {
            let mut config = request::host_network_pod(&node, "one-of-many");
            config.annotations.insert("example.com/large".to_owned(), "x".repeat(LARGE));
            let pod = node.cri().run_pod(&config)?;
            node.cri().drop_pod(&pod)?;
            pods.push(pod);
        }
        let heard = listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
        Ok((pods, heard))
    })?;
    for pod in &pods {
        let of_pod = heard.get(pod).context("a pod that nobody was told of")?;
        ensure!(of_pod == &[Created, Started, Stopped, Deleted], "{of_pod:?}");
    }
    // What was on its way to the other is still there; then comes the reason.
    let reason = (0..PODS * 4).find_map(|_| match idle.next(END) {
        Ok(Some(_)) => None,
        Ok(None) => Some(Err(anyhow::anyhow!("the stream ended without an error"))),
        Err(status) => Some(Ok(status)),
    });
    let reason = reason.context("the stream was not cut off")??;
    ensure!(reason.code() == tonic::Code::ResourceExhausted, "{reason:?}");
    node.cri().events()?;
    Ok(())
}

pub(crate) fn who_never_reads_does_not_hold_up_the_end_of_the_daemon(
    fixture: &Fixture,
) -> Result<()> {
    /// Their events are more than gRPC and the socket take for a client that does not read.
    const PODS: usize = 20;
    const LARGE: usize = 64 << 10;
    /// Far below what requests in flight are given.
    const END_OF_DAEMON: Duration = Duration::from_secs(12);
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let idle = node.cri().events()?;
    for _ in 0..PODS {
        let mut config = request::host_network_pod(&node, "one-of-many");
        config.annotations.insert("example.com/large".to_owned(), "x".repeat(LARGE));
        let pod = node.cri().run_pod(&config)?;
        node.cri().drop_pod(&pod)?;
    }
    let running = run(&node, request::container("busy", &image, &["/bin/sleep", "1000"]))?;
    // What is in flight is still waited for, and answered.
    let began = node.state().join("containers").join(&running.id).join("rootfs/began");
    let (cri, id) = (node.cri().clone(), running.id.clone());
    let answered = std::thread::scope(|scope| -> Result<_> {
        let line = "touch /began; sleep 3; echo done";
        let asking = scope.spawn(move || cri.exec(&id, &["/bin/sh", "-c", line]));
        eventually("the command runs", END, || {
            ensure!(began.exists(), "not yet");
            Ok(())
        })?;
        node.terminate_within(END_OF_DAEMON)?;
        Ok(asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))??)
    })?;
    ensure!(answered.stdout == b"done\n", "{answered:?}");
    drop(idle);
    node.spawn()
}

pub(crate) fn a_new_daemon_tells_what_happens_to_old_pods(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let mut pod_config = request::host_network_pod(&node, "old");
    pod_config.labels.insert("age".to_owned(), "old".to_owned());
    let pod = node.cri().run_pod(&pod_config)?;
    let first = request::container("first", &image, &["/bin/sleep", "1000"]);
    let first = add(&node, &pod, &pod_config, first)?;
    node.cri().start(&first.id)?;
    let second = request::container("second", &image, &["/bin/sleep", "1000"]);
    let second = add(&node, &pod, &pod_config, second)?;

    let mut events = node.cri().events()?;
    node.kill9()?;
    ensure!(events.next(END).is_err(), "the end of the daemon is no end of the events");
    node.spawn()?;
    let mut events = node.cri().events()?;
    ensure!(
        events
            .next(Duration::from_millis(200))
            .is_err_and(|status| { status.code() == tonic::Code::DeadlineExceeded }),
        "an event of what was there before"
    );

    node.cri().stop(&first.id, 0)?;
    let mut last = 0;
    let event = next(&mut events, &pod, &mut last)?;
    ensure!(event.container_id == first.id && event.container_event_type() == Stopped);
    let status = event.pod_sandbox_status.context("status")?;
    ensure!(status.labels.get("age").is_some_and(|age| age == "old"), "{status:?}");
    let states: BTreeMap<_, _> =
        event.containers_statuses.iter().map(|c| (c.id.clone(), c.state())).collect();
    let wanted = [(first.id, ContainerExited), (second.id, ContainerCreated)];
    ensure!(states == wanted.into(), "{states:?}");

    // Going down is an error of the stream: a quiet end would look like no events.
    let mut events = node.cri().events()?;
    node.terminate()?;
    let ended = events.next(END).err().context("the stream ended without an error")?;
    ensure!(ended.code() == tonic::Code::Unavailable, "{ended:?}");
    node.spawn()
}
