//! Exec, attach and port-forward: with crictl as people use them, and with clients that misbehave.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::crictl::{command, crictl_with_input};
use e2e::node::{Node, Options};
use e2e::program::{Program, output, run as run_program};
use e2e::runner::Fixture;
use e2e::streaming::{SPDY, WebSocket, request as http};
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{host, request};
use tonic::Code;

use crate::support::{END, Running, add, free_port, run, run_in};

pub(crate) const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// Channels of a WebSocket.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A container that sleeps, by `handler`.
pub(crate) fn sleeper(node: &Node, fixture: &Fixture, handler: &str) -> Result<Running> {
    let image = fixture.busybox(node)?;
    let pod_config = request::host_network_pod(node, &format!("stream-{handler}"));
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

/// What Exec is asked for: without a terminal unless `tty`.
fn exec_request(container: &str, line: &str, tty: bool) -> pb::ExecRequest {
    pb::ExecRequest {
        container_id: container.to_owned(),
        cmd: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    }
}

pub(crate) fn exec_url(node: &Node, container: &str, line: &str, tty: bool) -> Result<String> {
    Ok(node.cri().exec_url_rpc(exec_request(container, line, tty))?.url)
}

/// Processes of this node whose command line has `word`.
pub(crate) fn processes(node: &Node, word: &str) -> usize {
    let all = host::processes_of(node.dir(), Some(node.cgroup()));
    all.iter().filter(|process| process.command.contains(word)).count()
}

pub(crate) fn gone(node: &Node, word: &str) -> Result<()> {
    eventually("the process is gone", END, || {
        ensure!(processes(node, word) == 0, "{word} is still there");
        Ok(())
    })
}

pub(crate) fn there(node: &Node, word: &str) -> Result<()> {
    eventually("the process is there", END, || {
        ensure!(processes(node, word) > 0, "{word} is not there");
        Ok(())
    })
}

pub(crate) fn exec_works_with_crictl_over_both_transports(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let paste: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    for handler in ["runc", "crun"] {
        let running = sleeper(&node, fixture, handler)?;
        let id = running.id.as_str();
        for transport in TRANSPORTS {
            let exec = ["exec", "-r", transport];
            let script = "echo out; echo err >&2; exit 7";
            let said = node.try_crictl(&[&exec[..], &[id, "/bin/sh", "-c", script]].concat())?;
            ensure!(!said.status.success() && said.stdout == "out\n", "{said:?}");
            ensure!(said.stderr.contains("err\n"), "{said:?}");
            ensure!(said.stderr.contains("exit code 7"), "{said:?}");
            let said = node.try_crictl(&[&exec[..], &[id, "/bin/true"]].concat())?;
            ensure!(said.status.success(), "{said:?}");
            // Every byte both ways, and the end of the input reaches the process.
            let words = [&exec[..], &["-i", id, "/bin/sha256sum"]].concat();
            let said = crictl_with_input(&node.socket(), &words, &paste)?.ok()?;
            let digest = sha256(&paste);
            ensure!(said.starts_with(&digest), "{said} instead of {digest}");
            let words = [&exec[..], &[id, "/bin/sh", "-c", "yes 0123456 | head -n 1000000"]];
            let said = node.crictl(&words.concat())?;
            ensure!(said.len() == 8_000_000, "{} bytes of 8000000", said.len());
            let said = node.try_crictl(&[&exec[..], &[id, "/no/such/program"]].concat())?;
            ensure!(!said.status.success(), "{said:?}");
            ensure!(said.stderr.contains("/no/such/program"), "{said:?}");
            // With a terminal, under one.
            let words = [&exec[..], &["-it", id, "/bin/sh", "-c", "tty; exit 3"]].concat();
            let said = under_a_terminal(&node, &words)?;
            ensure!(said.contains("/dev/pts/"), "{said}");
            ensure!(said.contains("exit code 3"), "{said}");
        }
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs crictl with a terminal of its own; what was on it.
pub(crate) fn under_a_terminal(node: &Node, args: &[&str]) -> Result<String> {
    let crictl = command(&node.socket(), args)?;
    let words = std::iter::once(crictl.get_program()).chain(crictl.get_args());
    let line: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
    Ok(run_program(&mut script)?.stdout)
}

pub(crate) fn a_terminal_has_a_size_and_hangs_up_with_its_client(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let running = sleeper(&node, fixture, "runc")?;
    let url = exec_url(&node, &running.id, "echo ready; read x; stty size; cat", true)?;
    let mut client = WebSocket::open(&url, "v5.channel.k8s.io")?;
    client.receive_until(STDOUT, "ready")?;
    for (width, height) in [(1, 2), (3, 4), (117, 39)] {
        client.send(RESIZE, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes())?;
    }
    // The sizes travel on a stream of their own: nothing says which comes first.
    eventually("the size arrives", END, || {
        let url = exec_url(
            &node,
            &running.id,
            "for t in /dev/pts/[0-9]*; do stty size <$t; done",
            false,
        )?;
        let [_, sizes, ..] = WebSocket::open(&url, "v5.channel.k8s.io")?.rest()?;
        let sizes = String::from_utf8_lossy(&sizes).into_owned();
        ensure!(sizes.contains("39 117"), "{sizes:?}");
        Ok(())
    })?;
    client.send(STDIN, b"\n")?;
    client.receive_until(STDOUT, "39 117\r\n")?;
    // A key that the terminal turns into a signal, then the end of the input.
    client.send(STDIN, b"h\xc3")?;
    client.send(STDIN, b"\xa4\x00 \n")?;
    client.receive_until(STDOUT, "h\u{e4}")?;
    client.send(CLOSE, &[STDIN])?;
    let [_, _, _, status] = client.rest()?;
    ensure!(String::from_utf8_lossy(&status).contains("Success"), "{status:?}");

    let url = exec_url(&node, &running.id, "echo ready; sleep 4711", true)?;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    client.receive_until(STDOUT, "ready")?;
    there(&node, "sleep 4711")?;
    drop(client);
    gone(&node, "sleep 4711")?;
    // One that does not care about a hang-up is killed.
    let line = "trap '' HUP; echo ready; while :; do sleep 4712; done";
    let url = exec_url(&node, &running.id, line, true)?;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    client.receive_until(STDOUT, "ready")?;
    there(&node, "sleep 4712")?;
    drop(client);
    gone(&node, "sleep 4712")?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn attach_shows_output_and_takes_input(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    for transport in TRANSPORTS {
        let line =
            "while read line; do echo got $line; echo also $line >&2; done; echo end; exit 5";
        let mut config = request::shell("attached", &image, line);
        (config.stdin, config.stdin_once) = (true, true);
        let running = run(&node, config)?;
        let words = ["attach", "-r", transport, "-i", &running.id];
        let said = crictl_with_input(&node.socket(), &words, b"one\ntwo\n")?;
        ensure!(said.stdout.contains("got one\ngot two\n"), "{transport}: {said:?}");
        ensure!(said.stderr.contains("also one\nalso two\n"), "{transport}: {said:?}");
        node.cri().drop_pod(&running.pod)?;
    }
    // Input that the container does not have is read all the same, and asking for a terminal that
    // it does not have gives none.
    let line = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let running = run(&node, request::shell("talks", &image, line))?;
    let url = node
        .cri()
        .attach_url_rpc(pb::AttachRequest {
            container_id: running.id.clone(),
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        })?
        .url;
    let mut client = WebSocket::open(&url, "v5.channel.k8s.io")?;
    for _ in 0..100 {
        client.send(STDIN, &[b'x'; 10_000])?;
    }
    client.receive_until(STDOUT, "line ")?;
    let before = running.printed()?.len();
    eventually("the container goes on", END, || {
        ensure!(running.printed()?.len() > before + 2);
        Ok(())
    })?;
    client.receive_until(STDOUT, &format!("line {}", before + 2))?;
    node.cri().stop(&running.id, 0)?;
    let [_, _, _, status] = client.rest()?;
    ensure!(!status.is_empty(), "no word of the container's end");
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

/// A pod with a network of its own in which something answers on port 8080 with what it is sent.
fn echoing(node: &Node, fixture: &Fixture, name: &str) -> Result<Running> {
    let image = fixture.busybox(node)?;
    let config = request::container(
        "echo",
        &image,
        &["/bin/busybox", "nc", "-ll", "-p", "8080", "-e", "/bin/cat"],
    );
    let running = run_in(node, request::pod(node, name), config)?;
    Ok(running)
}

/// `crictl port-forward` in the background, when it listens on `local`.
pub(crate) fn forwarding(node: &Node, transport: &str, pod: &str, local: u16) -> Result<Program> {
    let log = node.dir().join(format!("forward-{local}.log"));
    let words = ["port-forward", "-r", transport, pod, &format!("{local}:8080")];
    let program = Program::start(&mut command(&node.socket(), &words)?, &log)?;
    eventually("port-forward listens", END, || {
        ensure!(program.printed().contains("Forwarding from"), "{}", program.printed());
        Ok(())
    })?;
    Ok(program)
}

pub(crate) fn echo(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(END))?;
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone()?;
        scope.spawn(move || {
            writer.write_all(bytes)?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        stream.read_to_end(&mut back).map(drop)
    })?;
    Ok(back)
}

pub(crate) fn port_forward_reaches_the_pod_over_both_transports(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let running = echoing(&node, fixture, "forward")?;
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 253) as u8).collect();
    for transport in TRANSPORTS {
        let port = free_port()?;
        let _forwarding = forwarding(&node, transport, &running.pod, port)?;
        eventually("the first connection", END, || {
            let back = echo(port, b"hello")?;
            ensure!(back == b"hello", "{back:?}");
            Ok(())
        })?;
        // The end of the input is an end there too, and what comes back is whole.
        for _ in 0..10 {
            let back = echo(port, &bytes)?;
            ensure!(back == bytes, "{transport}: {} bytes of {}", back.len(), bytes.len());
        }
    }
    // Channels with a port in front, as the older WebSocket protocol has them.
    let url = node
        .cri()
        .port_forward_url_rpc(pb::PortForwardRequest {
            pod_sandbox_id: running.pod.clone(),
            port: vec![8080, 9],
        })?
        .url;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    let mut greeted = Vec::new();
    while greeted.len() < 4 {
        let (channel, bytes) = client.receive()?.context("closed")?;
        if bytes.len() == 2 {
            greeted.push((channel, u16::from_le_bytes([bytes[0], bytes[1]])));
        }
    }
    greeted.sort_unstable();
    ensure!(greeted == [(0, 8080), (1, 8080), (2, 9), (3, 9)], "{greeted:?}");
    client.send(0, b"through a channel")?;
    client.receive_until(0, "through a channel")?;
    node.cri().drop_pod(&running.pod)?;

    // In a pod with the node's network, the node's loopback is reached.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let pod = node.cri().run_pod(&request::host_network_pod(&node, "on-the-node"))?;
    let url = node
        .cri()
        .port_forward_url_rpc(pb::PortForwardRequest {
            pod_sandbox_id: pod.clone(),
            port: vec![listener.local_addr()?.port().into()],
        })?
        .url;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    let (mut accepted, _) = listener.accept()?;
    accepted.write_all(b"from the node")?;
    client.receive_until(0, "from the node")?;
    // A stopped pod forwards no more, and says so.
    node.cri().drop_pod(&pod)?;
    let [_, words, ..] = client.rest()?;
    ensure!(String::from_utf8_lossy(&words).contains("stopped"), "{words:?}");
    Ok(())
}

pub(crate) fn one_refused_connection_does_not_end_the_others(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let running = echoing(&node, fixture, "refused")?;
    let url = node
        .cri()
        .port_forward_url_rpc(pb::PortForwardRequest {
            pod_sandbox_id: running.pod.clone(),
            port: vec![9, 8080],
        })?
        .url;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    let words = client.receive_until(1, "refused")?;
    ensure!(words.contains("port 9 of pod"), "{words:?}");
    client.send(2, b"still here")?;
    client.receive_until(2, "still here")?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn a_token_works_once_and_only_for_its_purpose(fixture: &Fixture) -> Result<()> {
    // Of its own: it leaves no room for the tokens of others.
    let node = fixture.own_node(Options::default())?;
    let running = sleeper(&node, fixture, "crun")?;
    let url = exec_url(&node, &running.id, "echo hello", false)?;
    ensure!(url.starts_with("http://127.0.0.1:"), "{url}");
    let ask = |method: &str, url: &str, headers: &[&str]| -> Result<u16> {
        Ok(http(method, url, headers)?.status)
    };
    // What asks in the wrong way is refused and uses nothing up.
    let long = format!("X-Long: {}", "x".repeat(100_000));
    for (method, url, headers, expected) in [
        ("GET", url.replace("/exec/", "/attach/"), SPDY, 404),
        ("GET", url.replace("/exec/", "/portforward/"), SPDY, 404),
        ("GET", url.replace("/exec/", "/"), SPDY, 404),
        ("GET", url.replace("/exec/", "/exec/../exec/"), SPDY, 404),
        ("GET", format!("{url}x"), SPDY, 404),
        ("PUT", url.clone(), SPDY, 405),
        ("GET", url.clone(), &[], 400),
        ("GET", url.clone(), &SPDY[..2], 400),
        ("GET", url.clone(), &["Connection: Upgrade", "Upgrade: h2c"], 400),
        ("GET", url.clone(), &[SPDY[0], SPDY[1], "X-Stream-Protocol-Version: v9"], 403),
        ("GET", url.clone(), &["Connection: Upgrade", "Upgrade: websocket"], 400),
        ("POST", url.clone(), &[SPDY[0], SPDY[1], SPDY[2], "Content-Length: 5"], 400),
        ("GET", url.clone(), &[SPDY[0], SPDY[1], SPDY[2], &long], 431),
    ] {
        let status = ask(method, &url, headers)?;
        ensure!(status == expected, "{method} {url} {headers:?}: {status} instead of {expected}");
    }
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    let [_, stdout, _, status] = client.rest()?;
    ensure!(stdout == b"hello\n" && !status.is_empty(), "{stdout:?} {status:?}");
    ensure!(ask("GET", &url, SPDY)? == 404, "a used token works again");
    // POST is what kubectl and the kubelet send.
    let url = exec_url(&node, &running.id, "echo hello", false)?;
    let answered = http("POST", &url, SPDY)?;
    ensure!(answered.status == 101, "{}", answered.head);
    for said in ["x-stream-protocol-version: v4.channel.k8s.io", "connection: upgrade\r\n"] {
        ensure!(answered.head.to_lowercase().contains(said), "{}", answered.head);
    }
    // The thousand-and-first waits.
    let mut full = None;
    for _ in 0..=1000 {
        if let Err(status) = node.cri().exec_url_rpc(exec_request(&running.id, "true", false)) {
            full = Some(status.code());
            break;
        }
    }
    ensure!(full == Some(Code::ResourceExhausted), "{full:?}");
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn what_cannot_be_streamed_is_refused(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "refusals");
    let pod = node.cri().run_pod(&pod_config)?;
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let created = add(&node, &pod, &pod_config, config)?;
    let exec = |change: &dyn Fn(&mut pb::ExecRequest)| {
        let mut request = exec_request(&created.id, "true", false);
        change(&mut request);
        node.cri().exec_url_rpc(request).err().map(|status| status.code())
    };
    let code = exec(&|_| ());
    ensure!(code == Some(Code::FailedPrecondition), "in a created container: {code:?}");
    node.cri().start(&created.id)?;
    ensure!(exec(&|_| ()).is_none());
    type Change = fn(&mut pb::ExecRequest);
    let wrong: [(&str, Change); 4] = [
        ("a terminal and a standard error", |r| (r.tty, r.stderr) = (true, true)),
        ("no stream", |r| (r.stdin, r.stdout, r.stderr) = (false, false, false)),
        ("no command", |r| r.cmd.clear()),
        ("an empty command", |r| r.cmd = vec![String::new()]),
    ];
    for (what, change) in wrong {
        let code = exec(&change);
        ensure!(code == Some(Code::InvalidArgument), "{what}: {code:?}");
    }
    let code = exec(&|r| r.container_id = "0123".to_owned());
    ensure!(code == Some(Code::NotFound), "{code:?}");
    let forward = |pod: &str, port: &[i32]| {
        let (pod_sandbox_id, port) = (pod.to_owned(), port.to_vec());
        let request = pb::PortForwardRequest { pod_sandbox_id, port };
        node.cri().port_forward_url_rpc(request).err().map(|status| status.code())
    };
    for port in [0, -1, 65_536] {
        ensure!(forward(&pod, &[80, port]) == Some(Code::InvalidArgument), "{port}");
    }
    ensure!(forward(&pod, &[]).is_none() && forward(&pod, &[80, 80]).is_none());
    // Streams that were allowed while it ran and are opened when it does not.
    let url = exec_url(&node, &created.id, "true", false)?;
    node.cri().stop(&created.id, 0)?;
    let code = exec(&|_| ());
    ensure!(code == Some(Code::FailedPrecondition), "in an exited container: {code:?}");
    let [.., status] = WebSocket::open(&url, "v4.channel.k8s.io")?.rest()?;
    ensure!(String::from_utf8_lossy(&status).contains("Failure"), "{status:?}");
    node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id: pod.clone() })?;
    ensure!(forward(&pod, &[80]) == Some(Code::FailedPrecondition));
    node.cri().drop_pod(&pod)?;
    Ok(())
}

pub(crate) fn a_client_that_does_not_read_holds_up_nobody(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    for handler in ["runc", "crun"] {
        let running = sleeper(&node, fixture, handler)?;
        let url = exec_url(&node, &running.id, "while echo 4713; do :; done", false)?;
        let client = WebSocket::open(&url, "v4.channel.k8s.io")?;
        there(&node, "echo 4713")?;
        // Others are served meanwhile.
        ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
        let began = Instant::now();
        node.cri().stop(&running.id, 0)?;
        node.cri().remove(&running.id)?;
        ensure!(began.elapsed() < END, "took {:?}", began.elapsed());
        gone(&node, "echo 4713")?;
        drop(client);
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

pub(crate) fn many_clients_leave_room_for_probes(fixture: &Fixture) -> Result<()> {
    /// As many as one container has room for.
    const CLIENTS: usize = 32;
    let node = fixture.node();
    let running = sleeper(&node, fixture, "crun")?;
    let open = || -> Result<WebSocket> {
        let url = exec_url(&node, &running.id, "echo ready; sleep 4716", false)?;
        WebSocket::open(&url, "v4.channel.k8s.io")
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = open()?;
        client.receive_until(STDOUT, "ready")?;
        clients.push(client);
    }
    let mut waiting = open()?;
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    let container_id = running.id.clone();
    node.cri().reopen_rpc(pb::ReopenContainerLogRequest { container_id })?;
    ensure!(processes(&node, "echo ready; sleep 4716") <= CLIENTS, "one too many was started");
    clients.truncate(CLIENTS - 1);
    waiting.receive_until(STDOUT, "ready")?;
    drop((clients, waiting));
    gone(&node, "sleep 4716")?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn a_removed_container_ends_its_sessions(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    // In a shared process namespace nothing but the session itself ends the command.
    let image = fixture.busybox(&node)?;
    let mut pod_config = request::host_network_pod(&node, "ends");
    request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Pod.into();
    let config = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, pod_config, config)?;
    let url = exec_url(&node, &running.id, "echo ready; sleep 4714", false)?;
    let mut client = WebSocket::open(&url, "v4.channel.k8s.io")?;
    client.receive_until(STDOUT, "ready")?;
    node.cri().remove(&running.id)?;
    let [_, _, _, status] = client.rest()?;
    ensure!(String::from_utf8_lossy(&status).contains("Failure"), "{status:?}");
    gone(&node, "sleep 4714")?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn a_thousand_dropped_clients_leave_nothing(fixture: &Fixture) -> Result<()> {
    /// Clients in all, and at one time.
    const CLIENTS: usize = 1000;
    const AT_ONCE: usize = 20;
    let node = fixture.own_node(Options { log: "info".to_owned(), ..Options::default() })?;
    let running = sleeper(&node, fixture, "crun")?;
    let one = |number: usize| -> Result<()> {
        let tty = number.is_multiple_of(2);
        let url = exec_url(&node, &running.id, "echo ready; sleep 4715", tty)?;
        match number % 4 {
            // Gone before, while and after the command starts.
            0 => drop(http("GET", &url, SPDY)?),
            1 => drop(WebSocket::open(&url, "v4.channel.k8s.io")?),
            _ => {
                let mut client = WebSocket::open(&url, "v5.channel.k8s.io")?;
                client.receive_until(STDOUT, "ready")?;
            }
        }
        Ok(())
    };
    let round = |count: usize| -> Result<()> {
        std::thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|first| scope.spawn(move || (first..count).step_by(AT_ONCE).try_for_each(one)))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })
    };
    // What is taken once and kept: threads, connections to the monitor, memory of the allocator.
    round(100)?;
    gone(&node, "sleep 4715")?;
    let before = node.traces();
    let memory = host::pss_kib(node.pid()?)?;
    round(fixture.times(CLIENTS))?;
    gone(&node, "sleep 4715")?;
    ensure_nothing_new(&before, || node.traces())?;
    let after = host::pss_kib(node.pid()?)?;
    ensure!(after < memory + 8 * 1024, "{memory} KiB before, {after} KiB after");
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    node.remove_all_pods()?;
    Ok(())
}

pub(crate) fn tls_is_spoken_and_a_renewed_certificate_is_used(fixture: &Fixture) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let names = ["cert.pem", "key.pem", "ca.pem", "ca-key.pem", "client.pem", "client-key.pem"];
    let [cert, key, ca, ca_key, client, client_key] = names.map(|name| dir.path().join(name));
    certify(&cert, &key, &[])?;
    certify(&ca, &ca_key, &[])?;
    let [signer, signer_key] = [&ca, &ca_key].map(|path| path.display().to_string());
    let signed = ["-CA", &signer, "-CAkey", &signer_key, "-addext", "basicConstraints=CA:FALSE"];
    certify(&client, &client_key, &signed)?;
    let config = format!(
        "[stream]\ntls_cert = \"{}\"\ntls_key = \"{}\"\ntls_client_ca = \"{signer}\"\n",
        cert.display(),
        key.display()
    );
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    // The node's own file has the table already: the keys come from a drop-in.
    let drop_ins = node.config_file().with_extension("d");
    fs::create_dir(&drop_ins)?;
    fs::write(drop_ins.join("tls.toml"), config)?;
    node.spawn()?;
    let running = sleeper(&node, fixture, "runc")?;
    let url = exec_url(&node, &running.id, "true", false)?;
    ensure!(url.starts_with("https://127.0.0.1:"), "{url}");
    let exec = |transport: &str| -> Result<String> {
        let files = [&cert, &client, &client_key].map(|path| path.display().to_string());
        let [ca, client, key] = &files;
        let tls = ["exec", "--tls-ca", ca, "--tls-cert", client, "--tls-key", key, "-r", transport];
        node.crictl(&[&tls[..], &[&running.id, "/bin/echo", "encrypted"]].concat())
    };
    let said = node.try_crictl(&["exec", &running.id, "/bin/echo", "encrypted"])?;
    ensure!(!said.status.success(), "a client without a certificate: {said:?}");
    for transport in TRANSPORTS {
        let said = exec(transport)?;
        ensure!(said == "encrypted\n", "{said:?}");
    }
    // A pair that does not go together changes nothing; one that does is used without a restart.
    let old = fs::read(&cert)?;
    let spare = dir.path().join("spare.pem");
    certify(&spare, &dir.path().join("spare-key.pem"), &[])?;
    fs::copy(&spare, &cert)?;
    eventually("the operator is told", END, || {
        let log = fs::read_to_string(node.log_file())?;
        ensure!(log.contains("keeps its certificate"), "not yet");
        Ok(())
    })?;
    fs::write(&cert, &old)?;
    ensure!(exec("spdy")? == "encrypted\n");
    certify(&cert, &key, &[])?;
    eventually("the new certificate is used", END, || {
        let said = exec("websocket")?;
        ensure!(said == "encrypted\n", "{said:?}");
        Ok(())
    })?;
    node.remove_all_pods()?;
    Ok(())
}

/// Makes a certificate for this machine's loopback; its own authority without `more`.
fn certify(cert: &Path, key: &Path, more: &[&str]) -> Result<()> {
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    let words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"];
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    let files = ["/CN=localhost", "-addext", names, "-keyout", &key, "-out", &cert];
    output("openssl", words.iter().chain(&files).chain(more)).map(drop)
}
