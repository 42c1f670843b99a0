//! Runs the node tests on shared nodes, and prints what cargo's own runner prints.
//!
//! Our own, because libtest has no place to take shared nodes down (statics are never dropped), does
//! not end a test that hangs, and knows no test that wants the machine for itself.

use std::collections::VecDeque;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use crate::interrupt::sweep_when_interrupted;
use crate::node::sweep::{Remains, sweep_all, temporary_dir};
use crate::node::{Node, Options, take_last_words};
use crate::program::{logs_of, tail};
use crate::registry::{Access, Registry};
use crate::shuffle::shuffle;
use crate::wait::waits_of;

/// Longest time one test may take: several times what the longest takes on two cores.
const LIMIT: Duration = Duration::from_secs(600);
/// Tests that may hang before the run is given up.
const HANGS: usize = 3;
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
    /// What is to be swept when a test hangs, with the node's lock in its hands.
    remains: [Remains; 2],
    /// The shared daemon's log.
    log: PathBuf,
    /// One of how many repetitions is done.
    share: usize,
    dir: TempDir,
}

impl Fixture {
    /// Everything anew, with the images in `layout`.
    fn set_up(layout: &Path, share: usize) -> Result<Self> {
        let dir = temporary_dir("crisol-registry-")?;
        let registry = Registry::start(&dir.path().join("open"), Access::Open)?;
        registry.push(layout)?;
        let private = Registry::start(&dir.path().join("private"), Access::Password)?;
        private.copy_from(&registry, "busybox:latest")?;
        let insecure = vec![registry.address().to_owned(), private.address().to_owned()];
        let node = Node::start(Options { insecure, ..Options::default() })?;
        let remains = [node.remains().clone(), Remains { dir: dir.path().to_owned(), names: None }];
        let log = node.log_file();
        Ok(Self { node: Mutex::new(node), registry, private, remains, log, share, dir })
    }

    /// The shared node.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        // A test that panicked while it had the node left the daemon itself intact.
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How often a test does what it does very often: `count` times, or a share of that where all
    /// tests are repeated (`--share`).
    pub fn times(&self, count: usize) -> usize {
        count.div_ceil(self.share)
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
        vec![$($crate::runner::Case {
            name: concat!(stringify!($module), "::", stringify!($test)),
            test: $module::$test,
        }),*]
    };
}

/// What the command line asks for.
struct Wanted {
    /// Words of which a test's name has to contain one; none = all tests.
    words: Vec<String>,
    /// The order of the tests; none = as they are listed.
    seed: Option<u64>,
    /// Tests side by side; most of them wait most of the time.
    jobs: usize,
    /// One of how many repetitions is done by tests that do something very often.
    share: usize,
    list: bool,
}

impl Wanted {
    /// From `[--shuffle SEED] [--jobs N] [--share N] [--list] [WORD...]`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let jobs = 3 * thread::available_parallelism().map_or(1, usize::from);
        let mut wanted = Self { words: Vec::new(), seed: None, jobs, share: 1, list: false };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64> {
                let text = words.next().with_context(|| format!("{word} needs a number"))?;
                text.parse().with_context(|| format!("{word} {text}"))
            };
            match word.as_str() {
                "--shuffle" => wanted.seed = Some(number()?),
                "--jobs" => wanted.jobs = usize::try_from(number()?.max(1))?,
                "--share" => wanted.share = usize::try_from(number()?.max(1))?,
                "--list" => wanted.list = true,
                option if option.starts_with('-') => bail!("unknown option {option}"),
                _ => wanted.words.push(word),
            }
        }
        Ok(wanted)
    }

    fn choose(&self, cases: &[Case]) -> Vec<Case> {
        let named = |case: &&Case| self.words.iter().any(|word| case.name.contains(word.as_str()));
        let mut chosen: Vec<Case> =
            cases.iter().filter(|case| self.words.is_empty() || named(case)).copied().collect();
        if let Some(seed) = self.seed {
            shuffle(&mut chosen, seed);
        }
        chosen
    }
}

/// Runs the cases whose names contain any of the command line's words, or all: `together` side by
/// side, then each of `alone` with the machine to itself.
pub fn main(together: &[Case], alone: &[Case]) -> ExitCode {
    let wanted = match Wanted::parse(env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let (side_by_side, one_by_one) = (wanted.choose(together), wanted.choose(alone));
    let count = side_by_side.len() + one_by_one.len();
    if wanted.list {
        side_by_side.iter().chain(&one_by_one).for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    sweep_when_interrupted(|| false);
    let order = wanted.seed.map(|seed| format!(", order {seed}")).unwrap_or_default();
    println!("\nrunning {count} tests{order}");
    let began = Instant::now();
    let failed = match run_all(side_by_side, one_by_one, &wanted) {
        Ok(failed) => failed,
        Err(error) => {
            println!("set-up failed: {error:#}");
            count
        }
    };
    sweep_all();
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        count - failed,
        together.len() + alone.len() - count,
        began.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many tests failed or were not reached.
fn run_all(together: Vec<Case>, alone: Vec<Case>, wanted: &Wanted) -> Result<usize> {
    let layout = temporary_dir("crisol-images-")?;
    Registry::build_images(layout.path())?;
    let mut round = Round::default();
    for (cases, jobs) in [(together, wanted.jobs), (alone, 1)] {
        *round.queue.get_mut().unwrap_or_else(PoisonError::into_inner) = cases.into();
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| round.work(layout.path(), wanted.share));
            }
        });
        let left = std::mem::take(&mut *locked(&round.queue));
        for case in left {
            println!("test {} ... FAILED: not reached", case.name);
            locked(&round.failed).push(case.name);
        }
    }
    let failed = locked(&round.failed).len();
    Ok(failed)
}

/// What the workers of a run share.
#[derive(Default)]
struct Round {
    queue: Mutex<VecDeque<Case>>,
    failed: Mutex<Vec<&'static str>>,
    hung: Mutex<usize>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Round {
    /// Runs cases on a fixture of its own until none is left.
    fn work(&self, layout: &Path, share: usize) {
        let mut fixture = None;
        while let Some(case) = self.next() {
            let used = match fixture.take() {
                Some(fixture) => fixture,
                None => match Fixture::set_up(layout, share) {
                    Ok(fixture) => Arc::new(fixture),
                    Err(error) => {
                        println!("test {} ... FAILED: set-up: {error:#}", case.name);
                        locked(&self.failed).push(case.name);
                        return;
                    }
                },
            };
            let (outcome, said) = run_one(case, &used);
            // In one piece: other workers print, too.
            println!("{said}");
            if outcome != Outcome::Ok {
                locked(&self.failed).push(case.name);
            }
            if outcome == Outcome::Hung {
                *locked(&self.hung) += 1;
                // Whatever the test still does, it does without these.
                used.remains.iter().for_each(Remains::sweep);
            } else {
                fixture = Some(used);
            }
        }
    }

    fn next(&self) -> Option<Case> {
        let given_up = *locked(&self.hung) >= HANGS;
        locked(&self.queue).pop_front().filter(|case| {
            if given_up {
                println!("test {} ... FAILED: not run, too many tests hang", case.name);
                locked(&self.failed).push(case.name);
            }
            !given_up
        })
    }
}

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    Hung,
}

/// Runs a test in a thread of its own, and says what is to be printed of it.
fn run_one(case: Case, fixture: &Arc<Fixture>) -> (Outcome, String) {
    let (done, result) = channel();
    let theirs = Arc::clone(fixture);
    let (began, log_began) = (Instant::now(), length(&fixture.log));
    let run = move || {
        take_last_words();
        let outcome = catch_unwind(AssertUnwindSafe(|| (case.test)(&theirs)));
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("panicked, see above")));
        // The shared node is handed on empty, also by a test that failed half-way.
        let emptied = theirs.node().remove_all_pods();
        drop(theirs);
        let outcome = outcome.and(emptied.context("empty the shared node"));
        done.send((outcome, take_last_words())).ok();
    };
    let thread = thread::Builder::new().name(case.name.to_owned()).spawn(run);
    let received = match &thread {
        Ok(_) => result.recv_timeout(LIMIT),
        Err(_) => Err(RecvTimeoutError::Disconnected),
    };
    let took = began.elapsed().as_secs_f64();
    let mut said = format!("test {} ... ", case.name);
    let logs = |said: &mut String, words: Vec<String>| {
        let shared = std::fs::read(&fixture.log).unwrap_or_default();
        let since = String::from_utf8_lossy(&shared[log_began.min(shared.len())..]).into_owned();
        if !since.is_empty() {
            *said += &format!("\n--- shared daemon:\n{}", tail(&since, SHOWN));
        }
        words.iter().for_each(|words| *said += &format!("\n--- {words}"));
    };
    match received {
        Ok((Ok(()), _)) => {
            said += &format!("ok ({took:.1}s)");
            (Outcome::Ok, said)
        }
        Ok((Err(error), words)) => {
            said += &format!("FAILED ({took:.1}s)\n{error:?}");
            logs(&mut said, words);
            (Outcome::Failed, said)
        }
        Err(RecvTimeoutError::Disconnected) => {
            said += "FAILED: its thread is gone";
            (Outcome::Failed, said)
        }
        Err(RecvTimeoutError::Timeout) => {
            said += &format!("FAILED: not done after {LIMIT:?}; it waits for");
            for what in waits_of(case.name) {
                said += &format!("\n    {what}");
            }
            said += &format!("\nin the kernel:\n{}", crate::wait::tasks(std::process::id()));
            let own = logs_of(case.name).into_iter().map(|log| {
                let text = std::fs::read(&log).unwrap_or_default();
                format!("{}:\n{}", log.display(), tail(&String::from_utf8_lossy(&text), SHOWN))
            });
            logs(&mut said, own.collect());
            (Outcome::Hung, said)
        }
    }
}

/// How long a file is.
fn length(file: &Path) -> usize {
    std::fs::metadata(file).map_or(0, |file| usize::try_from(file.len()).unwrap_or(0))
}
