//! Another process in a running container, to its end: ExecSync.
//!
//! The monitor starts it with the pipes made here as its stdio, so its bytes go straight from the
//! container to us and its exit comes from its parent. Output past the bound is read and dropped;
//! a child of the command that keeps the pipe open does not keep the caller waiting.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::monitor::{self, Exec, ExecExit, MonitorError};
use crate::runtime::{EXEC_DEADLINE, ExecFiles, reason_in_log};

use super::{ContainerError, ContainerRecord, Parts, oci, start};

/// Both streams together. The kubelet and crictl refuse a reply over 16 MiB; the rest of the reply
/// needs a few bytes.
const OUTPUT_BOUND: usize = (16 << 20) - 4096;

/// How long output may go on after the command has ended, when a child of it holds the pipe.
const DRAIN: Duration = Duration::from_millis(200);

/// How long a killed command may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// Numbers the files of execs in flight.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Status, or 128 + signal.
    pub code: i32,
}

/// Runs `command` in the container of `record`; a `timeout` of zero is none.
pub async fn exec_sync(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    command: Vec<String>,
    timeout: Duration,
) -> Result<ExecOutput, ContainerError> {
    let operation = parts.operations.begin("exec", record.id);
    let first = command.first().cloned().unwrap_or_default();
    let files = Files::write(&parts.layout.bundle(&record.id), &command).await?;
    let (out_read, out_write) = pipe(record)?;
    let (err_read, err_write) = pipe(record)?;
    let budget = Arc::new(AtomicUsize::new(OUTPUT_BOUND));
    // An input that has ended. Not /dev/null: crun gives a process's stdio to its user, and the
    // node's own device would be his.
    let (in_read, _) = pipe_pair(record)?;
    let stdio = [in_read, out_write, err_write];
    operation.step("start");
    let mut process = start_process(parts, record, &files, stdio).await?;
    let stdout = collect(out_read, budget.clone());
    let stderr = collect(err_read, budget);
    operation.step("wait");
    let exit = if timeout.is_zero() {
        process.wait().await
    } else {
        match tokio::time::timeout(timeout, process.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                operation.step("kill");
                kill(record, &mut process).await?;
                let seconds = timeout.as_secs();
                return Err(ContainerError::ExecTimedOut { command: first, seconds });
            }
        }
    };
    let ExecExit { code } = exit.map_err(|source| monitor_error(record, source))?;
    operation.step("drain");
    let (stdout, stderr) = tokio::join!(stdout.rest(), stderr.rest());
    Ok(ExecOutput { stdout, stderr, code: i32::from(code) })
}

async fn start_process(
    parts: &Parts,
    record: &ContainerRecord,
    files: &Files,
    stdio: [OwnedFd; 3],
) -> Result<Exec, ContainerError> {
    let runtime = start::runtime(parts, record)?;
    let argv = runtime.exec_argv(&record.id, &files.0);
    let dir = parts.layout.monitor(&record.id);
    let slot = runtime.slot().await;
    let started = monitor::exec(&dir, argv, files.0.pid.clone(), EXEC_DEADLINE, stdio).await;
    drop(slot);
    match started {
        Ok(exec) => Ok(exec),
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
    /// Describes the process: the container's own with another command line.
    async fn write(bundle: &Path, command: &[String]) -> Result<Self, ContainerError> {
        let name = format!("exec-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = |end: &str| bundle.join(format!("{name}.{end}"));
        let files = Self(ExecFiles { process: file("json"), pid: file("pid"), log: file("log") });
        let (config, process) = (bundle.join("config.json"), files.0.process.clone());
        let command = command.to_owned();
        crate::steps::blocking(move || describe(&config, &process, &command)).await?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.0.process, &self.0.pid, &self.0.log] {
            fs::remove_file(path).ok();
        }
    }
}

fn describe(config: &Path, target: &PathBuf, command: &[String]) -> Result<(), ContainerError> {
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
    let process = oci::exec_process(process, command, false);
    fs::write(target, process.to_string()).map_err(|source| failed("write", target, source))
}

fn pipe(record: &ContainerRecord) -> Result<(pipe::Receiver, OwnedFd), ContainerError> {
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

/// The reading of one stream.
struct Collected {
    reader: JoinHandle<()>,
    bytes: Arc<std::sync::Mutex<Vec<u8>>>,
}

/// Reads a stream to its end, keeping what the shared budget allows.
fn collect(mut stream: pipe::Receiver, budget: Arc<AtomicUsize>) -> Collected {
    let bytes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = bytes.clone();
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let allowed = budget
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    Some(left - left.min(read))
                })
                .map_or(0, |left| left.min(read));
            let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..allowed]);
        }
    });
    Collected { reader, bytes }
}

impl Collected {
    /// Everything up to the end of the stream, or up to now when its end does not come.
    async fn rest(mut self) -> Vec<u8> {
        if tokio::time::timeout(DRAIN, &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
