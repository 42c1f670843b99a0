//! Creates that fail: the report says why, and nothing is left alive.

use std::fs;
use std::time::Duration;

use conmon::{PID, Reply};

use crate::bundle::{Runtime, Wish};
use crate::container::Plan;
use crate::waiting::{DEADLINES, processes_with, unique_seconds};
use crate::with_each_runtime;

with_each_runtime! {
    a_runtime_that_fails_is_quoted
}

/// Launches a plan that must fail, and returns the message.
fn failure(plan: &Plan) -> String {
    let (mut monitor, reply) = plan.launch();
    assert_eq!(monitor.wait().unwrap().code(), Some(1));
    match reply {
        Reply::Failed { message } => message,
        other => panic!("{other:?}"),
    }
}

/// A plan whose runtime is a shell script.
fn with_fake_runtime(script: &str) -> Plan {
    let mut plan = Plan::new(Wish::script(Runtime::Crun, "true"));
    plan.launch.runtime = ["/bin/sh", "-c", script].map(Into::into).to_vec();
    plan
}

fn a_runtime_that_fails_is_quoted(runtime: Runtime) {
    let mut plan = Plan::new(Wish::script(runtime, "true"));
    fs::remove_dir_all(plan.bundle.path("rootfs")).unwrap();
    let message = failure(&plan);
    assert!(message.starts_with("the runtime ended with status 1: "), "{message}");
    assert!(message.contains("rootfs"), "{message}");
    plan.launch.runtime[0] = "/nonexistent".into();
    fs::remove_dir_all(&plan.launch.dir).unwrap();
    fs::create_dir(&plan.launch.dir).unwrap();
    assert_eq!(failure(&plan), "start /nonexistent: No such file or directory (os error 2)");
}

#[test]
fn only_the_last_words_of_a_talkative_runtime_are_quoted() {
    let message =
        failure(&with_fake_runtime("yes 0123456 | head -c 1000000 >&2; echo end >&2; exit 9"));
    assert!(message.starts_with("the runtime ended with status 9: "), "{}", &message[..100]);
    assert!(message.ends_with("0123456\nend"));
    assert!((4000..4200).contains(&message.len()));
}

#[test]
fn a_runtime_that_takes_too_long_is_killed_with_all_it_has_started() {
    for millis in DEADLINES {
        let mark = unique_seconds();
        let script = format!("setsid sleep {mark} & echo waiting >&2; sleep {mark}; true");
        let mut plan = with_fake_runtime(&script);
        plan.launch.create_timeout = Duration::from_millis(millis);
        let message = failure(&plan);
        assert_eq!(processes_with(&mark), []);
        let expected = format!("the runtime did not create the container within {millis} ms");
        assert!(message.starts_with(&expected), "{message}");
        if message == format!("{expected}: waiting") {
            return;
        }
    }
    panic!("the runtime never came to say that it waits");
}

#[test]
fn a_pid_that_is_no_child_is_not_believed() {
    for (said, expected) in [
        (std::process::id().to_string(), "which is no child"),
        ("1".to_owned(), "not a pid"),
        ("-1".to_owned(), "not a pid"),
        ("0".to_owned(), "not a pid"),
        ("12 13".to_owned(), "not a pid"),
        (String::new(), "not a pid"),
        ("99999999999999".to_owned(), "not a pid"),
    ] {
        let mut plan = with_fake_runtime("");
        let script = format!("printf %s '{said}' > {}", plan.launch.dir.join(PID).display());
        plan.launch.runtime[2] = script.into();
        let message = failure(&plan);
        assert!(message.contains(expected), "{said}: {message}");
    }
    let message = failure(&with_fake_runtime("true"));
    assert!(message.ends_with("No such file or directory (os error 2)"), "{message}");
}

#[test]
fn a_process_that_ends_before_the_runtime_does_is_no_failure() {
    let mut plan = with_fake_runtime("");
    let pid = plan.launch.dir.join(PID);
    // An orphan that ends once it is one; the runtime waits until the monitor has reaped it.
    let script = format!(
        "sh -c '(while kill -0 $$; do sleep 0.01; done; exit 6) & echo $! > {0}' 2>/dev/null; \
         while kill -0 $(cat {0}); do sleep 0.01; done 2>/dev/null",
        pid.display()
    );
    plan.launch.runtime[2] = script.into();
    let container = plan.create();
    assert_eq!(container.wait_for_exit().code, 6);
}

/// A runtime that has let its container go, and speak, before it ends with `status` itself.
fn with_restoring_runtime(words: &str, status: u8) -> Plan {
    let mut plan = with_fake_runtime("");
    plan.launch.restore = true;
    let pid = plan.launch.dir.join(PID);
    // The orphan's output is in the pipe before the runtime ends, and more comes after it.
    let script = format!(
        "printf '%s' '{words}' >&2; \
         sh -c '(echo early; echo > {0}.spoken; while kill -0 $$; do sleep 0.01; done; echo late) \
            & echo $! > {0}' 2>/dev/null; \
         while [ ! -e {0}.spoken ]; do sleep 0.01; done; exit {status}",
        pid.display()
    );
    plan.launch.runtime[2] = script.into();
    plan
}

#[test]
fn what_a_restored_container_writes_before_the_runtime_ends_is_in_its_log() {
    let plan = with_restoring_runtime("", 0);
    let log = plan.launch.log.clone().unwrap();
    let container = plan.create();
    assert_eq!(container.wait_for_exit().code, 0);
    let text = fs::read_to_string(log).unwrap();
    let words: Vec<_> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["early", "late"]);
}

#[test]
fn a_restore_that_fails_is_quoted_like_a_create() {
    let plan = with_restoring_runtime("no images", 1);
    let message = failure(&plan);
    assert!(message.starts_with("the runtime ended with status 1: early\n"), "{message}");
    assert!(message.ends_with("\nno images"), "{message}");
    assert_eq!(fs::read_to_string(plan.launch.log.unwrap()).unwrap(), "");
}

#[test]
fn a_log_that_cannot_be_opened_fails_the_create_before_the_runtime_starts() {
    let plan = with_fake_runtime("echo started > /proc/self/cwd/never");
    fs::remove_dir_all(plan.bundle.path("logs")).unwrap();
    let message = failure(&plan);
    assert!(message.starts_with("open log ") && message.contains("No such file"), "{message}");
}

#[test]
fn a_directory_that_another_monitor_uses_is_refused() {
    let first = Plan::new(Wish::script(Runtime::Crun, "exec sleep 1000"));
    let mut second = Plan::new(Wish::script(Runtime::Crun, "true"));
    second.launch.dir = first.launch.dir.clone();
    let container = first.create();
    assert_eq!(failure(&second), "bind attach: Address already in use (os error 98)");
    container.start();
}

#[test]
fn a_runtime_that_sends_no_terminal_is_refused() {
    let mut plan = with_fake_runtime("true");
    plan.launch.terminal = true;
    assert_eq!(failure(&plan), "the runtime has sent no terminal");
}
