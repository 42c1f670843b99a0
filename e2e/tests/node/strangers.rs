//! Connections of people who have no business here: they take nobody's place, hold nobody up and
//! fill no log.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::crictl::crictl;
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::streaming::{WebSocket, request as http};
use e2e::traces::ensure_nothing_new;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::streaming::{STDIN, STDOUT, TRANSPORTS, exec_url, sleeper};
use crate::support::{free_port, settled};

/// Connections that a stranger holds, more than there are places for sessions.
const HELD: usize = 1200;
/// How many of them he opens anew at once, and after which pause.
const ANEW: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Opens connections to `address` and again what is closed, until told to stop. Every second one
/// sends something from time to time that is the beginning of no end; how many there were.
fn crowd(address: SocketAddr, stop: &Receiver<()>) -> Result<usize> {
    let (mut held, mut opened) = (Vec::new(), 0);
    while stop.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        held.retain(goes_on);
        for _ in held.len()..HELD.min(held.len() + ANEW) {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
            stream.set_nonblocking(true)?;
            held.push(stream);
            opened += 1;
        }
    }
    Ok(opened)
}

/// Whether a connection is still open; one in two is told something first.
fn goes_on(mut stream: &TcpStream) -> bool {
    let talks = stream.local_addr().is_ok_and(|address| address.port() % 2 == 0);
    if talks && stream.write_all(b"X").is_err() {
        return false;
    }
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Strangers at one address, until this is dropped.
struct Strangers {
    stop: std::sync::mpsc::Sender<()>,
    crowd: thread::JoinHandle<Result<usize>>,
}

impl Strangers {
    fn at(address: SocketAddr) -> Self {
        let (stop, stopped) = channel();
        Self { stop, crowd: thread::spawn(move || crowd(address, &stopped)) }
    }

    fn leave(self) -> Result<usize> {
        drop(self.stop);
        self.crowd.join().expect("no panic")
    }
}

/// What the daemon has logged so far, in bytes, but for what it says of each command.
fn logged(node: &Node) -> Result<usize> {
    let log = std::fs::read_to_string(node.log_file())?;
    Ok(log.lines().filter(|line| !line.contains(" audit: ")).map(str::len).sum())
}

pub(crate) fn those_without_a_token_take_nobodys_place(fixture: &Fixture) -> Result<()> {
    /// Commands that are run meanwhile, and for how long at least.
    const COMMANDS: usize = 6;
    const AT_LEAST: Duration = Duration::from_secs(8);
    /// What may be logged of all that.
    const LINES: usize = 64 << 10;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })?;
    let metrics = free_port()?;
    let node = fixture.own_node(Options {
        log: "info".to_owned(),
        config: format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n"),
        ..Options::default()
    })?;
    let running = sleeper(&node, fixture, "crun")?;
    settled(&node, &running)?;
    let before = e2e::traces::Traces { threads: usize::from(u16::MAX), ..node.traces() };
    let logged_before = logged(&node)?;
    // Of somebody who was there before, and stays.
    let url = exec_url(&node, &running.id, "echo ready; read x; echo told $x", false)?;
    let mut earlier = WebSocket::open(&url, "v5.channel.k8s.io")?;
    earlier.receive_until(STDOUT, "ready")?;
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let address: SocketAddr = address.context(url.clone())?.parse()?;
    let crowds = [address, SocketAddr::from(([127, 0, 0, 1], metrics))].map(Strangers::at);

    let began = Instant::now();
    let mut ran = 0;
    while ran < COMMANDS || began.elapsed() < AT_LEAST {
        let transport = TRANSPORTS[ran % 2];
        let said = crictl(&node.socket(), &["exec", "-r", transport, &running.id, "echo", "done"])?;
        ensure!(said.stdout.contains("done"), "{transport}, command {ran}: {said:?}");
        let url = exec_url(&node, &running.id, "echo done", false)?;
        let [_, out, ..] = WebSocket::open(&url, "v5.channel.k8s.io")?.rest()?;
        ensure!(out == b"done\n", "{out:?}");
        let scraped = http("GET", &format!("http://127.0.0.1:{metrics}/metrics"), &[])?;
        ensure!(scraped.status == 200, "{}", scraped.head);
        ran += 1;
    }
    earlier.send(STDIN, b"4727\n")?;
    earlier.receive_until(STDOUT, "told 4727")?;
    drop(earlier);
    for crowd in crowds {
        let opened = crowd.leave()?;
        ensure!(opened > HELD, "only {opened} strangers");
    }
    let lines = logged(&node)? - logged_before;
    ensure!(lines < LINES, "{lines} bytes were logged");
    ensure_nothing_new(&before, || node.traces())?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}
