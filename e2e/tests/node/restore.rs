//! Pods that go on where a checkpoint left them, with real CRIU where it works on this kernel;
//! elsewhere RestorePod is refused with the daemon's reason.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use tonic::{Code, Status};

use crate::checkpoint::{counting, usable};
use crate::support::{END, Running, add, exec, pid, run_in, state};

/// How far a container has counted at least when it is captured.
const COUNTED: usize = 10;

/// A checkpoint of a pod with a container that counts, one that sleeps, and one that counts on a
/// terminal; the pod is gone.
struct Frozen {
    dir: PathBuf,
    pod: pb::PodSandboxConfig,
    containers: Vec<pb::ContainerConfig>,
}

/// Makes one, or none where it cannot be made.
fn freeze(node: &Node, fixture: &Fixture, name: &str) -> Result<Option<Frozen>> {
    let image = fixture.busybox(node)?;
    let counter = run_in(node, request::pod(node, name), counting("counter", &image))?;
    if !usable(node, &counter)? {
        let error =
            restore(node, &request_of(Path::new("/nowhere"), &counter)).expect_err("no criu");
        ensure!(error.code() == Code::Unimplemented, "{error:?}");
        node.cri().drop_pod(&counter.pod)?;
        return Ok(None);
    }
    let sleeper = request::container("sleeper", &image, &["/bin/sleep", "1000"]);
    let mut terminal = counting("terminal", &image);
    terminal.tty = true;
    let mut others = Vec::new();
    for config in [sleeper, terminal] {
        let other = add(node, &counter.pod, &counter.pod_config, config)?;
        node.cri().start(&other.id)?;
        others.push(other);
    }
    for one in [&counter, &others[1]] {
        eventually("it counts", END, || {
            ensure!(one.printed()?.len() > COUNTED);
            Ok(())
        })?;
    }
    let all = [std::slice::from_ref(&counter), &others].concat();
    let dir = node.dir().join(format!("checkpoint-{name}"));
    fs::create_dir(&dir)?;
    node.cri().checkpoint_pod_rpc(pb::CheckpointPodRequest {
        pod_sandbox_id: counter.pod.clone(),
        output_path: dir.display().to_string(),
        container_ids: all.iter().map(|one| one.id.clone()).collect(),
        options: Default::default(),
    })?;
    node.cri().drop_pod(&counter.pod)?;
    for one in &all {
        fs::remove_file(one.log())?;
    }
    let containers = all.into_iter().map(|one| one.config).collect();
    Ok(Some(Frozen { dir, pod: counter.pod_config, containers }))
}

fn request_of(dir: &Path, running: &Running) -> pb::RestorePodRequest {
    pb::RestorePodRequest {
        checkpoint_path: dir.display().to_string(),
        config: Some(running.pod_config.clone()),
        runtime_handler: String::new(),
        options: Default::default(),
        container_configs: vec![running.config.clone()],
    }
}

impl Frozen {
    fn request(&self) -> pb::RestorePodRequest {
        pb::RestorePodRequest {
            checkpoint_path: self.dir.display().to_string(),
            config: Some(self.pod.clone()),
            runtime_handler: String::new(),
            options: Default::default(),
            container_configs: self.containers.clone(),
        }
    }

    /// Restores the pod; its containers in the order of the request.
    fn restore(&self, node: &Node) -> Result<Vec<Running>> {
        let restored = restore(node, &self.request())?;
        let names: Vec<_> = restored.restored_containers.iter().map(|one| &one.name).collect();
        ensure!(names == ["counter", "sleeper", "terminal"], "{names:?}");
        let ids = restored.restored_containers.into_iter().map(|one| one.container_id);
        let all = ids.zip(&self.containers).map(|(id, config)| Running {
            pod: restored.pod_sandbox_id.clone(),
            pod_config: self.pod.clone(),
            id,
            config: config.clone(),
        });
        Ok(all.collect())
    }

    /// The counter goes on where it was, with the files that it had.
    fn ensure_goes_on(node: &Node, counter: &Running) -> Result<()> {
        let numbers = || -> Result<Vec<usize>> {
            counter.printed()?.iter().map(|line| Ok(line.trim_end().parse()?)).collect()
        };
        let before = numbers().map_or(0, |numbers| numbers.len());
        eventually("it counts on", END, || {
            ensure!(numbers()?.len() > before + 3);
            Ok(())
        })?;
        let numbers = numbers()?;
        let first = *numbers.first().context("nothing")?;
        ensure!(first >= COUNTED, "it began anew: {first}");
        let consecutive = numbers.iter().enumerate().all(|(n, number)| *number == first + n);
        ensure!(consecutive, "a number is lost: {numbers:?}");
        ensure!(exec(node, &counter.id, &["/bin/cat", "/new"])? == "secret\n");
        let gone = node.cri().exec(&counter.id, &["/bin/ls", "/etc/passwd"])?;
        ensure!(gone.exit_code != 0, "/etc/passwd is back");
        Ok(())
    }
}

fn restore(
    node: &Node,
    request: &pb::RestorePodRequest,
) -> std::result::Result<pb::RestorePodResponse, Status> {
    node.cri().restore_pod_rpc(request.clone())
}

fn images(node: &Node, container: &str) -> PathBuf {
    node.root().join("rw").join(container).join("checkpoint")
}

pub(crate) fn a_pod_goes_on_where_its_checkpoint_was_made(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let before = node.traces().without_process();
    let Some(frozen) = freeze(&node, fixture, "goes-on")? else { return Ok(()) };
    let restored = frozen.restore(&node)?;
    let [counter, sleeper, terminal] = restored.as_slice() else { anyhow::bail!("{restored:?}") };
    // The same again, as after an answer that was lost.
    let again = frozen.restore(&node)?;
    ensure!(
        again.iter().map(|one| &one.id).eq([&counter.id, &sleeper.id, &terminal.id]),
        "{again:?}"
    );
    ensure!(node.cri().pods()?.len() == 1 && node.cri().containers()?.len() == 3);
    fs::remove_dir_all(&frozen.dir)?;

    // Created, and nothing of it has run.
    for one in [counter, sleeper, terminal] {
        let status = node.cri().container(&one.id)?;
        ensure!(state(&status) == pb::ContainerState::ContainerCreated && status.started_at == 0);
        let early = node.cri().exec(&one.id, &["/bin/true"]).expect_err("it does not run");
        ensure!(early.code() == Code::FailedPrecondition, "{early:?}");
        let limits = pb::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
        let early = node.cri().update(&one.id, limits).expect_err("it does not run");
        ensure!(early.code() == Code::FailedPrecondition, "{early:?}");
    }
    ensure!(!counter.log().exists(), "it has written something");
    node.kill9()?;
    node.spawn()?;
    ensure!(state(&node.cri().container(&counter.id)?) == pb::ContainerState::ContainerCreated);
    ensure!(images(&node, &counter.id).exists());

    node.cri().start(&counter.id)?;
    Frozen::ensure_goes_on(&node, counter)?;
    node.cri().start(&terminal.id)?;
    Frozen::ensure_goes_on(&node, terminal)?;
    ensure!(!images(&node, &counter.id).exists(), "its memory is left on the disk");
    let process = pid(&node, &counter.id)?;
    node.kill9()?;
    node.spawn()?;
    ensure!(pid(&node, &counter.id)? == process);
    Frozen::ensure_goes_on(&node, counter)?;
    node.cri().stop(&counter.id, 0)?;
    let status = node.cri().container(&counter.id)?;
    ensure!(status.exit_code == 137 && status.reason == "Error", "{status:?}");

    // One that is given up before its start.
    node.cri().stop(&sleeper.id, 10)?;
    let status = node.cri().container(&sleeper.id)?;
    ensure!(status.exit_code == 137 && status.message.contains("never restored"), "{status:?}");
    node.cri().drop_pod(&counter.pod)?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

pub(crate) fn a_start_that_a_crash_cuts_off_is_not_lost(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let before = node.traces().without_process();
    let Some(frozen) = freeze(&node, fixture, "cut-off")? else { return Ok(()) };
    for wait in [5, 30, 80, 150, 300] {
        let restored = frozen.restore(&node)?;
        let counter = &restored[0];
        let start = pb::StartContainerRequest { container_id: counter.id.clone() };
        let patience = Duration::from_millis(wait);
        node.cri().hang_up(patience, async |pods| pods.start_container(start).await);
        node.kill9()?;
        node.spawn()?;
        match state(&node.cri().container(&counter.id)?) {
            pb::ContainerState::ContainerCreated => node.cri().start(&counter.id)?,
            pb::ContainerState::ContainerRunning => {}
            other => anyhow::bail!("killed after {wait} ms: {other:?}"),
        }
        Frozen::ensure_goes_on(&node, counter).with_context(|| format!("after {wait} ms"))?;
        node.cri().drop_pod(&counter.pod)?;
        fs::remove_file(counter.log())?;
    }
    fs::remove_dir_all(&frozen.dir)?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

pub(crate) fn what_is_no_checkpoint_of_the_pod_is_refused(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let before = node.traces();
    let Some(frozen) = freeze(&node, fixture, "refused")? else { return Ok(()) };
    let other_image = fixture.image("user:latest");
    node.cri().pull(&other_image)?;
    let pods = node.cri().pods()?.len();
    let changed = |change: &dyn Fn(&mut pb::RestorePodRequest)| {
        let mut request = frozen.request();
        change(&mut request);
        request
    };
    let plain = node.dir().join("plain");
    fs::create_dir(&plain)?;
    let at = |path: &Path| {
        let path = path.display().to_string();
        changed(&|request| request.checkpoint_path = path.clone())
    };
    let wrong = [
        (at(Path::new("")), "checkpoint_path"),
        (at(Path::new("relative")), "checkpoint_path"),
        (at(&node.dir().join("absent")), "checkpoint_path"),
        (at(&plain), "checkpoint_path"),
        (at(&node.config_file()), "checkpoint_path"),
        (changed(&|request| request.config = None), "config"),
        (changed(&|request| request.runtime_handler = "nobody".to_owned()), "runtime_handler"),
        (
            changed(&|request| drop(request.options.insert("speed".to_owned(), String::new()))),
            "options",
        ),
        (changed(&|request| request.container_configs.clear()), "container_configs"),
        (changed(&|request| drop(request.container_configs.pop())), "lacks \"terminal\""),
        (
            changed(&|request| request.container_configs.push(frozen.containers[0].clone())),
            "container_configs[3].metadata.name",
        ),
        (
            changed(&|request| {
                let metadata = request.container_configs[1].metadata.as_mut();
                metadata.expect("metadata").name = "other".to_owned();
            }),
            "container_configs",
        ),
        (
            changed(&|request| {
                request::security(&mut request.container_configs[0]).privileged = true;
            }),
            "container_configs[0].linux.security_context.privileged",
        ),
        (
            changed(&|request| {
                let image = request.container_configs[1].image.as_mut();
                image.expect("image").image = other_image.clone();
            }),
            "is of the image",
        ),
    ];
    for (request, said) in wrong {
        let error = restore(&node, &request).expect_err(said);
        ensure!(error.code() == Code::InvalidArgument, "{said}: {error:?}");
        ensure!(error.message().contains(said), "{said}: {error:?}");
    }
    ensure!(node.cri().pods()?.len() == pods, "a pod is left");
    node.cri().remove_image(&other_image)?;
    fs::remove_dir_all(&plain)?;
    fs::remove_dir_all(&frozen.dir)?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn a_hostile_checkpoint_steers_nothing(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let before = node.traces();
    let Some(frozen) = freeze(&node, fixture, "hostile")? else { return Ok(()) };
    let listed = node.cri().images()?;
    let counter = frozen.dir.join("counter");
    // What asks for more than the request does, and names that we use ourselves.
    let mut spec: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(counter.join("spec.dump"))?)?;
    spec["process"]["capabilities"]["effective"] = serde_json::json!(["CAP_SYS_ADMIN"]);
    spec["annotations"]["cdi.k8s.io/evil"] = "vendor.com/device=all".into();
    let evil = serde_json::json!({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]});
    spec["mounts"].as_array_mut().context("no mounts")?.push(evil);
    fs::write(counter.join("spec.dump"), spec.to_string())?;
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(counter.join("config.dump"))?)?;
    config["rootfsImage"] = fixture.image("busybox:poisoned").into();
    fs::write(counter.join("config.dump"), config.to_string())?;
    symlink("/etc/shadow", counter.join("container.log"))?;
    for name in ["config.json", "checkpoint/config.json", "checkpoint/upper"] {
        fs::write(counter.join(name), "{}")?;
    }
    let restored = frozen.restore(&node)?;
    let bundle = node.state().join("containers").join(&restored[0].id).join("config.json");
    let made = fs::read_to_string(bundle)?;
    for word in ["CAP_SYS_ADMIN", "cdi.k8s.io", "\"/host\""] {
        ensure!(!made.contains(word), "{word} of the checkpoint: {made}");
    }
    node.cri().start(&restored[0].id)?;
    Frozen::ensure_goes_on(&node, &restored[0])?;
    ensure!(node.cri().images()? == listed, "an image was named by the checkpoint");
    node.cri().drop_pod(&restored[0].pod)?;
    fs::remove_file(restored[0].log())?;

    // Its processes cannot be restored: the start fails, and says why.
    let inventory = counter.join("checkpoint/inventory.img");
    let whole = fs::read(&inventory)?;
    fs::write(&inventory, b"damaged")?;
    let restored = frozen.restore(&node)?;
    let error = node.cri().start(&restored[0].id).expect_err("damaged");
    ensure!(error.message().starts_with("restore container \"counter\" with runc"), "{error:?}");
    ensure!(error.message().contains("Error ("), "without CRIU's words: {error:?}");
    let status = node.cri().container(&restored[0].id)?;
    ensure!(status.reason == "StartError" && status.exit_code == 128, "{status:?}");
    node.cri().drop_pod(&restored[0].pod)?;
    fs::write(&inventory, whole)?;

    // What is no file is not read; nothing is left of the pod.
    let damage = |name: &str| -> Result<()> {
        let (file, kept) = (counter.join(name), frozen.dir.join("kept"));
        fs::rename(&file, &kept)?;
        symlink("/etc/shadow", &file)?;
        let error = restore(&node, &frozen.request()).expect_err(name);
        ensure!(error.code() == Code::InvalidArgument, "{name}: {error:?}");
        ensure!(error.message().contains(name.rsplit('/').next().unwrap_or(name)), "{error:?}");
        fs::remove_file(&file)?;
        Ok(fs::rename(&kept, &file)?)
    };
    let pods = node.cri().pods()?.len();
    for name in ["rootfs-diff.tar", "deleted.files", "checkpoint/inventory.img", "checkpoint"] {
        damage(name)?;
    }
    fs::write(counter.join("deleted.files"), r#"["../../etc/passwd"]"#)?;
    let error = restore(&node, &frozen.request()).expect_err("climbs");
    ensure!(error.code() == Code::InvalidArgument, "{error:?}");
    ensure!(node.cri().pods()?.len() == pods, "a pod is left");
    fs::remove_dir_all(&frozen.dir)?;
    ensure_nothing_new(&before, || node.traces())
}
