//! Runs the node tests one after the other on shared nodes, and prints what cargo's own runner
//! prints.
//!
//! Our own, because libtest runs tests side by side (two cores and a kernel full of namespaces make
//! that flaky) and has no place to take shared nodes down: statics are never dropped.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::interrupt::sweep_when_interrupted;
use crate::node::sweep::{sweep_all, temporary_dir};
use crate::node::{Node, Options, take_last_words};
use crate::program::tail;
use crate::registry::{Access, Registry};

/// Longest time one test may take. A test that hangs ends the run: its node cannot be trusted.
const LIMIT: Duration = Duration::from_secs(240);
/// Lines of the shared daemon's log that a failed test shows.
const SHOWN: usize = 60;

/// What the tests share.
#[derive(Debug)]
pub struct Fixture {
    /// The shared node; tests that kill or configure a daemon start their own.
    node: Mutex<Node>,
    /// Registry with the test images.
    pub registry: Registry,
    /// Registry with a password, holding `busybox:latest`.
    pub private: Registry,
    dir: TempDir,
}

impl Fixture {
    fn set_up() -> Result<Self> {
        let dir = temporary_dir("crisol-registry-")?;
        let registry = Registry::start(&dir.path().join("open"), Access::Open)?;
        registry.seed()?;
        let private = Registry::start(&dir.path().join("private"), Access::Password)?;
        private.copy_from(&registry, "busybox:latest")?;
        let insecure = vec![registry.address().to_owned(), private.address().to_owned()];
        let node = Node::start(Options { insecure, ..Options::default() })?;
        Ok(Self { node: Mutex::new(node), registry, private, dir })
    }

    /// The shared node.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        // A test that panicked while it had the node left the daemon itself intact.
        self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A node of one's own that knows the registries, with `options` besides.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn own_node(&self, options: Options) -> Result<Node> {
        Node::start(self.with_registries(options))
    }

    /// `options` with the registries added.
    pub fn with_registries(&self, mut options: Options) -> Options {
        options.insecure.push(self.registry.address().to_owned());
        options.insecure.push(self.private.address().to_owned());
        options
    }

    /// Reference of a test image: `busybox:latest`, …
    pub fn image(&self, name: &str) -> String {
        self.registry.image(name)
    }

    /// The main test image, pulled if need be.
    ///
    /// # Errors
    /// If it cannot be pulled.
    pub fn busybox(&self, node: &Node) -> Result<String> {
        let image = self.image("busybox:latest");
        node.cri().pull(&image).context("pull busybox")?;
        Ok(image)
    }

    /// A directory for a test's files, gone at the end of the run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// One test: its name is a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `module::a_sentence`.
    pub name: &'static str,
    /// The test.
    pub test: fn(&Fixture) -> Result<()>,
}

/// The [`Case`]s of functions, named by their paths: `cases![module::function, …]`.
#[macro_export]
macro_rules! cases {
    ($($module:ident::$test:ident),* $(,)?) => {
        [$($crate::runner::Case {
            name: concat!(stringify!($module), "::", stringify!($test)),
            test: $module::$test,
        }),*]
    };
}

/// Runs the cases whose names contain any of the command line's words, or all.
pub fn main(cases: &[Case]) -> ExitCode {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen: Vec<Case> = cases
        .iter()
        .filter(|case| words.is_empty() || words.iter().any(|word| case.name.contains(word)))
        .copied()
        .collect();
    if env::args().any(|word| word == "--list") {
        chosen.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    sweep_when_interrupted(|| false);
    println!("\nrunning {} tests", chosen.len());
    let began = Instant::now();
    let failed = run_all(&chosen);
    sweep_all();
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished \
         in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failed.len(),
        failed.len(),
        cases.len() - chosen.len(),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names of the tests that failed or were not reached.
fn run_all(cases: &[Case]) -> Vec<&'static str> {
    let fixture = match Fixture::set_up() {
        Ok(fixture) => Arc::new(fixture),
        Err(error) => {
            println!("set-up failed: {error:#}");
            return cases.iter().map(|case| case.name).collect();
        }
    };
    let mut failed = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        take_last_words();
        let began = Instant::now();
        let outcome = run_one(*case, &fixture);
        let took = began.elapsed().as_secs_f64();
        match outcome {
            Ok(Ok(())) => println!("test {} ... ok ({took:.1}s)", case.name),
            Ok(Err(error)) => {
                println!("test {} ... FAILED ({took:.1}s)\n{error:?}", case.name);
                show_logs(&fixture);
                failed.push(case.name);
            }
            Err(TimedOut) => {
                println!("test {} ... FAILED: not done after {LIMIT:?}", case.name);
                failed.extend(cases[index..].iter().map(|case| case.name));
                return failed;
            }
        }
    }
    failed
}

/// A test did not come back.
struct TimedOut;

fn run_one(case: Case, fixture: &Arc<Fixture>) -> std::result::Result<Result<()>, TimedOut> {
    let (done, result) = channel();
    let theirs = Arc::clone(fixture);
    thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| (case.test)(&theirs)));
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("panicked, see above")));
        // The shared node is handed on empty, also by a test that failed half-way.
        let emptied = theirs.node().remove_all_pods();
        drop(theirs);
        done.send(outcome.and(emptied.context("empty the shared node"))).ok();
    });
    match result.recv_timeout(LIMIT) {
        Ok(outcome) => Ok(outcome),
        Err(RecvTimeoutError::Timeout) => Err(TimedOut),
        Err(RecvTimeoutError::Disconnected) => Ok(Err(anyhow!("the test's thread is gone"))),
    }
}

fn show_logs(fixture: &Fixture) {
    let shared = std::fs::read(fixture.node().log_file()).unwrap_or_default();
    println!("--- shared daemon:\n{}", tail(&String::from_utf8_lossy(&shared), SHOWN));
    for words in take_last_words() {
        println!("--- {words}");
    }
}
