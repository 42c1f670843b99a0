//! Clients and commands that send without end: what they cost is bounded, and others are served.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::streaming::WebSocket;
use e2e::traces::{Traces, ensure_nothing_new};
use e2e::wait::eventually;
use e2e::{host, request};
use tonic::Code;

use crate::streaming::{RESIZE, STDIN, STDOUT, exec_url, gone};
use crate::support::{END, Running, free_port, run, settled};

/// What the daemon's memory may grow by in a flood, in KiB: pages of the allocator, no data.
const GROWTH: u64 = 16 << 10;

/// A node of one's own with a container that sleeps, and what is there before anything else.
fn quiet(fixture: &Fixture, config: &str) -> Result<(Node, Running, Traces)> {
    let options =
        Options { log: "info".to_owned(), config: config.to_owned(), ..Options::default() };
    let node = fixture.own_node(options)?;
    let image = fixture.busybox(&node)?;
    let running = run(&node, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    settled(&node, &running)?;
    // Idle threads after many requests at once are kept awake by the daemon's own looks.
    let before = Traces { threads: usize::from(u16::MAX), ..node.traces() };
    Ok((node, running, before))
}

pub(crate) fn output_without_end_is_cut_and_costs_what_it_may(fixture: &Fixture) -> Result<()> {
    /// At one time, in one container.
    const COMMANDS: usize = 12;
    /// What the kubelet takes in one message, and what the rest of it may need.
    const MESSAGE: usize = 16 << 20;
    /// For each command, in KiB: its output, the message made of it, and room to grow.
    const COST: u64 = 40 << 10;
    let (node, running, before) = quiet(fixture, "")?;
    let exec = |line: &str, timeout: i64| {
        node.cri().exec_rpc(pb::ExecSyncRequest {
            container_id: running.id.clone(),
            cmd: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            timeout,
        })
    };
    let memory = host::pss_kib(node.pid()?)?;
    host::reset_peak(node.pid()?)?;
    let much = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 7";
    let both = || -> Result<()> {
        let answer = exec(much, 60)?;
        let kept = answer.stdout.len() + answer.stderr.len();
        ensure!(answer.exit_code == 7, "{}", answer.exit_code);
        ensure!((MESSAGE - (64 << 10)..MESSAGE).contains(&kept), "{kept} bytes");
        let endless = exec("yes 4726 >&2 & cat /dev/zero", 2).err().context("it ended")?;
        ensure!(endless.code() == Code::DeadlineExceeded, "{endless:?}");
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..COMMANDS).map(|_| scope.spawn(both)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let peak = host::peak_kib(node.pid()?)?;
    ensure!(peak < memory + COMMANDS as u64 * COST, "{memory} KiB before, up to {peak} KiB");
    gone(&node, "yes 4726")?;
    ensure_nothing_new(&before, || node.traces())?;
    node.remove_all_pods()?;
    Ok(())
}

pub(crate) fn a_hundred_thousand_sizes_are_one_and_leave_nothing(fixture: &Fixture) -> Result<()> {
    const SIZES: usize = 100_000;
    const CLIENTS: usize = 100;
    let (node, running, before) = quiet(fixture, "")?;
    let memory = host::pss_kib(node.pid()?)?;
    // For commands that there are not.
    for _ in 0..CLIENTS {
        let url = node
            .cri()
            .exec_url_rpc(pb::ExecRequest {
                container_id: running.id.clone(),
                cmd: vec!["/no/such/program".to_owned()],
                tty: true,
                stdin: true,
                stdout: true,
                stderr: false,
            })?
            .url;
        let mut client = WebSocket::open(&url, "v5.channel.k8s.io")?;
        for number in 0..SIZES / CLIENTS {
            // The session may be over by now.
            if client.send(RESIZE, size(number).as_bytes()).is_err() {
                break;
            }
        }
        let [.., status] = client.rest()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        ensure!(status.contains("/no/such/program"), "{status}");
    }
    // For one that there is, and that is at its terminal all the time.
    let url = exec_url(&node, &running.id, "echo ready; read x; stty size; exit 0", true)?;
    let mut client = WebSocket::open(&url, "v5.channel.k8s.io")?;
    client.receive_until(STDOUT, "ready")?;
    for number in 0..SIZES {
        client.send(RESIZE, size(number).as_bytes())?;
    }
    client.send(RESIZE, br#"{"Width":117,"Height":39}"#)?;
    let line = "for t in /dev/pts/[0-9]*; do stty size <$t; done";
    eventually("the last size", END, || {
        let url = exec_url(&node, &running.id, line, false)?;
        let [_, sizes, ..] = WebSocket::open(&url, "v5.channel.k8s.io")?.rest()?;
        ensure!(sizes == b"39 117\n", "{}", String::from_utf8_lossy(&sizes));
        Ok(())
    })?;
    client.send(STDIN, b"\n")?;
    client.receive_until(STDOUT, "39 117")?;
    drop(client);
    ensure_nothing_new(&before, || node.traces())?;
    let after = host::pss_kib(node.pid()?)?;
    ensure!(after < memory + GROWTH, "{memory} KiB before, {after} KiB after");
    node.remove_all_pods()?;
    Ok(())
}

fn size(number: usize) -> String {
    format!("{{\"Width\":{},\"Height\":{}}}", number % 200 + 1, number % 60 + 1)
}

pub(crate) fn clients_that_attach_and_vanish_leave_nothing(fixture: &Fixture) -> Result<()> {
    const CLIENTS: usize = 100_000;
    const AT_ONCE: usize = 12;
    let (node, running, before) = quiet(fixture, "")?;
    let one = |number: usize| -> Result<()> {
        let url = node
            .cri()
            .attach_url_rpc(pb::AttachRequest {
                container_id: running.id.clone(),
                stdin: number.is_multiple_of(2),
                stdout: true,
                stderr: true,
                tty: false,
            })?
            .url;
        WebSocket::open(&url, "v5.channel.k8s.io")?.reset()
    };
    let round = |count: usize| -> Result<()> {
        thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|first| scope.spawn(move || (first..count).step_by(AT_ONCE).try_for_each(one)))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })
    };
    round(CLIENTS / 100)?;
    ensure_nothing_new(&before, || node.traces())?;
    let memory = host::pss_kib(node.pid()?)?;
    round(fixture.times(CLIENTS))?;
    ensure_nothing_new(&before, || node.traces())?;
    let after = host::pss_kib(node.pid()?)?;
    ensure!(after < memory + GROWTH, "{memory} KiB before, {after} KiB after");
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    node.remove_all_pods()?;
    Ok(())
}

pub(crate) fn resets_and_headers_without_end_harm_nobody_else(fixture: &Fixture) -> Result<()> {
    const FRAMES: u32 = 100_000;
    let port = free_port()?;
    let config = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let (node, running, before) = quiet(fixture, &config)?;
    let memory = host::pss_kib(node.pid()?)?;
    host::reset_peak(node.pid()?)?;
    // CVE-2023-44487: requests that are taken back at once.
    let resets = |number: u32| {
        let stream = 2 * number + 1;
        let headers = frame(1, 5, stream, b"\x83\x86\x84\x41\x01h");
        [headers, frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    // RUSTSEC-2024-0332: headers that do not end.
    let endless = |number: u32| match number {
        0 => frame(1, 0, 1, b"\x83\x86\x84\x41\x01h"),
        _ => frame(9, 0, 1, &[b"\x00\x01a\x7f\x81\x7e".as_slice(), &[b'x'; 253]].concat()),
    };
    let connect = || -> Result<[Box<dyn Peer>; 2]> {
        let cri = UnixStream::connect(node.socket())?;
        cri.set_write_timeout(Some(END))?;
        let metrics = TcpStream::connect(("127.0.0.1", port))?;
        metrics.set_write_timeout(Some(END))?;
        Ok([Box::new(cri), Box::new(metrics)])
    };
    for peer in connect()? {
        flood(peer, FRAMES, resets)?;
        ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    }
    for peer in connect()? {
        let sent = flood(peer, FRAMES, endless)?;
        ensure!(sent < FRAMES, "headers of 25 MB were taken");
        ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    }
    let peak = host::peak_kib(node.pid()?)?;
    ensure!(peak < memory + 2 * GROWTH, "{memory} KiB before, up to {peak} KiB");
    ensure_nothing_new(&before, || node.traces())?;
    node.remove_all_pods()?;
    Ok(())
}

trait Peer: Read + Write {}
impl<T: Read + Write> Peer for T {}

/// Sends frames of HTTP/2 until the other side closes the connection; how many.
fn flood(mut peer: Box<dyn Peer>, frames: u32, make: impl Fn(u32) -> Vec<u8>) -> Result<u32> {
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    peer.write_all(&frame(4, 0, 0, b""))?;
    for number in 0..frames {
        match peer.write_all(&make(number)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                anyhow::bail!("neither taken nor closed after {number} frames")
            }
            Err(_) => return Ok(number),
        }
    }
    Ok(frames)
}

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn pods_that_no_list_holds_are_told_one_by_one(fixture: &Fixture) -> Result<()> {
    /// Bytes of annotations that a pod of the API may have.
    const ANNOTATIONS: usize = 256 << 10;
    const PODS: usize = 65;
    let node = fixture.own_node(Options { log: "info".to_owned(), ..Options::default() })?;
    let noted = |number: usize, bytes: usize| {
        let mut config = request::host_network_pod(&node, &format!("noted-{number}"));
        config.annotations = [("note".to_owned(), "x".repeat(bytes - "note".len()))].into();
        // What the kubelet adds.
        let source = ("kubernetes.io/config.source".to_owned(), "api".to_owned());
        config.annotations.extend([source]);
        config
    };
    let refused = node.cri().run_pod(&noted(PODS, 2 * ANNOTATIONS)).err().context("accepted")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
    ensure!(refused.message().contains("config.annotations"), "{refused:?}");

    let mut all = Vec::new();
    for number in 0..PODS {
        all.push(node.cri().run_pod(&noted(number, ANNOTATIONS))?);
    }
    let listed = node.cri().pods().err().context("they fit")?;
    ensure!(listed.code() == Code::ResourceExhausted, "{listed:?}");
    ensure!(listed.message().contains("StreamPodSandboxes"), "{listed:?}");
    let mut told: Vec<String> = node.cri().stream_pods()?.into_iter().map(|pod| pod.id).collect();
    told.sort();
    all.sort();
    ensure!(told == all, "{} of {PODS}", told.len());
    // One by one, they are as any other.
    for pod in &all {
        node.cri().drop_pod(pod)?;
    }
    ensure!(node.cri().pods()?.is_empty(), "some are left");
    Ok(())
}
