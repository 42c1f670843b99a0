//! The container's log under load, rotation and odd output.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::runner::Fixture;
use e2e::wait::eventually;
use e2e::{log, request};

use crate::support::{END, add, finish, run, state};

/// Lines of 64 bytes that make 200 MiB.
const LINES: usize = (200 << 20) / 64;
/// How often the log is rotated meanwhile.
const REOPENS: usize = 20;
/// How long two busy cores may take for it.
const FLOOD: Duration = Duration::from_secs(120);

pub(crate) fn two_hundred_mebibytes_and_twenty_reopens_lose_nothing(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    // awk is the fastest thing in busybox that numbers its lines: "0000000 xxxx…", 64 bytes each. In
    // parts, each after a reopen: one that writes faster than this test looks would be done before.
    let each = LINES.div_ceil(REOPENS + 1);
    let script = format!(
        "part=0; while [ $part -le {REOPENS} ]; do \
             while [ ! -e /go.$part ]; do sleep 0.01; done; \
             awk -v from=$((part * {each})) 'BEGIN {{ x = sprintf(\"%55s\", \"\"); gsub(\" \", \"x\", x); \
                 for (i = from; i < from + {each} && i < {LINES}; i++) printf \"%07d %s\\n\", i, x }}'; \
             part=$((part + 1)); \
         done"
    );
    let running = run(&node, request::shell("flood", &image, &script))?;
    let root = node.state().join("containers").join(&running.id).join("rootfs");
    let go_on = |part: usize| fs::write(root.join(format!("go.{part}")), "");
    let current = running.log();
    let rotated = |number: usize| PathBuf::from(format!("{}.{number}", current.display()));
    let exited = || -> Result<bool> {
        let status = node.cri().container(&running.id)?;
        Ok(state(&status) == pb::ContainerState::ContainerExited)
    };
    for number in 0..REOPENS {
        // In the middle of a part, which goes on into the next file.
        go_on(number)?;
        let share = 64 * each as u64 / 2;
        eventually("log grows", FLOOD, || {
            let size = fs::metadata(&current)?.len();
            ensure!(size >= share, "{size} bytes");
            Ok(())
        })?;
        ensure!(!exited()?, "the flood ended before reopen {number}");
        fs::rename(&current, rotated(number))?;
        node.cri()
            .reopen_rpc(pb::ReopenContainerLogRequest { container_id: running.id.clone() })?;
        ensure!(current.exists(), "no log file after ReopenContainerLog");
    }
    go_on(REOPENS)?;
    eventually("the flood is over", FLOOD, || {
        ensure!(exited()?, "still running");
        Ok(())
    })?;
    ensure!(node.cri().container(&running.id)?.exit_code == 0);

    let mut expected = 0;
    let mut files: Vec<PathBuf> = (0..REOPENS).map(rotated).collect();
    files.push(current.clone());
    for file in &files {
        log::read(file, |entry| {
            ensure!(entry.full && entry.stream == "stdout", "line {expected}: {entry:?}");
            ensure!(entry.text.len() == 63, "line {expected}: {} bytes", entry.text.len());
            let number: usize = std::str::from_utf8(&entry.text[..7])?.parse()?;
            ensure!(number == expected, "line {number} where {expected} should be");
            expected += 1;
            Ok(())
        })?;
        fs::remove_file(file)?;
    }
    ensure!(expected == LINES, "{expected} of {LINES} lines");
    Ok(())
}

pub(crate) fn streams_partial_lines_and_the_last_line_are_tagged(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let line = "head -c 50000 /dev/zero | tr '\\0' a; echo; echo error >&2; printf last";
    let (running, status) = finish(&node, request::shell("odd", &image, line))?;
    ensure!(status.exit_code == 0);
    let mut entries = Vec::new();
    log::read(&running.log(), |entry| {
        entries.push(entry);
        Ok(())
    })?;
    let stdout: Vec<_> = entries.iter().filter(|entry| entry.stream == "stdout").collect();
    let long: usize = stdout.iter().take_while(|entry| !entry.full).map(|e| e.text.len()).sum();
    ensure!(long > 16_000 && long <= 50_000, "{long} bytes in partial entries");
    let lines = log::lines(&running.log(), "stdout")?;
    ensure!(lines.len() == 2 && lines[0] == "a".repeat(50_000) && lines[1] == "last");
    ensure!(!stdout[stdout.len() - 1].full, "the last line had no newline");
    ensure!(log::lines(&running.log(), "stderr")? == ["error"]);
    Ok(())
}

pub(crate) fn a_link_below_a_pods_directory_of_logs_leads_nowhere(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let outside = fixture.dir().join("outside-of-logs");
    fs::create_dir(&outside)?;
    let nothing_outside = || -> Result<()> {
        ensure!(fs::read_dir(&outside)?.count() == 0, "something was written outside");
        Ok(())
    };
    let pod_config = request::host_network_pod(&node, "links");
    let logs = PathBuf::from(&pod_config.log_directory);
    let pod = node.cri().run_pod(&pod_config)?;
    let chatty =
        |name: &str| request::shell(name, &image, "while :; do echo more; sleep 0.1; done");
    // In the place of the container's directory, of one above it, and of the file.
    fs::create_dir_all(logs.join("file"))?;
    let places = [("directory", "0.log"), ("above", "deeper/0.log"), ("file/0.log", "")];
    for (link, rest) in places {
        symlink(outside.join(rest), logs.join(link))?;
        let mut config = chatty("refused");
        config.log_path = format!("{link}/{rest}").trim_end_matches('/').to_owned();
        let error = add(&node, &pod, &pod_config, config).expect_err(link).to_string();
        ensure!(error.contains(&logs.join(link).display().to_string()), "{error}");
        ensure!(error.contains("link"), "{error}");
        nothing_outside()?;
    }
    let made = node.cri().containers()?.into_iter().filter(|made| made.pod_sandbox_id == pod);
    ensure!(made.count() == 0, "a container was made");

    // Between the start and a rotation.
    let running = add(&node, &pod, &pod_config, chatty("rotated"))?;
    node.cri().start(&running.id)?;
    let (dir, moved) = (logs.join("rotated"), logs.join("moved"));
    fs::rename(&dir, &moved)?;
    symlink(&outside, &dir)?;
    let container_id = running.id.clone();
    let reopen = || {
        let request = pb::ReopenContainerLogRequest { container_id: container_id.clone() };
        node.cri().reopen_rpc(request)
    };
    let error = reopen().err().context("the link was followed")?;
    for word in [&running.log().display().to_string(), "a link below"] {
        ensure!(error.message().contains(word), "{error:?}");
    }
    nothing_outside()?;
    let length = fs::metadata(moved.join("0.log"))?.len();
    eventually("it goes on in the old file", END, || {
        ensure!(fs::metadata(moved.join("0.log"))?.len() > length);
        Ok(())
    })?;
    fs::remove_file(&dir)?;
    fs::create_dir(&dir)?;
    reopen()?;
    eventually("it writes to the new file", END, || {
        ensure!(!log::lines(&running.log(), "stdout")?.is_empty());
        Ok(())
    })?;
    nothing_outside()?;
    node.cri().drop_pod(&pod)?;
    Ok(fs::remove_dir_all(&outside)?)
}
