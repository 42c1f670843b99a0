//! Records that are damaged or of another version, and directories that do not belong together: what
//! runs goes on, and the daemon says what is to be done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::Node;
use e2e::program::run;
use e2e::runner::Fixture;
use e2e::traces::{Traces, ensure_nothing_new};
use e2e::wait::eventually;
use e2e::{layout, request};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Running, add, often_swept, run_in};

/// The daemon looks for leftovers every half minute.
pub(crate) const SWEEP: Duration = Duration::from_secs(75);

/// A pod with a network, a host port and a process namespace of its own, and a container in it.
pub(crate) fn whole_pod(fixture: &Fixture, node: &Node, name: &str) -> Result<Running> {
    let image = fixture.busybox(node)?;
    let mut pod_config = request::pod(node, name);
    request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Pod.into();
    run_in(node, pod_config, request::container("c", &image, &["/bin/sleep", "1000"]))
}

/// Where the records of a pod and of its container are.
pub(crate) fn files(node: &Node, running: &Running) -> [PathBuf; 2] {
    let file = |kind: &str, id: &str| node.root().join(kind).join(format!("{id}.json"));
    [file("pods", &running.pod), file("containers", &running.id)]
}

/// Everything of the node that lives without a daemon.
pub(crate) fn remains(node: &Node) -> Traces {
    let mut traces = node.traces().without_process();
    // Sockets come and go with the daemon.
    traces.things.retain(|thing| !thing.ends_with(".sock"));
    traces
}

/// Nothing that was there `before` is gone: no process, mount, address, rule or file.
pub(crate) fn ensure_nothing_lost(before: &Traces, node: &Node) -> Result<()> {
    let lost = before.since(&remains(node));
    ensure!(lost.is_empty(), "{} lost:\n  {}", lost.len(), lost.join("\n  "));
    Ok(())
}

/// The container and its pod are what they were, in the eyes of a client, and can be used.
pub(crate) fn ensure_found_again(node: &Node, running: &Running) -> Result<()> {
    ensure_listed(node, running)?;
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);
    Ok(())
}

/// The container and its pod are what they were, in the eyes of a client.
pub(crate) fn ensure_listed(node: &Node, running: &Running) -> Result<()> {
    let container = node.cri().container(&running.id)?;
    ensure!(container.state() == pb::ContainerState::ContainerRunning, "{container:?}");
    let pod = node.cri().pod(&running.pod)?;
    ensure!(pod.state() == pb::PodSandboxState::SandboxReady, "{pod:?}");
    Ok(())
}

/// What the daemon says of its records: the message of the condition, empty if all is well.
pub(crate) fn complaint(node: &Node) -> Result<String> {
    let status = node.cri().status_rpc(pb::StatusRequest { verbose: true })?;
    let conditions = status.status.context("no status")?.conditions;
    let of = |name: &str| conditions.iter().find(|condition| condition.r#type == name);
    ensure!(of("RuntimeReady").is_some_and(|runtime| runtime.status), "{conditions:?}");
    let records = of("RecordsUsable").context("no RecordsUsable")?;
    let told: Value = serde_json::from_str(&status.info["unusableRecords"])?;
    let told = told.as_array().context("unusableRecords is no list")?;
    ensure!(records.status == told.is_empty(), "{records:?} but {told:?}");
    Ok(format!(
        "{}{}",
        records.message,
        if told.is_empty() { String::new() } else { format!("{told:?}") }
    ))
}

/// A start that is refused; what the daemon says.
fn refused(node: &Node) -> Result<String> {
    let said = run(&mut node.command(&["serve"])?)?;
    ensure!(!said.status.success(), "it started");
    Ok(format!("{}{}", said.stdout, said.stderr))
}

pub(crate) fn a_damaged_record_leaves_what_it_names_until_a_person_decides(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let empty = node.traces();
    let running = whole_pod(fixture, &node, "damaged")?;
    node.kill9()?;
    let mut before = remains(&node);
    for file in files(&node, &running) {
        let text = fs::read(&file)?;
        fs::write(&file, &text[..text.len() / 2])?;
        before.things.retain(|thing| !thing.contains(&file_name(&file).to_string()));
    }
    // The first start sets the records aside. The second finds files without any.
    for _ in 0..2 {
        node.spawn()?;
        ensure!(
            node.cri().container(&running.id).is_err() && node.cri().pod(&running.pod).is_err()
        );
        let told = complaint(&node)?;
        for id in [&running.pod, &running.id] {
            ensure!(told.contains(&format!("{id}.damaged")), "nothing of {id} in {told}");
        }
        ensure!(told.contains("delete"), "it does not say what to do: {told}");
        node.kill9()?;
        ensure_nothing_lost(&before, &node)?;
    }
    // Whoever deletes what was set aside wants it ended, with its address and its rules.
    node.spawn()?;
    for file in files(&node, &running) {
        fs::remove_file(file.with_extension("damaged"))?;
    }
    eventually("it is ended", SWEEP, || {
        ensure_nothing_new(&empty, || node.traces())?;
        ensure!(complaint(&node)?.is_empty());
        Ok(())
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn a_container_without_a_record_ends_with_its_pod(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let empty = node.traces();
    let image = fixture.busybox(&node)?;
    let sleep = |name: &str| request::container(name, &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, request::pod(&node, "half"), sleep("c"))?;
    let whole = add(&node, &running.pod, &running.pod_config, sleep("d"))?;
    node.cri().start(&whole.id)?;
    node.kill9()?;
    let before = remains(&node);
    let [_, container] = files(&node, &running);
    let good = fs::read(&container)?;
    let other = fs::read(container.with_file_name(format!("{}.json", whole.id)))?;
    fs::write(&container, "")?;
    node.spawn()?;
    node.kill9()?;
    // A good record that is put back is taken.
    ensure!(!container.exists() && container.with_extension("damaged").exists());
    fs::write(&container, &good)?;
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    node.kill9()?;
    ensure_nothing_lost(&before, &node)?;

    // Without its record a pod is no orphan as long as it has a container, whatever the state of
    // that one's record.
    let [pod, _] = files(&node, &running);
    let record = fs::read(&pod)?;
    for of_both in [good.as_slice(), b""] {
        fs::remove_file(&pod)?;
        fs::write(&container, of_both)?;
        fs::write(container.with_file_name(format!("{}.json", whole.id)), "")?;
        node.spawn()?;
        let told = complaint(&node)?;
        ensure!(told.contains(&format!("state/pods/{}", running.pod)), "{told}");
        node.kill9()?;
        fs::write(&pod, &record)?;
        fs::write(&container, &good)?;
        fs::write(container.with_file_name(format!("{}.json", whole.id)), &other)?;
        ensure_nothing_lost(&before, &node)?;
    }
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    ensure!(complaint(&node)?.is_empty());
    node.kill9()?;

    fs::write(&container, "")?;
    node.spawn()?;
    ensure!(node.cri().container(&running.id).is_err());
    ensure!(node.cri().container(&whole.id)?.state() == pb::ContainerState::ContainerRunning);
    node.cri().drop_pod(&running.pod)?;
    ensure!(node.cri().container(&whole.id).is_err());
    ensure_nothing_new(&empty, || node.traces())
}

/// The record in a file, and the envelope around it.
fn parse(file: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// An envelope as the daemon writes it, around `record`.
fn seal(record: &Value) -> Result<Value> {
    let text = serde_json::to_string(record)?;
    let sum: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(serde_json::json!({ "version": 1, "sha256": sum, "record": record }))
}

pub(crate) fn records_of_an_older_crisol_are_read_and_those_of_a_newer_one_refused(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let running = whole_pod(fixture, &node, "versions")?;
    node.kill9()?;
    let before = remains(&node);
    let files = files(&node, &running);
    // An upgrade: the first crisol knew none of these fields.
    for file in &files {
        let mut record = parse(file)?["record"].take();
        record.as_object_mut().context("record")?.remove("updated").context("updated")?;
        let spec = record["spec"].as_object_mut().context("spec")?;
        spec.remove("restored_from").context("restored_from")?;
        fs::write(file, serde_json::to_vec(&seal(&record)?)?)?;
    }
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    ensure!(complaint(&node)?.is_empty());
    node.kill9()?;
    // A rollback: a newer crisol has been here.
    for file in &files {
        let good = fs::read(file)?;
        let mut envelope = parse(file)?;
        envelope["version"] = 2.into();
        envelope["crisol"] = "9.8.7".into();
        let mut strange = parse(file)?["record"].take();
        strange["state"] = "Hovering".into();
        for newer in [envelope, seal(&strange)?] {
            let newer = serde_json::to_vec(&newer)?;
            fs::write(file, &newer)?;
            let said = refused(&node)?;
            for word in [file_name(file).as_str(), "newer crisol", "install"] {
                ensure!(said.contains(word), "no {word:?} in {said}");
            }
            ensure!(fs::read(file)? == newer, "it was touched");
        }
        fs::write(file, good)?;
        ensure_nothing_lost(&before, &node)?;
    }
    // A newer crisol that only added something, also around the record.
    for file in &files {
        let mut record = parse(file)?["record"].take();
        record["of_tomorrow"] = serde_json::json!({ "a": [1] });
        record["spec"]["of_tomorrow"] = true.into();
        let mut envelope = seal(&record)?;
        envelope["crisol"] = "9.8.7".into();
        envelope["of_tomorrow"] = Value::Null;
        fs::write(file, serde_json::to_vec(&envelope)?)?;
    }
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    node.remove_all_pods()
}

pub(crate) fn another_root_is_refused_and_the_right_one_finds_everything_again(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let running = whole_pod(fixture, &node, "rooted")?;
    let (root, state) = (node.root(), node.state());
    let away = node.dir().join("away");

    // A second daemon with a root of its own, while the first one has the state.
    let config = fs::read_to_string(node.config_file())?;
    let other = config
        .replace(
            &format!("root = \"{}\"", root.display()),
            &format!("root = \"{}\"", away.display()),
        )
        .replace("crisol.sock", "second.sock")
        .replace("nri.sock", "second-nri.sock");
    ensure!(other != config);
    let second = node.dir().join("second.toml");
    fs::write(&second, other)?;
    let second = |verb: &str| -> Result<String> {
        let mut command = Command::new(layout::daemon()?);
        let said = run(command.args([verb, "--config"]).arg(&second))?;
        ensure!(!said.status.success(), "{verb} succeeded: {said:?}");
        Ok(format!("{}{}", said.stdout, said.stderr))
    };
    let holder = format!("process {}", node.pid()?);
    for (verb, words) in [
        ("serve", [&state.join("lock").display().to_string(), &holder, "stop that one"]),
        ("check", [&state.display().to_string(), &holder, "stop that process"]),
    ] {
        let said = second(verb)?;
        ensure!(words.iter().all(|word| said.contains(word)), "{verb}: {said}");
    }
    fs::remove_dir_all(&away)?;
    ensure_found_again(&node, &running)?;
    node.kill9()?;
    let before = remains(&node);

    // The disk of root is not mounted: an empty directory is in its place.
    let mut refusals = Vec::new();
    fs::rename(&root, &away)?;
    fs::create_dir(&root)?;
    refusals.push(refused(&node)?);
    // Another disk is: one that a crisol has used.
    fs::write(root.join("identity"), format!("{}\n", "ab".repeat(32)))?;
    refusals.push(refused(&node)?);
    for said in &refusals {
        for dir in [&root, &state] {
            ensure!(said.contains(&dir.display().to_string()), "no {} in {said}", dir.display());
        }
        ensure!(said.contains("1 pods, 1 containers") && said.contains("mount"), "{said}");
    }
    let said = run(&mut node.command(&["check"])?)?;
    ensure!(!said.status.success() && said.stdout.contains("mount the disk of"), "{said:?}");
    fs::remove_dir_all(&root)?;
    fs::rename(&away, &root)?;
    ensure_nothing_lost(&before, &node)?;
    node.spawn()?;
    ensure_found_again(&node, &running)?;

    // An upgrade from a crisol that wrote no identity: the records tell.
    node.kill9()?;
    for dir in [&root, &state] {
        fs::remove_file(dir.join("identity"))?;
        fs::remove_file(dir.join("lock"))?;
    }
    node.spawn()?;
    ensure!(fs::read(root.join("identity"))? == fs::read(state.join("identity"))?);
    ensure_found_again(&node, &running)?;
    node.remove_all_pods()
}
