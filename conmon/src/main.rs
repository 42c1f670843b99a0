//! `conmon`: the monitor of one container (`run`), and the first process of a pid namespace that
//! containers of a pod share (`pause`).
//!
//! The daemon starts a monitor directly and does not wait for it: standard input is /dev/null,
//! standard output a pipe for the start report, standard error a file. From there on the monitor
//! lives by itself, in the daemon's cgroup, until the daemon has taken the container's exit.
//!
//! A monitor is two processes: the keeper, which the daemon has started (`monitor.rs`), and its child, the
//! reader, which reads what the container and attached clients write, and has no rights (`reader.rs`).

use std::env;
use std::io::Write;
use std::process::ExitCode;

use conmon::{Launch, Reply};
use fault::{Fault, Tried, complain};

mod attach;
mod child;
mod console;
mod control;
mod ends;
mod exec;
mod exit;
mod fault;
mod log;
mod monitor;
mod oom;
mod pause;
mod poller;
mod procfs;
mod reader;
mod report;
mod rights;
mod stdio;
mod sys;
mod tree;

/// The exit status for a command line that is not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1).peekable();
    match args.peek().and_then(|command| command.to_str()) {
        Some("--version") => {
            let line = concat!("conmon ", env!("CARGO_PKG_VERSION"), "\n");
            drop(std::io::stdout().write_all(line.as_bytes()));
            ExitCode::SUCCESS
        }
        Some("pause") => pause::run(&args.skip(1).collect::<Vec<_>>()),
        _ => match Launch::parse(args) {
            Ok(launch) => match set_up() {
                Ok(()) => monitor::run(launch),
                Err(fault) => refuse(fault.chain(), ExitCode::FAILURE),
            },
            Err(error) => refuse(error.to_string(), ExitCode::from(USAGE)),
        },
    }
}

/// Tells both the daemon and the operator why there is no monitor.
fn refuse(message: String, code: ExitCode) -> ExitCode {
    complain(format_args!("{message}"));
    report::send(&Reply::Failed { message });
    code
}

/// Makes this process independent of whoever started it.
fn set_up() -> Result<(), Fault> {
    sys::close_from(3).tried(|| "close inherited descriptors".to_owned())?;
    // Fails only for a process group leader, which then is in no other session's way.
    rustix::process::setsid().ok();
    // A current directory would keep its file system from being unmounted.
    rustix::process::chdir("/").tried(|| "change to /".to_owned())?;
    // The log is for root and its group; nothing else is for anybody but root.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    rustix::thread::set_name(c"conmon").ok();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .tried(|| "become a child subreaper".to_owned())
}
