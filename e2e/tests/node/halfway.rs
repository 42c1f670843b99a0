//! What fails half-way is finished: by the next request, and by the daemon itself when nobody asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::install;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{host, request};

use crate::support::{self, END, often_swept, run, run_in};

/// How long the daemon may take to look at what it owes: it does so every half minute.
const SWEEP: Duration = Duration::from_secs(60);

/// More levels of groups than the daemon removes: a group that stays busy.
const LEVELS: usize = 20;

/// A group below others that keeps them from being removed.
struct Busy(Vec<PathBuf>);

impl Busy {
    fn below(groups: &[PathBuf]) -> Result<Self> {
        let mut made = Vec::new();
        for group in groups {
            let mut dir = group.clone();
            for _ in 0..LEVELS {
                dir.push("deep");
                fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
                made.push(dir.clone());
            }
        }
        Ok(Self(made))
    }

    fn end(self) {
        // What was not as deep as all that is gone already.
        self.0.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

fn state_of(node: &Node, pod: &str) -> Result<pb::PodSandboxState> {
    Ok(node.cri().pod(pod)?.state())
}

fn is_not_ready(node: &Node, pod: &str) -> Result<()> {
    let state = state_of(node, pod)?;
    ensure!(state == pb::PodSandboxState::SandboxNotready, "{state:?}");
    Ok(())
}

pub(crate) fn a_stop_that_failed_is_finished_by_a_retry_a_restart_or_the_daemon_itself(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    for how in ["retry", "restart", "itself"] {
        let mut pod_config = request::pod(&node, how);
        request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Pod.into();
        let container = request::container("c", &image, &["/bin/sleep", "1000"]);
        let running = run_in(&node, pod_config, container)?;
        let groups: Vec<_> = host::cgroup_dirs(node.cgroup())
            .into_iter()
            .filter(|dir| dir.ends_with(format!("crisol-{}", running.pod)))
            .collect();
        ensure!(!groups.is_empty(), "the pause has no group");
        let busy = Busy::below(&groups)?;
        let stop = || {
            let pod_sandbox_id = running.pod.clone();
            node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id })
        };
        for _ in 0..2 {
            let error = stop().err().context("the group is gone already")?;
            ensure!(error.message().contains("cgroup"), "{error:?}");
        }
        let ended = node.cri().container(&running.id)?;
        ensure!(ended.state() == pb::ContainerState::ContainerExited, "{ended:?}");
        let state = state_of(&node, &running.pod)?;
        ensure!(state == pb::PodSandboxState::SandboxReady, "{how}: not all of it has ended");
        let address = fs::read_dir(node.dir().join("ipam").join(node.network()))?.count();
        ensure!(address > 0, "{how}: its network is given back before its end");
        if how == "restart" {
            node.kill9()?;
            busy.end();
            node.spawn()?;
        } else {
            busy.end();
        }
        if how == "retry" {
            let pod_sandbox_id = running.pod.clone();
            node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id })?;
            is_not_ready(&node, &running.pod)?;
        }
        eventually("the pod is stopped", END, || is_not_ready(&node, &running.pod))?;
        ensure!(!groups.iter().any(|group| group.exists()), "{how}: its group is left");
        let stopped = node.traces();
        let left: Vec<_> = stopped.things.iter().filter(|t| t.starts_with("address")).collect();
        ensure!(left.is_empty(), "{how}: {left:?}");
        node.cri().drop_pod(&running.pod)?;
    }
    ensure_nothing_new(&before, || node.traces().without_process())
}

pub(crate) fn a_clean_up_that_failed_is_tried_again_without_being_asked(
    fixture: &Fixture,
) -> Result<()> {
    let (script, fail) = (fixture.dir().join("keeps"), fixture.dir().join("keeps.now"));
    let text = format!(
        "#!/bin/sh\nif [ -e {} ]; then case \" $* \" in *' delete '*) echo not today >&2; exit 1;; esac; fi\n\
         exec /usr/sbin/runc \"$@\"\n",
        fail.display()
    );
    install(&script, &text)?;
    let root = fixture.dir().join("keeps.state");
    let config = format!(
        "[runtime.handlers.keeps]\npath = \"{}\"\nroot = \"{}\"\n",
        script.display(),
        root.display()
    );
    let node = fixture.own_node(Options { config, ..Options::default() })?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "kept");
    let pod = node.cri().run_pod_with(&pod_config, "keeps")?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = support::add(&node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    fs::write(&fail, "")?;
    node.cri().stop(&running.id, 0)?;
    let log = || fs::read_to_string(node.log_file());
    eventually("it is owed", END, || {
        ensure!(log()?.contains("clean-up is owed"));
        Ok(())
    })?;
    ensure!(root.join(&running.id).exists(), "there is nothing to clean up");
    fs::remove_file(&fail)?;
    eventually("the runtime has forgotten it", END, || {
        ensure!(!root.join(&running.id).exists());
        Ok(())
    })?;
    Ok(node.cri().drop_pod(&pod)?)
}

/// Lets a process open nothing more, or as much as before.
fn limit_descriptors(pid: u32, soft: &str) -> Result<()> {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string()]).arg(format!("--nofile={soft}:"));
    ensure!(prlimit.status()?.success(), "prlimit");
    Ok(())
}

pub(crate) fn a_lost_monitor_and_an_error_while_looking_do_not_keep_a_stop_from_ending(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.own_node(often_swept())?;
    let image = fixture.busybox(&node)?;
    for stops in [true, false] {
        let name = if stops { "stopped" } else { "ends" };
        let container = request::container(name, &image, &["/bin/sleep", "1000"]);
        let running = run(&node, container)?;
        let first = support::pid(&node, &running.id)?;
        let status = fs::read_to_string(format!("/proc/{first}/status"))?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let monitor = parent.context("no parent")?.trim().parse()?;
        let daemon = node.pid()?;
        let limits = fs::read_to_string(format!("/proc/{daemon}/limits"))?;
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let limit = limit.and_then(|rest| rest.split_whitespace().next()).context("no limit")?;
        limit_descriptors(daemon, "4")?;
        host::kill_process(monitor);
        let missed = eventually("the monitor is missed", END, || {
            let log = fs::read_to_string(node.log_file())?;
            let of_it = |line: &&str| line.contains(&running.id);
            ensure!(log.lines().filter(of_it).any(|line| line.contains("cannot be asked")));
            Ok(())
        });
        let state = node.cri().container(&running.id)?.state();
        let stopped = thread::scope(|scope| -> Result<()> {
            let stop = stops.then(|| scope.spawn(|| node.cri().stop(&running.id, 0)));
            if !stops {
                host::kill_process(first);
            }
            limit_descriptors(daemon, limit)?;
            stop.map_or(Ok(()), |stop| Ok(stop.join().expect("no panic")?))
        });
        missed?;
        stopped?;
        // Who is told that nothing is known of it ends it.
        ensure!(state == pb::ContainerState::ContainerRunning, "{state:?}");
        let ended = support::ended(&node, &running.id)?;
        ensure!(ended.reason == "MonitorLost", "{ended:?}");
        ensure!(host::process(first).is_none(), "it lives");
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

pub(crate) fn a_pod_that_lost_a_part_is_not_ready_at_once_after_a_restart_or_soon(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let image = fixture.busybox(&node)?;
    for restarts in [false, true] {
        let before = node.traces();
        let mut pods = Vec::new();
        for part in ["ns/ipc", "ns/uts", "ns/net", "shm"] {
            let name = part.trim_start_matches("ns/");
            let container = request::container("c", &image, &["/bin/sleep", "1000"]);
            pods.push((part, run_in(&node, request::pod(&node, name), container)?));
        }
        // A namespace that nothing but its pin holds is gone with that.
        let mut empty = request::pod(&node, "empty");
        let port = support::free_port()?;
        let mapping =
            pb::PortMapping { container_port: 80, host_port: port.into(), ..Default::default() };
        empty.port_mappings = vec![mapping];
        let empty = run_in(&node, empty, request::container("c", &image, &["/bin/true"]))?;
        support::ended(&node, &empty.id)?;
        let rules = || node.traces().things.into_iter().filter(|thing| thing.starts_with("rule: "));
        ensure!(rules().any(|rule| rule.contains(&empty.pod)), "no rules to lose");
        pods.push(("ns/net", empty));
        let whole = run(&node, request::container("whole", &image, &["/bin/sleep", "1000"]))?;
        if restarts {
            node.kill9()?;
        }
        for (part, running) in &pods {
            unmount(&node.state().join("pods").join(&running.pod).join(part))?;
        }
        if restarts {
            node.spawn()?;
        }
        for (part, running) in &pods {
            let limit = if restarts { END } else { SWEEP };
            eventually(part, limit, || is_not_ready(&node, &running.pod))?;
            let ended = node.cri().container(&running.id)?;
            ensure!(ended.state() == pb::ContainerState::ContainerExited, "{part}: {ended:?}");
        }
        let state = state_of(&node, &whole.pod)?;
        ensure!(state == pb::PodSandboxState::SandboxReady, "a pod that lost nothing: {state:?}");
        node.remove_all_pods()?;
        // The bridge plugin looks into the namespace for the addresses whose rules it takes back.
        ensure_nothing_new(&before, || node.traces().without_process())?;
    }
    Ok(())
}

fn unmount(path: &Path) -> Result<()> {
    let status = Command::new("umount").arg("-l").arg(path).status()?;
    ensure!(status.success(), "umount {}", path.display());
    Ok(())
}
