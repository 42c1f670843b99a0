//! What every slow request is doing right now: named steps with their age.
//!
//! An [`Operation`] stands for one piece of work; entering a step is a store under a short lock.
//! `Status` shows the list, and a step that takes longer than ten seconds is logged once, so that
//! "where does it hang" has an answer without a restart.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

pub mod again;

pub use again::Again;

/// A step older than this is logged.
const SLOW: Duration = Duration::from_secs(10);

/// How often steps are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// All work in flight.
#[derive(Clone, Default)]
pub struct Operations(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, Entry>,
}

struct Entry {
    verb: &'static str,
    subject: String,
    step: &'static str,
    began: Instant,
    entered: Instant,
    told: bool,
}

/// One piece of work in flight, as shown to people.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What is being done.
    pub verb: &'static str,
    /// To what.
    pub subject: String,
    /// The step it is in.
    pub step: &'static str,
    /// Since the work began.
    pub took: Duration,
}

/// One piece of work; it leaves the table when dropped.
pub struct Operation {
    table: Operations,
    key: u64,
}

impl Operations {
    /// Work `verb` on `subject` begins.
    pub fn begin(&self, verb: &'static str, subject: impl ToString) -> Operation {
        let mut table = self.lock();
        let key = table.next;
        table.next += 1;
        let now = Instant::now();
        let subject = subject.to_string();
        let entry = Entry { verb, subject, step: "begin", began: now, entered: now, told: false };
        table.running.insert(key, entry);
        drop(table);
        Operation { table: self.clone(), key }
    }

    /// Everything in flight, oldest first.
    pub fn snapshot(&self) -> Vec<Progress> {
        self.lock().running.values().map(Entry::progress).collect()
    }

    /// Logs slow steps, each once, for as long as the daemon lives.
    pub async fn tell_slow_steps(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let slow: Vec<Progress> = self
                .lock()
                .running
                .values_mut()
                .filter(|entry| !entry.told && entry.entered.elapsed() > SLOW)
                .map(|entry| {
                    entry.told = true;
                    entry.progress()
                })
                .collect();
            for Progress { verb, subject, step, took } in slow {
                tracing::warn!(verb, subject, step, took_ms = took.as_millis(), "slow step");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn progress(&self) -> Progress {
        Progress {
            verb: self.verb,
            subject: self.subject.clone(),
            step: self.step,
            took: self.began.elapsed(),
        }
    }
}

impl Operation {
    /// The work enters a step.
    pub fn step(&self, step: &'static str) {
        let mut table = self.table.lock();
        if let Some(entry) = table.running.get_mut(&self.key) {
            tracing::debug!(
                verb = entry.verb,
                subject = entry.subject,
                step = entry.step,
                took_us = entry.entered.elapsed().as_micros(),
                "step done"
            );
            entry.step = step;
            entry.entered = Instant::now();
            entry.told = false;
        }
    }

    /// The step the work is in.
    pub fn current(&self) -> &'static str {
        self.table.lock().running.get(&self.key).map_or("ended", |entry| entry.step)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.step("end");
        self.table.lock().running.remove(&self.key);
    }
}

/// Runs `work` as a task of its own that outlives its caller; a panic in it is logged by name.
pub fn spawn<F>(name: &'static str, work: F) -> tokio::task::JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // Adapters hold the work once; an async block around it holds it twice, and a second task a third
    // time, for as long as it runs. Owners run for as long as what they own.
    tokio::spawn(AssertUnwindSafe(work).catch_unwind().map(move |done| {
        if done.is_err() {
            tracing::error!(task = name, "a task panicked");
        }
        done.ok()
    }))
}

/// Runs blocking `work` off the reactor and waits for it.
///
/// # Panics
/// Resumes a panic of `work`.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(output) => output,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await, // The runtime is going down.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_flight_is_listed_with_its_step_until_it_is_dropped() {
        let operations = Operations::default();
        let first = operations.begin("create", "a");
        first.step("rootfs");
        let second = operations.begin("stop", "b");
        let shown: Vec<_> = operations.snapshot().into_iter().map(|p| (p.verb, p.step)).collect();
        assert_eq!(shown, [("create", "rootfs"), ("stop", "begin")]);
        drop((first, second));
        assert!(operations.snapshot().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_without_a_result() {
        let done = spawn("well", async { 1 }).await;
        assert_eq!(done.expect("not aborted"), Some(1));
        let panicked = spawn("badly", async { panic!("on purpose") }).await;
        assert_eq!(panicked.expect("its panic is caught"), None::<()>);
    }
}
