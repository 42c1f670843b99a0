//! The processes that unpack layers, seen from outside while a pull waits for more of one.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::cri::Answer;
use e2e::host::{self, Process};
use e2e::liar::{Liar, Lie};
use e2e::node::faults::Fault;
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::wait::eventually;

use crate::support::END;

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_MKNOD` and `CAP_SETFCAP`.
const CAPABILITIES: &str = "000000008800001b";

/// A pull that waits for the second half of its layer.
struct Waiting<'a> {
    node: &'a Node,
    /// The unpacker and the process of the layer.
    processes: [Process; 2],
}

/// Does something while a pull waits; what comes of that, and how the pull ends.
fn during_a_pull<T>(
    node: &Node,
    liar: &Liar,
    what: impl FnOnce(&Waiting<'_>) -> Result<T>,
) -> Result<(T, Answer<String>)> {
    let image = liar.image(Lie::Halting);
    thread::scope(|scope| {
        let pull = scope.spawn(|| node.cri().pull(&image));
        let done = processes(node).and_then(|processes| what(&Waiting { node, processes }));
        liar.go_on();
        let pulled = pull.join().expect("no panic");
        Ok((done?, pulled))
    })
}

/// The two, once they are there.
fn processes(node: &Node) -> Result<[Process; 2]> {
    let daemon = node.pid()?;
    eventually("a process that unpacks", END, || {
        let children = host::children_of(daemon);
        let unpacker = children.into_iter().find(|child| child.command == "crisol unpack");
        let unpacker = unpacker.context("no unpacker")?;
        let worker = host::children_of(unpacker.pid).into_iter().next();
        Ok([unpacker, worker.context("no process of the layer")?])
    })
}

fn gone(processes: &[Process]) -> Result<()> {
    eventually("no process that unpacks", END, || {
        let left: Vec<_> =
            processes.iter().filter(|p| host::process(p.pid).as_ref() == Some(p)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn node_of(fixture: &Fixture, liar: &Liar) -> Result<Node> {
    fixture.own_node(Options { insecure: vec![liar.address()], ..Options::default() })
}

pub(crate) fn layers_are_unpacked_by_a_process_that_has_next_to_nothing(
    fixture: &Fixture,
) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let node = node_of(fixture, &liar)?;
    let (processes, pulled) = during_a_pull(&node, &liar, |waiting| {
        for process in &waiting.processes {
            has_next_to_nothing(waiting.node, process.pid)?;
        }
        Ok(waiting.processes.clone())
    })?;
    pulled?;
    gone(&processes)?;
    let log = fs::read_to_string(node.log_file())?;
    ensure!(!log.contains("less confinement"), "this machine can do all of it");
    Ok(())
}

fn has_next_to_nothing(node: &Node, pid: u32) -> Result<()> {
    for (field, expected) in [
        ("CapPrm", CAPABILITIES),
        ("CapEff", CAPABILITIES),
        ("CapBnd", CAPABILITIES),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let value = host::status(pid, field);
        ensure!(value == expected, "{field} is {value:?}");
    }
    let files = fs::read_dir(format!("/proc/{pid}/root"))?.count();
    ensure!(files == 0, "{files} files in its root");
    for namespace in ["mnt", "net", "ipc", "pid"] {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(of(pid)? != of(node.pid()?)?, "it shares the {namespace} namespace");
    }
    ensure!(fs::read(format!("/proc/{pid}/environ"))?.is_empty(), "an environment");
    for descriptor in host::descriptors(pid) {
        let known =
            ["pipe:", "socket:", "anon_inode:[pidfd]"].iter().any(|k| descriptor.starts_with(k));
        // The layer's directory is a root of its own.
        ensure!(known || descriptor == "/", "{descriptor} is open");
    }
    Ok(())
}

pub(crate) fn a_killed_unpacker_fails_its_pull_and_no_more(fixture: &Fixture) -> Result<()> {
    // The process of the layer, and the one that made it.
    for which in [1, 0] {
        let liar = Liar::start(fixture.dir())?;
        let node = node_of(fixture, &liar)?;
        let store = node.root().join("images");
        let before = host::files_below(&store);
        let (processes, pulled) = during_a_pull(&node, &liar, |waiting| {
            host::kill_process(waiting.processes[which].pid);
            gone(&waiting.processes[1..])?;
            Ok(waiting.processes.clone())
        })?;
        let error = pulled.err().context("half a layer was enough")?;
        ensure!(error.code() == tonic::Code::Unavailable, "{error:?}");
        let said = "the unpacker was killed by signal 9 (SIGKILL)";
        ensure!(error.message().ends_with(said), "{error:?}");
        gone(&processes)?;
        eventually("nothing stored", END, || {
            let after = host::files_below(&store);
            ensure!(after == before, "{after:?}");
            Ok(())
        })?;
        node.cri().pull(&liar.image(Lie::Halting))?;
    }
    Ok(())
}

pub(crate) fn a_killed_daemon_leaves_no_unpacker(fixture: &Fixture) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let mut node = node_of(fixture, &liar)?;
    let image = liar.image(Lie::Halting);
    let found = thread::scope(|scope| {
        let pull = scope.spawn(|| node.cri().pull(&image));
        let found = processes(&node)?;
        host::kill_process(node.pid()?);
        pull.join().expect("no panic").err().context("pulled by nobody")?;
        Ok::<_, anyhow::Error>(found)
    })?;
    gone(&found)?;
    node.kill9()?;
    node.spawn()?;
    liar.go_on();
    node.cri().pull(&image)?;
    Ok(())
}

pub(crate) fn a_host_that_gives_less_confinement_is_told_of_and_pulls(
    fixture: &Fixture,
) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let mut node = node_of(fixture, &liar)?;
    node.kill9()?;
    let calls = "seccomp".to_owned();
    let fault = Fault { calls, error: "ENOSYS".to_owned(), when: "1+".to_owned(), paths: vec![] };
    ensure!(node.spawn_with(&fault)?, "it does not start");
    let (processes, pulled) = during_a_pull(&node, &liar, |waiting| {
        for process in &waiting.processes {
            ensure!(host::status(process.pid, "Seccomp") == "0", "there is a filter");
            let capabilities = host::status(process.pid, "CapEff");
            ensure!(capabilities == CAPABILITIES, "capabilities {capabilities}");
        }
        Ok(waiting.processes.clone())
    })?;
    pulled?;
    gone(&processes)?;
    let log = fs::read_to_string(node.log_file())?;
    let warnings = log.lines().filter(|line| line.contains("less confinement")).count();
    ensure!(warnings == 1, "{warnings} warnings");
    let status = node.cri().status_rpc(pb::StatusRequest { verbose: true })?;
    let unpacker = status.info.get("unpacker").context("nothing of the unpacker")?;
    ensure!(unpacker.contains("system call filter"), "{unpacker}");
    Ok(())
}

pub(crate) fn a_host_that_has_used_up_its_namespaces_pulls_nothing(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    node.kill9()?;
    let calls = "unshare".to_owned();
    let fault = Fault { calls, error: "ENOSPC".to_owned(), when: "1+".to_owned(), paths: vec![] };
    ensure!(node.spawn_with(&fault)?, "it does not start");
    let image = fixture.image("layered:latest");
    let error = node.cri().pull(&image).err().context("pulled without confinement")?;
    ensure!(error.code() == tonic::Code::ResourceExhausted, "{error:?}");
    node.kill9()?;
    node.spawn()?;
    node.cri().pull(&image)?;
    Ok(())
}

pub(crate) fn an_upgrade_of_the_program_does_not_end_pulls(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    node.kill9()?;
    node.spawn_and_remove_program()?;
    node.cri().pull(&fixture.image("layered:latest"))?;
    Ok(())
}
