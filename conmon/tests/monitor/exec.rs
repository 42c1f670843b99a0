//! Processes started in a running container.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use conmon::{Reply, Request};

use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::Container;
use crate::waiting::{PATIENCE, eventually, is_alive, processes_with, unique_seconds};
use crate::with_each_runtime;

with_each_runtime! {
    an_exec_has_its_streams_and_its_exit_code
    an_exec_that_ends_at_once_has_its_exit_code
    a_client_that_goes_away_takes_its_exec_and_all_its_children_along
    a_kill_is_answered_when_nothing_of_the_exec_is_left
    a_child_left_behind_lives_on_after_an_ordinary_end
    a_command_that_cannot_be_started_is_a_failure
    the_end_of_the_container_is_the_end_of_its_execs
    execs_run_side_by_side
}

fn sleeper(runtime: Runtime) -> Container {
    Container::run(Wish::script(runtime, "exec sleep 1000"))
}

/// An exec under way, and the read ends of its output.
struct Exec {
    client: Client,
    stdout: File,
    stderr: File,
}

impl Exec {
    fn start(container: &Container, script: &str) -> Exec {
        let request = container.exec_request(script, PATIENCE);
        Exec::send(container, &request)
    }

    fn send(container: &Container, request: &Request) -> Exec {
        let null = File::open("/dev/null").unwrap();
        let (stdout, out) = pipe();
        let (stderr, err) = pipe();
        let mut client = Client::connect(&container.dir);
        client.send_with_fds(request, &[null.as_fd(), out.as_fd(), err.as_fd()]);
        Exec { client, stdout, stderr }
    }

    fn started(&mut self) -> i32 {
        match self.client.receive() {
            Some(Reply::ExecStarted { pid }) => pid,
            other => panic!("{other:?}: {}", self.said()),
        }
    }

    fn exited(&mut self) -> u8 {
        match self.client.receive() {
            Some(Reply::ExecExited { code, at_ns }) if at_ns > 0 => code,
            other => panic!("{other:?}"),
        }
    }

    fn failed(&mut self) -> String {
        match self.client.receive() {
            Some(Reply::Failed { message }) => message,
            other => panic!("{other:?}"),
        }
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        said
    }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (File::from(read), write)
}

fn an_exec_has_its_streams_and_its_exit_code(runtime: Runtime) {
    let container = sleeper(runtime);
    let mut exec = Exec::start(&container, "cat; echo out; echo err >&2; exit 3");
    assert!(exec.started() > 1);
    assert_eq!(exec.exited(), 3);
    let mut out = String::new();
    exec.stdout.read_to_string(&mut out).unwrap();
    assert_eq!((out.as_str(), exec.said().as_str()), ("out\n", "err\n"));
    assert!(container.log_lines().is_empty(), "an exec's output is not in the log");
    // One exec a connection, and one connection an exec.
    let again = exec.client.refused(&container.exec_request("true", PATIENCE));
    assert!(again.contains("three descriptors"), "{again}");
    let mut exec = Exec::start(&container, "kill -TERM $$; sleep 1000");
    exec.started();
    assert_eq!(exec.exited(), 143);
}

fn an_exec_that_ends_at_once_has_its_exit_code(runtime: Runtime) {
    let container = sleeper(runtime);
    for _ in 0..10 {
        let mut exec = Exec::start(&container, "exit 5");
        exec.started();
        assert_eq!(exec.exited(), 5);
    }
}

fn a_client_that_goes_away_takes_its_exec_and_all_its_children_along(runtime: Runtime) {
    let container = sleeper(runtime);
    let mark = unique_seconds();
    let script = format!("sleep {mark} & (sleep {mark} &); sleep {mark}; true");
    let mut exec = Exec::start(&container, &script);
    let pid = exec.started();
    eventually("all three run", || processes_with(&mark).len() == 3);
    drop(exec);
    eventually("the exec is gone", || !is_alive(pid) && processes_with(&mark).is_empty());
    assert!(is_alive(container.pid));
}

fn a_kill_is_answered_when_nothing_of_the_exec_is_left(runtime: Runtime) {
    let container = sleeper(runtime);
    let mark = unique_seconds();
    let script = format!("sleep {mark} & trap '' TERM; sleep {mark}; true");
    let mut exec = Exec::start(&container, &script);
    let pid = exec.started();
    eventually("both run", || processes_with(&mark).len() == 2);
    exec.client.send(&Request::Kill);
    assert_eq!(exec.exited(), 137);
    assert!(!is_alive(pid) && processes_with(&mark).is_empty());
    assert!(exec.client.refused(&Request::Kill).contains("no exec"));
}

fn a_child_left_behind_lives_on_after_an_ordinary_end(runtime: Runtime) {
    let container = sleeper(runtime);
    let mark = unique_seconds();
    let script = format!("sleep {mark} & exit 0");
    let mut exec = Exec::start(&container, &script);
    exec.started();
    assert_eq!(exec.exited(), 0);
    eventually("it runs", || processes_with(&mark).len() == 1);
    let left = processes_with(&mark);
    // The daemon may want it gone all the same.
    assert_eq!(exec.client.ask(&Request::Kill), Reply::Ok);
    assert!(!is_alive(left[0]));
}

fn a_command_that_cannot_be_started_is_a_failure(runtime: Runtime) {
    let container = sleeper(runtime);
    let mut request = container.exec_request("true", PATIENCE);
    if let Request::Exec { argv, .. } = &mut request {
        argv.last_mut().unwrap().extend_from_slice(b"-which-does-not-exist");
    }
    let mut exec = Exec::send(&container, &request);
    assert!(exec.failed().starts_with("the runtime ended with status "));
    assert!(!exec.said().is_empty(), "the runtime's words are the daemon's to read");
}

fn the_end_of_the_container_is_the_end_of_its_execs(runtime: Runtime) {
    let container = sleeper(runtime);
    let mut exec = Exec::start(&container, "exec sleep 1000");
    exec.started();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(container.pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(exec.exited(), 137);
    assert_eq!(container.wait_for_exit().code, 137);
    assert_eq!(Exec::start(&container, "true").failed(), "the container does not run");
}

fn execs_run_side_by_side(runtime: Runtime) {
    let container = sleeper(runtime);
    let mut execs: Vec<(u8, Exec)> =
        (0..8).map(|code| (code, Exec::start(&container, &format!("exit {code}")))).collect();
    for (code, exec) in &mut execs {
        exec.started();
        assert_eq!(exec.exited(), *code);
    }
}

#[test]
fn a_runtime_that_does_not_start_the_process_in_time_is_killed() {
    let container = sleeper(Runtime::Crun);
    let mark = unique_seconds();
    let script = format!("setsid sleep {mark} & sleep {mark}; true");
    let request = Request::Exec {
        argv: ["/bin/sh", "-c", &script].map(|argument| argument.as_bytes().to_vec()).to_vec(),
        pid_file: container.shared("none"),
        timeout: Duration::from_millis(300),
    };
    let mut exec = Exec::send(&container, &request);
    assert_eq!(exec.failed(), "the runtime did not start the process in time");
    assert_eq!(processes_with(&mark), []);
    // The same by the client's leaving.
    let exec = Exec::send(&container, &request);
    eventually("it runs", || processes_with(&mark).len() == 2);
    drop(exec);
    eventually("it is gone", || processes_with(&mark).is_empty());
}

#[test]
fn an_exec_without_its_descriptors_is_refused() {
    let container = sleeper(Runtime::Crun);
    let request = container.exec_request("true", PATIENCE);
    let message = Client::connect(&container.dir).refused(&request);
    assert_eq!(message, "an exec comes with three descriptors");
    let null = File::open("/dev/null").unwrap();
    let mut client = Client::connect(&container.dir);
    client.send_with_fds(&request, &[null.as_fd(), null.as_fd()]);
    assert!(matches!(client.receive(), Some(Reply::Failed { .. })));
    let mut client = Client::connect(&container.dir);
    client.send_with_fds(&request, &[null.as_fd(); 4]);
    client.receive();
    let monitor = container.monitor.id();
    eventually("no descriptor stays open", || {
        let fds = std::fs::read_dir(format!("/proc/{monitor}/fd")).unwrap();
        let null = |fd: &std::fs::DirEntry| {
            std::fs::read_link(fd.path())
                .is_ok_and(|path| path == std::path::Path::new("/dev/null"))
        };
        // Standard input and, after the report, standard output.
        fds.filter_map(Result::ok).filter(null).count() == 2
    });
}
