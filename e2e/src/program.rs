//! Other programs: run to the end with a deadline, or kept running until dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{eventually, note};

/// Longest time any program of the harness may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What a finished program said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Said {
    /// Standard output of a program that succeeded.
    ///
    /// # Errors
    /// If it did not, with everything it said.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status.success(), "{}: {}{}", self.status, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

/// Runs `command` to its end without standard input.
///
/// # Errors
/// If it cannot be started or takes longer than two minutes; a failing exit is no error.
pub fn run(command: &mut Command) -> Result<Said> {
    finish(command.stdin(Stdio::null()), &[])
}

/// Runs `command` to its end with `input` as its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Said> {
    finish(command.stdin(Stdio::piped()), input)
}

fn finish(command: &mut Command, input: &[u8]) -> Result<Said> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A program that does not read to the end is its own affair. The thread ends with it.
        thread::spawn(move || stdin.write_all(&input).ok());
    }
    let _note = note(format!("end of {shown}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = match wait(&mut child, LIMIT) {
        Ok(status) => status,
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            return Err(error.context(shown));
        }
    };
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        let bytes = reader.join().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Said { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Standard output of a program that must succeed: `output("ip", ["link"])`.
///
/// # Errors
/// If it cannot be started or fails.
pub fn output<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    run(&mut command)?.ok().with_context(|| format!("{command:?}"))
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            from.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    eventually(&format!("end of process {}", child.id()), limit, || {
        child.try_wait()?.context("still running")
    })
}

/// Programs in the background: their process id, the thread that started them and their log.
static RUNNING: Mutex<Vec<(u32, String, PathBuf)>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<(u32, String, PathBuf)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The logs of the programs that the thread of that name has started and that run, each once.
pub fn logs_of(thread: &str) -> Vec<PathBuf> {
    let mut logs = Vec::new();
    for (_, name, log) in running().iter() {
        if name == thread && !logs.contains(log) {
            logs.push(log.clone());
        }
    }
    logs
}

/// A program in the background; killed and waited for when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// If it or the log cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let by = thread::current().name().unwrap_or_default().to_owned();
        running().push((child.id(), by, log.to_owned()));
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, by all programs that share the log.
    pub fn printed(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// An error if it has ended by itself.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("ended with {status}:\n{}", tail(&self.printed(), 20));
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("signal {signal} to {pid}"))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, limit)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
        let pid = self.child.id();
        running().retain(|(other, ..)| *other != pid);
    }
}

/// Makes `text` a program at `path`.
///
/// Another process writes it: a child that is started elsewhere in that moment would inherit a
/// descriptor that is open for writing, and until it is closed the program cannot be run (ETXTBSY).
///
/// # Errors
/// If it cannot be written.
pub fn install(path: &Path, text: &str) -> Result<()> {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path);
    run_with_input(&mut install, text.as_bytes())?.ok()?;
    Ok(())
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_of_what_a_thread_has_started_are_known_while_it_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let thread = thread::Builder::new().name("logs-test".to_owned());
        let (started, seen) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        thread::scope(|scope| {
            let starts = || {
                let sleep = || Program::start(Command::new("sleep").arg("1000"), &log);
                let programs = [sleep(), sleep()];
                started.wait();
                seen.wait();
                programs.into_iter().for_each(|program| drop(program.expect("a program")));
            };
            thread.spawn_scoped(scope, starts).expect("a thread");
            started.wait();
            let logs = logs_of("logs-test");
            seen.wait();
            assert_eq!(logs, [log.as_path()]);
        });
        assert_eq!(logs_of("logs-test"), Vec::<PathBuf>::new());
    }
}
