//! A container that does not move is felt by nobody else: everything that only reads answers, and
//! other containers stop.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::hung::Hung;
use e2e::node::{Node, Options};
use e2e::program::install;
use e2e::request;
use e2e::runner::Fixture;
use e2e::wait::eventually;
use tonic::Code;

use crate::support::{self, END, Running};

/// What a call that only reads may take here. It takes a few milliseconds; the machine may be busy,
/// and what is stuck is so for longer.
const PROMPT: Duration = Duration::from_secs(9);

/// The daemon gives a path that does not answer ten seconds.
const PATH_GIVEN_UP: Duration = Duration::from_secs(40);

pub(crate) fn a_mount_that_never_answers_holds_up_its_own_container_alone(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let bystander = sleeper(&node, &image, "bystander")?;
    let hung = Hung::mount(&fixture.dir().join("hung"))?;
    let pod_config = request::host_network_pod(&node, "stuck");
    let pod = node.cri().run_pod(&pod_config)?;
    let mut config = request::container("c", &image, &["/bin/true"]);
    config.mounts.push(pb::Mount {
        host_path: hung.inside().display().to_string(),
        container_path: "/volume".to_owned(),
        ..Default::default()
    });
    thread::scope(|scope| {
        let began = Instant::now();
        let create = scope.spawn(|| node.cri().create(&pod, &config, &pod_config));
        everybody_else_is_served(&node, &bystander)?;
        ensure!(!create.is_finished(), "the request did not meet the mount");
        let refused = create.join().expect("no panic").err().context("created")?;
        ensure!(refused.code() == Code::DeadlineExceeded, "{refused:?}");
        ensure!(began.elapsed() < PATH_GIVEN_UP, "took {:?}", began.elapsed());
        Ok(())
    })?;
    ensure!(node.cri().containers()?.iter().all(|c| c.pod_sandbox_id != pod));
    Ok(node.cri().drop_pod(&pod)?)
}

pub(crate) fn a_runtime_that_never_returns_holds_up_its_own_container_alone(
    fixture: &Fixture,
) -> Result<()> {
    let (node, stuck) = hanging_in(fixture, "start")?;
    let image = fixture.busybox(&node)?;
    let bystander = sleeper(&node, &image, "bystander")?;
    let pod_config = request::host_network_pod(&node, "stuck");
    let pod = node.cri().run_pod_with(&pod_config, "hanging")?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = support::add(&node, &pod, &pod_config, config)?;
    thread::scope(|scope| {
        let start = scope.spawn(|| node.cri().start(&running.id));
        everybody_else_is_served(&node, &bystander)?;
        ensure!(!start.is_finished(), "the runtime returned");
        fs::remove_file(&stuck)?;
        Ok(start.join().expect("no panic")?)
    })?;
    ensure!(node.cri().container(&running.id)?.state() == pb::ContainerState::ContainerRunning);
    Ok(node.cri().drop_pod(&pod)?)
}

pub(crate) fn a_runtime_that_hangs_in_an_exec_holds_up_its_own_container_alone(
    fixture: &Fixture,
) -> Result<()> {
    /// More than the node has slots for runtimes.
    const COMMANDS: usize = 20;
    let (node, stuck) = hanging_in(fixture, "exec")?;
    let image = fixture.busybox(&node)?;
    let bystander = sleeper(&node, &image, "bystander")?;
    let pod_config = request::host_network_pod(&node, "stuck");
    let pod = node.cri().run_pod_with(&pod_config, "hanging")?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = support::add(&node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    thread::scope(|scope| {
        let command = || {
            node.cri().exec_rpc(pb::ExecSyncRequest {
                container_id: running.id.clone(),
                cmd: vec!["/bin/true".to_owned()],
                timeout: 10,
            })
        };
        let threads: Vec<_> = (0..COMMANDS).map(|_| scope.spawn(command)).collect();
        support::exec(&node, &bystander.id, &["/bin/true"])?;
        ensure!(threads.iter().all(|it| !it.is_finished()), "others had to wait for them");
        for thread in threads {
            let late = thread.join().expect("no panic").err().context("it ran")?;
            ensure!(late.code() == Code::DeadlineExceeded, "{late:?}");
        }
        anyhow::Ok(())
    })?;
    fs::remove_file(&stuck)?;
    support::exec(&node, &running.id, &["/bin/true"])?;
    Ok(node.cri().drop_pod(&pod)?)
}

pub(crate) fn runtimes_that_hang_in_all_slots_hold_up_their_own_containers_alone(
    fixture: &Fixture,
) -> Result<()> {
    /// Commands of one container that are being started at one time.
    const STARTS: usize = 2;
    /// Slots for runtimes that the node has for each processor.
    const SLOTS: usize = 4;
    let (node, stuck) = hanging_in(fixture, "exec")?;
    let image = fixture.busybox(&node)?;
    let bystander = sleeper(&node, &image, "bystander")?;
    let mut hanging = Vec::new();
    let slots = thread::available_parallelism()?.get() * SLOTS;
    for number in 0..slots / STARTS + 1 {
        let pod_config = request::host_network_pod(&node, &format!("stuck-{number}"));
        let pod = node.cri().run_pod_with(&pod_config, "hanging")?;
        let config = request::container("c", &image, &["/bin/sleep", "1000"]);
        let running = support::add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        hanging.push(running);
    }
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for running in hanging.iter().flat_map(|running| [running; STARTS]) {
            threads.push(scope.spawn(|| {
                node.cri().exec_rpc(pb::ExecSyncRequest {
                    container_id: running.id.clone(),
                    cmd: vec!["/bin/true".to_owned()],
                    timeout: 50,
                })
            }));
        }
        eventually("every slot has been taken", END, || {
            let hanging = fs::read_to_string(stuck.with_extension("met"))?.lines().count();
            ensure!(hanging >= slots, "{hanging} of {slots}");
            Ok(())
        })?;
        support::exec(&node, &bystander.id, &["/bin/true"])?;
        let pod = sleeper(&node, &image, "newcomer")?.pod;
        node.cri().drop_pod(&pod)?;
        let waiting = threads.iter().filter(|it| !it.is_finished()).count();
        fs::remove_file(&stuck)?;
        ensure!(waiting == threads.len(), "others had to wait for {waiting} of them");
        for thread in threads {
            let answer = thread.join().expect("no panic")?;
            ensure!(answer.exit_code == 0, "{answer:?}");
        }
        anyhow::Ok(())
    })?;
    node.remove_all_pods()
}

/// A node with the handler `hanging`, whose runtime does not return from `verb` while a file is there,
/// and writes a line into another (`.met`) each time.
fn hanging_in(fixture: &Fixture, verb: &str) -> Result<(Node, PathBuf)> {
    let dir = fixture.dir();
    let (program, stuck) = (dir.join("hanging-runc"), dir.join("hanging-runc.stuck"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' {verb} '*)\n    echo x >> {met}\n    while [ -e {stuck} ]; do sleep 0.1; done\nesac\n\
         exec /usr/sbin/runc \"$@\"\n",
        stuck = stuck.display(),
        met = stuck.with_extension("met").display()
    );
    install(&program, &script)?;
    fs::write(&stuck, "")?;
    let config = format!(
        "[runtime.handlers.hanging]\ntype = \"oci\"\npath = \"{}\"\nroot = \"{}\"\n",
        program.display(),
        dir.join("hanging-root").display()
    );
    Ok((fixture.own_node(Options { config, ..Options::default() })?, stuck))
}

pub(crate) fn a_frozen_container_holds_up_nobody_and_can_be_stopped(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let bystander = sleeper(&node, &image, "bystander")?;
    let frozen = sleeper(&node, &image, "frozen")?;
    freeze(support::pid(&node, &frozen.id)?)?;
    everybody_else_is_served(&node, &bystander)?;
    // Reading the frozen one's own status does not wait for it either.
    let status = node.cri().container(&frozen.id)?;
    ensure!(status.state() == pb::ContainerState::ContainerRunning, "{:?}", status.state());
    node.cri().stop(&frozen.id, 0)?;
    let status = support::ended(&node, &frozen.id)?;
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    Ok(node.cri().drop_pod(&frozen.pod)?)
}

fn sleeper(node: &Node, image: &str, name: &str) -> Result<Running> {
    support::run(node, request::container(name, image, &["/bin/sleep", "1000"]))
}

/// Every read answers at once, and the bystander stops and goes.
fn everybody_else_is_served(node: &Node, bystander: &Running) -> Result<()> {
    type Call<'a> = (&'a str, Box<dyn Fn() -> Result<(), tonic::Status> + 'a>);
    let cri = node.cri();
    let calls: [Call<'_>; 10] = [
        ("Status", Box::new(|| cri.status_rpc(pb::StatusRequest { verbose: true }).map(drop))),
        ("ListPodSandbox", Box::new(|| cri.pods().map(drop))),
        ("PodSandboxStatus", Box::new(|| cri.pod(&bystander.pod).map(drop))),
        ("ListContainers", Box::new(|| cri.containers().map(drop))),
        ("ContainerStatus", Box::new(|| cri.container_verbose(&bystander.id, true).map(drop))),
        ("ListImages", Box::new(|| cri.list_images_rpc(Default::default()).map(drop))),
        ("ContainerStats", Box::new(|| cri.container_stats(&bystander.id).map(drop))),
        ("ListContainerStats", Box::new(|| cri.all_container_stats(Default::default()).map(drop))),
        ("ListPodSandboxStats", Box::new(|| cri.all_pod_stats(Default::default()).map(drop))),
        ("ListPodSandboxMetrics", Box::new(|| cri.pod_metrics().map(drop))),
    ];
    for (name, call) in &calls {
        let began = Instant::now();
        call().with_context(|| (*name).to_owned())?;
        ensure!(began.elapsed() < PROMPT, "{name} took {:?}", began.elapsed());
    }
    let mut events = cri.events()?;
    cri.stop(&bystander.id, 0)?;
    let told = events.next(PROMPT)?.context("the events have ended")?;
    ensure!(told.container_id == bystander.id, "{told:?}");
    Ok(cri.drop_pod(&bystander.pod)?)
}

/// Freezes the control group that a process is in, and waits until it is.
pub(crate) fn freeze(pid: u32) -> Result<()> {
    set_frozen(pid, true)
}

/// Lets the processes of a frozen control group go on.
pub(crate) fn thaw(pid: u32) -> Result<()> {
    set_frozen(pid, false)
}

fn set_frozen(pid: u32, frozen: bool) -> Result<()> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let v1 = groups.lines().find_map(|line| line.split_once(":freezer:").map(|(_, group)| group));
    let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let (file, order, state, reached) = match (v1, v2) {
        (Some(group), _) => {
            let file = PathBuf::from(format!("/sys/fs/cgroup/freezer{group}/freezer.state"));
            let word = if frozen { "FROZEN" } else { "THAWED" };
            (file.clone(), word, file, word)
        }
        (None, group) => {
            let dir = format!("/sys/fs/cgroup{}", group.context("no control group")?);
            let dir = PathBuf::from(dir);
            let (order, reached) = if frozen { ("1", "frozen 1") } else { ("0", "frozen 0") };
            (dir.join("cgroup.freeze"), order, dir.join("cgroup.events"), reached)
        }
    };
    fs::write(&file, order).with_context(|| format!("write {}", file.display()))?;
    eventually(order, END, || {
        let said = fs::read_to_string(&state)?;
        ensure!(said.contains(reached), "{said}");
        Ok(())
    })
}
