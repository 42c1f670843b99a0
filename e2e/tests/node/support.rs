//! What several tests do: run a pod with one container, wait for its end, read its log.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::wait::eventually;
use e2e::{log, request};

/// How long a container that ends by itself may take to be reported.
pub(crate) const END: Duration = Duration::from_secs(60);

/// Ports from here to those that connections are given by chance are for tests.
const FIRST_PORT: u16 = 10_000;

/// A daemon that sweeps all the time: for tests that wait for a sweep, and that nothing survives by
/// being seldom looked at.
pub(crate) fn often_swept() -> Options {
    Options { sweep_interval: Some(1), ..Options::default() }
}

/// A pod and a container in it, both as requested.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) pod: String,
    pub(crate) pod_config: pb::PodSandboxConfig,
    pub(crate) id: String,
    pub(crate) config: pb::ContainerConfig,
}

impl Running {
    /// Where the container's log is.
    pub(crate) fn log(&self) -> PathBuf {
        PathBuf::from(&self.pod_config.log_directory).join(&self.config.log_path)
    }

    /// What it printed on standard output, line by line.
    pub(crate) fn printed(&self) -> Result<Vec<String>> {
        log::lines(&self.log(), "stdout")
    }
}

/// Runs a pod on the node's network with this container, started.
pub(crate) fn run(node: &Node, config: pb::ContainerConfig) -> Result<Running> {
    let name = &config.metadata.as_ref().context("no metadata")?.name;
    let pod_config = request::host_network_pod(node, &format!("pod-{name}"));
    run_in(node, pod_config, config)
}

/// Runs this pod with this container, started.
pub(crate) fn run_in(
    node: &Node,
    pod_config: pb::PodSandboxConfig,
    config: pb::ContainerConfig,
) -> Result<Running> {
    let pod = node.cri().run_pod(&pod_config)?;
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

/// Creates a container in a pod; it shares the pod's network and IPC but not its processes unless
/// its own request says so.
pub(crate) fn add(
    node: &Node,
    pod: &str,
    pod_config: &pb::PodSandboxConfig,
    mut config: pb::ContainerConfig,
) -> Result<Running> {
    request::share_namespaces(&mut config, pod_config);
    let id = node.cri().create(pod, &config, pod_config)?;
    Ok(Running { pod: pod.to_owned(), pod_config: pod_config.clone(), id, config })
}

/// Runs a container to its end and gives its status.
pub(crate) fn finish(
    node: &Node,
    config: pb::ContainerConfig,
) -> Result<(Running, pb::ContainerStatus)> {
    let running = run(node, config)?;
    let status = ended(node, &running.id)?;
    Ok((running, status))
}

/// Runs a line of shell in a pod of its own and gives what it printed; it must succeed.
pub(crate) fn shell(node: &Node, image: &str, line: &str) -> Result<Vec<String>> {
    output(node, request::shell("shell", image, line))
}

/// Runs a container to its end and gives what it printed; it must succeed.
pub(crate) fn output(node: &Node, config: pb::ContainerConfig) -> Result<Vec<String>> {
    let (running, status) = finish(node, config)?;
    let printed = running.printed()?;
    let complaint = log::lines(&running.log(), "stderr")?;
    ensure!(status.exit_code == 0, "exit code {}: {printed:?} {complaint:?}", status.exit_code);
    node.cri().drop_pod(&running.pod)?;
    Ok(printed)
}

/// Waits until a container has exited.
pub(crate) fn ended(node: &Node, container: &str) -> Result<pb::ContainerStatus> {
    eventually("container exited", END, || {
        let status = node.cri().container(container)?;
        ensure!(state(&status) == pb::ContainerState::ContainerExited, "{:?}", state(&status));
        Ok(status)
    })
}

/// The state, as a name.
pub(crate) fn state(status: &pb::ContainerStatus) -> pb::ContainerState {
    status.state()
}

/// Process id of a running container's first process on this machine, from the verbose status.
pub(crate) fn pid(node: &Node, container: &str) -> Result<u32> {
    let (_, info) = node.cri().container_verbose(container, true)?;
    let info = info.get("info").context("verbose status has no \"info\"")?;
    let json: serde_json::Value = serde_json::from_str(info)?;
    let pid = json["pid"].as_u64().with_context(|| format!("no pid in {info}"))?;
    Ok(pid.try_into()?)
}

/// Standard output of a command in a container; it must succeed.
pub(crate) fn exec(node: &Node, container: &str, command: &[&str]) -> Result<String> {
    let response = node.cri().exec(container, command)?;
    let stdout = String::from_utf8(response.stdout)?;
    ensure!(
        response.exit_code == 0,
        "{command:?} gave {}: {stdout}{}",
        response.exit_code,
        String::from_utf8_lossy(&response.stderr)
    );
    Ok(stdout)
}

/// Waits until a container has been looked at for its figures, whose files the daemon keeps open: it
/// has all that it will have, and commands have been run in it.
pub(crate) fn settled(node: &Node, running: &Running) -> Result<()> {
    exec(node, &running.id, &["/bin/true"])?;
    eventually("figures of the container and its pod", END, || {
        let pod = node.cri().pod_stats(&running.pod)?.linux.context("none of the pod")?;
        // A rate takes two looks.
        for cpu in [node.cri().container_stats(&running.id)?.cpu, pod.cpu] {
            cpu.and_then(|cpu| cpu.usage_nano_cores).context("no rate of processor time")?;
        }
        Ok(())
    })
}

/// A port of this machine that nobody listens on, that no connection is given by chance, and that
/// this function has not given before.
pub(crate) fn free_port() -> Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let end: u16 = range.split_whitespace().next().context("no port range")?.parse()?;
    let count = end.saturating_sub(FIRST_PORT);
    for _ in 0..count {
        // Another test run begins elsewhere.
        let from = u64::from(std::process::id()) * 97 + u64::from(GIVEN.fetch_add(1, Relaxed));
        let port = FIRST_PORT + u16::try_from(from % u64::from(count))?;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}
