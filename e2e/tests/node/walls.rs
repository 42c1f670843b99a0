//! What a container may write of its pod's takes nothing from the node or from other pods.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;

use crate::support::{Running, add, exec};

/// More than there is room for, and little enough for a disk that has no bound.
const FILL: &str = "for file in hostname resolv.conf; do \
                    dd if=/dev/zero of=/etc/$file bs=1M count=16 2>&1 | grep -o 'No space'; done; \
                    cat /etc/hostname /etc/resolv.conf | wc -c";
/// Files of one pod together, in bytes, its own contents included.
const ROOM: u64 = 2 << 20;

/// A pod with one container, started.
fn pod(node: &Node, handler: &str, name: &str, image: &str) -> Result<Running> {
    let pod_config = request::pod(node, name);
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    container(node, (&pod, &pod_config), "first", image)
}

/// A container in this pod, started.
fn container(
    node: &Node,
    (pod, pod_config): (&str, &pb::PodSandboxConfig),
    name: &str,
    image: &str,
) -> Result<Running> {
    let config = request::container(name, image, &["/bin/sleep", "1000"]);
    let running = add(node, pod, pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

fn works(node: &Node, running: &Running, hostname: &str) -> Result<()> {
    let name = exec(node, &running.id, &["/bin/cat", "/etc/hostname"])?;
    ensure!(name == format!("{hostname}\n"), "{name:?}");
    Ok(())
}

fn fill(node: &Node, running: &Running) -> Result<()> {
    let said = exec(node, &running.id, &["/bin/sh", "-c", FILL])?;
    let words: Vec<&str> = said.lines().collect();
    let [refused @ .., bytes] = &words[..] else { bail!("{said:?}") };
    ensure!(refused == ["No space", "No space"], "{said:?}");
    let bytes: u64 = bytes.trim().parse().with_context(|| said.clone())?;
    ensure!((1..=ROOM).contains(&bytes), "{bytes} bytes are kept");
    Ok(())
}

pub(crate) fn a_container_that_fills_its_etc_takes_no_room_of_others(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let before = node.traces().without_process();
    for handler in ["runc", "crun"] {
        let full = pod(&node, handler, "full", &image)?;
        let mounts = exec(&node, &full.id, &["/bin/cat", "/proc/self/mounts"])?;
        for file in ["/etc/hostname", "/etc/resolv.conf"] {
            let mount = mounts.lines().find(|line| line.split(' ').nth(1) == Some(file));
            let mount = mount.with_context(|| mounts.clone())?;
            let options: Vec<&str> =
                mount.split(' ').nth(3).unwrap_or_default().split(',').collect();
            for option in ["rw", "nosuid", "nodev", "noexec"] {
                ensure!(options.contains(&option), "{mount}");
            }
        }
        exec(&node, &full.id, &["/bin/sh", "-c", "echo mine >/etc/hostname"])?;
        works(&node, &full, "mine")?;
        fill(&node, &full)?;
        // Commands and containers work in it and in other pods, also after a restart.
        let config = &full.pod_config;
        let second = container(&node, (&full.pod, config), "second", &image)?;
        works(&node, &pod(&node, handler, "other", &image)?, "other")?;
        node.restart()?;
        let third = container(&node, (&full.pod, config), "third", &image)?;
        works(&node, &pod(&node, handler, "after", &image)?, "after")?;
        for running in [&full, &second, &third] {
            exec(&node, &running.id, &["/bin/true"])?;
        }
        fill(&node, &third)?;
        node.remove_all_pods()?;
    }
    ensure_nothing_new(&before, || node.traces().without_process())
}

pub(crate) fn a_pod_of_an_older_daemon_keeps_its_plain_files(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let before = node.traces().without_process();
    let first = pod(&node, "runc", "older", &image)?;
    node.kill9()?;
    // As it was before the files had a file system of their own.
    let dir = node.state().join("pods").join(&first.pod);
    let etc = dir.join("etc");
    for file in ["hostname", "resolv.conf"] {
        fs::copy(etc.join(file), dir.join(file))?;
    }
    unmount(&etc)?;
    fs::remove_dir(&etc)?;
    node.spawn()?;
    let second = container(&node, (&first.pod, &first.pod_config), "second", &image)?;
    works(&node, &second, "older")?;
    node.remove_all_pods()?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

fn unmount(dir: &Path) -> Result<()> {
    let status = Command::new("umount").arg(dir).status()?;
    ensure!(status.success(), "umount {}: {status}", dir.display());
    Ok(())
}
