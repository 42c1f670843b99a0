//! Many commands at once in one container, and commands in one that does not move.

use std::thread;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::request;
use e2e::runner::Fixture;
use e2e::streaming::WebSocket;
use e2e::traces::{Traces, ensure_nothing_new};
use e2e::wait::eventually;
use tonic::{Code, Status};

use crate::streaming::{STDIN, STDOUT, exec_url, gone};
use crate::stuck::{freeze, thaw};
use crate::support::{END, Running, add, pid, settled};

/// Commands at one time that somebody talks to: as many as one container has room for.
const TALKS: usize = 32;

pub(crate) fn two_hundred_at_once_succeed_or_are_told_why_not(fixture: &Fixture) -> Result<()> {
    const COMMANDS: usize = 200;
    let node = fixture.own_node(Options { log: "info".to_owned(), ..Options::default() })?;
    for handler in ["runc", "crun"] {
        let busy = sleeper(&node, fixture, handler, "busy")?;
        let other = sleeper(&node, fixture, handler, "other")?;
        let before = traces(&node);
        // Those who talk have taken all of their room.
        let mut talks = Vec::new();
        for _ in 0..TALKS {
            let url = exec_url(&node, &busy.id, "echo ready; read x", false)?;
            let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
            client.receive_until(STDOUT, "ready")?;
            talks.push(client);
        }
        let answers: Vec<Result<pb::ExecSyncResponse, Status>> = thread::scope(|scope| {
            let command = |number: usize| {
                let line = format!("sleep 2; echo {number}; echo error {number} >&2; exit 3");
                run(&node, &busy, &line, 60)
            };
            let threads: Vec<_> =
                (0..COMMANDS).map(|number| scope.spawn(move || command(number))).collect();
            succeeds(&node, &other)?;
            let container_id = busy.id.clone();
            node.cri().reopen_rpc(pb::ReopenContainerLogRequest { container_id })?;
            anyhow::Ok(threads.into_iter().map(|it| it.join().expect("no panic")).collect())
        })?;
        let mut succeeded = 0;
        for (number, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => {
                    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    ensure!(answer.exit_code == 3, "{number}: {answer:?}");
                    ensure!(said(&answer.stdout) == format!("{number}\n"), "{answer:?}");
                    ensure!(said(&answer.stderr) == format!("error {number}\n"), "{answer:?}");
                    succeeded += 1;
                }
                Err(status) => {
                    ensure!(status.code() == Code::ResourceExhausted, "{number}: {status:?}");
                    ensure!(status.message().contains(&busy.id), "{number}: {status:?}");
                }
            }
        }
        ensure!((24..COMMANDS).contains(&succeeded), "{succeeded} of {COMMANDS}");
        // Those who talked were not disturbed, and there is room again at once.
        succeeds(&node, &busy)?;
        for mut client in talks {
            client.send(STDIN, b"x\n")?;
            let [_, _, _, status] = client.rest()?;
            ensure!(String::from_utf8_lossy(&status).contains("Success"), "{status:?}");
        }
        ensure_nothing_new(&before, || node.traces())?;
        node.remove_all_pods()?;
    }
    Ok(())
}

pub(crate) fn a_frozen_container_holds_up_its_own_commands_alone(fixture: &Fixture) -> Result<()> {
    /// More than the node has slots for runtimes.
    const COMMANDS: usize = 20;
    let node = fixture.own_node(Options { log: "info".to_owned(), ..Options::default() })?;
    for handler in ["runc", "crun"] {
        let frozen = sleeper(&node, fixture, handler, "frozen")?;
        let other = sleeper(&node, fixture, handler, "other")?;
        succeeds(&node, &frozen)?;
        let before = traces(&node);
        let first = pid(&node, &frozen.id)?;
        freeze(first)?;
        let url = exec_url(&node, &frozen.id, "echo ready", false)?;
        let mut patient = WebSocket::open(&url, "v4.channel.k8s.io")?;
        let url = exec_url(&node, &frozen.id, "echo ready; sleep 4723", true)?;
        drop(WebSocket::open(&url, "v4.channel.k8s.io")?);
        thread::scope(|scope| {
            let command = || run(&node, &frozen, "sleep 4723", 10);
            let threads: Vec<_> = (0..COMMANDS).map(|_| scope.spawn(command)).collect();
            // Others run their commands meanwhile, and come and go.
            succeeds(&node, &other)?;
            let third = sleeper(&node, fixture, handler, "third")?;
            node.cri().drop_pod(&third.pod)?;
            let waiting = threads.iter().all(|thread| !thread.is_finished());
            for thread in threads {
                let refused = thread.join().expect("no panic").err().context("it ran")?;
                // The one runtime refuses, the other waits until it is killed.
                let codes = [Code::FailedPrecondition, Code::DeadlineExceeded];
                ensure!(codes.contains(&refused.code()), "{handler}: {refused:?}");
                let at_once = refused.code() == Code::FailedPrecondition;
                ensure!(at_once || waiting, "{handler}: others had to wait for {refused:?}");
            }
            anyhow::Ok(())
        })?;
        thaw(first)?;
        eventually("it works again", END, || succeeds(&node, &frozen))?;
        let [_, stdout, _, status] = patient.rest()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        ensure!(stdout == b"ready\n" || status.contains("Failure"), "{stdout:?} {status}");
        gone(&node, "sleep 4723")?;
        ensure_nothing_new(&before, || node.traces())?;
        node.remove_all_pods()?;
    }
    Ok(())
}

/// What is there now. Idle threads after many requests at once are kept awake by the daemon's own
/// looks, each for another while, so their number says nothing.
fn traces(node: &Node) -> Traces {
    Traces { threads: usize::from(u16::MAX), ..node.traces() }
}

fn sleeper(node: &Node, fixture: &Fixture, handler: &str, name: &str) -> Result<Running> {
    let image = fixture.busybox(node)?;
    let pod_config = request::host_network_pod(node, &format!("{name}-{handler}"));
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    settled(node, &running)?;
    Ok(running)
}

fn run(
    node: &Node,
    container: &Running,
    line: &str,
    timeout: i64,
) -> Result<pb::ExecSyncResponse, Status> {
    node.cri().exec_rpc(pb::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        timeout,
    })
}

fn succeeds(node: &Node, container: &Running) -> Result<()> {
    let answer = node.cri().exec(&container.id, &["/bin/true"])?;
    ensure!(answer.exit_code == 0, "{answer:?}");
    Ok(())
}
