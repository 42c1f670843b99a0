//! Namespaces of the node and of other containers.

use std::fs;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::Node;
use e2e::request::{self, security};
use e2e::runner::Fixture;
use e2e::{host, wait::eventually};
use tonic::{Code, Status};

use crate::support::{END, add, exec, pid, run_in};

/// What a namespace of a process is, e.g. `ipc:[4026531839]`.
fn namespace(pid: impl std::fmt::Display, kind: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))?.display().to_string())
}

pub(crate) fn the_nodes_processes_and_ipc_are_seen_when_asked_for(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let sleeper = || request::container("c", &image, &["/bin/sleep", "1000"]);
    let own = run_in(&node, request::host_network_pod(&node, "own"), sleeper())?;
    let first = pid(&node, &own.id)?;
    for kind in ["pid", "ipc", "mnt"] {
        ensure!(namespace(first, kind)? != namespace("self", kind)?, "{kind} is the node's");
    }
    ensure!(namespace(first, "net")? == namespace("self", "net")?);

    let mut pod_config = request::host_network_pod(&node, "nodes");
    request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Node.into();
    request::namespaces(&mut pod_config).ipc = pb::NamespaceMode::Node.into();
    let nodes = run_in(&node, pod_config, sleeper())?;
    let first = pid(&node, &nodes.id)?;
    for kind in ["pid", "ipc"] {
        ensure!(namespace(first, kind)? == namespace("self", kind)?, "{kind} is not the node's");
    }
    let daemon = format!("/proc/{}/comm", node.pid()?);
    ensure!(exec(&node, &nodes.id, &["/bin/cat", &daemon])?.trim() == "crisol");
    let options = node.cri().pod(&nodes.pod)?.linux.and_then(|l| l.namespaces?.options);
    let options = options.context("no namespaces in the pod's status")?;
    ensure!(options.pid() == pb::NamespaceMode::Node && options.ipc() == pb::NamespaceMode::Node);

    // What it started beside itself goes with it, though it is nobody's first process.
    exec(&node, &nodes.id, &["/bin/sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 &"])?;
    let stray = || {
        let all = host::processes_of(node.dir(), Some(node.cgroup()));
        all.into_iter().filter(|process| process.command.contains("sleep 1001")).count()
    };
    ensure!(stray() == 1, "{} strays", stray());
    node.cri().stop(&nodes.id, 0)?;
    eventually("the stray is gone", END, || {
        ensure!(stray() == 0, "{} strays", stray());
        Ok(())
    })
}

pub(crate) fn a_debug_container_joins_its_targets_processes(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let pod_config = request::host_network_pod(&node, &format!("debugged-{handler}"));
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let sleeper = |name: &str| request::container(name, &image, &["/bin/sleep", "1000"]);
        let target = add(&node, &pod, &pod_config, sleeper("app"))?.id;
        let debug = |name: &str, of: &str| -> Result<String, Status> {
            let mut config = sleeper(name);
            request::share_namespaces(&mut config, &pod_config);
            let options = security(&mut config).namespace_options.get_or_insert_default();
            options.pid = pb::NamespaceMode::Target.into();
            options.target_id = of.to_owned();
            node.cri().create(&pod, &config, &pod_config)
        };
        node.cri().start(&target)?;
        let id = debug("debugger", &target)?;
        node.cri().start(&id)?;
        let (app, debugger) = (pid(&node, &target)?, pid(&node, &id)?);
        ensure!(namespace(app, "pid")? == namespace(debugger, "pid")?);
        ensure!(namespace(app, "mnt")? != namespace(debugger, "mnt")?);
        let seen = exec(&node, &id, &["/bin/ps", "-o", "pid,args"])?;
        ensure!(seen.lines().any(|line| line.trim() == "1 /bin/sleep 1000"), "{seen}");
        // The debugger goes alone.
        node.cri().stop(&id, 0)?;
        ensure!(host::process(app).is_some(), "stopping the debugger killed its target");

        let other = run_in(&node, request::host_network_pod(&node, "other"), sleeper("x"))?;
        let code = |of: &str| -> Result<Code> {
            Ok(debug("refused", of).err().with_context(|| format!("joined {of:?}"))?.code())
        };
        ensure!(code("")? == Code::InvalidArgument);
        ensure!(code("a/b")? == Code::InvalidArgument);
        ensure!(code(&"ab".repeat(32))? == Code::NotFound);
        ensure!(code(&pod)? == Code::NotFound);
        ensure!(code(&other.id)? == Code::InvalidArgument);
        node.cri().stop(&target, 0)?;
        ensure!(code(&target)? == Code::FailedPrecondition);
        drop_all(&node)?;
    }
    Ok(())
}

fn drop_all(node: &Node) -> Result<()> {
    node.remove_all_pods()?;
    ensure!(node.cri().containers()?.is_empty());
    Ok(())
}
