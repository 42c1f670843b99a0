//! Checkpoints with real CRIU where it works on this kernel; elsewhere the daemon says why not, in the
//! answer, in Status and in `crisol check`, and that is what is tested.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use e2e::{layout, request};
use tonic::Code;

use crate::support::{END, Running, add, run, settled};

/// CRIU as the daemon finds it.
fn program() -> Command {
    let own = layout::cache().join("criu/criu");
    Command::new(if own.exists() { own } else { "criu".into() })
}

/// The version of a CRIU that works here, or the daemon's reason against it.
///
/// The reason is not taken on trust: it is that of `criu check` itself.
fn criu(node: &Node) -> Result<Result<String, String>> {
    let info = node.cri().status_rpc(pb::StatusRequest { verbose: true })?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("criu").context("no criu")?)?;
    let said = |name: &str| info[name].as_str().map(str::to_owned);
    let works = program().arg("check").output().is_ok_and(|said| said.status.success());
    match (said("version"), said("problem")) {
        (Some(version), None) if works => Ok(Ok(version)),
        (None, Some(problem)) if !works => Ok(Err(problem)),
        other => anyhow::bail!("criu check works: {works}; Status says {other:?}"),
    }
}

/// The version, or none after making sure that a checkpoint is refused with the reason.
pub(crate) fn usable(node: &Node, running: &Running) -> Result<bool> {
    let problem = match criu(node)? {
        Ok(_) => return Ok(true),
        Err(problem) => problem,
    };
    let location = node.dir().join("refused.tar");
    let error = checkpoint(node, &running.id, &location, 0).expect_err("no criu");
    ensure!(error.code() == Code::Unimplemented, "{error:?}");
    ensure!(error.message().contains(&problem), "{error:?} does not say {problem:?}");
    ensure!(!location.exists());
    let check = node.command(&["check"])?.output()?;
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(check.contains("no checkpoints: "), "{check}");
    println!("     no checkpoints on this machine: {problem}");
    Ok(false)
}

fn checkpoint(
    node: &Node,
    container: &str,
    location: &Path,
    timeout: i64,
) -> std::result::Result<(), tonic::Status> {
    let request = pb::CheckpointContainerRequest {
        container_id: container.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    node.cri().checkpoint_rpc(request).map(drop)
}

/// A container that counts and has changed its files.
fn counter(node: &Node, fixture: &Fixture, name: &str) -> Result<Running> {
    let image = fixture.busybox(node)?;
    let running = run(node, counting(name, &image))?;
    goes_on(&running)?;
    Ok(running)
}

/// The request for one.
pub(crate) fn counting(name: &str, image: &str) -> pb::ContainerConfig {
    let line = "echo secret >/new; rm /etc/passwd; i=0; \
                while true; do echo $i; i=$((i+1)); sleep 0.05; done";
    request::shell(name, image, line)
}

fn goes_on(running: &Running) -> Result<()> {
    let before = running.printed()?.len();
    eventually("it goes on", END, || {
        let now = running.printed()?.len();
        ensure!(now > before, "{now} lines");
        Ok(())
    })?;
    let printed = running.printed()?;
    let counted = printed.iter().enumerate().all(|(n, line)| *line == n.to_string());
    ensure!(counted, "it does not count on: {printed:?}");
    Ok(())
}

pub(crate) fn wrong_requests_are_refused_and_leave_nothing(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let running = counter(&node, fixture, "wrong")?;
    settled(&node, &running)?;
    let before = node.traces();
    let dir = node.dir().join("checkpoints");
    fs::create_dir_all(dir.join("full"))?;
    fs::write(dir.join("full/file"), "x")?;
    let able = criu(&node)?.is_ok();
    // What only this host could tell is asked after whether it makes checkpoints at all.
    let late = if able { Code::InvalidArgument } else { Code::Unimplemented };
    let cases = [
        ("", 0, Code::InvalidArgument),
        ("relative.tar", 0, Code::InvalidArgument),
        ("/tmp/../c.tar", 0, Code::InvalidArgument),
        ("/c.tar", -1, Code::InvalidArgument),
        (dir.to_str().context("path")?, 0, late),
        (&format!("{}/full/file", dir.display()), 0, late),
        (&format!("{}/absent/c.tar", dir.display()), 0, late),
    ];
    for (location, timeout, code) in cases {
        let error = checkpoint(&node, &running.id, Path::new(location), timeout);
        let error = error.expect_err(location);
        ensure!(error.code() == code, "{location:?}: {error:?}");
    }
    ensure!(fs::read_to_string(dir.join("full/file"))? == "x");

    let request = |output: &Path, ids: &[&str]| pb::CheckpointPodRequest {
        pod_sandbox_id: running.pod.clone(),
        output_path: output.display().to_string(),
        container_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        options: Default::default(),
    };
    let empty = dir.join("empty");
    fs::create_dir_all(&empty)?;
    let id = running.id.as_str();
    let mut with_option = request(&empty, &[id]);
    with_option.options.insert("speed".to_owned(), "high".to_owned());
    let wrong = [
        request(Path::new("relative"), &[id]),
        request(&dir.join("full"), &[id]),
        request(&dir.join("absent"), &[id]),
        request(&empty, &[]),
        request(&empty, &[id, id]),
        with_option,
    ];
    for request in wrong {
        let error = node.cri().checkpoint_pod_rpc(request.clone()).expect_err("wrong");
        ensure!(error.code() == Code::InvalidArgument, "{request:?}: {error:?}");
    }
    ensure!(fs::read_dir(&empty)?.count() == 0 && fs::read_dir(dir.join("full"))?.count() == 1);
    goes_on(&running)?;
    fs::remove_dir_all(&dir)?;
    ensure_nothing_new(&before, || node.traces())?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn a_container_goes_on_and_its_archive_is_whole(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    // The runtime keeps a note of a checkpoint for as long as it knows the container.
    let before = node.traces();
    let running = counter(&node, fixture, "archived")?;
    if !usable(&node, &running)? {
        node.cri().drop_pod(&running.pod)?;
        return Ok(());
    }
    let dir = node.dir().join("archive");
    fs::create_dir(&dir)?;
    let location = dir.join("checkpoint.tar");
    checkpoint(&node, &running.id, &location, 60)?;
    goes_on(&running)?;
    ensure!(fs::read_dir(&dir)?.count() == 1, "more than the archive");
    let error = checkpoint(&node, &running.id, &location, 60).expect_err("it is there");
    ensure!(error.code() == Code::InvalidArgument, "{error:?}");

    let unpacked = Command::new("tar").arg("-xf").arg(&location).arg("-C").arg(&dir).status()?;
    ensure!(unpacked.success());
    let text = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| name.to_owned());
    let config: serde_json::Value = serde_json::from_str(&text("config.dump")?)?;
    ensure!(config["id"] == running.id && config["name"] == "archived", "{config}");
    ensure!(config["rootfsImage"] == fixture.image("busybox:latest"), "{config}");
    let spec: serde_json::Value = serde_json::from_str(&text("spec.dump")?)?;
    ensure!(spec["process"]["args"][0] == "/bin/sh", "{spec}");
    ensure!(text("deleted.files")? == r#"["etc/passwd"]"#, "{}", text("deleted.files")?);
    let listed = Command::new("tar").arg("-tf").arg(dir.join("rootfs-diff.tar")).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.lines().any(|name| name == "new"), "{listed}");
    for image in ["inventory.img", "pstree.img", "descriptors.json"] {
        ensure!(dir.join("checkpoint").join(image).exists(), "no {image}");
    }
    fs::remove_dir_all(&dir)?;
    node.cri().drop_pod(&running.pod)?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn a_pod_is_captured_at_one_moment(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let before = node.traces();
    let first = counter(&node, fixture, "first")?;
    if !usable(&node, &first)? {
        node.cri().drop_pod(&first.pod)?;
        return Ok(());
    }
    let image = fixture.busybox(&node)?;
    let sleeper = request::container("second", &image, &["/bin/sleep", "1000"]);
    let second = add(&node, &first.pod, &first.pod_config, sleeper)?;
    let output = node.dir().join("pod");
    fs::create_dir(&output)?;
    let request = pb::CheckpointPodRequest {
        pod_sandbox_id: first.pod.clone(),
        output_path: output.display().to_string(),
        container_ids: vec![first.id.clone(), second.id.clone()],
        options: Default::default(),
    };
    // One that does not run: nothing is written, and the other one is not frozen.
    let error = node.cri().checkpoint_pod_rpc(request.clone()).expect_err("not started");
    ensure!(error.code() == Code::FailedPrecondition, "{error:?}");
    ensure!(fs::read_dir(&output)?.count() == 0);
    goes_on(&first)?;
    node.cri().start(&second.id)?;
    node.cri().checkpoint_pod_rpc(request)?;
    goes_on(&first)?;
    for (name, id) in [("first", &first.id), ("second", &second.id)] {
        let config = fs::read_to_string(output.join(name).join("config.dump"))?;
        ensure!(config.contains(id.as_str()), "{config}");
        ensure!(output.join(name).join("checkpoint/inventory.img").exists());
    }
    ensure!(fs::read_to_string(output.join("pod.dump"))?.contains("pod-first"));
    fs::remove_dir_all(&output)?;
    node.cri().drop_pod(&first.pod)?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn a_container_that_a_killed_daemon_froze_goes_on(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let running = counter(&node, fixture, "thawed")?;
    if !usable(&node, &running)? {
        return Ok(());
    }
    let dir = node.dir().join("thawed");
    fs::create_dir(&dir)?;
    let mut cut_off = 0;
    for wait in [10, 30, 60, 100, 150, 250] {
        let location = dir.join(format!("{wait}.tar"));
        let request = pb::CheckpointContainerRequest {
            container_id: running.id.clone(),
            location: location.display().to_string(),
            timeout: 0,
        };
        let patience = Duration::from_millis(wait);
        node.cri().hang_up(patience, async |pods| pods.checkpoint_container(request).await);
        node.kill9()?;
        cut_off += usize::from(!location.exists());
        node.spawn()?;
        // The runtime goes on without the daemon; what it leaves is tidied up after it.
        eventually("nothing is half made", END, || {
            let left = fs::read_dir(node.root().join("checkpoints"))?.count();
            ensure!(left == 0, "{left} checkpoints");
            Ok(())
        })?;
        goes_on(&running).with_context(|| format!("killed after {wait} ms"))?;
    }
    ensure!(cut_off > 0, "the daemon was never killed in the middle");
    let location = dir.join("whole.tar");
    checkpoint(&node, &running.id, &location, 0)?;
    goes_on(&running)?;
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}
