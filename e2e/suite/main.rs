//! Runs the tests so that their result can be believed: under a watch that ends what hangs and names
//! it (`suite unit`), or again and again in another order each time, also beside a load
//! (`suite repeat`).
//!
//! `suite unit ARTIFACTS [WORD...]` runs what `cargo test --no-run --message-format=json` has told
//! in the file ARTIFACTS. `suite repeat ARTIFACTS NODE-TESTS OUTPUT ROUNDS SEED [--load] [WORD...]`
//! runs these and the program NODE-TESTS, keeps what failed rounds said below OUTPUT, and ends with
//! a table of what failed how often.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod executables;
mod load;
mod repeat;
mod watch;

use executables::Executable;
use repeat::Repeat;
use watch::Run;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("suite: {error:#}");
            println!("\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything passed.
fn run(words: &[&str]) -> Result<bool> {
    match words {
        ["unit", artifacts, words @ ..] => unit(&executables::read(Path::new(artifacts))?, words),
        ["repeat", artifacts, node_tests, output, rounds, seed, words @ ..] => {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let (options, words): (Vec<_>, Vec<_>) =
                words.into_iter().partition(|word| word == "--load");
            let repeat = Repeat {
                executables: executables::read(Path::new(artifacts))?,
                node_tests: PathBuf::from(node_tests),
                output: PathBuf::from(output),
                rounds: rounds.parse().with_context(|| format!("rounds {rounds}"))?,
                seed: seed.parse().with_context(|| format!("seed {seed}"))?,
                load: !options.is_empty(),
                words,
            };
            repeat.run()
        }
        _ => bail!(
            "usage: suite unit ARTIFACTS [WORD...] or suite repeat ARTIFACTS NODE-TESTS OUTPUT ROUNDS SEED [--load] [WORD...]"
        ),
    }
}

/// Every executable once, also after one that failed.
fn unit(executables: &[Executable], words: &[&str]) -> Result<bool> {
    let mut failed = Vec::new();
    for executable in executables {
        println!("\n     Running {}", executable.name);
        let mut command = executable.command();
        command.args(words);
        let run = Run::watch(&executable.name, &mut command, |line| println!("{line}"))?;
        failed.extend(run.failed);
    }
    if !failed.is_empty() {
        println!("failed:\n    {}", failed.join("\n    "));
    }
    Ok(failed.is_empty())
}
