//! Every test many times: what fails by chance fails here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::executables::Executable;
use crate::load::Load;
use crate::watch::Run;

/// Tests that do something very often do a fifth of it in a round: they are repeated themselves.
const SHARE: &str = "5";

/// What is repeated, and how.
#[derive(Debug)]
pub(crate) struct Repeat {
    pub(crate) executables: Vec<Executable>,
    /// The node tests' program.
    pub(crate) node_tests: PathBuf,
    /// Where the output of failed rounds is kept.
    pub(crate) output: PathBuf,
    pub(crate) rounds: u64,
    /// Of the first round; each has its own.
    pub(crate) seed: u64,
    pub(crate) load: bool,
    /// Words of which a test's name has to contain one; none = all tests.
    pub(crate) words: Vec<String>,
}

impl Repeat {
    /// Runs all rounds, whatever fails; whether nothing did.
    ///
    /// # Errors
    /// If a program cannot be started.
    pub(crate) fn run(&self) -> Result<bool> {
        fs::create_dir_all(&self.output)?;
        let mut failures: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let (mut passed, mut whole) = (0, 0);
        for round in 1..=self.rounds {
            let began = Instant::now();
            let one_core = round == self.rounds && self.rounds > 1;
            let _load = self.load.then(Load::start);
            let run = self.round(round, one_core)?;
            let kind = match (one_core, self.load) {
                (true, true) => ", on one core, under load",
                (true, false) => ", on one core",
                (false, true) => ", under load",
                (false, false) => "",
            };
            println!(
                "round {round} of {}, seed {}{kind}: {} passed, {} failed, {:.0} s",
                self.rounds,
                self.seed_of(round),
                run.passed,
                run.failed.len(),
                began.elapsed().as_secs_f64()
            );
            passed += run.passed;
            whole += u64::from(run.failed.is_empty());
            if !run.failed.is_empty() {
                let file = self.output.join(format!("round-{round}.log"));
                fs::write(&file, &run.output).with_context(|| file.display().to_string())?;
                println!("    {}\n    see {}", run.failed.join("\n    "), file.display());
            }
            for test in run.failed {
                failures.entry(test).or_default().push(round);
            }
        }
        print!("{}", table(&failures));
        let failed: usize = failures.values().map(Vec::len).sum();
        println!("{whole} of {} rounds without a failure", self.rounds);
        println!(
            "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored\n",
            if failed == 0 { "ok" } else { "FAILED" }
        );
        Ok(failed == 0 && passed > 0)
    }

    fn seed_of(&self, round: u64) -> u64 {
        self.seed.wrapping_add(round)
    }

    fn round(&self, round: u64, one_core: bool) -> Result<Run> {
        let seed = self.seed_of(round).to_string();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One after the other, as usual, and far more than there are cores.
        let threads = [cores, 4 * cores, 1][usize::try_from(round % 3)?];
        let mut all = Run::default();
        for executable in &self.executables {
            let mut command = executable.command();
            // The order of tests is an option that a stable libtest takes with this variable only.
            command.env("RUSTC_BOOTSTRAP", "1").env("PROPTEST_RNG_SEED", &seed);
            command.args(["-Z", "unstable-options", "--shuffle-seed", &seed]);
            command.arg(format!("--test-threads={threads}")).args(&self.words);
            all.add(&executable.name, command, one_core)?;
        }
        let mut command = Command::new(&self.node_tests);
        command.args(["--shuffle", &seed, "--share", SHARE]).args(&self.words);
        all.add("node tests", command, one_core)?;
        Ok(all)
    }
}

impl Run {
    fn add(&mut self, name: &str, command: Command, one_core: bool) -> Result<()> {
        let mut command = if one_core { on_one_core(&command) } else { command };
        let run = Self::watch(name, &mut command, |_| {})?;
        self.passed += run.passed;
        self.failed.extend(run.failed);
        self.output += &format!("\n===== {name}\n{}", run.output);
        Ok(())
    }
}

/// The same command, with everything it starts on the first core (taskset(1)).
fn on_one_core(command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", "0"]).arg(command.get_program()).args(command.get_args());
    let set = |(name, value): (&OsStr, Option<&OsStr>)| Some((name.to_owned(), value?.to_owned()));
    pinned.envs(command.get_envs().filter_map(set));
    if let Some(dir) = command.get_current_dir() {
        pinned.current_dir(dir);
    }
    pinned
}

/// What failed, how often and in which rounds; the most frequent first.
fn table(failures: &BTreeMap<String, Vec<u64>>) -> String {
    let mut rows: Vec<_> = failures.iter().collect();
    rows.sort_by_key(|(_, rounds)| std::cmp::Reverse(rounds.len()));
    let row = |(test, rounds): (&String, &Vec<u64>)| {
        let rounds: Vec<String> = rounds.iter().map(u64::to_string).collect();
        format!("{:>6}  {test}  (rounds {})\n", rounds.len(), rounds.join(", "))
    };
    let head = if rows.is_empty() { "" } else { "\nfailed  test\n" };
    head.to_owned() + &rows.into_iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_begins_with_what_fails_most() {
        let failures = BTreeMap::from([
            ("a::rare".to_owned(), vec![2]),
            ("b::often".to_owned(), vec![1, 2, 5]),
        ]);
        let expected =
            "\nfailed  test\n     3  b::often  (rounds 1, 2, 5)\n     1  a::rare  (rounds 2)\n";
        assert_eq!(table(&failures), expected);
        assert_eq!(table(&BTreeMap::new()), "");
    }

    #[test]
    fn a_pinned_command_is_the_same_command() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo 'test x ... ok'; nproc; echo $A; pwd"]).env("A", "b");
        command.current_dir("/");
        let mut run = Run::default();
        run.add("x", command, true).expect("a run");
        assert!(run.output.contains("test x ... ok\n1\nb\n/\n"), "{}", run.output);
    }
}
