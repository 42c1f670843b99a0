//! Sessions that last: a person at an attached terminal, a client whose network falls silent, a
//! daemon that dies under all of them, a container that is frozen meanwhile.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use crisol::cri::pb;
use e2e::crictl::command;
use e2e::node::{Node, Options};
use e2e::program::{Program, output, run};
use e2e::runner::Fixture;
use e2e::terminal::Terminal;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{host, request};
use nix::sys::signal::Signal;

use crate::streaming::{TRANSPORTS, forwarding, gone, processes, there};
use crate::support::{END, Running, add, ended, free_port, pid, settled};

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

pub(crate) fn a_killed_daemon_ends_its_sessions_and_not_the_container(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let mut containers = Vec::new();
    for handler in ["runc", "crun"] {
        containers.push((talker(&node, fixture, handler)?, handler));
    }
    for (running, _) in &containers {
        ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    }
    let before = node.traces().without_process();
    let mut sessions = Vec::new();
    for (running, _) in &containers {
        for transport in TRANSPORTS {
            sessions.push(Sessions::open(&node, running, transport)?);
        }
    }
    let syncs: Vec<_> = containers
        .iter()
        .map(|(running, _)| {
            let (cri, id) = (node.cri().clone(), running.id.clone());
            thread::spawn(move || cri.exec(&id, &["/bin/sleep", "4719"]))
        })
        .collect();
    there(&node, "/bin/sleep 4719")?;
    let pids: Vec<u32> =
        containers.iter().map(|(running, _)| pid(&node, &running.id)).collect::<Result<_>>()?;

    node.kill9()?;
    // Every client is told by the kernel.
    for sessions in &mut sessions {
        sessions.ensure_ended()?;
    }
    for sync in syncs {
        ensure!(sync.join().expect("no panic").is_err(), "an answer of a dead daemon");
    }
    // A command belongs to the connection that asked its monitor for it, and that is gone: the
    // monitors end them, with nobody there to ask for it.
    gone(&node, "sleep 4718")?;
    gone(&node, "sleep 4719")?;
    for ((running, handler), pid) in containers.iter().zip(&pids) {
        ensure!(host::process(*pid).is_some(), "{handler}: the container has ended");
        let lines = running.printed()?.len();
        eventually("the container goes on", END, || {
            ensure!(running.printed()?.len() > lines + 2, "{handler}");
            Ok(())
        })?;
    }

    node.spawn()?;
    ensure_nothing_new(&before, || node.traces().without_process())?;
    for ((running, handler), before) in containers.iter().zip(&pids) {
        ensure!(pid(&node, &running.id)? == *before, "{handler}: another process");
        for transport in TRANSPORTS {
            drop(Sessions::open(&node, running, transport)?);
        }
        ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    }
    gone(&node, "sleep 4718")?;
    ensure_nothing_new(&before, || node.traces().without_process())?;
    node.remove_all_pods()?;
    Ok(())
}

/// A container that prints a line every second and echoes on port 8080.
fn talker(node: &Node, fixture: &Fixture, handler: &str) -> Result<Running> {
    // Its processes stay the same: a sleep would be another one each time.
    let line = "busybox nc -ll -p 8080 -e /bin/cat & mkfifo /f; exec 3<>/f
                while :; do echo line; read -t 1 x <&3; done";
    let config = request::shell("talker", &fixture.busybox(node)?, line);
    let pod_config = request::pod(node, &format!("talker-{handler}"));
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    settled(node, &running)?;
    Ok(running)
}

/// One client of each kind, in the middle of its work.
struct Sessions {
    exec: Program,
    terminal: Terminal,
    attach: Program,
    _forward: Program,
    through: TcpStream,
}

impl Sessions {
    fn open(node: &Node, to: &Running, transport: &str) -> Result<Self> {
        let start = |verb: &str, more: &[&str]| {
            let words = [&[verb, "-r", transport, &to.id], more].concat();
            let name = format!("{verb}-{transport}-{}.log", &to.id[..8]);
            let log = node.dir().join(name);
            fs::remove_file(&log).ok();
            Program::start(&mut command(&node.socket(), &words)?, &log)
        };
        let line = "echo ready; sleep 4718";
        let exec = start("exec", &["/bin/sh", "-c", line])?;
        let words = ["exec", "-r", transport, "-i", "-t", &to.id, "/bin/sh", "-c", line];
        let terminal = Terminal::start(&command(&node.socket(), &words)?, 24, 80)?;
        let attach = start("attach", &[])?;
        printed(&exec, "ready")?;
        terminal.wait_for("ready")?;
        printed(&attach, "line")?;
        let port = free_port()?;
        let forward = forwarding(node, transport, &to.pod, port)?;
        let mut through = TcpStream::connect(("127.0.0.1", port))?;
        through.set_read_timeout(Some(END))?;
        through.write_all(b"here")?;
        through.read_exact(&mut [0; 4])?;
        Ok(Self { exec, terminal, attach, _forward: forward, through })
    }

    fn ensure_ended(&mut self) -> Result<()> {
        // Over SPDY crictl takes the connection's end for a success.
        self.exec.wait(END)?;
        self.terminal.wait()?;
        self.attach.wait(END)?;
        let read = self.through.read(&mut [0]);
        ensure!(!matches!(read, Ok(1..)), "bytes out of nowhere");
        if let Err(error) = read {
            ensure!(error.kind() != ErrorKind::WouldBlock, "the forwarded connection stays");
        }
        Ok(())
    }
}

fn printed(program: &Program, word: &str) -> Result<()> {
    eventually(word, END, || {
        let printed = program.printed();
        ensure!(printed.contains(word), "{printed:?}");
        Ok(())
    })
}

pub(crate) fn a_client_whose_network_falls_silent_is_given_up(fixture: &Fixture) -> Result<()> {
    /// Silent for half a minute, asked thrice, ten seconds each, and the machine may be busy.
    const GIVEN_UP: Duration = Duration::from_secs(120);
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    let far = Elsewhere::make(&node)?;
    let drop_ins = node.config_file().with_extension("d");
    fs::create_dir(&drop_ins)?;
    fs::write(drop_ins.join("address.toml"), format!("[stream]\naddress = \"{}\"\n", far.here))?;
    node.spawn()?;
    let running = talker(&node, fixture, "crun")?;
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    let before = node.traces();
    let start = |transport: &str, verb: &str, more: &[&str], word: &str| {
        let words = [&[verb, "-r", transport, &running.id], more].concat();
        let log = node.dir().join(format!("silent-{verb}-{transport}-{}", more.len()));
        let program = Program::start(&mut far.inside(&command(&node.socket(), &words)?), &log)?;
        printed(&program, word)?;
        anyhow::Ok(program)
    };
    let mut clients = Vec::new();
    for transport in TRANSPORTS {
        // One that is silent itself, one whose bytes are not acknowledged, one that only listens.
        let line = "echo ready; sleep 4724";
        clients.push(start(transport, "exec", &["/bin/sh", "-c", line], "ready")?);
        let line = "while echo 4725; do sleep 0.5; done";
        clients.push(start(transport, "exec", &["/bin/sh", "-cx", line, "x"], "4725")?);
        clients.push(start(transport, "attach", &[], "line")?);
    }
    ensure!(node.traces().since(&before).iter().any(|it| it.contains("socket")));
    for chain in ["INPUT", "OUTPUT"] {
        far.run(&["iptables", "-A", chain, "-j", "DROP"])?;
    }
    for client in &mut clients {
        client.ensure_running()?;
        client.signal(Signal::SIGKILL)?;
        client.wait(END)?;
    }
    // Nothing of that has reached the daemon.
    there(&node, "sleep 4724")?;
    eventually("the commands are ended", GIVEN_UP, || {
        let left = processes(&node, "sleep 4724") + processes(&node, "echo 4725");
        ensure!(left == 0, "{left} are there");
        Ok(())
    })?;
    ensure_nothing_new(&before, || node.traces())?;
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    node.remove_all_pods()?;
    Ok(())
}

/// A network besides the node's own, with one address here and one there. It goes with its process.
struct Elsewhere {
    holder: Program,
    here: String,
}

impl Elsewhere {
    fn make(node: &Node) -> Result<Self> {
        let number = node.network().trim_start_matches("crisol");
        let mut holder = Command::new("unshare");
        // In the node's directory, which is how whoever sweeps finds it.
        holder.args(["--net", "sleep", "1000"]).current_dir(node.dir());
        let holder = Program::start(&mut holder, &node.dir().join("elsewhere.log"))?;
        let pid = holder.pid().to_string();
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        eventually("a network of its own", END, || {
            ensure!(network(&pid)? != network("self")?);
            Ok(())
        })?;
        let far = Self { holder, here: format!("198.18.{number}.1") };
        let near = format!("crisol{number}far");
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &pid];
        output("ip", ["link", "add", &near].iter().chain(&peer))?;
        output("ip", ["addr", "add", &format!("{}/24", far.here), "dev", &near])?;
        output("ip", ["link", "set", &near, "up"])?;
        far.run(&["ip", "addr", "add", &format!("198.18.{number}.2/24"), "dev", "eth0"])?;
        far.run(&["ip", "link", "set", "eth0", "up"])?;
        Ok(far)
    }

    /// The same command there.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", self.holder.pid()));
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        run(&mut self.inside(&command))?.ok().map(drop)
    }
}
