//! The log of real containers: complete and in order, whatever is done to it meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use conmon::{Reply, Request};

use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::{Container, Plan, log_lines};
use crate::tmpfs::Tmpfs;
use crate::waiting::eventually;
use crate::with_each_runtime;

with_each_runtime! {
    streams_and_unfinished_lines_are_tagged
    a_flood_is_logged_whole_and_in_order_over_twenty_reopens
}

fn streams_and_unfinished_lines_are_tagged(runtime: Runtime) {
    let script = "echo out; echo err >&2; printf 'no newline'; printf 'none here' >&2";
    let container = Container::run(Wish::script(runtime, script));
    container.wait_for_exit();
    let mut lines = container.log_lines();
    // The streams are two pipes: only the order within each is defined.
    lines.sort();
    let line = |stream: &str, tag: &str, text: &str| (stream.into(), tag.into(), text.into());
    let expected = [
        line("stderr", "F", "err"),
        line("stderr", "P", "none here"),
        line("stdout", "F", "out"),
        line("stdout", "P", "no newline"),
    ];
    assert_eq!(lines, expected);
}

/// Bytes of a flood.
const FLOOD: usize = 200 * 1024 * 1024;

/// Lines that differ, some longer than a log line may be; [`FLOOD`] bytes of them.
fn flood() -> impl Iterator<Item = Vec<u8>> {
    let mut written = 0;
    (0u64..)
        .map(|number| {
            let length = match number % 97 {
                0 => 40_000,
                1 => 16 * 1024,
                n => usize::try_from(n * 20).unwrap(),
            };
            let mut line = format!("{number:010} ").into_bytes();
            line.resize(line.len().max(length), b'a' + (number % 26) as u8);
            line
        })
        .take_while(move |line| {
            written += line.len() + 1;
            written < FLOOD
        })
}

fn a_flood_is_logged_whole_and_in_order_over_twenty_reopens(runtime: Runtime) {
    const REOPENS: usize = 20;
    // In parts, each after a reopen: one that writes faster than this test looks would be done before.
    let script = "part=0; while [ $part -le 20 ]; do
                      while [ ! -e /shared/go.$part ]; do sleep 0.01; done
                      cat /shared/part.$part; part=$((part + 1))
                  done";
    let plan = Plan::new(Wish::script(runtime, script));
    let shared = plan.bundle.path("shared");
    let go_on = |part: usize| fs::write(shared.join(format!("go.{part}")), "").unwrap();
    let create = |part: usize| fs::File::create(shared.join(format!("part.{part}"))).unwrap();
    let (mut part, mut written) = (0, 0);
    let mut file = std::io::BufWriter::new(create(part));
    for line in flood() {
        if part < REOPENS && written > FLOOD / (REOPENS + 1) {
            (part, written) = (part + 1, 0);
            file = std::io::BufWriter::new(create(part));
        }
        file.write_all(&line).unwrap();
        file.write_all(b"\n").unwrap();
        written += line.len() + 1;
    }
    file.flush().unwrap();
    assert_eq!(part, REOPENS);
    let container = plan.create();
    let (mut watcher, _) = Client::subscribe(&container.dir);
    let mut client = Client::connect(&container.dir);
    container.start();
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..REOPENS {
        // In the middle of a part, which goes on into the next file.
        go_on(number);
        eventually("the log grows", || {
            fs::metadata(&container.log).unwrap().len() > (FLOOD / (REOPENS + 1) / 2) as u64
        });
        let old = container.log.with_extension(number.to_string());
        fs::rename(&container.log, &old).unwrap();
        assert_eq!(client.ask(&Request::ReopenLog), Reply::Ok);
        files.push(old);
    }
    files.push(container.log.clone());
    go_on(REOPENS);
    let exit = watcher.exited();
    assert_eq!((exit.code, exit.lost_bytes), (0, 0));

    let mut expected = flood();
    let mut message = Vec::new();
    for file in &files {
        for line in BufReader::new(fs::File::open(file).unwrap()).split(b'\n') {
            let line = line.unwrap();
            assert_eq!(line[30..38], *b" stdout ");
            message.extend_from_slice(&line[40..]);
            match line[38] {
                b'F' => {
                    assert!(Some(&message) == expected.next().as_ref(), "a line is not as written");
                    message.clear();
                }
                tag => assert_eq!((tag, line.len() - 40), (b'P', 16 * 1024)),
            }
        }
    }
    assert!(expected.next().is_none() && message.is_empty(), "the log ends too early");
}

#[test]
fn a_log_directory_that_is_removed_stops_neither_container_nor_monitor() {
    let script = "echo one; while [ ! -e /shared/go ]; do sleep 0.02; done; echo two; exit 4";
    let container = Container::run(Wish::script(Runtime::Crun, script));
    container.wait_for_output("one\n");
    let mut client = Client::connect(&container.dir);
    fs::remove_dir_all(container.log.parent().unwrap()).unwrap();
    let message = client.refused(&Request::ReopenLog);
    assert!(message.contains("open log") && message.contains("No such file"), "{message}");
    assert!(!container.log.exists());
    fs::write(container.shared("go"), "").unwrap();
    assert_eq!(container.wait_for_exit().code, 4);
    assert!(client.refused(&Request::ReopenLog).contains("has ended"));
    fs::create_dir(container.log.parent().unwrap()).unwrap();
    client.refused(&Request::ReopenLog);
    assert!(!container.log.exists(), "a container that has ended gets no new log");
}

#[test]
fn a_full_disk_costs_the_lines_that_do_not_fit_and_is_told_of() {
    // Lines long enough for what is in the pipe at last to fit where the ballast was.
    let script = "i=0; while [ $i -lt 80 ]; do yes '0123456789 0123456789 0123456789 0123456789 01234' \
                  | head -c 100000; i=$((i+1)); done; echo > /shared/flooded; while [ ! -e /shared/go ]; do sleep 0.02; done; \
                  echo after; exit 2";
    let mut plan = Plan::new(Wish::script(Runtime::Crun, script));
    let disk = Tmpfs::mount("size=1m");
    let ballast = disk.path("ballast");
    fs::write(&ballast, vec![0; 512 * 1024]).unwrap();
    plan.launch.log = Some(disk.path("0.log"));
    plan.launch.log_dir = Some(disk.path(""));
    let container = plan.create();
    container.start();
    eventually("the container is not held up", || container.shared("flooded").exists());
    fs::remove_file(&ballast).unwrap();
    fs::write(container.shared("go"), "").unwrap();
    let exit = container.wait_for_exit();
    assert_eq!(exit.code, 2);
    let lines = log_lines(&container.log);
    let kept: usize = lines
        .iter()
        .filter(|(stream, ..)| stream == "stdout")
        .map(|(_, tag, message)| message.len() + usize::from(tag == "F"))
        .sum();
    assert_eq!(kept as u64 + exit.lost_bytes, 8_000_006, "every byte is logged or counted");
    assert!(exit.lost_bytes > 7_000_000);
    let markers: Vec<_> = lines.iter().filter(|(stream, ..)| stream == "stderr").collect();
    let told = |text: &str| {
        text.strip_prefix("conmon: ")?
            .strip_suffix(" bytes of output are missing here: write error")?
            .parse::<u64>()
            .ok()
    };
    let told: u64 = markers.iter().map(|(_, _, text)| told(text).expect("a marker")).sum();
    assert_eq!(told, exit.lost_bytes);
    assert_eq!(lines.last().map(|(.., message)| message.as_str()), Some("after"));
}

#[test]
fn without_a_log_the_container_runs_all_the_same() {
    let mut plan = Plan::new(Wish::script(Runtime::Crun, "yes | head -c 10000000; exit 1"));
    let log = plan.launch.log.take().unwrap();
    plan.launch.log_dir = None;
    let (mut monitor, reply) = plan.launch();
    assert!(matches!(reply, Reply::Created { .. }));
    plan.launch.log = Some(log.clone());
    let start = [
        "--root".into(),
        plan.bundle.path("runtime").into_os_string(),
        "start".into(),
        plan.bundle.id.clone().into(),
    ];
    assert!(std::process::Command::new("/usr/bin/crun").args(start).status().unwrap().success());
    assert_eq!(Client::wait_for_exit(&plan.launch.dir).code, 1);
    assert!(!log.exists());
    assert_eq!(Client::connect(&plan.launch.dir).ask(&Request::TakeExit), Reply::Ok);
    assert!(monitor.wait().unwrap().success());
    let delete = [
        "--root".into(),
        plan.bundle.path("runtime").into_os_string(),
        "delete".into(),
        plan.bundle.id.clone().into(),
    ];
    assert!(std::process::Command::new("/usr/bin/crun").args(delete).status().unwrap().success());
}
