//! The Node Resource Interface, with a plugin that is made with NRI's own library.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::{Program, install};
use e2e::runner::Fixture;
use e2e::wait::eventually;
use e2e::{layout, request};
use serde_json::Value;
use tonic::Code;

use crate::support::{END, add, exec, run_in};

/// Containers that are made while a plugin joins.
const MANY: usize = 50;

/// A plugin and what it heard.
struct Plugin {
    log: PathBuf,
    _program: Program,
}

impl Plugin {
    /// Starts a plugin and waits until it has its picture.
    fn start(node: &Node, index: &str, name: &str, flags: &[&str]) -> Result<Self> {
        let plugin = Self::launch(node, index, name, flags)?;
        plugin.hears("Synchronize", |_| true)?;
        Ok(plugin)
    }

    fn launch(node: &Node, index: &str, name: &str, flags: &[&str]) -> Result<Self> {
        let log = node.dir().join(format!("{index}-{name}.jsonl"));
        let mut command = Command::new(layout::tool("nriplugin")?);
        command.arg("-socket").arg(node.nri_socket()).args(["-index", index, "-name", name]);
        command.arg("-log").arg(&log).args(flags);
        let program = Program::start(&mut command, &log.with_extension("log"))?;
        Ok(Self { log, _program: program })
    }

    fn heard(&self) -> Result<Vec<Value>> {
        lines(&self.log)
    }

    /// What it heard of one container, in order.
    fn of_container(&self, id: &str) -> Result<Vec<String>> {
        let heard = self.heard()?;
        let of_it = heard.iter().filter(|line| line["container"] == id);
        Ok(of_it.filter_map(|line| line["event"].as_str().map(str::to_owned)).collect())
    }

    fn hears(&self, event: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("the plugin hears {event}"), END, || {
            let heard = self.heard()?;
            let found = heard.into_iter().find(|line| line["event"] == event && fits(line));
            found.with_context(|| format!("no {event}"))
        })
    }
}

fn lines(file: &PathBuf) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

pub(crate) fn a_plugin_hears_of_a_life_in_order(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let plugin = Plugin::start(&node, "10", "order", &[])?;
    let pod_config = request::pod(&node, "nri-order");
    let sleep = request::container("stopped", &image, &["/bin/sleep", "1000"]);
    let stopped = run_in(&node, pod_config.clone(), sleep)?;
    let ends = request::shell("ends", &image, "exit 3");
    let ends = add(&node, &stopped.pod, &pod_config, ends)?;
    node.cri().start(&ends.id)?;
    // Nobody has to ask for it.
    plugin.hears("StopContainer", |line| line["container"] == ends.id.as_str())?;
    node.cri().update(&stopped.id, shares(512))?;
    node.cri().drop_pod(&stopped.pod)?;
    let life = ["CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer"];
    let end = ["StopContainer", "RemoveContainer"];
    let updates = ["UpdateContainer", "PostUpdateContainer"];
    ensure!(plugin.of_container(&ends.id)? == [&life[..], &end].concat());
    let with_update = [&life[..], &updates, &end].concat();
    let heard = plugin.of_container(&stopped.id)?;
    ensure!(heard == with_update, "{heard:?}");
    let heard = plugin.heard()?;
    let at = |event: &str, what: &str, id: &str| {
        let mut found =
            (0..heard.len()).filter(|&i| heard[i]["event"] == event && heard[i][what] == id);
        let first = found.next().with_context(|| format!("no {event} of {id}"))?;
        ensure!(what == "container" || found.next().is_none(), "{event} of {id} twice");
        Ok(first)
    };
    let order = [
        at("RunPodSandbox", "pod", &stopped.pod)?,
        at("CreateContainer", "container", &stopped.id)?,
        at("StopContainer", "container", &stopped.id)?,
        at("StopPodSandbox", "pod", &stopped.pod)?,
        at("RemovePodSandbox", "pod", &stopped.pod)?,
    ];
    ensure!(order.is_sorted(), "{order:?} of {heard:?}");
    Ok(())
}

fn shares(cpu_shares: i64) -> pb::LinuxContainerResources {
    pb::LinuxContainerResources { cpu_shares, ..Default::default() }
}

pub(crate) fn what_a_plugin_adjusts_is_in_the_container(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let plugged = node.dir().join("plugged");
    fs::create_dir(&plugged)?;
    fs::write(plugged.join("file"), "from the plugin")?;
    let dir = plugged.display().to_string();
    let _adjusts = Plugin::start(
        &node,
        "10",
        "adjusts",
        &["-adjust", &dir, "-shares", "333", "-refuse", "unwelcome"],
    )?;
    let pod_config = request::host_network_pod(&node, "nri-adjust");
    let sleep = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, pod_config.clone(), sleep)?;
    let line = "echo $PLUGGED; cat /plugged/file; touch /plugged/x 2>/dev/null || echo read-only";
    let said = exec(&node, &running.id, &["/bin/sh", "-c", line])?;
    ensure!(said == "in nri-adjust\nfrom the pluginread-only\n", "{said:?}");
    let config = node.state().join("containers").join(&running.id).join("config.json");
    let config = fs::read(config)?;
    let config: Value = serde_json::from_slice(&config)?;
    ensure!(config["annotations"]["nri.test/plugged"] == "c", "{}", config["annotations"]);
    let limits = |node: &Node| {
        let status = node.cri().container(&running.id)?;
        anyhow::Ok(status.resources.and_then(|resources| resources.linux).unwrap_or_default())
    };
    // What is in force counts, not what was asked for; a change begins from there.
    ensure!(limits(&node)?.cpu_shares == 333, "{:?}", limits(&node)?);
    // The plugin has its own mind about shares.
    node.cri().update(&running.id, shares(512))?;
    ensure!(limits(&node)?.cpu_shares == 333, "{:?}", limits(&node)?);

    let unwelcome = request::container("unwelcome", &image, &["/bin/true"]);
    let refused = node.cri().create(&running.pod, &unwelcome, &pod_config).err();
    let refused = refused.context("a refused container was created")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message().contains("unwelcome is not welcome"), "{refused:?}");
    ensure!(node.cri().containers()?.len() == 1, "the refused one was left behind");

    // Two that set the same are both named, and nothing is left.
    let _same = Plugin::start(&node, "20", "same", &["-adjust", &dir])?;
    let conflict = request::container("conflict", &image, &["/bin/true"]);
    let conflict = node.cri().create(&running.pod, &conflict, &pod_config).err();
    let conflict = conflict.context("two plugins set one variable")?;
    let names = ["10-adjusts", "20-same"].iter().all(|name| conflict.message().contains(name));
    ensure!(names && conflict.code() == Code::InvalidArgument, "{conflict:?}");
    ensure!(node.cri().containers()?.len() == 1);
    Ok(())
}

pub(crate) fn a_stuck_plugin_holds_up_one_pod_and_is_sent_away(fixture: &Fixture) -> Result<()> {
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    let more = node.config_file().with_extension("d");
    fs::create_dir(&more)?;
    // Longer than five pods take, on a busy machine, too.
    fs::write(more.join("nri.toml"), "[nri]\nrequest_timeout = 15\n")?;
    node.spawn()?;
    let plugin = Plugin::start(&node, "10", "stuck", &["-hang", "held"])?;
    let held = request::host_network_pod(&node, "held");
    thread::scope(|scope| {
        let holding = scope.spawn(|| node.cri().run_pod(&held));
        plugin.hears("RunPodSandbox", |line| line["name"] == "held")?;
        for number in 0..5 {
            let quick = request::host_network_pod(&node, &format!("quick-{number}"));
            node.cri().run_pod(&quick)?;
        }
        ensure!(!holding.is_finished(), "the plugin's time was over before the others were done");
        let pod = holding.join().expect("no panic")?;
        // An optional plugin that is late fails nothing; from now on it hears nothing.
        let status = node.cri().pod(&pod)?;
        ensure!(status.state() == pb::PodSandboxState::SandboxReady);
        anyhow::Ok(())
    })?;
    let before = plugin.heard()?.len();
    node.cri().run_pod(&request::host_network_pod(&node, "after"))?;
    ensure!(plugin.heard()?.len() == before, "{:?}", plugin.heard()?);
    Ok(())
}

pub(crate) fn who_joins_late_sees_every_container_exactly_once(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let _first = Plugin::start(&node, "50", "first", &[])?;
    let pod_config = request::host_network_pod(&node, "nri-late");
    let pod = node.cri().run_pod(&pod_config)?;
    let (ids, late) = thread::scope(|scope| {
        let makers: Vec<_> = (0..5)
            .map(|maker| {
                let (node, pod, pod_config, image) = (&node, &pod, &pod_config, &image);
                scope.spawn(move || {
                    let made = (0..MANY / 5).map(|number| {
                        let name = format!("c{maker}-{number}");
                        let sleep = request::container(&name, image, &["/bin/sleep", "1000"]);
                        Ok(add(node, pod, pod_config, sleep)?.id)
                    });
                    made.collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut late = Vec::new();
        for number in 0..4 {
            let has = || {
                let there = node.cri().containers()?.len();
                ensure!(there > 5 * number, "{there} containers");
                Ok(())
            };
            eventually("containers are being made", END, has)?;
            let index = format!("{number:02}");
            late.push(Plugin::launch(&node, &index, "late", &["-sync-delay", "300ms"])?);
        }
        let mut ids = BTreeSet::new();
        for maker in makers {
            ids.extend(maker.join().expect("no panic")?);
        }
        anyhow::Ok((ids, late))
    })?;
    ensure!(ids.len() == MANY);
    let mut in_the_middle = 0;
    for plugin in late {
        let picture = plugin.hears("Synchronize", |_| true)?;
        let shown = picture["containers"].as_array().cloned().unwrap_or_default();
        let told = plugin.heard()?;
        let told = told.iter().filter(|line| line["event"] == "CreateContainer");
        let told: Vec<_> = told.filter_map(|line| line["container"].as_str()).collect();
        let mut seen: Vec<_> = shown.iter().filter_map(Value::as_str).collect();
        seen.extend(&told);
        let once: BTreeSet<_> = seen.iter().map(|id| (*id).to_owned()).collect();
        ensure!(once == ids, "{} of {MANY} containers", once.len());
        ensure!(once.len() == seen.len(), "a container came twice");
        in_the_middle += usize::from(!shown.is_empty() && !told.is_empty());
    }
    ensure!(in_the_middle > 0, "no plugin joined while containers were made");
    Ok(())
}

pub(crate) fn installed_plugins_come_and_go_with_the_daemon(fixture: &Fixture) -> Result<()> {
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    let (plugins, configs) = (node.dir().join("nri/plugins"), node.dir().join("nri/conf.d"));
    fs::create_dir_all(&plugins)?;
    fs::create_dir_all(&configs)?;
    let log = node.dir().join("installed.jsonl");
    let program = layout::tool("nriplugin")?;
    let script = format!("#!/bin/sh\nexec {} -log {}\n", program.display(), log.display());
    let installed = plugins.join("30-installed");
    install(&installed, &script)?;
    fs::write(configs.join("installed.conf"), "its: configuration\n")?;
    node.spawn()?;
    // It is there before the first request.
    let pod = node.cri().run_pod(&request::host_network_pod(&node, "installed"))?;
    let heard = lines(&log)?;
    ensure!(heard[0]["event"] == "Configure" && heard[0]["config"] == "its: configuration");
    ensure!(heard[1]["event"] == "Synchronize" && heard[2]["pod"] == pod.as_str(), "{heard:?}");
    let running = || {
        let processes = e2e::host::processes_of(&log, None);
        processes.len()
    };
    ensure!(running() > 0, "the plugin's process was not found");
    // A new daemon starts a new one, which finds what there is; a killed daemon's goes by itself.
    node.restart()?;
    eventually("the plugin is started again", Duration::from_secs(60), || {
        let heard = lines(&log)?;
        let pictures = heard.iter().filter(|line| line["event"] == "Synchronize");
        let last = pictures.clone().next_back().cloned().unwrap_or_default();
        ensure!(pictures.count() == 2 && last["pods"] == serde_json::json!([pod]), "{last}");
        Ok(())
    })?;
    node.cri().drop_pod(&pod)?;
    node.terminate()?;
    eventually("no plugin is left", Duration::from_secs(60), || {
        let left = running();
        ensure!(left == 0, "{left} processes");
        Ok(())
    })
}
