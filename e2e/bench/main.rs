//! The promises of README.md, measured: each operation through crisol beside the bare cost of what
//! it cannot avoid (the runtime, the CNI plugins), in one run and in turns, so that whatever else
//! the machine does weighs on both.
//!
//! `make bench` prints; `make bench BENCH=--check` also fails when a budget is missed. Options:
//! `--rounds N` (medians over N, default 21), `--pods N` (for the memory, default 50).

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::node::sweep::{sweep_all, temporary_dir};
use e2e::node::{Node, Options};
use e2e::registry::{Access, Registry};
use e2e::{host, layout, request};

mod bare;
mod report;

use bare::{Bundle, Chain};
use report::Report;

/// Rounds before the measured ones: caches, the bridge, lazily loaded kernel parts.
const WARM_UP: usize = 3;
/// CreateContainer and StartContainer, as a multiple of the runtime's create and start.
const START_BUDGET: f64 = 1.4;
/// ExecSync, as a multiple of the runtime's exec.
const EXEC_BUDGET: f64 = 1.5;
/// RunPodSandbox, in milliseconds over the CNI chain's ADD.
const POD_BUDGET_MS: f64 = 15.0;
/// PSS of one monitor.
const MONITOR_BUDGET_MIB: f64 = 0.6;
/// PSS of the daemon with 50 pods.
const DAEMON_BUDGET_MIB: f64 = 25.0;
/// Between rounds: the kernel finishes the teardown of the last one.
const PAUSE: Duration = Duration::from_millis(100);
/// Both handlers of a node.
const HANDLERS: [&str; 2] = ["runc", "crun"];

struct Arguments {
    rounds: usize,
    pods: usize,
    check: bool,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { rounds: 21, pods: 50, check: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().context("a number is missing")?.parse().context("a number");
        match word.as_str() {
            "--check" => parsed.check = true,
            "--rounds" => parsed.rounds = number()?,
            "--pods" => parsed.pods = number()?,
            other => bail!("unknown option {other:?}"),
        }
    }
    ensure!(parsed.rounds > 0, "no rounds");
    Ok(parsed)
}

fn main() -> ExitCode {
    e2e::interrupt::sweep_when_interrupted(|| false);
    let result = arguments().and_then(|arguments| Ok((measure(&arguments)?, arguments.check)));
    sweep_all();
    match result {
        Ok((report, check)) => {
            print!("{report}");
            if check && !report.kept() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let dir = temporary_dir("crisol-bench-")?;
    let registry = Registry::start(&dir.path().join("registry"), Access::Open)?;
    registry.seed()?;
    let insecure = vec![registry.address().to_owned()];
    // As in production: the tests' own level is more talkative.
    let log = "info".to_owned();
    let node = Node::start(Options { insecure, log, ..Options::default() })?;
    let idle = host::pss_kib(node.pid()?)?;
    let image = registry.image("busybox:latest");
    node.cri().pull(&image)?;

    let mut report = Report::default();
    times(&node, &image, arguments, &mut report)?;
    node.remove_all_pods()?;
    memory(&node, &image, arguments.pods, idle, &mut report)?;
    Ok(report)
}

/// How long `work` takes, in milliseconds.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let began = Instant::now();
    let value = work()?;
    Ok((value, began.elapsed().as_secs_f64() * 1e3))
}

/// Measured milliseconds of one operation, bare and through crisol.
#[derive(Default)]
struct Pair {
    bare: Vec<f64>,
    ours: Vec<f64>,
}

fn times(node: &Node, image: &str, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut benches = HANDLERS
        .into_iter()
        .map(|handler| HandlerBench::new(node, image, handler))
        .collect::<Result<Vec<_>>>()?;
    let chain = Chain::of(node)?;
    let mut pods = Pair::default();
    for round in 0..WARM_UP + arguments.rounds {
        if round == WARM_UP {
            // Whatever was measured to warm up is not counted.
            pods = Pair::default();
            for bench in &mut benches {
                bench.start = Pair::default();
                bench.exec = Pair::default();
            }
        }
        for bench in &mut benches {
            bench.round(node, round)?;
        }
        pods.bare.push(chain.add_and_delete(round)?);
        let config = request::pod(node, &format!("bench-{round}"));
        let (pod, took) = timed(|| Ok(node.cri().run_pod(&config)?))?;
        pods.ours.push(took);
        node.cri().drop_pod(&pod)?;
    }
    for bench in benches {
        let name = bench.handler;
        report.ratio(
            &format!("create+start, {name}"),
            &bench.start.bare,
            &bench.start.ours,
            START_BUDGET,
        );
        report.ratio(&format!("exec, {name}"), &bench.exec.bare, &bench.exec.ours, EXEC_BUDGET);
    }
    report.excess("pod over CNI chain", &pods.bare, &pods.ours, POD_BUDGET_MS);
    Ok(())
}

/// One handler: a pod in which containers are started, and a bundle for the bare runtime.
struct HandlerBench {
    handler: &'static str,
    image: String,
    pod: String,
    pod_config: crisol::cri::pb::PodSandboxConfig,
    /// A running container to exec in.
    target: String,
    bundle: Bundle,
    start: Pair,
    exec: Pair,
}

impl HandlerBench {
    fn new(node: &Node, image: &str, handler: &'static str) -> Result<Self> {
        let pod_config = request::pod(node, &format!("bench-{handler}"));
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let mut config = request::container("target", image, &["/bin/sleep", "10000"]);
        request::share_namespaces(&mut config, &pod_config);
        let target = node.cri().create(&pod, &config, &pod_config)?;
        node.cri().start(&target)?;
        let bundle = Bundle::like(node, &target, handler)?;
        Ok(Self {
            handler,
            image: image.to_owned(),
            pod,
            pod_config,
            target,
            bundle,
            start: Pair::default(),
            exec: Pair::default(),
        })
    }

    /// Bare and ours in turns, each first every other time. What ends is ended after both were
    /// measured, because the kernel goes on tearing down when the call is back.
    fn round(&mut self, node: &Node, round: usize) -> Result<()> {
        let order = if round.is_multiple_of(2) {
            [Side::Bare, Side::Ours]
        } else {
            [Side::Ours, Side::Bare]
        };
        let (mut bare, mut ours) = (None, None);
        for side in order {
            // Both begin with the kernel at rest. The first move of a process into a v1 group waits
            // for an RCU grace period, more than half of a create; for some milliseconds after it
            // the next move is free, and whoever is measured second would owe that to the first.
            std::thread::sleep(PAUSE);
            match side {
                Side::Bare => {
                    let (container, took) = timed(|| self.bundle.create_and_start(round))?;
                    self.start.bare.push(took);
                    bare = Some(container);
                }
                Side::Ours => {
                    let (id, took) = timed(|| self.create_and_start(node, round))?;
                    self.start.ours.push(took);
                    ours = Some(id);
                }
            }
        }
        let (bare, ours) = (bare.context("bare container")?, ours.context("our container")?);
        for side in order {
            match side {
                Side::Bare => self.exec.bare.push(timed(|| bare.exec(&["/bin/true"]))?.1),
                Side::Ours => {
                    let (said, took) =
                        timed(|| Ok(node.cri().exec(&self.target, &["/bin/true"])?))?;
                    ensure!(said.exit_code == 0, "exec failed: {said:?}");
                    self.exec.ours.push(took);
                }
            }
        }
        bare.delete()?;
        node.cri().stop(&ours, 0)?;
        node.cri().remove(&ours)?;
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn create_and_start(&self, node: &Node, round: usize) -> Result<String> {
        let name = format!("c{round}");
        let mut config = request::container(&name, &self.image, &["/bin/sleep", "10000"]);
        request::share_namespaces(&mut config, &self.pod_config);
        let id = node.cri().create(&self.pod, &config, &self.pod_config)?;
        node.cri().start(&id)?;
        Ok(id)
    }
}

/// Whose operation is measured.
#[derive(Clone, Copy)]
enum Side {
    Bare,
    Ours,
}

fn memory(node: &Node, image: &str, pods: usize, idle: u64, report: &mut Report) -> Result<()> {
    for number in 0..pods {
        let pod_config = request::pod(node, &format!("memory-{number}"));
        let pod = node.cri().run_pod(&pod_config)?;
        let mut config = request::container("c", image, &["/bin/sleep", "10000"]);
        request::share_namespaces(&mut config, &pod_config);
        let id = node.cri().create(&pod, &config, &pod_config)?;
        node.cri().start(&id)?;
    }
    // Long enough for idle threads to end and a little activity to pass, as on a running node.
    let settled = Instant::now() + Duration::from_secs(12);
    while Instant::now() < settled {
        node.cri().pods()?;
        node.cri().containers()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let monitor = layout::monitor()?.canonicalize()?;
    let is_monitor =
        |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == monitor);
    let processes = host::processes_of(node.dir(), Some(node.cgroup()));
    // A monitor is two processes, of which one is the other's child.
    let monitors = processes
        .iter()
        .map(|process| process.pid)
        .filter(|pid| is_monitor(*pid))
        .filter_map(|pid| {
            let mut children = host::children_of(pid).into_iter().map(|child| child.pid);
            let reader = children.find(|pid| is_monitor(*pid))?;
            Some((pid, reader))
        })
        .map(|(keeper, reader)| {
            Ok((host::pss_kib(keeper)? + host::pss_kib(reader)?) as f64 / 1024.0)
        })
        .collect::<Result<Vec<f64>>>()?;
    ensure!(monitors.len() >= pods, "{} monitors for {pods} containers", monitors.len());
    let busy = host::pss_kib(node.pid()?)? as f64 / 1024.0;
    report.figure("daemon, idle", idle as f64 / 1024.0);
    report.limit(&format!("daemon, {pods} pods"), busy, DAEMON_BUDGET_MIB);
    report.limit(
        &format!("monitor, median of {}", monitors.len()),
        report::median(&monitors),
        MONITOR_BUDGET_MIB,
    );
    Ok(())
}
