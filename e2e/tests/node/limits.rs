//! Resources: what the request says is what the kernel has.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::request::{self, resources};
use e2e::runner::Fixture;

use crate::support::{ended, pid, run};

/// cgroup v2 alone, without the hierarchies of v1.
pub(crate) fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of the control group that a process is in.
pub(crate) fn cgroup_file(pid: u32, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let ours =
            if unified() { names.is_empty() } else { names.split(',').any(|n| n == controller) };
        ours.then(|| path.trim_start_matches('/').to_owned())
    });
    let path = path.with_context(|| format!("no {controller} in {groups}"))?;
    let top = Path::new("/sys/fs/cgroup");
    let file = match unified() {
        true => top.join(path).join(v2),
        false => top.join(controller).join(path).join(v1),
    };
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.trim().to_owned())
}

pub(crate) fn limits_are_in_the_kernel(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let mut config = request::container("limited", &image, &["/bin/sleep", "1000"]);
        let wanted = resources(&mut config);
        wanted.memory_limit_in_bytes = 64 << 20;
        wanted.cpu_period = 100_000;
        wanted.cpu_quota = 50_000;
        wanted.cpu_shares = 512;
        wanted.oom_score_adj = 500;
        let pod_config = request::host_network_pod(&node, handler);
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let running = crate::support::add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        let first = pid(&node, &running.id)?;
        let memory = cgroup_file(first, "memory", "memory.limit_in_bytes", "memory.max")?;
        ensure!(memory == (64 << 20).to_string(), "{handler}: {memory}");
        if unified() {
            ensure!(cgroup_file(first, "cpu", "", "cpu.max")? == "50000 100000");
        } else {
            ensure!(cgroup_file(first, "cpu", "cpu.cfs_quota_us", "")? == "50000");
            ensure!(cgroup_file(first, "cpu", "cpu.shares", "")? == "512");
        }
        let adjusted = fs::read_to_string(format!("/proc/{first}/oom_score_adj"))?;
        ensure!(adjusted.trim() == "500", "{handler}: {adjusted}");
        let groups = fs::read_to_string(format!("/proc/{first}/cgroup"))?;
        ensure!(groups.contains(&format!("{}/", node.cgroup())), "not below the parent: {groups}");
        let status = node.cri().container(&running.id)?;
        let reported = status.resources.and_then(|resources| resources.linux);
        let reported = reported.context("no resources in the status")?;
        ensure!(reported.memory_limit_in_bytes == 64 << 20 && reported.cpu_quota == 50_000);
    }
    Ok(())
}

pub(crate) fn an_oom_kill_is_named(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    // tail keeps a line until it ends, and this one never does.
    let mut config = request::container("glutton", &image, &["/bin/tail", "/dev/zero"]);
    resources(&mut config).memory_limit_in_bytes = 32 << 20;
    resources(&mut config).memory_swap_limit_in_bytes = 32 << 20;
    let running = run(&node, config)?;
    let status = ended(&node, &running.id)?;
    ensure!(status.reason == "OOMKilled", "{:?}", status.reason);
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    Ok(())
}
