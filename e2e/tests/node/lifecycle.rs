//! What the state of a container says, and the verbs that change it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::install;
use e2e::raw::{Patience, Raw};
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{host, request};
use tonic::Code;

use crate::support::{END, Running, add, ended, finish, pid, run, state};

/// Containers in one pod of the test that counts exit codes.
const IN_ONE_POD: usize = 125;

pub(crate) fn states_times_and_exit_codes_are_exact(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut pod_config = request::host_network_pod(&node, "states");
    pod_config.annotations.insert("example.com/kept".to_owned(), "as it is".to_owned());
    let pod = node.cri().run_pod(&pod_config)?;
    let running = add(&node, &pod, &pod_config, request::shell("c", &image, "sleep 0.2; exit 42"))?;
    let created = node.cri().container(&running.id)?;
    listed_alike(&node, &pod_config, &created)?;
    ensure!(state(&created) == pb::ContainerState::ContainerCreated);
    ensure!(created.started_at == 0 && created.created_at > 0);
    ensure!(created.image.as_ref().is_some_and(|spec| spec.image == image));
    ensure!(created.log_path == running.log().display().to_string(), "{}", created.log_path);
    node.cri().start(&running.id)?;
    // The kubelet links to the log as soon as StartContainer returned.
    ensure!(running.log().exists(), "no log file after StartContainer");
    let exited = ended(&node, &running.id)?;
    ensure!(exited.exit_code == 42, "exit code {}", exited.exit_code);
    ensure!(exited.reason == "Error", "reason {:?}", exited.reason);
    ensure!(exited.created_at <= exited.started_at && exited.started_at < exited.finished_at);
    let lived = Duration::from_nanos((exited.finished_at - exited.started_at).cast_unsigned());
    ensure!(lived.as_millis() >= 150, "lived {lived:?}");
    what_has_ended_takes_no_more(&node, &running)?;

    let (_, done) = finish(&node, request::container("ok", &image, &["/bin/true"]))?;
    ensure!(done.exit_code == 0 && done.reason == "Completed", "{:?}", done.reason);
    let victim = run(&node, request::container("killed", &image, &["/bin/sleep", "1000"]))?;
    host::kill_process(pid(&node, &victim.id)?);
    let killed = ended(&node, &victim.id)?;
    ensure!(killed.exit_code == 137 && killed.reason == "Error", "{killed:?}");
    Ok(())
}

/// Lists, whole and one by one, and the pod's status show the container as its own status does.
fn listed_alike(
    node: &Node,
    pod_config: &pb::PodSandboxConfig,
    status: &pb::ContainerStatus,
) -> Result<()> {
    ensure!(!status.image_ref.is_empty() && status.image_id.starts_with("sha256:"), "{status:?}");
    let listed = node.cri().containers()?;
    ensure!(node.cri().stream_containers()? == listed, "one by one they are others");
    let of_it: Vec<_> = listed.iter().filter(|c| c.id == status.id).collect();
    let [one] = of_it[..] else { anyhow::bail!("listed {} times", of_it.len()) };
    ensure!(one.metadata == status.metadata && one.image == status.image, "{one:?}");
    ensure!(one.image_ref == status.image_ref && one.image_id == status.image_id, "{one:?}");
    ensure!(one.created_at == status.created_at && one.labels == status.labels, "{one:?}");

    let request =
        pb::PodSandboxStatusRequest { pod_sandbox_id: one.pod_sandbox_id.clone(), verbose: false };
    let answer = node.cri().pod_status_rpc(request)?;
    ensure!(answer.containers_statuses == [status.clone()] && answer.timestamp > 0, "{answer:?}");
    let pod = answer.status.context("no status")?;
    ensure!(pod.labels == pod_config.labels && pod.annotations == pod_config.annotations);
    let pods = node.cri().pods()?;
    ensure!(node.cri().stream_pods()? == pods, "one by one they are others");
    let listed = pods.iter().find(|listed| listed.id == pod.id).context("not listed")?;
    ensure!(listed.labels == pod.labels && listed.annotations == pod.annotations, "{listed:?}");
    ensure!(listed.created_at == pod.created_at && pod.created_at > 0, "{listed:?}");
    Ok(())
}

/// An ended container has no log to open anew and runs no commands; its log outlives it. A stopped
/// pod takes no container.
fn what_has_ended_takes_no_more(node: &Node, running: &Running) -> Result<()> {
    let renamed = running.log().with_extension("renamed");
    std::fs::rename(running.log(), &renamed)?;
    let request = pb::ReopenContainerLogRequest { container_id: running.id.clone() };
    let refused = node.cri().reopen_rpc(request).err().context("reopened")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    ensure!(!running.log().exists(), "a log of a container that has ended");
    let refused = node.cri().exec(&running.id, &["/bin/true"]).err().context("ran")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    node.cri().remove(&running.id)?;
    ensure!(renamed.exists(), "the kubelet's log went with the container");

    let pod_sandbox_id = running.pod.clone();
    node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id })?;
    let late = node.cri().create(&running.pod, &running.config, &running.pod_config);
    let late = late.err().context("created in a stopped pod")?;
    ensure!(late.code() == Code::FailedPrecondition, "{late:?}");
    Ok(())
}

pub(crate) fn stop_asks_waits_and_kills(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let polite = "trap 'sleep 0.3; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let polite = run(&node, request::shell("polite", &image, polite))?;
    printed(&polite, "ready")?;
    let first = pid(&node, &polite.id)?;
    ensure!(host::process(first).is_some());
    node.cri().stop(&polite.id, 20)?;
    ensure!(host::process(first).is_none(), "stop returned before the process was gone");
    ensure!(node.cri().container(&polite.id)?.exit_code == 9);

    let stubborn = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    let stubborn = run(&node, request::shell("stubborn", &image, stubborn))?;
    printed(&stubborn, "ready")?;
    // Who asks and hangs up has asked, no more: the grace goes on.
    let hasty = Raw::new(&node.socket())?.with(Patience::Only(Duration::from_millis(300)));
    let request = pb::StopContainerRequest { container_id: stubborn.id.clone(), timeout: 600 };
    hasty.call("StopContainer", request)?;
    printed(&stubborn, "asked")?;
    ensure!(host::process(pid(&node, &stubborn.id)?).is_some(), "killed with its client");
    let began = Instant::now();
    thread::scope(|scope| {
        let patient = scope.spawn(|| node.cri().stop(&stubborn.id, 600));
        // A second stop with less patience brings the end forward for both.
        node.cri().stop(&stubborn.id, 1)?;
        patient.join().expect("no panic")?;
        anyhow::Ok(())
    })?;
    ensure!(began.elapsed() < Duration::from_secs(100), "took {:?}", began.elapsed());
    ensure!(node.cri().container(&stubborn.id)?.exit_code == 137);
    // The signal is sent once, however often it is asked for.
    ensure!(stubborn.printed()? == ["ready", "asked"], "{:?}", stubborn.printed()?);
    Ok(())
}

/// Waits until a container has printed this line.
fn printed(running: &Running, line: &str) -> Result<()> {
    eventually("line in the log", END, || {
        let lines = running.printed()?;
        ensure!(lines.iter().any(|found| found == line), "{lines:?}");
        Ok(())
    })
}

pub(crate) fn stopping_and_removing_twice_or_never_made_is_fine(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let running = run(&node, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    for _ in 0..2 {
        node.cri().stop(&running.id, 0)?;
    }
    for _ in 0..2 {
        node.cri().remove(&running.id)?;
    }
    for _ in 0..2 {
        node.cri().drop_pod(&running.pod)?;
    }
    let never = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    node.cri().stop(never, 0)?;
    node.cri().remove(never)?;
    node.cri().drop_pod(never)?;
    let code = |result: Result<(), tonic::Status>| result.err().map(|status| status.code());
    ensure!(code(node.cri().pod(never).map(drop)) == Some(Code::NotFound));
    ensure!(code(node.cri().container(never).map(drop)) == Some(Code::NotFound));
    ensure!(code(node.cri().start(never)) == Some(Code::NotFound));
    ensure!(code(node.cri().exec(never, &["true"]).map(drop)) == Some(Code::NotFound));
    // Removing a pod takes its running containers with it.
    let running = run(&node, request::container("d", &image, &["/bin/sleep", "1000"]))?;
    let first = pid(&node, &running.id)?;
    node.cri().remove_pod_rpc(pb::RemovePodSandboxRequest { pod_sandbox_id: running.pod })?;
    ensure!(host::process(first).is_none());
    ensure!(node.cri().containers()?.is_empty());
    Ok(())
}

pub(crate) fn an_exec_that_takes_too_long_is_killed(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let running = run(&node, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    let before = host::processes_of(node.dir(), Some(node.cgroup())).len();
    let result = node.cri().exec_rpc(pb::ExecSyncRequest {
        container_id: running.id.clone(),
        cmd: ["/bin/sh", "-c", "sleep 1000 & sleep 1000"].map(str::to_owned).to_vec(),
        timeout: 1,
    });
    let error = result.err().context("an endless exec ended")?;
    ensure!(error.code() == Code::DeadlineExceeded, "{error:?}");
    eventually("processes of the exec gone", END, || {
        let now = host::processes_of(node.dir(), Some(node.cgroup()));
        ensure!(now.len() == before, "{now:?}");
        Ok(())
    })?;
    ensure!(state(&node.cri().container(&running.id)?) == pb::ContainerState::ContainerRunning);
    Ok(())
}

pub(crate) fn an_exec_reports_both_outputs_and_the_code(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let running = run(&node, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    let response =
        node.cri().exec(&running.id, &["/bin/sh", "-c", "printf out; printf err >&2; exit 5"])?;
    ensure!(response.exit_code == 5, "exit code {}", response.exit_code);
    ensure!(response.stdout == b"out" && response.stderr == b"err", "{response:?}");
    // Every byte, also of an output that no pipe holds at once.
    let response = node.cri().exec(&running.id, &["/bin/head", "-c", "3000000", "/dev/zero"])?;
    ensure!(response.stdout.len() == 3_000_000, "{} bytes", response.stdout.len());
    // A child in the background that holds the output does not hold the answer.
    let response = node.cri().exec(&running.id, &["/bin/sh", "-c", "sleep 1000 & echo done"])?;
    ensure!(response.stdout == b"done\n");
    // More than a reply can have is cut, and said to nobody.
    let response = node.cri().exec(&running.id, &["/bin/head", "-c", "20000000", "/dev/zero"])?;
    let length = response.stdout.len();
    ensure!(response.exit_code == 0 && (16_000_000..=16 << 20).contains(&length), "{length} bytes");
    let error = node.cri().exec(&running.id, &["/no/such/program"]).err().context("ran nothing")?;
    ensure!(error.code() != Code::DeadlineExceeded, "{error:?}");
    Ok(())
}

pub(crate) fn five_hundred_containers_report_zero(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let pods = (0..4)
        .map(|number| {
            let config = request::host_network_pod(&node, &format!("many-{number}"));
            Ok((node.cri().run_pod(&config)?, config))
        })
        .collect::<Result<Vec<_>>>()?;
    let in_one_pod = fixture.times(IN_ONE_POD);
    // Four clients a pod, as many at once as two cores can turn into load.
    let results: Vec<Result<Vec<String>>> = thread::scope(|scope| {
        let work = |pod: &str, config: &pb::PodSandboxConfig, from: usize| {
            let mut ids = Vec::new();
            for number in (from..in_one_pod).step_by(4) {
                let container = request::container(&format!("c{number}"), &image, &["/bin/true"]);
                let running = add(&node, pod, config, container)?;
                node.cri().start(&running.id)?;
                ids.push(running.id);
            }
            anyhow::Ok(ids)
        };
        let threads: Vec<_> = pods
            .iter()
            .flat_map(|(pod, config)| (0..4).map(move |from| (pod, config, from)))
            .map(|(pod, config, from)| scope.spawn(move || work(pod, config, from)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut ids = Vec::new();
    for result in results {
        ids.extend(result?);
    }
    ensure!(ids.len() == 4 * in_one_pod);
    for id in &ids {
        let status = ended(&node, id)?;
        ensure!(status.exit_code == 0, "exit code {} {:?}", status.exit_code, status.reason);
        ensure!(status.reason == "Completed", "{:?}", status.reason);
    }
    Ok(())
}

pub(crate) fn a_command_that_does_not_exist_is_a_clear_error(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "missing");
    let pod = node.cri().run_pod(&pod_config)?;
    let before = node.traces();
    let config = request::container("c", &image, &["/no/such/program"]);
    // The runtime finds out while creating (runc) or while starting (crun).
    let error = match add(&node, &pod, &pod_config, config) {
        Err(error) => error,
        Ok(running) => {
            let error = node.cri().start(&running.id).err().context("started nothing")?;
            let status = node.cri().container(&running.id)?;
            ensure!(status.exit_code == 128 && status.reason == "StartError", "{status:?}");
            node.cri().remove(&running.id)?;
            error.into()
        }
    };
    ensure!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    e2e::traces::ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn stop_signals_are_sent_by_number_and_reported(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let busybox = fixture.busybox(&node)?;
    let user = fixture.image("user:latest");
    node.cri().pull(&user)?;
    use pb::Signal::{RuntimeDefault, Sigquit, Sigrtminplus3, Sigterm, Sigusr1};
    // Asked for, what the image says, and what is reported; each trap exits with its own code.
    for (image, asked, kernel, reported) in [
        (&busybox, RuntimeDefault, 15, Sigterm),
        (&busybox, Sigquit, 3, Sigquit),
        (&busybox, Sigrtminplus3, 37, Sigrtminplus3),
        (&user, RuntimeDefault, 10, Sigusr1),
        (&user, Sigterm, 15, Sigterm),
    ] {
        let traps = [15, 3, 37, 10].map(|n| format!("trap 'exit {}' {n}; ", 100 + n)).concat();
        let line = format!("{traps} echo ready; while :; do sleep 0.05; done");
        let mut config = request::shell("trap", image, &line);
        config.stop_signal = asked.into();
        let running = run(&node, config)?;
        printed(&running, "ready")?;
        ensure!(node.cri().container(&running.id)?.stop_signal() == reported, "{asked:?}");
        node.cri().stop(&running.id, 30)?;
        let code = node.cri().container(&running.id)?.exit_code;
        ensure!(code == 100 + kernel, "{image} {asked:?}: exit code {code}");
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

/// Nobody saw its exit code: that is said, and never taken for a success.
pub(crate) fn an_end_that_nobody_saw_is_told_as_that(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    let running = run(&node, request::container("orphan", &image, &["/bin/sleep", "1000"]))?;
    let first = pid(&node, &running.id)?;
    let status = std::fs::read_to_string(format!("/proc/{first}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    host::kill_process(parent.context("no parent")?.trim().parse()?);
    eventually("the monitor is missed", END, || {
        let status = node.cri().container(&running.id)?;
        ensure!(state(&status) == pb::ContainerState::ContainerUnknown, "{:?}", state(&status));
        Ok(())
    })?;
    ensure!(host::process(first).is_some(), "the container went with its monitor");
    node.cri().stop(&running.id, 0)?;
    ensure!(host::process(first).is_none(), "not stopped");
    let status = ended(&node, &running.id)?;
    ensure!(status.exit_code == 255 && status.reason == "MonitorLost", "{status:?}");
    ensure!(status.finished_at >= status.started_at && !status.message.is_empty(), "{status:?}");
    node.cri().drop_pod(&running.pod)?;
    ensure_nothing_new(&before, || node.traces())
}

/// A node with a handler `cannot-start`, whose runtime creates and then refuses to start.
pub(crate) fn node_that_cannot_start(fixture: &Fixture) -> Result<Node> {
    let script = fixture.dir().join("cannot-start");
    let text = "#!/bin/sh\nfor word; do\n  [ \"$word\" = start ] && { echo no start today >&2; exit 1; }\n\
                done\nexec /usr/sbin/runc \"$@\"\n";
    install(&script, text)?;
    let config = format!(
        "[runtime.handlers.cannot-start]\npath = \"{}\"\nroot = \"{}\"\n",
        script.display(),
        fixture.dir().join("cannot-start.state").display()
    );
    fixture.own_node(Options { config, ..Options::default() })
}

pub(crate) fn a_start_that_fails_is_an_exit_with_a_log(fixture: &Fixture) -> Result<()> {
    let node = node_that_cannot_start(fixture)?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "fails");
    let pod = node.cri().run_pod_with(&pod_config, "cannot-start")?;
    let before = node.traces();
    let running =
        add(&node, &pod, &pod_config, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    let refused = node.cri().start(&running.id).err().context("started")?;
    ensure!(refused.message().contains("no start today"), "{refused:?}");
    let status = node.cri().container(&running.id)?;
    ensure!(state(&status) == pb::ContainerState::ContainerExited, "{status:?}");
    ensure!(status.exit_code == 128 && status.reason == "StartError", "{status:?}");
    ensure!(status.message.contains("no start today"), "{:?}", status.message);
    ensure!(status.started_at > 0 && status.finished_at >= status.started_at, "{status:?}");
    ensure!(running.log().exists(), "no log file");
    node.cri().remove(&running.id)?;
    ensure_nothing_new(&before, || node.traces())
}
