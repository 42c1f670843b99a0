//! Many pods come and go; nothing stays.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use e2e::node::{Node, Options};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;

use crate::support::add;

/// Pods that come and go.
const PODS: usize = 200;
/// Of which this many at once.
const AT_ONCE: usize = 8;

pub(crate) fn two_hundred_pods_come_and_go_without_a_trace(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    // Once around first: what is made for the first pod and kept (the bridge, connections, threads)
    // belongs to the daemon, not to a pod.
    many(&node, &image, AT_ONCE)?;
    let before = node.traces();
    many(&node, &image, fixture.times(PODS))?;
    ensure!(node.cri().pods()?.is_empty() && node.cri().containers()?.is_empty());
    ensure_nothing_new(&before, || node.traces())
}

fn many(node: &Node, image: &str, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let work = || loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            once(node, image, number).with_context(|| format!("pod {number}"))?;
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    results.into_iter().collect()
}

/// The life of one pod; some are stopped step by step, some are just removed.
fn once(node: &Node, image: &str, number: usize) -> Result<()> {
    let pod_config = request::pod(node, &format!("churn-{number}"));
    let handler = if number.is_multiple_of(2) { "runc" } else { "crun" };
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let config = request::container("c", image, &["/bin/sleep", "1000"]);
    let running = add(node, &pod, &pod_config, config)?;
    if !number.is_multiple_of(5) {
        node.cri().start(&running.id)?;
        node.cri().exec(&running.id, &["/bin/true"])?;
    }
    if number.is_multiple_of(3) {
        node.cri().stop(&running.id, 0)?;
        node.cri().remove(&running.id)?;
    }
    node.cri().drop_pod(&pod)?;
    Ok(())
}
