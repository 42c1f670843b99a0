//! A kubelet that repeats itself or hangs up.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::install;
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;
use tonic::Code;

use crate::lifecycle::node_that_cannot_start;
use crate::support::{END, add, ended};

/// Equal requests at the same moment.
const CLIENTS: usize = 20;

pub(crate) fn the_same_request_twenty_times_is_one_pod_and_one_container(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    let pod_config = request::pod(&node, "twenty");
    let pods = at_once(|| Ok(node.cri().run_pod(&pod_config)?))?;
    ensure!(pods.len() == 1, "{} pods: {pods:?}", pods.len());
    let pod = pods.into_iter().next().unwrap_or_default();
    let mut container = request::container("c", &image, &["/bin/sleep", "1000"]);
    request::share_namespaces(&mut container, &pod_config);
    let containers = at_once(|| Ok(node.cri().create(&pod, &container, &pod_config)?))?;
    ensure!(containers.len() == 1, "{} containers", containers.len());
    let id = containers.into_iter().next().unwrap_or_default();
    // Afterwards as well: the same request gives the same id.
    ensure!(node.cri().run_pod(&pod_config)? == pod);
    ensure!(node.cri().create(&pod, &container, &pod_config)? == id);
    let leases = node.traces().since(&before);
    let addresses = leases.iter().filter(|line| line.starts_with("address: ")).count();
    ensure!(addresses == 1, "{addresses} addresses for one pod");
    at_once(|| Ok(node.cri().start(&id)?))?;
    at_once(|| Ok(node.cri().drop_pod(&pod)?))?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn a_repeated_start_is_told_how_the_first_one_went(fixture: &Fixture) -> Result<()> {
    let mut node = node_that_cannot_start(fixture)?;
    let image = fixture.busybox(&node)?;
    let before = node.traces().without_process();
    let pod_config = request::host_network_pod(&node, "again");
    let pod = node.cri().run_pod(&pod_config)?;
    let failing =
        node.cri().run_pod_with(&request::host_network_pod(&node, "never"), "cannot-start")?;
    let made = |pod: &str, name: &str, command: &[&str]| {
        add(&node, pod, &pod_config, request::container(name, &image, command))
    };
    let (runs, ends) =
        (made(&pod, "runs", &["/bin/sleep", "1000"])?, made(&pod, "ends", &["/bin/true"])?);
    let (fails, unasked) =
        (made(&failing, "fails", &["/bin/true"])?, made(&pod, "unasked", &["/bin/true"])?);
    // A start says one thing: nothing, or what went wrong.
    let told = |id: &str| match node.cri().start(id) {
        Ok(()) => None,
        Err(status) => Some((status.code() as i32, status.message().to_owned())),
    };
    // While it starts, and a moment later.
    for running in [&runs, &ends] {
        ensure!(at_once(|| Ok(told(&running.id)))? == BTreeSet::from([None]), "{running:?}");
    }
    let answers = at_once(|| Ok(told(&fails.id)))?;
    let refused = answers.first().cloned().flatten().context("started")?;
    ensure!(answers.len() == 1 && refused.1.contains("no start today"), "{answers:?}");
    // While it runs, when it has ended by itself, when it was stopped.
    ensure!(told(&runs.id).is_none() && node.cri().container(&runs.id)?.started_at > 0);
    let ended_at = ended(&node, &ends.id)?.finished_at;
    node.cri().stop(&runs.id, 0)?;
    node.cri().stop(&unasked.id, 0)?;
    let late = |node: &Node| -> Result<()> {
        let told = |id: &str| node.cri().start(id);
        told(&ends.id)?;
        told(&runs.id)?;
        let again = told(&fails.id).err().context("started")?;
        ensure!((again.code() as i32, again.message()) == (refused.0, &*refused.1), "{again:?}");
        let never = told(&unasked.id).err().context("started")?;
        ensure!(never.code() == Code::FailedPrecondition, "{never:?}");
        // It was started once.
        ensure!(node.cri().container(&ends.id)?.finished_at == ended_at);
        Ok(())
    };
    late(&node)?;
    node.restart()?;
    late(&node)?;
    node.remove_all_pods()?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

/// The kubelet comes back from a restart with another configuration for what it has asked already.
pub(crate) fn the_last_to_ask_has_the_name_while_it_is_being_made(fixture: &Fixture) -> Result<()> {
    let dir = fixture.dir();
    // A runtime and a network that wait for as long as a file is there, and say that they do.
    let (wait, waits) = (dir.join("wait"), dir.join("waits"));
    let (wait_is, waits_is) = (wait.display(), waits.display());
    let pause = format!("touch {waits_is}; while [ -e {wait_is} ]; do sleep 0.05; done");
    let runtime = format!(
        "#!/bin/sh\ncase \" $* \" in *' create '*) {pause};; esac\nexec /usr/sbin/runc \"$@\"\n"
    );
    let plugin =
        format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && {{ {pause}; }}\nexec /usr/lib/cni/tuning\n");
    for (name, script) in [("patient-runc", runtime), ("patient", plugin)] {
        install(&dir.join(name), &script)?;
    }
    let config = format!(
        "[runtime.handlers.patient]\npath = \"{dir}/patient-runc\"\n\
         root = \"{dir}/patient-root\"\n",
        dir = dir.display()
    );
    let options = fixture.with_registries(Options { config, ..Options::default() });
    let mut node = Node::prepare(options)?;
    let mut conf: serde_json::Value = serde_json::from_slice(&fs::read(node.network_file())?)?;
    conf["plugins"].as_array_mut().context("plugins")?.push(serde_json::json!({"type": "patient"}));
    fs::write(node.network_file(), serde_json::to_vec(&conf)?)?;
    let config = fs::read_to_string(node.config_file())?;
    let dirs = format!("plugin_dirs = [\"{}\", \"/usr/lib/cni\"]", dir.display());
    fs::write(node.config_file(), config.replace("plugin_dirs = [\"/usr/lib/cni\"]", &dirs))?;
    node.spawn()?;
    let image = fixture.busybox(&node)?;
    let before = node.traces();

    // The first is told at once, the second has it when the first is undone.
    let first_then_second = |ask: &(dyn Fn(&str) -> Result<String, tonic::Status> + Sync)| {
        fs::write(&wait, "")?;
        fs::remove_file(&waits).ok();
        let id = thread::scope(|scope| {
            let first = scope.spawn(|| ask("first"));
            eventually("the first is on its way", END, || {
                ensure!(waits.exists());
                Ok(())
            })?;
            let second = scope.spawn(|| ask("second"));
            let aborted = first.join().expect("no panic").err().context("the first succeeded")?;
            ensure!(aborted.code() == Code::Aborted, "{aborted:?}");
            ensure!(!second.is_finished(), "two at once");
            fs::remove_file(&wait)?;
            Ok(second.join().expect("no panic")?)
        })?;
        // What is made stays: the same request finds it, another one does not get it.
        ensure!(ask("second")? == id);
        let taken = ask("first").err().context("one name for two")?;
        ensure!(taken.code() == Code::AlreadyExists, "{taken:?}");
        anyhow::Ok(id)
    };
    let pod_config = request::pod(&node, "twice");
    let labelled = |label: &str| {
        let mut config = pod_config.clone();
        config.labels.insert("which".to_owned(), label.to_owned());
        config
    };
    let pod = first_then_second(&|label| node.cri().run_pod_with(&labelled(label), "patient"))?;
    let pods = node.cri().pods()?;
    ensure!(pods.len() == 1 && pods[0].id == pod && pods[0].labels["which"] == "second");

    let id = first_then_second(&|label| {
        let mut config = request::container("c", &image, &["/bin/sleep", "1000"]);
        request::share_namespaces(&mut config, &pod_config);
        config.labels.insert("which".to_owned(), label.to_owned());
        node.cri().create(&pod, &config, &labelled("second"))
    })?;
    let containers = node.cri().containers()?;
    ensure!(containers.len() == 1 && containers[0].labels["which"] == "second", "{containers:?}");
    node.cri().start(&id)?;
    let leases = node.traces().since(&before);
    let addresses = leases.iter().filter(|line| line.starts_with("address: ")).count();
    ensure!(addresses == 1, "{addresses} addresses for one pod");
    node.cri().drop_pod(&pod)?;
    ensure_nothing_new(&before, || node.traces())
}

/// The different results of as many equal calls at once.
fn at_once<T: Ord + Send>(call: impl Fn() -> Result<T> + Sync) -> Result<BTreeSet<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(&call)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn run_and_hang_up(node: &Node, config: &pb::PodSandboxConfig, patience: Duration) {
    let config = Some(config.clone());
    let request = pb::RunPodSandboxRequest { config, runtime_handler: String::new() };
    node.cri().hang_up(patience, async |pods| pods.run_pod_sandbox(request).await);
}

pub(crate) fn a_client_that_hangs_up_neither_interrupts_nor_leaks(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    for patience in [1, 5, 20, 60, 120].map(Duration::from_millis) {
        let pod_config = request::pod(&node, "impatient");
        run_and_hang_up(&node, &pod_config, patience);
        // The kubelet's retry: it joins the work or finds it done.
        let pod = node.cri().run_pod(&pod_config)?;
        ensure!(node.cri().pods()?.len() == 1);
        let mut container = request::container("c", &image, &["/bin/sleep", "1000"]);
        request::share_namespaces(&mut container, &pod_config);
        let create = pb::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        node.cri().hang_up(patience / 2, async |pods| pods.create_container(create).await);
        let id = node.cri().create(&pod, &container, &pod_config)?;
        ensure!(node.cri().containers()?.len() == 1);
        node.cri().start(&id)?;
        node.cri().drop_pod(&pod)?;
    }
    // And one whose retry never comes: the pod is made and can be found and removed.
    let pod_config = request::pod(&node, "orphan");
    run_and_hang_up(&node, &pod_config, Duration::from_millis(20));
    eventually("the work is finished without its client", END, || {
        let pods = node.cri().pods()?;
        ensure!(
            pods.len() == 1 && pods[0].state() == pb::PodSandboxState::SandboxReady,
            "{pods:?}"
        );
        Ok(())
    })?;
    node.remove_all_pods()?;
    ensure_nothing_new(&before, || node.traces())
}
