//! Waiting for a condition instead of for a time, and looking at processes.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Far more than anything takes on a busy machine; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Deadlines in milliseconds, shortest first, for a test of what happens when one passes: the first
/// that left the other side the time to get where it is to be met. A busy machine needs a longer one.
pub(crate) const DEADLINES: [u64; 3] = [300, 3_000, 30_000];

/// Waits until `done`, and fails the test with `what` if that never comes.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Whether a process exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("Z", |(_, fields)| &fields[..1]);
    !matches!(state, "Z" | "X")
}

/// The living processes that have `mark` on their command line.
pub(crate) fn processes_with(mark: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.any(|argument| argument == mark.as_bytes()).then_some(pid)
    });
    pids.filter(|pid| is_alive(*pid)).collect()
}

/// One line of /proc/PID/status, without its name.
pub(crate) fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// A number that no other test of this process has.
fn count() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A string that no other test, in whatever process, has.
pub(crate) fn unique() -> String {
    format!("conmon-test-{}-{}", std::process::id(), count())
}

/// A time to sleep that no other test, in whatever process, sleeps: the mark of a process.
pub(crate) fn unique_seconds() -> String {
    format!("1{:08}.{:04}", std::process::id(), count())
}
