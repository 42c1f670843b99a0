//! Clients of the container's stdio: what they get, what they give, and that none is waited for.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;

use conmon::wire::attach::Hello;
use conmon::{ATTACH, Reply, Request, SOCKET};

use crate::attached::{Attached, Heard};
use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::{Container, Plan};
use crate::waiting::eventually;
use crate::with_each_runtime;

with_each_runtime! {
    all_who_are_attached_get_all_output_and_its_end
    who_comes_late_gets_what_comes_later
    input_of_one_client_after_another_reaches_the_container
    stdin_once_ends_the_input_with_the_first_client
    a_terminal_takes_input_and_a_size
}

/// A container with a standard input, not started.
fn with_stdin(runtime: Runtime, script: &str) -> Plan {
    let mut plan = Plan::new(Wish::script(runtime, script));
    plan.launch.stdin = true;
    plan
}

fn once(runtime: Runtime, script: &str) -> Container {
    let mut plan = with_stdin(runtime, script);
    plan.launch.stdin_once = true;
    let container = plan.create();
    container.start();
    container
}

/// Bytes in which a piece that is missing or out of place shows.
fn pattern(length: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_be_bytes).take(length).collect()
}

fn all_who_are_attached_get_all_output_and_its_end(runtime: Runtime) {
    let script = "echo out; echo err >&2; printf 'no newline'; exit 3";
    let container = Plan::new(Wish::script(runtime, script)).create();
    let mut clients = [(); 2].map(|()| Attached::watch(&container.dir));
    container.start();
    for client in &mut clients {
        let all = client.all();
        assert_eq!(
            (all.stdout.as_slice(), all.stderr.as_slice()),
            (&b"out\nno newline"[..], &b"err\n"[..])
        );
        assert_eq!(all.last, Heard::End);
        assert_eq!(client.next(), Heard::Lost, "nothing follows the end");
    }
    assert_eq!(container.wait_for_exit().code, 3);
    assert_eq!(container.output("stdout"), "out\nno newline");
}

fn who_comes_late_gets_what_comes_later(runtime: Runtime) {
    let script = "echo one; while [ ! -e /shared/go ]; do sleep 0.02; done; echo two";
    let mut container = Container::run(Wish::script(runtime, script));
    container.wait_for_output("one\n");
    let mut client = Attached::watch(&container.dir);
    fs::write(container.shared("go"), "").unwrap();
    let all = client.all();
    assert_eq!((all.stdout.as_slice(), all.last), (&b"two\n"[..], Heard::End));
    container.wait_for_exit();
    let all = Attached::greet(&container.dir, true, false).all();
    assert!(all.stdout.is_empty() && all.stderr.is_empty());
    assert_eq!(all.last, Heard::End);
    assert_eq!(container.take_exit().code(), Some(0));
}

fn input_of_one_client_after_another_reaches_the_container(runtime: Runtime) {
    let container = with_stdin(runtime, "cat; echo end").create();
    container.start();
    let mut watcher = Attached::watch(&container.dir);
    let mut first = Attached::with_input(&container.dir);
    first.say(b"first\n");
    assert_eq!(watcher.wait_for("first\n"), "first\n");
    assert_eq!(first.wait_for("first\n"), "first\n");
    // The end of a client's input is not that of the container's, and its output goes on.
    first.end_input();
    let mut second = Attached::with_input(&container.dir);
    second.say(b"second\n");
    for client in [&mut watcher, &mut first, &mut second] {
        assert_eq!(client.wait_for("second\n"), "second\n");
    }
    drop(second);
    let mut third = Attached::with_input(&container.dir);
    third.say(b"third\n");
    watcher.wait_for("third\n");
    assert_eq!(Client::connect(&container.dir).ask(&Request::CloseStdin), Reply::Ok);
    assert_eq!(watcher.all().stdout, b"end\n");
    assert_eq!(third.all().last, Heard::End);
    assert_eq!(container.wait_for_exit().code, 0);
}

fn stdin_once_ends_the_input_with_the_first_client(runtime: Runtime) {
    let container = once(runtime, "cat; echo end");
    let mut first = Attached::with_input(&container.dir);
    let mut second = Attached::with_input(&container.dir);
    second.say(b"second\n");
    first.wait_for("second\n");
    second.end_input();
    first.say(b"first\n");
    first.end_input();
    let all = first.all();
    assert_eq!((all.stdout.as_slice(), all.last), (&b"first\nend\n"[..], Heard::End));
    assert_eq!(container.wait_for_exit().code, 0);
    // A client that only looks on is not the first.
    let container = once(runtime, "cat; echo end");
    drop(Attached::watch(&container.dir));
    let mut first = Attached::with_input(&container.dir);
    first.say(b"here\n");
    first.wait_for("here\n");
    drop(first);
    assert_eq!(container.wait_for_exit().code, 0);
    assert_eq!(container.output("stdout"), "here\nend\n");
}

fn a_terminal_takes_input_and_a_size(runtime: Runtime) {
    let script = "read one; echo got $one; read two; echo got $two; \
                  while [ \"$(stty size 2>/dev/null)\" != '40 120' ]; do sleep 0.02; done; stty size; exit 5";
    let mut plan = with_stdin(runtime, script);
    plan.wish.terminal = true;
    let mut plan = Plan::new(plan.wish);
    (plan.launch.stdin, plan.launch.stdin_once) = (true, true);
    let container = plan.create();
    let mut client = Attached::with_input(&container.dir);
    container.start();
    client.say(b"red\n");
    assert!(client.wait_for("got red\r\n").starts_with("red\r\n"), "a terminal echoes");
    // A terminal's input never ends, whatever stdin_once says.
    drop(client);
    let mut client = Attached::with_input(&container.dir);
    client.say(b"blue\n");
    client.wait_for("got blue\r\n");
    let resize = Request::Resize { rows: 40, cols: 120 };
    assert_eq!(Client::connect(&container.dir).ask(&resize), Reply::Ok);
    let all = client.all();
    assert_eq!((all.stdout.as_slice(), all.last), (&b"40 120\r\n"[..], Heard::End));
    assert_eq!(container.wait_for_exit().code, 5);
}

#[test]
fn a_client_that_never_reads_holds_up_neither_container_nor_log() {
    const TOTAL: usize = 200 * 1024 * 1024;
    let script = "i=0; while [ $i -lt 200 ]; do cat /shared/mebibyte; i=$((i+1)); done; exit 9";
    let container = Plan::new(Wish::script(Runtime::Crun, script)).create();
    let mebibyte: Vec<u8> = b"0123456789abcde\n".repeat(65536);
    fs::write(container.shared("mebibyte"), &mebibyte).unwrap();
    let mut client = Attached::watch(&container.dir);
    let silent = Attached::watch(&container.dir);
    let (mut watcher, _) = Client::subscribe(&container.dir);
    container.start();
    eventually("the log grows", || fs::metadata(&container.log).unwrap().len() > 8 << 20);
    // What was put by for it comes whole, then the reason.
    let all = client.all();
    let Heard::Detached(why) = &all.last else { panic!("{:?}", all.last) };
    assert!(why.contains("does not keep up"), "{why}");
    assert!(all.stdout.len() >= 512 * 1024, "{} bytes", all.stdout.len());
    assert!(all.stdout.chunks(16).all(|line| b"0123456789abcde\n".starts_with(line)));
    let exit = watcher.exited();
    assert_eq!((exit.code, exit.lost_bytes), (9, 0));
    let lines = TOTAL / 16;
    assert_eq!(fs::metadata(&container.log).unwrap().len(), (lines * (40 + 16)) as u64);
    drop(silent);
}

#[test]
fn output_that_is_put_by_outlives_the_container_and_the_taking_of_its_exit() {
    let script = "cat /shared/output; exit 4";
    let mut container = Plan::new(Wish::script(Runtime::Crun, script)).create();
    let output = pattern(900_000);
    fs::write(container.shared("output"), &output).unwrap();
    let mut client = Attached::watch(&container.dir);
    container.start();
    assert_eq!(container.wait_for_exit().code, 4);
    assert_eq!(Client::connect(&container.dir).ask(&Request::TakeExit), Reply::Ok);
    let all = client.all();
    assert_eq!(all.last, Heard::End);
    assert!(all.stdout == output, "{} bytes of {}", all.stdout.len(), output.len());
    assert_eq!(container.monitor.wait().unwrap().code(), Some(0));
}

#[test]
fn a_container_that_does_not_read_holds_up_only_who_writes_to_it() {
    let script = "while [ ! -e /shared/go ]; do echo tick; sleep 0.02; done; cat > /shared/input";
    let container = once(Runtime::Crun, script);
    let input = pattern(4 << 20);
    let mut writer = Attached::with_input(&container.dir);
    let said = writer.say_what_goes(&input);
    assert!(said >= 64 * 1024 && said < input.len(), "{said}");
    // The loop runs on: others hear the container, and the daemon is answered.
    let mut watcher = Attached::watch(&container.dir);
    watcher.wait_for("tick\ntick\n");
    let mut second = Attached::with_input(&container.dir);
    second.wait_for("tick\n");
    assert!(matches!(Client::subscribe(&container.dir).1, Reply::State { exit: None, .. }));
    drop(second);
    // Even what a client wrote that has gone meanwhile arrives, and then the end.
    drop(writer);
    watcher.wait_for("tick\n");
    fs::write(container.shared("go"), "").unwrap();
    assert_eq!(container.wait_for_exit().code, 0);
    let arrived = fs::read(container.shared("input")).unwrap();
    assert!(arrived == input[..said], "{} bytes of {said}", arrived.len());
}

#[test]
fn input_of_any_size_arrives_whole() {
    let container = once(Runtime::Crun, "cat > /shared/input; echo done");
    let input = pattern(8 << 20);
    let mut writer = Attached::with_input(&container.dir);
    writer.say(&input);
    writer.end_input();
    assert_eq!(writer.all().stdout, b"done\n");
    assert!(fs::read(container.shared("input")).unwrap() == input);
    assert_eq!(container.wait_for_exit().code, 0);
}

#[test]
fn input_that_nobody_takes_is_refused() {
    let refused = |client: &mut Attached| {
        client.stream.write_all(b"x").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    let container = Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"));
    assert!(refused(&mut Attached::greet(&container.dir, true, false)), "there is no input");
    let container = once(Runtime::Crun, "exec 0<&-; echo closed; exec sleep 1000");
    container.wait_for_output("closed\n");
    assert!(refused(&mut Attached::watch(&container.dir)), "it has not asked for input");
    let mut client = Attached::with_input(&container.dir);
    client.say(b"into the void");
    eventually("the container's end is found closed", || refused(&mut client));
    assert!(refused(&mut Attached::greet(&container.dir, true, false)), "it is known by now");
}

#[test]
fn a_client_that_is_killed_is_missed_by_nobody() {
    let script = "while [ ! -e /shared/go ]; do echo tick; sleep 0.01; done; cat; exit 6";
    let container = with_stdin(Runtime::Crun, script).create();
    container.start();
    let mut watcher = Attached::watch(&container.dir);
    for _ in 0..40 {
        let mut client = Attached::with_input(&container.dir);
        client.say(b"x");
        watcher.wait_for("tick\n");
        // With output unread, which resets the connection.
        drop(client);
    }
    let mut last = Attached::with_input(&container.dir);
    fs::write(container.shared("go"), "").unwrap();
    last.say(b"\n");
    watcher.wait_for(&format!("{}\n", "x".repeat(40)));
    assert_eq!(Client::connect(&container.dir).ask(&Request::CloseStdin), Reply::Ok);
    assert_eq!(container.wait_for_exit().code, 6);
    assert_eq!(watcher.all().last, Heard::End);
}

#[test]
fn there_are_only_so_many_and_a_place_becomes_free() {
    let container = Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"));
    let mut clients: Vec<_> = (0..16).map(|_| Attached::watch(&container.dir)).collect();
    let Heard::Detached(why) = Attached::connect(&container.dir).next() else { panic!() };
    assert_eq!(why, "16 are attached");
    clients.pop();
    eventually("a place is free", || {
        let mut client = Attached::connect(&container.dir);
        client.stream.write_all(&Hello { input: false }.encode()).is_ok()
            && client.next() == Heard::Attached { input: false }
    });
}

#[test]
fn a_client_that_says_nonsense_is_told_so() {
    let container = Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"));
    for nonsense in
        [b"GET / ", b"\x02\0\0\0\x01\x02", b"\x02\0\0\0\x80\x01", b"\xff\xff\xff\xff\xff\xff"]
    {
        let mut client = Attached::connect(&container.dir);
        client.say(nonsense);
        assert!(matches!(client.next(), Heard::Detached(why) if why.contains("greeting")));
        assert_eq!(client.next(), Heard::Lost);
    }
    // One that hangs up within its greeting leaves nothing behind; one byte at a time is fine.
    Attached::connect(&container.dir).say(&[2, 0]);
    let mut client = Attached::connect(&container.dir);
    for byte in (Hello { input: false }).encode() {
        client.say(&[byte]);
    }
    assert_eq!(client.next(), Heard::Attached { input: false });
}

#[test]
fn who_waits_for_a_container_that_is_not_created_is_told() {
    let mut plan = Plan::new(Wish::script(Runtime::Crun, "true"));
    let go = plan.bundle.path("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; exit 1", go.display());
    plan.launch.runtime = ["/bin/sh", "-c", &script].map(Into::into).to_vec();
    let dir = plan.launch.dir.clone();
    let launched = std::thread::spawn(move || plan.launch());
    eventually("the monitor listens", || dir.join(SOCKET).exists());
    let mode = fs::metadata(dir.join(ATTACH)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Attached::watch(&dir);
    fs::write(go, "").unwrap();
    let Heard::Detached(why) = client.next() else { panic!() };
    assert!(why.contains("the runtime ended with status 1"), "{why}");
    let (mut monitor, reply) = launched.join().unwrap();
    assert!(matches!(reply, Reply::Failed { .. }));
    assert!(!monitor.wait().unwrap().success());
}

#[test]
fn nothing_is_left_of_clients_that_are_gone() {
    let script = "while [ ! -e /shared/go ]; do sleep 0.02; done; yes | head -c 3000000; exec cat";
    let container = with_stdin(Runtime::Crun, script).create();
    container.start();
    let reader = format!("/proc/{}", container.reader());
    let kibibytes = || {
        let text = fs::read_to_string(format!("{reader}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let descriptors = || fs::read_dir(format!("{reader}/fd")).unwrap().count();
    let before = (kibibytes(), descriptors());
    let clients: Vec<_> = (0..16).map(|_| Attached::with_input(&container.dir)).collect();
    fs::write(container.shared("go"), "").unwrap();
    eventually("much is put by for them", || kibibytes() > before.0 + 8 * 1024);
    drop(clients);
    eventually("their descriptors are closed", || descriptors() == before.1);
    // The allocator may keep a little, and the log's buffers are in use since.
    eventually("what was put by is given back", || kibibytes() < before.0 + 300);
}
