//! The program: arguments, log, runtime, exit code.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use crisol::cli::{self, Arguments, Command, Form};
use crisol::config::Config;
use crisol::{daemon, logging};

/// The daemon waits far more than it computes; more threads only cost memory on large nodes.
const MAX_WORKERS: usize = 4;

/// Threads for system calls that block (unpacking, mounts); each is busy with one object, so this
/// bounds how many slow disks can hold up at once, not how fast a healthy one is.
const MAX_BLOCKING: usize = 128;

/// After this an idle one of them ends. Work goes to the one that is idle longest, so with samples
/// taken all the time a longer wait would keep every thread of a busy moment for good.
const KEEP_BLOCKING: Duration = Duration::from_secs(1);

/// Enough for every call depth here (parsers bound theirs at 128 levels), and below the 2 MiB from
/// which transparent huge pages would make every stack resident.
const STACK_BYTES: usize = 1024 * 1024;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let file = arguments.config.as_deref();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(file),
        Command::Config { default: true } => cli::default_config(),
        Command::Config { default: false } => cli::config(file),
        Command::Check { json } => match runtime(1) {
            Ok(runtime) => runtime.block_on(cli::check(file, Form::of(json))),
            Err(error) => failed(&error),
        },
        Command::Unpack => std::process::exit(crisol::image::serve_unpacker()),
        Command::Version { json } => cli::version(Form::of(json)),
    }
}

fn serve(file: Option<&Path>) -> ExitCode {
    let config = match cli::load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // Modes are those that the code names, whatever shell or unit started the daemon.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    logging::init(&config.log)?;
    let workers = std::thread::available_parallelism().map_or(1, Into::into).min(MAX_WORKERS);
    runtime(workers)?.block_on(daemon::serve(config))
}

fn runtime(workers: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MAX_BLOCKING)
        .thread_keep_alive(KEEP_BLOCKING)
        .thread_stack_size(STACK_BYTES)
        .thread_name("crisol")
        .enable_all()
        .build()
        .context("start the async runtime")
}

fn failed(error: &anyhow::Error) -> ExitCode {
    cli::complain(error);
    ExitCode::FAILURE
}
