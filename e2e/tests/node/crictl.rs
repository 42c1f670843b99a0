//! The whole life of a pod through the real crictl, with each runtime.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::runner::Fixture;
use e2e::wait::eventually;
use serde_json::{Value, json};

use crate::support::END;

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
    let listed = images.iter().find(|found| found["repoTags"][0] == image.as_str());
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
