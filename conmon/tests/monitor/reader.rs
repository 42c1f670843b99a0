//! The reader: what it may do, and what becomes of a container whose reader is killed or does nothing.

use std::collections::BTreeMap;
use std::fs;

use conmon::{Reply, Request};
use rustix::process::Signal;

use crate::attached::{Attached, Heard};
use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::{Container, Plan};
use crate::waiting::{eventually, is_alive, kill, status_field};
use crate::with_each_runtime;

with_each_runtime! {
    a_reader_has_no_rights_few_system_calls_and_only_what_it_reads
    a_reader_that_is_killed_costs_no_exit_code_and_what_it_held_alone
    a_terminal_goes_on_with_another_reader
}

fn sleeper() -> Container {
    Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"))
}

/// Waits for another reader than that.
fn next_reader(container: &Container, before: i32) -> i32 {
    let mut reader = before;
    eventually("another reader", || {
        reader = container.reader();
        reader != before
    });
    reader
}

/// What a process has open, by how many: files by their paths, the rest by their kinds.
fn open_files(pid: i32) -> BTreeMap<String, usize> {
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap().display().to_string();
        // `pipe:[INODE]`, `anon_inode:[eventpoll]`.
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
        *open.entry(kind.to_owned()).or_default() += 1;
    }
    open
}

fn a_reader_has_no_rights_few_system_calls_and_only_what_it_reads(runtime: Runtime) {
    let mut plan = Plan::new(Wish::script(runtime, "cat"));
    plan.launch.stdin = true;
    let container = plan.create();
    container.start();
    let mut client = Attached::with_input(&container.dir);
    let look = |pid: i32, clients: usize| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_field(&status, set), "0".repeat(16), "{set}");
        }
        assert_eq!(status_field(&status, "NoNewPrivs"), "1");
        assert_eq!(status_field(&status, "Seccomp"), "2");
        assert_eq!(status_field(&status, "Threads"), "1");
        let log = container.log.display().to_string();
        let expected = [("/dev/null", 3), ("anon_inode", 1), (log.as_str(), 1)];
        // Two outputs and an input; the keeper, the attach socket and the clients.
        let more = [("pipe", 3), ("socket", 2 + clients)];
        let expected = expected.into_iter().chain(more).map(|(name, n)| (name.to_owned(), n));
        assert_eq!(open_files(pid), expected.collect());
    };
    let first = container.reader();
    client.say(b"one\n");
    client.wait_for("one\n");
    // Clients hear it before the log has it.
    container.wait_for_output("one\n");
    look(first, 1);
    kill(first, Signal::KILL);
    let second = next_reader(&container, first);
    // It was started by a keeper that had given up rights before.
    look(second, 0);
    assert_eq!(client.all().last, Heard::Lost);
    let mut client = Attached::with_input(&container.dir);
    client.say(b"two\n");
    client.wait_for("two\n");
    container.wait_for_output("one\ntwo\n");
    assert_eq!(Client::connect(&container.dir).ask(&Request::CloseStdin), Reply::Ok);
    assert_eq!(container.wait_for_exit().code, 0);
}

fn a_reader_that_is_killed_costs_no_exit_code_and_what_it_held_alone(runtime: Runtime) {
    // Lines of ten bytes.
    let script = "i=100000000; while [ ! -e /shared/stop ]; do echo $i; i=$((i+1)); done; \
                  echo $i > /shared/count; exit 7";
    let mut container = Container::run(Wish::script(runtime, script));
    let size = || fs::metadata(&container.log).unwrap().len();
    let mut reader = container.reader();
    for _ in 0..3 {
        let before = size();
        eventually("the log grows", || size() > before + 100_000);
        kill(reader, Signal::KILL);
        reader = next_reader(&container, reader);
    }
    let before = size();
    eventually("the log grows again", || size() > before);
    fs::write(container.shared("stop"), "").unwrap();
    let exit = container.wait_for_exit();
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    assert_eq!(container.exit_file(), exit);
    let count: u64 = fs::read_to_string(container.shared("count")).unwrap().trim().parse().unwrap();
    let written = (count - 100_000_000) * 10;
    let text = fs::read_to_string(&container.log).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(" stdout F ")).map(|(_, it)| it);
    let whole: Vec<u64> = lines.filter(|it| it.len() == 9).map(|it| it.parse().unwrap()).collect();
    assert!(whole.is_sorted(), "lines are out of order, or doubled");
    assert_eq!(*whole.last().unwrap(), count - 1);
    let missing = written - whole.len() as u64 * 10;
    // Of each of the torn lines, too, less than ten bytes may be there.
    assert!(missing <= exit.lost_bytes + 3 * 2 * 10, "{missing} bytes are missing: {exit:?}");
    assert!(exit.lost_bytes <= 3 * 80 * 1024, "a reader holds no more than a read: {exit:?}");
    assert!(container.take_exit().success());
    assert!(!is_alive(reader));
}

fn a_terminal_goes_on_with_another_reader(runtime: Runtime) {
    let script = "echo one; while [ \"$(stty size 2>/dev/null)\" != '40 120' ]; do sleep 0.02; done; \
                  stty size; read line; echo \"heard $line\"; exit 3";
    let mut plan = Plan::new(Wish { terminal: true, ..Wish::script(runtime, script) });
    plan.launch.stdin = true;
    let container = plan.create();
    container.start();
    container.wait_for_output("one\r\n");
    let first = container.reader();
    kill(first, Signal::KILL);
    next_reader(&container, first);
    let resize = Request::Resize { rows: 40, cols: 120 };
    assert_eq!(Client::connect(&container.dir).ask(&resize), Reply::Ok);
    container.wait_for_output("40 120\r\n");
    Attached::with_input(&container.dir).say(b"words\n");
    assert_eq!(container.wait_for_exit().code, 3);
    assert!(container.output("stdout").ends_with("heard words\r\n"));
}

#[test]
fn a_reader_ends_with_its_monitor() {
    let mut container = sleeper();
    let reader = container.reader();
    container.monitor.kill().unwrap();
    container.monitor.wait().unwrap();
    eventually("the reader is gone", || !is_alive(reader));
}

#[test]
fn a_reader_that_does_nothing_keeps_neither_the_exit_nor_requests() {
    let mut container = sleeper();
    let reader = container.reader();
    kill(reader, Signal::STOP);
    let clients: Vec<_> = (0..8).map(|_| Attached::connect(&container.dir)).collect();
    assert!(matches!(Client::subscribe(&container.dir).1, Reply::State { exit: None, .. }));
    let (mut client, _) = Client::subscribe(&container.dir);
    kill(container.pid, Signal::KILL);
    // The keeper waits for a log that is slow, but not for good.
    assert_eq!(client.exited().code, 137);
    assert_eq!(container.exit_file().code, 137);
    assert!(container.take_exit().success());
    assert!(!is_alive(reader));
    drop(clients);
}

#[test]
fn a_log_that_is_to_be_reopened_is_though_its_reader_is_killed() {
    let script = "echo one; while [ ! -e /shared/go ]; do sleep 0.02; done; echo two; exit 4";
    let container = Container::run(Wish::script(Runtime::Crun, script));
    container.wait_for_output("one\n");
    let reader = container.reader();
    kill(reader, Signal::STOP);
    let old = container.log.with_extension("old");
    fs::rename(&container.log, &old).unwrap();
    let mut client = Client::connect(&container.dir);
    client.send(&Request::ReopenLog);
    eventually("the new log is there", || container.log.exists());
    kill(reader, Signal::KILL);
    assert_eq!(client.receive(), Some(Reply::Ok));
    fs::write(container.shared("go"), "").unwrap();
    assert_eq!(container.wait_for_exit().code, 4);
    assert_eq!(container.output("stdout"), "two\n");
}

#[test]
fn who_keeps_killing_the_reader_keeps_nothing_else_from_working() {
    let container = sleeper();
    let mut reader = container.reader();
    for _ in 0..4 {
        kill(reader, Signal::KILL);
        assert!(matches!(Client::subscribe(&container.dir).1, Reply::State { exit: None, .. }));
        // Who attaches before the next one is there waits for it.
        let mut client = Attached::watch(&container.dir);
        reader = next_reader(&container, reader);
        kill(reader, Signal::KILL);
        assert_eq!(client.next(), Heard::Lost);
        reader = next_reader(&container, reader);
    }
    kill(container.pid, Signal::KILL);
    assert_eq!(container.wait_for_exit().code, 137);
}
