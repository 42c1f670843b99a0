//! Sessions that last: a person at an attached terminal, a client whose network falls silent, a
//! daemon that dies under all of them, a container that is frozen meanwhile.

use anyhow::{Result, ensure};
use crisol::cri::pb;
use e2e::crictl::command;
use e2e::node::Node;
use e2e::request;
use e2e::runner::Fixture;
use e2e::terminal::Terminal;
use e2e::wait::eventually;

use crate::streaming::TRANSPORTS;
use crate::support::{END, Running, add, ended};

/// The keys with which crictl's user leaves.
const DETACH: &str = "\u{10}\u{11}";

pub(crate) fn a_person_at_a_terminal_attaches_types_resizes_and_leaves(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    for handler in ["runc", "crun"] {
        for transport in TRANSPORTS {
            let running = listener(&node, fixture, handler)?;
            let mut first = attach(&node, transport, &running)?;
            first.type_in("hello\r")?;
            first.wait_for("got hello")?;
            has_size(&mut first, 24, 80)?;
            first.resize(39, 117)?;
            has_size(&mut first, 39, 117)?;
            // A second one looks on, and one that dies takes nothing along.
            let mut second = attach(&node, transport, &running)?;
            second.type_in("both\r")?;
            second.wait_for("got both")?;
            first.wait_for("got both")?;
            drop(second);
            first.type_in("still\r")?;
            first.wait_for("got still")?;
            first.type_in(DETACH)?;
            first.wait()?;
            let status = node.cri().container(&running.id)?;
            ensure!(status.state() == pb::ContainerState::ContainerRunning, "{status:?}");
            let mut third = attach(&node, transport, &running)?;
            third.type_in("again\r")?;
            third.wait_for("got again")?;
            third.type_in("leave\r")?;
            third.wait()?;
            let status = ended(&node, &running.id)?;
            ensure!(status.exit_code == 5, "exit code {}", status.exit_code);
            node.cri().drop_pod(&running.pod)?;
        }
    }
    Ok(())
}

/// A container at a terminal that answers each line.
fn listener(node: &Node, fixture: &Fixture, handler: &str) -> Result<Running> {
    let line = "while read line; do case $line in size) stty size ;; leave) exit 5 ;; \
                *) echo got $line ;; esac; done";
    let mut config = request::shell("listener", &fixture.busybox(node)?, line);
    (config.stdin, config.tty) = (true, true);
    let pod_config = request::host_network_pod(node, "terminal");
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

/// `crictl attach -it` on a terminal of its own.
fn attach(node: &Node, transport: &str, to: &Running) -> Result<Terminal> {
    let words = ["attach", "-r", transport, "-i", "-t", &to.id];
    Terminal::start(&command(&node.socket(), &words)?, 24, 80)
}

/// Waits until the container's terminal has this size: it travels on a stream of its own.
fn has_size(client: &mut Terminal, rows: u16, cols: u16) -> Result<()> {
    eventually("the size arrives", END, || {
        client.type_in("size\r")?;
        let shown = client.shown();
        ensure!(shown.contains(&format!("{rows} {cols}\r\n")), "{shown:?}");
        Ok(())
    })
}
