//! The system fails in the middle of a look: what is looked for is neither gone nor damaged by that.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::host;
use e2e::node::faults::Fault;
use e2e::runner::Fixture;
use e2e::wait::eventually;

use crate::records::{
    SWEEP, complaint, ensure_found_again, ensure_nothing_lost, files, remains, whole_pod,
};
use crate::support::often_swept;

/// Errors that say nothing of the file.
const ERRORS: [&str; 4] = ["EIO", "EMFILE", "EACCES", "ENOMEM"];

pub(crate) fn errors_while_records_are_read_end_nothing_and_are_tried_again(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let running = whole_pod(fixture, &node, "unread")?;
    node.kill9()?;
    let before = remains(&node);
    let files = files(&node, &running);
    let fault = |calls: &str, error: &str, when: String, path: &std::path::Path| Fault {
        calls: calls.to_owned(),
        error: error.to_owned(),
        when,
        paths: vec![path.to_owned()],
    };
    // Never readable, and for the n-th time only: at the opening, at the look, at the taking back.
    let mut faults = Vec::new();
    for file in &files {
        faults.extend(ERRORS.map(|error| fault("openat", error, "1+".to_owned(), file)));
        faults.push(fault("read", "EIO", "1+".to_owned(), file));
        faults.extend((1..=4).map(|n| fault("openat", "EIO", n.to_string(), file)));
    }
    for fault in faults {
        let what = || format!("{fault:?}");
        ensure!(node.spawn_with(&fault)?, "refused to start: {}", what());
        let told = complaint(&node)?;
        let lasting = fault.when == "1+";
        ensure!(!lasting || told.contains("tried again"), "{}: {told:?}", what());
        node.kill9()?;
        ensure_nothing_lost(&before, &node).with_context(what)?;
    }
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    ensure!(complaint(&node)?.is_empty(), "{}", complaint(&node)?);
    node.remove_all_pods()
}

pub(crate) fn an_error_at_any_call_of_a_start_ends_nothing(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let running = whole_pod(fixture, &node, "any")?;
    node.kill9()?;
    let before = remains(&node);
    // What is ours, densely: few threads look more often at it. Then anything, further and further
    // apart: a start has some hundred calls of each kind.
    let ours = |dir: &str| {
        let files = host::files_below(&node.dir().join(dir)).into_iter();
        let files = files.filter(|file| !file.starts_with("images")).collect::<Vec<_>>();
        files.into_iter().map(|file| node.dir().join(dir).join(file)).collect::<Vec<_>>()
    };
    let ours = [ours("root"), ours("state")].concat();
    ensure!(ours.len() > 10, "{ours:?}");
    let dense = (1..=8).map(|when| (when, ours.clone()));
    let sparse = (0..9).map(|power| (1 << power, Vec::new()));
    let calls = ["openat", "read", "getdents64", "statx,newfstatat,statfs", "connect,readlink"];
    let mut starts = 0;
    let all: Vec<_> = dense.chain(sparse).enumerate().collect();
    let every = all.len().div_ceil(fixture.times(all.len()));
    for (number, (when, paths)) in all.into_iter().step_by(every) {
        for (kind, calls) in calls.iter().enumerate() {
            let error = ERRORS[(number + kind) % ERRORS.len()].to_owned();
            let (calls, when, paths) = ((*calls).to_owned(), when.to_string(), paths.clone());
            let fault = Fault { calls, error, when, paths };
            // It may refuse to start: then it has ended nothing either.
            if node.spawn_with(&fault)? {
                starts += 1;
                node.kill9()?;
            }
            ensure_nothing_lost(&before, &node).with_context(|| format!("{fault:?}"))?;
        }
    }
    ensure!(starts > 0, "none of them started: the faults hit something else");
    node.spawn()?;
    ensure_found_again(&node, &running)?;
    ensure!(complaint(&node)?.is_empty(), "{}", complaint(&node)?);
    node.remove_all_pods()
}

pub(crate) fn what_is_lost_under_the_daemon_is_written_again_and_a_failed_look_ends_nothing(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = fixture.own_node(often_swept())?;
    let running = whole_pod(fixture, &node, "lost")?;
    let [pod, container] = files(&node, &running);
    let good = [fs::read(&pod)?, fs::read(&container)?];
    let count = |words: &str| -> Result<usize> {
        Ok(fs::read_to_string(node.log_file())?.matches(words).count())
    };
    // At first the disk is full, too.
    let tracer = node.inject(&Fault {
        calls: "openat,write".to_owned(),
        error: "ENOSPC".to_owned(),
        when: "1+".to_owned(),
        paths: [&pod, &container].map(|file| file.with_extension("tmp")).to_vec(),
    })?;
    fs::remove_file(&pod)?;
    fs::write(&container, "{\"version\":1,")?;
    eventually("a look fails to write them", SWEEP, || {
        ensure!(count("its record is lost; tried again later")? >= 2, "not yet");
        Ok(())
    })?;
    drop(tracer);
    ensure_found_again(&node, &running)?;
    eventually("the records are written again", SWEEP, || {
        ensure!([fs::read(&pod)?, fs::read(&container)?] == good, "not yet");
        Ok(())
    })?;
    ensure!(complaint(&node)?.is_empty(), "{}", complaint(&node)?);

    // Nothing can be listed and no record be opened: a look that says nothing.
    let looks = count("look for leftovers")?;
    let kinds = ["root/pods", "root/containers", "root/rw", "state/pods", "state/containers"];
    let tracer = node.inject(&Fault {
        calls: "getdents64,openat".to_owned(),
        error: "EIO".to_owned(),
        when: "1+".to_owned(),
        paths: kinds.iter().map(|dir| node.dir().join(dir)).chain([pod, container]).collect(),
    })?;
    eventually("a look fails", SWEEP, || {
        ensure!(count("look for leftovers")? >= looks + 2, "not yet");
        Ok(())
    })?;
    drop(tracer);
    ensure_found_again(&node, &running)?;
    node.restart()?;
    ensure_found_again(&node, &running)?;
    node.remove_all_pods()
}
