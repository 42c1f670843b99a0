//! `make run`: a daemon of its own, a registry on loopback, a pod from an image, and what crictl
//! shows of it. Stays up until Ctrl-C, or ends by itself with `--once`; leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::layout;
use e2e::node::sweep::{sweep_all, temporary_dir};
use e2e::node::{Node, Options};
use e2e::registry::{Access, Registry};
use e2e::wait::eventually;
use serde_json::json;

/// Everything runs and waits for Ctrl-C.
static UP: AtomicBool = AtomicBool::new(false);
/// How long the container may take to say its first words.
const FIRST_WORDS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let main = thread::current();
    e2e::interrupt::sweep_when_interrupted(move || {
        println!("\nremoving everything");
        // While the pod is being made nobody listens; then the politeness is left out.
        let up = UP.swap(false, Ordering::SeqCst);
        main.unpark();
        up
    });
    let once = std::env::args().any(|word| word == "--once");
    let result = show(once);
    sweep_all();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("run: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn show(once: bool) -> Result<()> {
    let dir = temporary_dir("crisol-run-")?;
    let registry = Registry::start(&dir.path().join("registry"), Access::Open)?;
    registry.seed()?;
    let insecure = vec![registry.address().to_owned()];
    let node = Node::start(Options { insecure, ..Options::default() })?;
    println!("daemon up; root, state, logs and configuration are in {}", node.dir().display());

    let image = registry.image("busybox:latest");
    let (pod_file, container_file) = write_requests(&node, dir.path(), &image)?;
    step(&node, &["pull", &image])?;
    let pod = step(&node, &["runp", &pod_file])?;
    let container = step(&node, &["create", &pod, &container_file, &pod_file])?;
    step(&node, &["start", &container])?;
    eventually("first words", FIRST_WORDS, || {
        ensure!(!node.crictl(&["logs", &container])?.is_empty(), "no log yet");
        Ok(())
    })?;
    step(&node, &["logs", &container])?;
    step(&node, &["exec", "-s", &container, "ip", "address", "show", "dev", "eth0"])?;
    step(&node, &["pods"])?;
    step(&node, &["ps"])?;
    let status = node.crictl(&["inspect", "-o", "json", &container])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    println!("\nstate {}, log {}", status["status"]["state"], status["status"]["logPath"]);

    if once {
        step(&node, &["stop", "-t", "1", &container])?;
        step(&node, &["rmp", "-f", &pod])?;
        return Ok(());
    }
    let crictl = layout::tool("crictl")?;
    println!(
        "\nlook further:\n  {} -r unix://{socket} -i unix://{socket} ps\n\
         the daemon's log is {}; Ctrl-C removes everything",
        crictl.display(),
        node.log_file().display(),
        socket = node.socket().display()
    );
    UP.store(true, Ordering::SeqCst);
    while UP.load(Ordering::SeqCst) {
        thread::park();
    }
    Ok(())
}

/// Runs crictl, shows the command and what it says, and returns that.
fn step(node: &Node, args: &[&str]) -> Result<String> {
    println!("\n$ crictl {}", args.join(" "));
    let said = node.crictl(args)?;
    print!("{said}");
    Ok(said.trim().to_owned())
}

/// The two files that crictl takes: pod and container.
fn write_requests(node: &Node, dir: &Path, image: &str) -> Result<(String, String)> {
    let write = |name: &str, value: serde_json::Value| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, serde_json::to_vec_pretty(&value)?).context("write request")?;
        Ok(path.display().to_string())
    };
    let pod = json!({
        "metadata": { "name": "hello", "namespace": "default", "uid": "hello-1", "attempt": 0 },
        "hostname": "hello",
        "log_directory": node.log_dir().join("hello"),
        "dns_config": { "servers": ["10.96.0.10"] },
        "linux": { "cgroup_parent": node.cgroup() },
    });
    let line = "echo hello from $(hostname), pid $$; while :; do date; sleep 1; done";
    let container = json!({
        "metadata": { "name": "hello" },
        "image": { "image": image },
        "command": ["/bin/sh", "-c", line],
        "log_path": "hello.log",
        // What the kubelet sets and `crictl ps` shows.
        "labels": {
            "io.kubernetes.pod.name": "hello",
            "io.kubernetes.pod.namespace": "default",
        },
        "linux": {},
    });
    Ok((write("pod.json", pod)?, write("container.json", container)?))
}
