//! The field's own validation suite, critest, unmodified against a daemon of its own.
//!
//! Every spec runs. Those that cannot pass are named in `../skip.toml` with their reasons; the run
//! fails when a spec fails, when one skips itself that the list does not name, and when one that
//! the list names passes. `--images` builds the images and nothing else: a machine without a network
//! finds them built. What critest and the daemon said is kept below `.cache/critest`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use e2e::layout;
use e2e::node::sweep::{sweep_all, temporary_dir};
use e2e::node::{Node, Options};
use nix::fcntl::{Flock, FlockArg};

mod arguments;
mod benchmark;
mod images;
mod left_out;
mod neighbours;
mod peer;
mod report;
mod suite;

use arguments::{Arguments, Runtime};
use left_out::{List, Verdict};
use neighbours::Neighbours;
use peer::Containerd;
use report::Spec;

/// critest binds the ports 12000 to 12003 of the node, whoever's node that is.
const LOCK: &str = "/run/lock/crisol-critest";

fn main() -> ExitCode {
    e2e::interrupt::sweep_when_interrupted(|| false);
    let mut words = std::env::args().skip(1).peekable();
    let result = if words.peek().is_some_and(|word| word == "--images") {
        images::build().map(|()| true)
    } else {
        Arguments::parse(words).and_then(|arguments| run(&arguments))
    };
    sweep_all();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("critest: {error:?}");
            println!("\ntest result: FAILED. 0 passed; 1 failed; 0 skipped\n");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(arguments: &Arguments) -> Result<bool> {
    let list = List::load(&layout::source("critest/skip.toml"), arguments)?;
    let keep = suite::keep_dir(arguments)?;
    let dir = temporary_dir("crisol-critest-")?;
    let registry = images::serve(&dir.path().join("registry"))?;
    let _lock = lock()?;
    if arguments.benchmark {
        measure(arguments, registry.address(), &keep)?;
        return Ok(true);
    }
    let node = Arc::new(Node::start(options(arguments, registry.address())?)?);
    let neighbours = Neighbours::start(&node, arguments.churn)?;
    let mut held = true;
    for _ in 0..arguments.repeat {
        println!("\nrunning critest, {arguments}; its words go to {}", keep.display());
        let began = Instant::now();
        let specs = suite::run(&node, arguments, &keep);
        fs::copy(node.log_file(), keep.join("daemon.log")).ok();
        held &= show(&specs?, &list, began);
    }
    if arguments.churn > 0 {
        println!("{} pods came and went beside", neighbours.end()?);
    }
    Ok(held)
}

/// The benchmarks, with the daemons' usual level of logging.
fn measure(arguments: &Arguments, registry: &str, keep: &Path) -> Result<()> {
    let log = "info".to_owned();
    let options = Options { log, ..options(arguments, registry)? };
    let node = Node::start(options.clone())?;
    // Only for its directories and its network.
    let other = Node::prepare(options)?;
    let runtime = match arguments.runtime {
        Runtime::Runc => layout::tool("runc")?,
        Runtime::DebianRunc => "/usr/sbin/runc".into(),
        Runtime::Crun => "/usr/bin/crun".into(),
    };
    let start = || Containerd::start(&other, &runtime, registry);
    let peer = arguments.peer.then(start).transpose()?;
    benchmark::run(&node, peer.as_ref(), arguments, keep)
}

fn lock() -> Result<Flock<fs::File>> {
    let file = fs::File::options().create(true).truncate(false).write(true).open(LOCK)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context(LOCK)
}

/// A node whose default handler is the runtime that is asked for: the suite names none.
fn options(arguments: &Arguments, registry: &str) -> Result<Options> {
    let (handler, config) = match arguments.runtime {
        Runtime::DebianRunc => ("runc", String::new()),
        Runtime::Crun => ("crun", String::new()),
        Runtime::Runc => {
            let path = layout::tool("runc")?;
            let path = path.display();
            ("current", format!("[runtime.handlers.current]\ntype = \"oci\"\npath = \"{path}\"\n"))
        }
    };
    Ok(Options {
        default_handler: handler.to_owned(),
        redirects: images::HOSTS.map(|host| (host.to_owned(), registry.to_owned())).to_vec(),
        config,
        ..Options::default()
    })
}

/// Prints what became of every spec and the sum; whether everything held.
fn show(specs: &[Spec], list: &List, began: Instant) -> bool {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for spec in specs {
        let Spec { name, seconds, output, .. } = spec;
        match list.judge(spec) {
            Verdict::Ok => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1}s)");
            }
            Verdict::LeftOut(reason) => {
                skipped += 1;
                println!("test {name} ... skipped: {reason}");
            }
            Verdict::Failed(why) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1}s)\n{why}\n{output}");
            }
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {skipped} skipped; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        began.elapsed().as_secs_f64()
    );
    failed == 0
}
