//! Waiting for something to become true, with a deadline: the tests never sleep for a fixed time.
//!
//! Whatever waits says for what ([`note`]), so that a test that hangs can be asked.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{current, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What is waited for now, in the order in which it began: the thread's name, and what.
static WAITING: Mutex<BTreeMap<u64, (String, String)>> = Mutex::new(BTreeMap::new());

/// The thread that made it waits for something, until it is dropped.
#[derive(Debug)]
pub struct Note(u64);

/// This thread waits for `what` for as long as the note lives.
#[must_use]
pub fn note(what: impl Into<String>) -> Note {
    let mut waiting = waiting();
    let number = waiting.last_key_value().map_or(0, |(last, _)| last + 1);
    let thread = current().name().unwrap_or("a thread of its own").to_owned();
    waiting.insert(number, (thread, what.into()));
    Note(number)
}

impl Drop for Note {
    fn drop(&mut self) {
        waiting().remove(&self.0);
    }
}

/// What the thread of that name waits for, and what those without a name do.
pub fn waits_of(thread: &str) -> Vec<String> {
    let waiting = waiting();
    let own = waiting.values().filter(|(name, _)| name == thread);
    let nameless = waiting.values().filter(|(name, _)| name == "a thread of its own");
    own.chain(nameless).map(|(name, what)| format!("{name}: {what}")).collect()
}

fn waiting() -> MutexGuard<'static, BTreeMap<u64, (String, String)>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of a process, which are named after their tests, and where in the kernel each waits:
/// a line each (proc(5): `comm`, `wchan`, `syscall`).
pub fn tasks(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = tasks.map(|task| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, place, call) = (read("comm"), read("wchan"), read("syscall"));
        format!("    {}: in {}, system call {}\n", name.trim(), place.trim(), call.trim())
    });
    told.collect()
}

/// Looks again and again until `look` gives a value; `what` names it in the error.
///
/// # Errors
/// When `limit` passed without one, with the last reason that `look` gave.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let _note = note(what);
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= deadline => {
                bail!("{what}: not within {limit:?}: {reason:#}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_says_for_what() {
        let thread = std::thread::Builder::new().name("waiting-test".to_owned());
        let (entered, go_on) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            let waits = || {
                let _outer = note("the outer");
                let _inner = note("the inner");
                entered.wait();
                go_on.wait();
            };
            thread.spawn_scoped(scope, waits).expect("a thread");
            entered.wait();
            let own = |all: Vec<String>| {
                all.into_iter().filter(|what| what.starts_with("waiting-test")).collect::<Vec<_>>()
            };
            let told = own(waits_of("waiting-test"));
            go_on.wait();
            assert_eq!(told, ["waiting-test: the outer", "waiting-test: the inner"]);
        });
        assert!(waits_of("waiting-test").iter().all(|what| !what.starts_with("waiting-test")));
    }
}
