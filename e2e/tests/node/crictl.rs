//! The real crictl: the whole life of a pod with each runtime, and every other command that talks to
//! a server and has no test beside its subject (`events`, `stats`, `streaming`).

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::crictl::command;
use e2e::node::Node;
use e2e::program::Program;
use e2e::request;
use e2e::runner::Fixture;
use e2e::wait::eventually;
use serde_json::{Value, json};

use crate::support::{END, add, ended, exec, run};

pub(crate) fn every_command_works_with_runc(fixture: &Fixture) -> Result<()> {
    whole_life(fixture, "runc")
}

pub(crate) fn every_command_works_with_crun(fixture: &Fixture) -> Result<()> {
    whole_life(fixture, "crun")
}

fn whole_life(fixture: &Fixture, handler: &str) -> Result<()> {
    let node = fixture.node();
    let parse = |text: String| -> Result<Value> { Ok(serde_json::from_str(&text)?) };

    let version = node.crictl(&["version"])?;
    ensure!(version.contains("RuntimeName:  crisol"), "{version}");
    ensure!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = parse(node.crictl(&["info"])?)?;
    let conditions = info["status"]["conditions"].as_array().context("conditions")?;
    let ready = |kind: &str| {
        conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == true)
    };
    ensure!(ready("RuntimeReady") && ready("NetworkReady"), "{info:#}");
    let handlers = info["runtimeHandlers"].as_array().context("runtimeHandlers")?;
    ensure!(handlers.iter().any(|found| found["name"] == handler), "{handlers:?}");

    // Images.
    let image = fixture.image("busybox:latest");
    ensure!(node.crictl(&["pull", &image])?.contains("up to date"));
    let images = parse(node.crictl(&["images", "-o", "json"])?)?;
    let images = images["images"].as_array().context("images")?;
    let tagged = |found: &&Value| {
        found["repoTags"]
            .as_array()
            .is_some_and(|tags| tags.iter().any(|tag| tag == image.as_str()))
    };
    let listed = images.iter().find(tagged);
    let listed = listed.with_context(|| format!("{image} is not in {images:#?}"))?;
    ensure!(listed["size"].as_str().is_some_and(|size| size != "0"), "{listed}");
    let inspected = parse(node.crictl(&["inspecti", &image])?)?;
    ensure!(inspected["status"]["id"] == listed["id"], "{inspected:#}");

    // A pod with a container.
    let dir = fixture.dir().join(handler);
    fs::create_dir_all(dir.join("logs"))?;
    let file = |name: &str, value: &Value| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, serde_json::to_vec_pretty(value)?)?;
        Ok(path.display().to_string())
    };
    let pod_file = file(
        "pod.json",
        &json!({
            "metadata": { "name": handler, "namespace": "default", "uid": format!("crictl-{handler}"), "attempt": 1 },
            "log_directory": dir.join("logs"),
            "hostname": "crictl-pod",
            "linux": { "cgroup_parent": node.cgroup() },
        }),
    )?;
    let container_file = file(
        "container.json",
        &json!({
            "metadata": { "name": "main" },
            "image": { "image": image },
            "command": ["/bin/sh", "-c", "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"],
            "log_path": "main.log",
            "linux": {},
        }),
    )?;
    let pod = node.crictl(&["runp", "-r", handler, &pod_file])?.trim().to_owned();
    ensure!(pod.len() == 64, "pod id {pod:?}");
    let pods = parse(node.crictl(&["pods", "-o", "json"])?)?;
    ensure!(pods["items"].as_array().is_some_and(|items| items.len() == 1), "{pods:#}");
    ensure!(pods["items"][0]["runtimeHandler"] == handler, "{pods:#}");
    // By the beginning of its id, as people do.
    let inspected = parse(node.crictl(&["inspectp", &pod[..13]])?)?;
    ensure!(inspected["status"]["state"] == "SANDBOX_READY", "{inspected:#}");
    ensure!(inspected["status"]["runtimeHandler"] == handler, "{inspected:#}");
    ensure!(
        inspected["status"]["network"]["ip"].as_str().is_some_and(|ip| ip.starts_with("10.88."))
    );

    let container = node.crictl(&["create", &pod, &container_file, &pod_file])?.trim().to_owned();
    ensure!(!node.crictl(&["ps", "-q"])?.contains(&container), "listed as running before start");
    node.crictl(&["start", &container])?;
    ensure!(node.crictl(&["ps", "-q", "--no-trunc"])?.trim() == container);
    let inspected = parse(node.crictl(&["inspect", &container])?)?;
    ensure!(inspected["status"]["state"] == "CONTAINER_RUNNING", "{inspected:#}");
    ensure!(inspected["status"]["image"]["image"] == image.as_str(), "{inspected:#}");

    eventually("both lines in the log", END, || {
        let said = node.try_crictl(&["logs", &container])?;
        ensure!(said.stdout == "out\n" && said.stderr == "err\n", "{said:?}");
        Ok(())
    })?;
    let executed = node.crictl(&["exec", "-s", &container, "/bin/hostname"])?;
    ensure!(executed.trim() == "crictl-pod", "{executed:?}");
    ensure!(!node.try_crictl(&["exec", "-s", &container, "/bin/false"])?.status.success());

    // Downhill.
    ensure!(!node.try_crictl(&["rm", &container])?.status.success(), "rm of a running container");
    node.crictl(&["stop", "-t", "10", &container])?;
    let inspected = parse(node.crictl(&["inspect", &container])?)?;
    ensure!(inspected["status"]["state"] == "CONTAINER_EXITED", "{inspected:#}");
    ensure!(inspected["status"]["exitCode"] == 3, "{inspected:#}");
    node.crictl(&["rm", &container])?;
    ensure!(node.crictl(&["ps", "-a", "-q"])?.is_empty());
    node.crictl(&["stopp", &pod])?;
    let inspected = parse(node.crictl(&["inspectp", &pod])?)?;
    ensure!(inspected["status"]["state"] == "SANDBOX_NOTREADY", "{inspected:#}");
    node.crictl(&["rmp", &pod])?;
    ensure!(node.crictl(&["pods", "-q"])?.is_empty());
    node.crictl(&["rmi", &image])?;
    ensure!(!node.try_crictl(&["inspecti", &image])?.status.success());
    Ok(())
}

/// The ids that a listing prints with `-q`, sorted.
fn ids(node: &Node, args: &[&str]) -> Result<Vec<String>> {
    let mut ids: Vec<String> = node.crictl(args)?.lines().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}

/// Fails unless the listing prints exactly these.
fn lists(node: &Node, args: &[&str], expected: &[&str]) -> Result<()> {
    let found = ids(node, args)?;
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    ensure!(found == expected, "crictl {}: {found:?} instead of {expected:?}", args.join(" "));
    Ok(())
}

pub(crate) fn listings_show_what_their_filters_say(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let first = run(&node, request::container("first", &image, &["sleep", "1000"]))?;
    let mut config = request::container("second", &image, &["sleep", "1000"]);
    config.labels.insert("tier".to_owned(), "back".to_owned());
    let second = add(&node, &first.pod, &first.pod_config, config)?;
    let mut other = request::host_network_pod(&node, "other");
    other.labels.insert("tier".to_owned(), "front".to_owned());
    if let Some(metadata) = &mut other.metadata {
        metadata.namespace = "elsewhere".to_owned();
    }
    let other = node.cri().run_pod(&other)?;
    node.crictl(&["stopp", &other])?;

    let (pod, one, two) = (first.pod.as_str(), first.id.as_str(), second.id.as_str());
    let short = &one[..12];
    for (filter, expected) in [
        (&[][..], &[one, two][..]),
        (&["--id", short], &[one]),
        (&["--pod", &pod[..12]], &[one, two]),
        (&["--pod", &other], &[]),
        (&["--name", "^sec"], &[two]),
        (&["--label", "tier=back"], &[two]),
        (&["--label", "tier=front"], &[]),
        (&["--state", "Running"], &[one]),
        (&["--state", "Created"], &[two]),
        (&["--image", &image], &[one, two]),
        (&["--latest"], &[two]),
        (&["--last", "1"], &[two]),
    ] {
        lists(&node, &[&["ps", "-a", "-q", "--no-trunc"], filter].concat(), expected)?;
    }
    for (filter, expected) in [
        (&[][..], &[pod, &other][..]),
        (&["--id", &pod[..12]], &[pod]),
        (&["--name", "^other$"], &[&other]),
        (&["--namespace", "^elsewhere$"], &[&other]),
        (&["--label", "tier=front"], &[&other]),
        (&["--state", "Ready"], &[pod]),
        (&["--state", "NotReady"], &[&other]),
        (&["--latest"], &[&other]),
    ] {
        lists(&node, &[&["pods", "-q", "--no-trunc"], filter].concat(), expected)?;
    }
    let listed = node.crictl(&["images", "--digests", "--no-trunc", &image])?;
    let inspected: Value = serde_json::from_str(&node.crictl(&["inspecti", &image])?)?;
    let id = inspected["status"]["id"].as_str().context("id")?;
    ensure!(listed.contains(id.trim_start_matches("sha256:")), "{id} is not in {listed}");
    lists(&node, &["images", "-q", "--no-trunc", "no.such.registry/image"], &[])?;
    Ok(())
}

pub(crate) fn commands_take_the_beginning_of_an_id(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let running = run(&node, request::shell("c", &image, "echo said; exec sleep 1000"))?;
    let (pod, id) = (&running.pod[..13], &running.id[..13]);
    eventually("the log", END, || {
        ensure!(node.crictl(&["logs", id])? == "said\n", "nothing yet");
        Ok(())
    })?;
    ensure!(node.crictl(&["exec", "-s", id, "echo", "hello"])?.trim_end() == "hello");
    node.crictl(&["stop", "-t", "0", id])?;
    node.crictl(&["rm", id])?;
    node.crictl(&["stopp", pod])?;
    node.crictl(&["rmp", pod])?;
    lists(&node, &["pods", "-q"], &[])?;
    let said = node.try_crictl(&["inspect", id])?;
    ensure!(!said.status.success() && said.stderr.contains("NotFound"), "{said:?}");
    Ok(())
}

pub(crate) fn logs_are_followed_to_the_end_and_cut_as_asked(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let line = "echo 1; echo 2; while [ ! -e /go ]; do sleep 0.05; done; echo 3; printf 4";
    let running = run(&node, request::shell("c", &image, line))?;
    let follow = |args: &[&str], name: &str| {
        let words = [&["logs", "-f"], args, &[running.id.as_str()]].concat();
        Program::start(&mut command(&node.socket(), &words)?, &fixture.dir().join(name))
    };
    let mut whole = follow(&[], "crictl-logs-whole")?;
    eventually("what was said before", END, || {
        ensure!(whole.printed() == "1\n2\n", "{:?}", whole.printed());
        Ok(())
    })?;
    let mut rest = follow(&["--tail", "1"], "crictl-logs-rest")?;
    eventually("the last of that", END, || {
        ensure!(rest.printed() == "2\n", "{:?}", rest.printed());
        Ok(())
    })?;
    exec(&node, &running.id, &["touch", "/go"])?;
    ended(&node, &running.id)?;
    for (program, expected) in [(&mut whole, "1\n2\n3\n4"), (&mut rest, "2\n3\n4")] {
        ensure!(program.wait(END)?.success(), "{}", program.printed());
        ensure!(program.printed().trim_end() == expected, "{:?}", program.printed());
    }
    ensure!(node.crictl(&["logs", "--tail", "1", &running.id])?.trim_end() == "4");
    let stamped = node.crictl(&["logs", "--timestamps", "--tail", "1", &running.id])?;
    ensure!(stamped.starts_with("20") && stamped.contains('T'), "{stamped}");
    ensure!(node.crictl(&["logs", "--since", "2100-01-01T00:00:00Z", &running.id])?.is_empty());
    Ok(())
}

pub(crate) fn settings_and_resources_are_shown_and_changed(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let json = |args: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&node.crictl(args)?)?) };

    let config = node.crictl(&["runtime-config"])?;
    let words: Vec<&str> = config.split_whitespace().collect();
    ensure!(words == ["cgroup", "driver:", "CGROUPFS"], "{config}");
    node.crictl(&["update-runtime-config", "--pod-cidr", "10.99.0.0/16"])?;
    let disk = json(&["imagefsinfo", "-o", "json"])?;
    let mountpoint = &disk["status"]["imageFilesystems"][0]["fsId"]["mountpoint"];
    let mountpoint = mountpoint.as_str().with_context(|| format!("no mountpoint in {disk:#}"))?;
    ensure!(std::path::Path::new(mountpoint).starts_with(node.root()), "{mountpoint}");

    let running = run(&node, request::container("c", &image, &["sleep", "1000"]))?;
    let limits = ["update", "--memory", "67108864", "--cpu-share", "512", &running.id];
    node.crictl(&limits)?;
    let inspected = json(&["inspect", &running.id])?;
    let resources = &inspected["status"]["resources"]["linux"];
    ensure!(resources["memoryLimitInBytes"] == "67108864", "{resources:#}");
    ensure!(resources["cpuShares"] == "512", "{resources:#}");

    // With criu there is an archive; without, the reason.
    let archive = fixture.dir().join("crictl-checkpoint.tar");
    let words = ["checkpoint", "--export", &archive.display().to_string(), &running.id];
    let said = node.try_crictl(&words)?;
    ensure!(said.status.success() == archive.exists(), "{said:?}");
    ensure!(said.status.success() || said.stderr.contains("criu"), "{said:?}");
    Ok(())
}

pub(crate) fn run_makes_a_pod_with_a_container(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let dir = fixture.dir().join("crictl-run");
    fs::create_dir_all(&dir)?;
    let file = |name: &str, value: &Value| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, serde_json::to_vec_pretty(value)?)?;
        Ok(path.display().to_string())
    };
    let pod = file(
        "pod.json",
        &json!({
            "metadata": { "name": "run", "namespace": "default", "uid": "crictl-run", "attempt": 0 },
            "log_directory": dir,
            "linux": { "cgroup_parent": node.cgroup(), "security_context": { "namespace_options": { "network": 2 } } },
        }),
    )?;
    let container = file(
        "container.json",
        &json!({
            "metadata": { "name": "main" },
            "image": { "image": fixture.image("busybox:latest") },
            "command": ["sleep", "1000"],
            "log_path": "main.log",
            "linux": {},
        }),
    )?;
    let id = node.crictl(&["run", &container, &pod])?.trim().to_owned();
    lists(&node, &["ps", "-q", "--no-trunc", "--state", "Running"], &[&id])
}
