//! Another process in a running container: what ExecSync and Exec have in common.
//!
//! The monitor starts it with the pipes or the terminal made here, so its bytes go straight from the
//! container to us, and its exit comes from its parent. `sync` runs a command to its end, `process`
//! is one that somebody talks to.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use crate::monitor::{self, Exec, MonitorError};
use crate::runtime::{ExecFiles, reason_in_log};

use super::{ContainerError, ContainerRecord, Parts, oci};

mod process;
mod room;
mod sync;
mod terminal;

pub use process::{Ended, Input, Output, Process, Stdio, Terminal, start_process as start};
pub use room::{Outputs, Purpose, Room, Rooms, Share};
pub use sync::{ExecOutput, exec_sync};

/// How long a killed command may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// Numbers the files of execs in flight.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The names of such files begin so.
const FILES: &str = "exec-";

/// Has the monitor run the runtime's `exec`, all in all within `limit`; `stdio` becomes the process's
/// own.
async fn run_runtime(
    parts: &Parts,
    record: &ContainerRecord,
    room: &Room,
    files: &Files,
    stdio: [OwnedFd; 3],
    limit: Duration,
) -> Result<Exec, ContainerError> {
    let runtime = parts.runtime(&record.handler)?;
    let argv = runtime.exec_argv(&record.id, &files.0);
    let dir = parts.layout.monitor(&record.id);
    let late = || ContainerError::ExecNotStarted { id: record.id, seconds: limit.as_secs() };
    let until = Instant::now() + limit;
    let turn = async { (room.start().await, runtime.slot().await) };
    let (turn, slot) = tokio::time::timeout_at(until, turn).await.map_err(|_| late())?;
    let slot = slot.map_err(|source| ContainerError::Runtime { id: record.id, source })?;
    let left = until.saturating_duration_since(Instant::now());
    let started = monitor::exec(&dir, argv, files.0.pid.clone(), left, stdio);
    let started = slot.during(started).await;
    drop(turn);
    match started {
        Ok(exec) => Ok(exec),
        Err(MonitorError::Refused { .. } | MonitorError::TimedOut { .. })
            if until <= Instant::now() =>
        {
            Err(late())
        }
        Err(MonitorError::Refused { message }) => {
            let reason = reason_in_log(&files.0.log).await.unwrap_or(message);
            Err(ContainerError::ExecRefused { id: record.id, reason })
        }
        Err(source) => Err(monitor_error(record, source)),
    }
}

/// Kills what the command started and waits until it is gone.
async fn kill(record: &ContainerRecord, process: &mut Exec) -> Result<(), ContainerError> {
    process.kill().await.map_err(|source| monitor_error(record, source))?;
    if tokio::time::timeout(KILLED, process.wait()).await.is_err() {
        tracing::warn!(container = %record.id, "a timed-out command outlives SIGKILL");
    }
    Ok(())
}

fn monitor_error(record: &ContainerRecord, source: MonitorError) -> ContainerError {
    ContainerError::Monitor { id: record.id, source }
}

/// The files of one exec; they go when it is dropped.
struct Files(ExecFiles);

impl Files {
    /// Describes the process: the container's own with another command line. `console` is where
    /// the runtime sends the process's terminal, if it gets one.
    async fn write(
        bundle: &Path,
        command: &[String],
        console: Option<PathBuf>,
    ) -> Result<Self, ContainerError> {
        let name = format!("{FILES}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = |end: &str| bundle.join(format!("{name}.{end}"));
        let terminal = console.is_some();
        let (process, pid, log) = (file("json"), file("pid"), file("log"));
        let files = Self(ExecFiles { process, pid, log, console });
        let (config, process) = (bundle.join("config.json"), files.0.process.clone());
        let command = command.to_owned();
        crate::steps::blocking(move || describe(&config, &process, &command, terminal)).await?;
        Ok(files)
    }
}

/// Removes what the commands of a daemon that was killed have left in `bundle`: their monitor has
/// ended them by now, and the numbers begin again.
pub fn sweep(bundle: &Path) {
    // What cannot be listed or removed goes with the container.
    let Ok(entries) = fs::read_dir(bundle) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(FILES.as_bytes()) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.0.process, &self.0.pid, &self.0.log] {
            fs::remove_file(path).ok();
        }
    }
}

fn describe(
    config: &Path,
    target: &PathBuf,
    command: &[String],
    terminal: bool,
) -> Result<(), ContainerError> {
    #[derive(serde::Deserialize)]
    struct Config {
        process: serde_json::Value,
    }
    let failed = |action, path: &Path, source| ContainerError::File {
        action,
        path: path.to_owned(),
        source,
    };
    let text = fs::read(config).map_err(|source| failed("read", config, source))?;
    let Config { process } =
        serde_json::from_slice(&text).map_err(|source| failed("read", config, source.into()))?;
    let process = oci::exec_process(process, command, terminal);
    // The environment has secrets, and the bundle may be open to a pod's user namespace.
    let mut options = fs::File::options();
    let made = options.write(true).create(true).truncate(true).mode(0o600).open(target);
    made.and_then(|mut file| file.write_all(process.to_string().as_bytes()))
        .map_err(|source| failed("write", target, source))
}

fn read_pipe(record: &ContainerRecord) -> Result<(pipe::Receiver, OwnedFd), ContainerError> {
    let (read, write) = pipe_pair(record)?;
    let read = pipe::Receiver::from_owned_fd(read).map_err(|source| no_pipe(record, source))?;
    Ok((read, write))
}

fn pipe_pair(record: &ContainerRecord) -> Result<(OwnedFd, OwnedFd), ContainerError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| no_pipe(record, error.into()))
}

fn no_pipe(record: &ContainerRecord, source: std::io::Error) -> ContainerError {
    ContainerError::File { action: "make a pipe for", path: record.id.to_string().into(), source }
}
