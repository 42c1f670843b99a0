//! Limits that change while a container lives (in-place pod resize).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::install;
use e2e::request::{self, resources};
use e2e::runner::Fixture;
use e2e::wait::eventually;
use tonic::Code;

use crate::limits::{cgroup_file, unified};
use crate::support::{END, Running, add, pid};

/// A request is answered within this unless something that hangs holds it up.
const PROMPT: Duration = Duration::from_secs(20);

const MIB: i64 = 1 << 20;

type Limits = pb::LinuxContainerResources;

/// A container that sleeps, with limits, created by `handler`.
fn sleeper(node: &Node, image: &str, handler: &str) -> Result<Running> {
    let mut config = request::container("sleeper", image, &["/bin/sleep", "1000"]);
    *resources(&mut config) = Limits {
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        oom_score_adj: 500,
        ..Limits::default()
    };
    let pod_config = request::host_network_pod(node, &format!("resized-{handler}"));
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    add(node, &pod, &pod_config, config)
}

/// Memory, quota and shares as the kernel has them; the last as they are on cgroup v1.
fn in_kernel(pid: u32) -> Result<(String, String, String)> {
    let memory = cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
    let quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    let shares = cgroup_file(pid, "cpu", "cpu.shares", "cpu.weight")?;
    Ok((memory, quota.split(' ').next().unwrap_or_default().to_owned(), shares))
}

fn reported(node: &Node, id: &str) -> Result<Limits> {
    let status = node.cri().container(id)?;
    status.resources.and_then(|resources| resources.linux).context("no resources in the status")
}

fn code(result: Result<(), tonic::Status>) -> Result<(Code, String)> {
    let status = result.err().context("accepted")?;
    Ok((status.code(), status.message().to_owned()))
}

pub(crate) fn an_update_is_in_the_kernel_in_the_status_and_survives(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let mut ids = Vec::new();
    for handler in ["runc", "crun"] {
        let id = sleeper(&node, &image, handler)?.id;
        // Before the start, and kept by it.
        node.cri().update(&id, Limits { cpu_shares: 256, ..Limits::default() })?;
        node.cri().start(&id)?;
        let first = pid(&node, &id)?;
        let shares = if unified() { "10" } else { "256" };
        let now = in_kernel(first)?;
        ensure!(
            now == ((64 * MIB).to_string(), "50000".into(), shares.into()),
            "{handler} {now:?}"
        );

        // Up, with memory and swap together; then memory alone, with no more swap than before.
        let memory = |bytes| Limits { memory_limit_in_bytes: bytes, ..Limits::default() };
        let both = Limits { memory_swap_limit_in_bytes: 128 * MIB, ..memory(128 * MIB) };
        node.cri().update(&id, both)?;
        ensure!(in_kernel(first)?.0 == (128 * MIB).to_string(), "{handler}");
        node.cri().update(&id, memory(256 * MIB))?;
        node.cri().update(&id, memory(32 * MIB))?;
        node.cri().update(&id, Limits { cpu_quota: 70_000, ..Limits::default() })?;
        let expected = ((32 * MIB).to_string(), "70000".into(), shares.into());
        ensure!(in_kernel(first)? == expected, "{handler} {:?}", in_kernel(first)?);
        // Not every kernel has that controller.
        let cpuset = || cgroup_file(first, "cpuset", "cpuset.cpus", "cpuset.cpus");
        let cpus = if cpuset().is_ok() { "0" } else { "" };
        let only = Limits { cpuset_cpus: cpus.to_owned(), ..Limits::default() };
        node.cri().update(&id, only)?;
        ensure!(cpuset().unwrap_or_default() == cpus);

        let told = reported(&node, &id)?;
        let expected = Limits {
            memory_limit_in_bytes: 32 * MIB,
            memory_swap_limit_in_bytes: 32 * MIB,
            cpu_period: 100_000,
            cpu_quota: 70_000,
            cpu_shares: 256,
            cpuset_cpus: cpus.to_owned(),
            oom_score_adj: 500,
            ..Limits::default()
        };
        ensure!(told == expected, "{handler} reports {told:?}");
        // The process is the same one all the time.
        ensure!(pid(&node, &id)? == first);
        ids.push((id, expected));
    }
    node.restart()?;
    for (id, expected) in ids {
        ensure!(reported(&node, &id)? == expected, "forgotten by the restart");
    }
    Ok(())
}

pub(crate) fn an_update_that_cannot_be_leaves_everything_as_it_was(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let id = sleeper(&node, &image, handler)?.id;
        node.cri().start(&id)?;
        let first = pid(&node, &id)?;
        let (before, told) = (in_kernel(first)?, reported(&node, &id)?);
        let unchanged = || {
            ensure!(in_kernel(first)? == before, "{:?}, not {before:?}", in_kernel(first)?);
            ensure!(reported(&node, &id)? == told);
            Ok(())
        };
        // Forty mebibytes that the kernel cannot drop.
        let fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null";
        crate::support::exec(&node, &id, &["/bin/sh", "-c", fill])?;
        let less = Limits { memory_limit_in_bytes: 16 * MIB, cpu_shares: 99, ..Limits::default() };
        let (refused, why) = code(node.cri().update(&id, less))?;
        ensure!(refused == Code::FailedPrecondition && why.contains("uses"), "{refused:?} {why}");
        unchanged()?;
        // Everything else can be done, one thing cannot: nothing is done.
        let absent = Limits {
            cpu_shares: 99,
            cpu_quota: 60_000,
            memory_limit_in_bytes: 80 * MIB,
            cpuset_cpus: "8000".to_owned(),
            ..Limits::default()
        };
        let (refused, why) = code(node.cri().update(&id, absent))?;
        ensure!(refused == Code::FailedPrecondition, "{handler}: {refused:?} {why}");
        unchanged().with_context(|| handler.to_owned())?;

        let bad: [fn(&mut Limits); 5] = [
            |l| l.cpu_shares = -1,
            |l| l.cpu_quota = 999,
            |l| l.memory_limit_in_bytes = 1,
            |l| l.cpuset_cpus = "0-".to_owned(),
            |l| l.memory_swap_limit_in_bytes = 10 * MIB,
        ];
        for change in bad {
            let mut limits = Limits::default();
            change(&mut limits);
            let (refused, why) = code(node.cri().update(&id, limits.clone()))?;
            ensure!(refused == Code::InvalidArgument, "{limits:?}: {refused:?} {why}");
        }
        let nothing =
            pb::UpdateContainerResourcesRequest { container_id: id.clone(), ..Default::default() };
        let (refused, _) = code(node.cri().update_rpc(nothing).map(drop))?;
        ensure!(refused == Code::InvalidArgument);
        if !unified() {
            let file = ("memory.high".to_owned(), "max".to_owned());
            let limits = Limits { unified: [file].into(), ..Limits::default() };
            ensure!(code(node.cri().update(&id, limits))?.0 == Code::InvalidArgument);
        }
        unchanged()?;

        node.cri().stop(&id, 0)?;
        let change = Limits { cpu_shares: 99, ..Limits::default() };
        let (refused, _) = code(node.cri().update(&id, change.clone()))?;
        ensure!(refused == Code::FailedPrecondition, "exited: {refused:?}");
        node.cri().remove(&id)?;
        ensure!(code(node.cri().update(&id, change))?.0 == Code::NotFound);
    }
    Ok(())
}

pub(crate) fn twenty_updates_at_once_end_with_one_of_them(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let id = sleeper(&node, &image, "crun")?.id;
    node.cri().start(&id)?;
    let first = pid(&node, &id)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=20)
            .map(|n| {
                let (node, id) = (&node, &id);
                let limits = Limits {
                    cpu_quota: n * 2_000,
                    memory_limit_in_bytes: (64 + n) * MIB,
                    ..Limits::default()
                };
                scope.spawn(move || node.cri().update(id, limits))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let told = reported(&node, &id)?;
    let now = in_kernel(first)?;
    ensure!(now.0 == told.memory_limit_in_bytes.to_string(), "{now:?} but {told:?}");
    ensure!(now.1 == told.cpu_quota.to_string(), "{now:?} but {told:?}");
    ensure!(told.memory_limit_in_bytes == 64 * MIB + told.cpu_quota / 2_000 * MIB, "{told:?}");
    Ok(())
}

pub(crate) fn a_runtime_that_hangs_in_an_update_holds_up_nothing_else(
    fixture: &Fixture,
) -> Result<()> {
    let script = fixture.dir().join("hangs");
    let text = "#!/bin/sh\nfor word; do\n  [ \"$word\" = update ] && exec sleep 1000\ndone\n\
                exec /usr/sbin/runc \"$@\"\n";
    install(&script, text)?;
    let config = format!("[runtime.handlers.hangs]\npath = \"{}\"\n", script.display());
    let node = fixture.own_node(Options { config, ..Options::default() })?;
    let image = fixture.busybox(&node)?;
    let (stuck, other) = (sleeper(&node, &image, "hangs")?.id, sleeper(&node, &image, "runc")?.id);
    node.cri().start(&stuck)?;
    node.cri().start(&other)?;
    let began = Instant::now();
    let change = Limits { cpu_shares: 99, ..Limits::default() };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| node.cri().update(&stuck, change.clone()));
        eventually("the runtime hangs", END, || {
            let (_, info) = node.cri().container_verbose(&stuck, true)?;
            let verbose = node.cri().status_rpc(pb::StatusRequest { verbose: true })?.info;
            ensure!(!info.is_empty());
            ensure!(verbose["inFlight"].contains("runtime update"), "{:?}", verbose["inFlight"]);
            Ok(())
        })?;
        ensure!(node.cri().containers()?.len() == 2);
        ensure!(reported(&node, &stuck)?.cpu_shares == 512);
        node.cri().update(&other, change.clone())?;
        ensure!(crate::support::exec(&node, &stuck, &["/bin/echo", "alive"])? == "alive\n");
        node.cri().stop(&stuck, 0)?;
        node.cri().remove(&stuck)?;
        let (refused, why) = code(waiting.join().expect("no panic"))?;
        ensure!(refused == Code::FailedPrecondition, "{refused:?} {why}");
        Ok(())
    })?;
    ensure!(began.elapsed() < PROMPT, "held up for {:?}", began.elapsed());
    Ok(())
}

pub(crate) fn a_pods_resources_are_noted_while_it_is_ready(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let pod = node.cri().run_pod(&request::host_network_pod(&node, "sums"))?;
    let update = |node: &Node, pod: &str, shares: i64| {
        let resources = Some(Limits { cpu_shares: shares, ..Limits::default() });
        let pod_sandbox_id = pod.to_owned();
        node.cri()
            .update_pod_rpc(pb::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id,
                resources,
                overhead: None,
            })
            .map(drop)
    };
    update(&node, &pod, 777)?;
    let noted = |node: &Node| -> Result<bool> {
        let pod_sandbox_id = pod.clone();
        let status = node
            .cri()
            .pod_status_rpc(pb::PodSandboxStatusRequest { pod_sandbox_id, verbose: true })?;
        let info: serde_json::Value =
            serde_json::from_str(status.info.get("info").context("no info")?)?;
        Ok(info["updated"]["resources"]["cpu_shares"] == 777)
    };
    ensure!(noted(&node)?);
    node.restart()?;
    ensure!(noted(&node)?, "forgotten by the restart");
    ensure!(code(update(&node, &pod, -1))?.0 == Code::InvalidArgument);
    node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id: pod.clone() })?;
    ensure!(code(update(&node, &pod, 5))?.0 == Code::FailedPrecondition);
    node.cri().drop_pod(&pod)?;
    ensure!(code(update(&node, &pod, 5))?.0 == Code::NotFound);
    Ok(())
}
