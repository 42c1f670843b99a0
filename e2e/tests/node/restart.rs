//! The daemon dies; pods do not.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::cri::image_spec;
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{host, log, request};

use crate::support::{END, add, ended, pid, run, run_in};

/// Pods that run while the daemon is killed.
const PODS: usize = 20;
/// How often the daemon is killed in the middle of other pods' lives.
const KILLS: usize = 25;

pub(crate) fn twenty_pods_survive_a_killed_daemon(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    // Counts in the log; ends with 7 when told to by a file in the shared volume.
    let volume = node.dir().join("volume");
    fs::create_dir(&volume)?;
    let line =
        "i=0; while [ ! -e /volume/$NAME ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 7";
    let mut pods = Vec::new();
    for number in 0..PODS {
        let mut config = request::shell("counter", &image, line);
        let name = format!("p{number}");
        config.envs = vec![pb::KeyValue { key: "NAME".to_owned(), value: name.clone().into() }];
        config.mounts = vec![pb::Mount {
            host_path: volume.display().to_string(),
            container_path: "/volume".to_owned(),
            ..pb::Mount::default()
        }];
        // Every fourth with a network of its own, half of them by crun.
        let pod_config = match number % 4 {
            0 => request::pod(&node, &name),
            _ => request::host_network_pod(&node, &name),
        };
        let handler = if number.is_multiple_of(2) { "runc" } else { "crun" };
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let running = add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        pods.push((running, name));
    }
    let identity = |node: &Node| -> Result<BTreeMap<String, (u32, u64)>> {
        pods.iter()
            .map(|(running, _)| {
                let process = host::process(pid(node, &running.id)?).context("not alive")?;
                Ok((running.id.clone(), (process.pid, process.started)))
            })
            .collect()
    };
    let before = identity(&node)?;
    let views = |node: &Node| -> Result<_> { Ok((node.cri().pods()?, node.cri().containers()?)) };
    let listed = views(&node)?;
    let ip = node.cri().pod(&pods[0].0.pod)?.network.map(|network| network.ip);

    node.kill9()?;
    let killed_at = epoch_ns()?;
    let (leaver, leaver_name) = &pods[1];
    fs::write(volume.join(leaver_name), "")?;
    let (leaver_pid, _) = before[&leaver.id];
    eventually("it exits while nobody looks", END, || {
        ensure!(host::process(leaver_pid).is_none(), "still there");
        // Its monitor has seen it, too.
        ensure!(node.state().join("containers").join(&leaver.id).join("monitor/exit").exists());
        Ok(())
    })?;
    let gone_at = epoch_ns()?;
    node.spawn()?;

    let status = ended(&node, &leaver.id)?;
    ensure!(status.exit_code == 7, "exit code {}", status.exit_code);
    ensure!((killed_at..=gone_at).contains(&status.finished_at), "wrong time of exit");
    fs::remove_file(volume.join(leaver_name))?;
    let others: Vec<_> = pods.iter().filter(|(running, _)| running.id != leaver.id).collect();
    for (running, name) in &others {
        let now = host::process(pid(&node, &running.id)?).context("not alive")?;
        ensure!(before[&running.id] == (now.pid, now.started), "{name} is another process");
    }
    let again = views(&node)?;
    ensure!(again.0.len() == listed.0.len() && again.1.len() == listed.1.len());
    for pod in &listed.0 {
        let found = again.0.iter().find(|found| found.id == pod.id).context("pod forgotten")?;
        ensure!(found == pod, "{found:?} instead of {pod:?}");
    }
    ensure!(node.cri().pod(&pods[0].0.pod)?.network.map(|network| network.ip) == ip);
    // Everything works on them as if nothing had happened.
    for (running, name) in &others {
        let lines = running.printed()?.len();
        eventually("the log goes on", END, || {
            ensure!(running.printed()?.len() > lines, "{name}: {lines} lines");
            Ok(())
        })?;
        let numbers = log::lines(&running.log(), "stdout")?;
        for (index, number) in numbers.iter().enumerate() {
            ensure!(*number == index.to_string(), "{name}: {number} in line {index}");
        }
    }
    let (first, name) = others[0];
    ensure!(node.cri().exec(&first.id, &["/bin/true"])?.exit_code == 0);
    fs::write(volume.join(name), "")?;
    ensure!(ended(&node, &first.id)?.exit_code == 7);
    node.remove_all_pods()?;
    Ok(())
}

fn epoch_ns() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since.as_nanos().try_into()?)
}

pub(crate) fn a_damaged_record_does_not_stop_the_daemon(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let sleep = || request::container("c", &image, &["/bin/sleep", "1000"]);
    let good = run_in(&node, request::host_network_pod(&node, "good"), sleep())?;
    let broken = run(&node, sleep())?;
    let survivor = pid(&node, &good.id)?;
    node.kill9()?;
    // One record cut in half, one of the other pod empty: what a full disk and a bad one leave.
    let mut damaged = 0;
    for (id, keep_half) in [(&broken.pod, true), (&broken.id, false)] {
        for file in host::files_below(&node.root()) {
            let path = node.root().join(&file);
            if path.is_file() && file.to_string_lossy().contains(id.as_str()) {
                let text = fs::read(&path)?;
                fs::write(&path, if keep_half { &text[..text.len() / 2] } else { b"" })?;
                damaged += 1;
            }
        }
    }
    ensure!(damaged >= 2, "no records found below {}", node.root().display());
    node.spawn()?;
    ensure!(node.cri().container(&good.id)?.state() == pb::ContainerState::ContainerRunning);
    ensure!(pid(&node, &good.id)? == survivor && host::process(survivor).is_some());
    ensure!(node.cri().exec(&good.id, &["/bin/true"])?.exit_code == 0);
    // The node goes on working, and somebody is told.
    let more = run_in(&node, request::host_network_pod(&node, "more"), sleep())?;
    ensure!(node.cri().container(&more.id)?.state() == pb::ContainerState::ContainerRunning);
    let told = fs::read_to_string(node.log_file())?;
    ensure!(told.contains(&broken.pod[..13]), "nothing about {} in the log", broken.pod);
    Ok(())
}

pub(crate) fn after_a_reboot_nothing_old_is_believed_or_touched(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::pod(&node, "old");
    let old = run_in(&node, pod_config, request::container("c", &image, &["/bin/sleep", "1000"]))?;
    let process = pid(&node, &old.id)?;
    node.kill9()?;
    node.spawn_in_another_boot()?;
    let container = node.cri().container(&old.id)?;
    ensure!(container.state() == pb::ContainerState::ContainerExited, "{container:?}");
    ensure!(container.exit_code == 255 && container.reason == "NodeRebooted", "{container:?}");
    ensure!(container.finished_at >= container.started_at);
    ensure!(node.cri().pod(&old.pod)?.state() == pb::PodSandboxState::SandboxNotready);
    // What has the old number now may be anybody's process.
    node.cri().stop(&old.id, 0)?;
    node.cri().drop_pod(&old.pod)?;
    ensure!(host::process(process).is_some(), "a process of another boot was killed");
    ensure!(node.cri().container(&old.id).is_err() && node.cri().pod(&old.pod).is_err());
    Ok(())
}

pub(crate) fn killed_at_any_moment_the_daemon_cleans_up(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    // Moments spread over what a pod's life takes; prime steps, so that they never fall together.
    let moments = (0..KILLS).map(|number| Duration::from_millis((number as u64 * 37) % 499));
    for (number, moment) in moments.enumerate() {
        thread::scope(|scope| {
            let cri = node.cri().clone();
            let pods: Vec<_> =
                (0..3).map(|of| request::pod(&node, &format!("k{number}-{of}"))).collect();
            for pod_config in pods {
                let (cri, image) = (cri.clone(), &image);
                // Every call may fail: the daemon is killed under it.
                scope.spawn(move || -> Option<()> {
                    let pod = cri.run_pod(&pod_config).ok()?;
                    let mut config = request::container("c", image, &["/bin/sleep", "1000"]);
                    request::share_namespaces(&mut config, &pod_config);
                    config.mounts = vec![pb::Mount {
                        container_path: "/image".to_owned(),
                        readonly: true,
                        image: Some(image_spec(image)),
                        ..pb::Mount::default()
                    }];
                    let id = cri.create(&pod, &config, &pod_config).ok()?;
                    let shares =
                        pb::LinuxContainerResources { cpu_shares: 99, ..Default::default() };
                    cri.update(&id, shares).ok()?;
                    cri.start(&id).ok()?;
                    cri.stop(&id, 0).ok()?;
                    cri.drop_pod(&pod).ok()
                });
            }
            let began = Instant::now();
            eventually("the moment", END, || {
                ensure!(began.elapsed() >= moment, "not yet");
                Ok(())
            })?;
            node.kill9()
        })?;
        node.spawn().with_context(|| format!("after kill {number} at {moment:?}"))?;
        // What it lists it can remove, and what it does not list is not there.
        node.remove_all_pods()?;
        ensure_nothing_new(&before, || node.traces().without_process())
            .with_context(|| format!("after kill {number} at {moment:?}"))?;
    }
    Ok(())
}
