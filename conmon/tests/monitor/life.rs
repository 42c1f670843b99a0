//! How containers end, and what the monitor knows of it, keeps and tells.

use std::fs;

use conmon::{Reply, Request};
use rustix::process::Signal;

use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::{Container, Plan, children};
use crate::tmpfs::Tmpfs;
use crate::waiting::{eventually, is_alive, kill, processes_with, status_field, unique_seconds};
use crate::with_each_runtime;

with_each_runtime! {
    an_exit_code_is_told_kept_and_written
    a_container_ended_by_a_signal_has_128_plus_its_number
    a_kill_for_want_of_memory_is_told_from_an_ordinary_kill
    a_container_killed_before_its_start_has_its_code
    nothing_of_the_monitor_leaks_into_the_container
    children_that_hold_the_pipes_do_not_delay_the_exit
}

fn an_exit_code_is_told_kept_and_written(runtime: Runtime) {
    let mut container = Plan::new(Wish::script(runtime, "exit 7")).create();
    let (mut client, state) = Client::subscribe(&container.dir);
    let (pid, start_time) = (container.pid, container.start_time);
    assert_eq!(state, Reply::State { pid, start_time, exit: None });
    assert!(client.refused(&Request::TakeExit).contains("not ended"));
    assert!(container.log.exists(), "the log exists before the container is started");
    container.start();
    let exit = client.exited();
    assert_eq!((exit.code, exit.oom_killed, exit.lost_bytes), (7, false, 0));
    assert_eq!(container.exit_file(), exit);
    drop(client);
    // A daemon that was away asks later, more than once.
    for _ in 0..2 {
        let state = Client::subscribe(&container.dir).1;
        assert_eq!(state, Reply::State { pid, start_time, exit: Some(exit) });
    }
    assert_eq!(container.take_exit().code(), Some(0));
    assert!(Client::try_connect(&container.dir).is_err());
}

fn a_container_ended_by_a_signal_has_128_plus_its_number(runtime: Runtime) {
    let container = Container::run(Wish::script(runtime, "exec sleep 1000"));
    kill(container.pid, Signal::KILL);
    let exit = container.wait_for_exit();
    assert_eq!((exit.code, exit.oom_killed), (137, false));
}

fn a_kill_for_want_of_memory_is_told_from_an_ordinary_kill(runtime: Runtime) {
    let mut wish = Wish::script(runtime, "exec tail /dev/zero");
    wish.memory_limit = Some(24 * 1024 * 1024);
    let container = Container::run(wish);
    let exit = container.wait_for_exit();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    assert_eq!(container.exit_file(), exit);
}

fn a_container_killed_before_its_start_has_its_code(runtime: Runtime) {
    let container = Plan::new(Wish::script(runtime, "exit 0")).create();
    kill(container.pid, Signal::KILL);
    assert_eq!(container.wait_for_exit().code, 137);
}

fn nothing_of_the_monitor_leaks_into_the_container(runtime: Runtime) {
    let script = "cat /proc/self/status /proc/self/oom_score_adj; \
                  ls /proc/self/fd >&2; touch x 2>/dev/null; umask";
    let container = Container::run(Wish::script(runtime, script));
    container.wait_for_exit();
    let output = container.output("stdout");
    assert_eq!(status_field(&output, "SigBlk"), "0000000000000000");
    // Static glibc ignores its internal signals, from 32 on.
    let ignored = u64::from_str_radix(&status_field(&output, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert!(output.contains(&format!("\n{}\n0022\n", own.trim())), "{output}");
    // 0, 1 and 2, and the directory that ls itself reads.
    assert_eq!(container.output("stderr").lines().count(), 4, "{}", container.output("stderr"));
}

fn children_that_hold_the_pipes_do_not_delay_the_exit(runtime: Runtime) {
    let mark = unique_seconds();
    let script = format!("sleep {mark} & echo last words; exit 3");
    let mut wish = Wish::script(runtime, &script);
    wish.own_pids = false;
    let container = Container::run(wish);
    // The child sleeps for far longer than anything here is waited for.
    assert_eq!(container.wait_for_exit().code, 3);
    assert_eq!(container.output("stdout"), "last words\n");
    eventually("the child holds the pipes", || processes_with(&mark).len() == 1);
    for pid in processes_with(&mark) {
        kill(pid, Signal::KILL);
    }
}

#[test]
fn a_monitor_is_not_ended_by_signals_nor_by_the_daemon_going_away() {
    let container = Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"));
    let monitor = i32::try_from(container.monitor.id()).unwrap();
    let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE, Signal::QUIT];
    for signal in signals.into_iter().chain([Signal::USR1, Signal::ALARM, Signal::TSTP]) {
        kill(monitor, signal);
    }
    for _ in 0..3 {
        assert!(matches!(Client::subscribe(&container.dir).1, Reply::State { exit: None, .. }));
    }
    assert!(is_alive(monitor));
}

#[test]
fn the_exit_record_is_written_though_the_file_system_is_full() {
    let plan = Plan::new(Wish::script(Runtime::Crun, "exec sleep 1000"));
    let disk = Tmpfs::mount("size=64k");
    let dir = disk.path("monitor");
    let mut container = plan.with_dir(dir.clone()).create();
    container.start();
    let mut ballast = fs::File::create(dir.join("ballast")).unwrap();
    std::io::copy(&mut std::io::repeat(0), &mut ballast).unwrap_err();
    kill(container.pid, Signal::KILL);
    assert_eq!(container.wait_for_exit().code, 137);
    assert_eq!(container.exit_file().code, 137);
    assert!(container.take_exit().success());
}

#[test]
fn an_exit_is_kept_though_the_monitor_directory_is_gone() {
    let container = Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"));
    let (mut client, _) = Client::subscribe(&container.dir);
    fs::remove_dir_all(&container.dir).unwrap();
    kill(container.pid, Signal::KILL);
    assert_eq!(client.exited().code, 137);
    assert_eq!(client.ask(&Request::TakeExit), Reply::Ok);
}

#[test]
fn the_path_of_the_monitor_directory_may_be_longer_than_that_of_a_socket() {
    let plan = Plan::new(Wish::script(Runtime::Crun, "exit 5"));
    let dir = plan.bundle.path(&"x".repeat(150));
    let container = plan.with_dir(dir).create();
    container.start();
    assert_eq!(container.wait_for_exit().code, 5);
}

#[test]
fn orphans_of_a_container_without_a_pid_namespace_are_reaped() {
    let mut wish = Wish::script(Runtime::Crun, "(sleep 0.1 &); exec sleep 1000");
    wish.own_pids = false;
    let container = Container::run(wish);
    // Besides the container's init and the reader.
    let children = || children(container.monitor.id()).len();
    eventually("the orphan came to the monitor", || children() == 3);
    eventually("the orphan is reaped", || children() == 2);
}

#[test]
fn the_standard_input_stays_open_until_it_is_closed() {
    let mut plan = Plan::new(Wish::script(Runtime::Crun, "cat; echo end; exec sleep 1000"));
    plan.launch.stdin = true;
    let container = plan.create();
    container.start();
    let mut client = Client::connect(&container.dir);
    assert_eq!(container.output("stdout"), "");
    assert_eq!(client.ask(&Request::CloseStdin), Reply::Ok);
    container.wait_for_output("end\n");
}
