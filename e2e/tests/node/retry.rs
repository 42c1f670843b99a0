//! A kubelet that repeats itself or hangs up.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use crisol::cri::pb;
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;

use crate::support::END;

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

/// The different results of as many equal calls at once.
fn at_once<T: Ord + Send>(call: impl Fn() -> Result<T> + Sync) -> Result<BTreeSet<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(&call)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

pub(crate) fn a_client_that_hangs_up_neither_interrupts_nor_leaks(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    for patience in [1, 5, 20, 60, 120].map(Duration::from_millis) {
        let pod_config = request::pod(&node, "impatient");
        node.cri().run_pod_and_hang_up(&pod_config, patience);
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
        node.cri().create_and_hang_up(&create, patience / 2);
        let id = node.cri().create(&pod, &container, &pod_config)?;
        ensure!(node.cri().containers()?.len() == 1);
        node.cri().start(&id)?;
        node.cri().drop_pod(&pod)?;
    }
    // And one whose retry never comes: the pod is made and can be found and removed.
    let pod_config = request::pod(&node, "orphan");
    node.cri().run_pod_and_hang_up(&pod_config, Duration::from_millis(20));
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
