//! Speaks to the monitor of one container: spawn, subscribe, reopen, exec, attach.
//!
//! The monitor is a process of its own (`conmon`) that outlives the daemon; everything about it is
//! in its directory, so a daemon that starts anew finds it by path alone. No connection is kept
//! but the one that waits for the exit.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conmon::{Exit, Launch, Reply, Request, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::error::{Classify, Kind};
use crate::sys::pass_fds;
use crate::trust::Program;

pub mod attach;
pub use attach::{AttachInput, Attached, Input, Output, Source, attach, resize};

/// How long a monitor may take to answer what needs no runtime.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a killed container may take to be seen as ended.
const DISMISSAL: Duration = Duration::from_secs(10);

/// How often is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What the monitor may take on top of the runtime's own deadline.
const MARGIN: Duration = Duration::from_secs(5);

/// How often a lost connection is tried again before the monitor counts as gone.
const RECONNECTS: u32 = 5;

/// The pause between two such tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What went wrong between us and a monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Its directory could not be made.
    #[error("make monitor directory {dir}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("start monitor {program}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody listens on its socket.
    #[error("connect to the monitor in {dir}")]
    Connect {
        /// The monitor's directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its exit record could not be read.
    #[error("read the exit record in {dir}")]
    Record {
        /// The monitor's directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talk to the monitor in {dir}")]
    Talk {
        /// The monitor's directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it said is not of the contract.
    #[error("understand the monitor in {dir}")]
    Contract {
        /// The monitor's directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: WireError,
    },
    /// It said something else than was asked.
    #[error("monitor in {dir} answered {reply}")]
    Unexpected {
        /// The monitor's directory.
        dir: PathBuf,
        /// What it said.
        reply: String,
    },
    /// It did not answer in time.
    #[error("monitor in {dir} did not answer within {within:?}")]
    TimedOut {
        /// The monitor's directory.
        dir: PathBuf,
        /// How long we waited.
        within: Duration,
    },
    /// It has no attach socket.
    #[error("the monitor in {dir} is of an older version, to which nobody can attach")]
    Older {
        /// The monitor's directory.
        dir: PathBuf,
    },
    /// It takes no more clients, or this one was too slow.
    #[error("detached from the container: {why}")]
    Detached {
        /// Its own words.
        why: String,
    },
    /// It could not do what was asked.
    #[error("{message}")]
    Refused {
        /// Its own words.
        message: String,
    },
}

impl MonitorError {
    /// Whether the system said that there is no monitor: no directory, no socket, or nobody behind it.
    pub fn is_absence(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    }
}

impl MonitorError {
    /// Whether certainly nobody listens. Other errors say so much of the daemon as of the monitor.
    fn is_nobody(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), ConnectionRefused | NotFound))
    }
}

impl Classify for MonitorError {
    fn kind(&self) -> Kind {
        match self {
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Refused { .. } => Kind::Unavailable,
            Self::Older { .. } => Kind::Unsupported,
            Self::Detached { .. } => Kind::Exhausted,
            _ => Kind::Internal,
        }
    }
}

/// A process as the kernel can tell it from every other: its pid and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// In our process namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// What a monitor knows of its container.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The container's first process; none while the runtime is still creating it.
    pub process: Option<ProcessId>,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// What a watched monitor tells.
#[derive(Debug)]
pub enum Event {
    /// The container has ended and its log is complete.
    Exited(Exit),
    /// The monitor is gone and left no exit record.
    Lost,
    /// Whether there is a monitor or an exit record could not be told.
    Unknown(MonitorError),
}

/// Starts the monitor `program` and waits until it has the container's process.
///
/// # Errors
/// [`MonitorError::Refused`] with the runtime's words when the runtime refused the container; the
/// monitor has ended then.
pub async fn spawn(
    program: &Program,
    launch: &Launch,
    environment: [(&str, &str); 1],
) -> Result<ProcessId, MonitorError> {
    let dir = &launch.dir;
    let stderr = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| File::create(dir.join("stderr")))
        .map_err(|source| MonitorError::Directory { dir: dir.clone(), source })?;
    let start = |source| MonitorError::Spawn { program: program.path().to_owned(), source };
    let mut child = Command::new(program.to_run().map_err(start)?)
        .args(launch.args())
        .env_clear()
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(start)?;
    let mut stdout = child.stdout.take();
    let within = launch.create_timeout + MARGIN;
    let report = async {
        let stdout = stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe);
        let talk = |source| MonitorError::Talk { dir: dir.clone(), source };
        Frames::new(stdout.map_err(|kind| talk(kind.into()))?, dir).next().await
    };
    let report = tokio::time::timeout(within, report)
        .await
        .unwrap_or_else(|_| Err(MonitorError::TimedOut { dir: dir.clone(), within }));
    let result = match report {
        Ok(Reply::Created { pid, start_time }) => Ok(ProcessId { pid, start_time }),
        Ok(Reply::Failed { message }) => Err(MonitorError::Refused { message }),
        Ok(other) => Err(unexpected(dir, &other)),
        Err(MonitorError::Talk { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            Err(MonitorError::Refused { message: died(dir).await })
        }
        Err(error) => Err(error),
    };
    if result.is_err() {
        drop(child.start_kill());
    }
    // The monitor is our child as long as we live: reap it when it ends.
    drop(crate::steps::spawn("reap monitor", async move { child.wait().await }));
    result
}

/// Why a monitor ended without a report, from what it wrote to its standard error.
async fn died(dir: &Path) -> String {
    let text = tokio::fs::read(dir.join("stderr")).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(4096)]).trim().to_owned();
    if text.is_empty() { "the monitor ended without a report".to_owned() } else { text }
}

/// What the monitor in `dir` knows now.
pub async fn known(dir: &Path) -> Result<Known, MonitorError> {
    match ask(dir, &Request::Subscribe, ANSWER).await? {
        Reply::State { pid, start_time, exit } => {
            Ok(Known { process: (pid > 0).then_some(ProcessId { pid, start_time }), exit })
        }
        other => Err(unexpected(dir, &other)),
    }
}

/// Makes the monitor open the log anew. On failure it goes on with the old file.
pub async fn reopen_log(dir: &Path) -> Result<(), MonitorError> {
    done(dir, ask(dir, &Request::ReopenLog, ANSWER).await?)
}

/// Lets the monitor of an ended container go: its exit is recorded. None there is fine.
///
/// A monitor that has not seen the end of a killed container yet is asked again, for a while.
pub async fn dismiss(dir: &Path) {
    let asking = async {
        while let Ok(Reply::Failed { .. }) = ask(dir, &Request::TakeExit, ANSWER).await {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    if tokio::time::timeout(DISMISSAL, asking).await.is_err() {
        tracing::warn!(dir = %dir.display(), "a monitor does not see its container's end");
    }
}

/// Follows the monitor in `dir` to the container's end.
///
/// A connection that breaks is tried again; when nobody listens any more, the exit record that
/// the monitor left speaks for it. An error while they are looked for says nothing about the container.
pub async fn watch(dir: PathBuf, events: mpsc::Sender<Event>) {
    let mut event = Event::Lost;
    for _ in 0..RECONNECTS {
        event = match follow(&dir).await {
            Ok(exit) => Event::Exited(exit),
            Err(error) => match left_behind(&dir) {
                Ok(Some(exit)) => Event::Exited(exit),
                Ok(None) if error.is_nobody() => Event::Lost,
                Ok(None) => Event::Unknown(error),
                Err(error) => Event::Unknown(error),
            },
        };
        if matches!(event, Event::Exited(_)) {
            break;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    // A receiver that is gone belongs to a container that is gone.
    events.send(event).await.ok();
}

/// The exit record in `dir`, if the monitor got to write one. One that is damaged is none.
///
/// # Errors
/// When it could not be read: there may be one.
pub fn left_behind(dir: &Path) -> Result<Option<Exit>, MonitorError> {
    let text = match fs::read(dir.join(conmon::EXIT)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MonitorError::Record { dir: dir.to_owned(), source }),
    };
    let exit = Exit::parse(&String::from_utf8_lossy(&text));
    let damaged = |error: &_| tracing::warn!(dir = %dir.display(), %error, "use an exit record");
    Ok(exit.inspect_err(damaged).ok())
}

async fn follow(dir: &Path) -> Result<Exit, MonitorError> {
    let mut stream = connect(dir, conmon::SOCKET).await?;
    send(dir, &mut stream, &Request::Subscribe).await?;
    let mut frames = Frames::new(stream, dir);
    loop {
        match frames.next().await? {
            Reply::State { exit: Some(exit), .. } | Reply::Exited(exit) => return Ok(exit),
            Reply::State { .. } | Reply::Created { .. } => {}
            other => return Err(unexpected(dir, &other)),
        }
    }
}

/// Another process in the container, on a connection of its own.
pub struct Exec {
    frames: Frames<UnixStream>,
}

/// How such a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// Status, or 128 + signal.
    pub code: u8,
}

/// Runs the runtime's `exec` under the monitor in `dir`; `stdio` becomes the process's own.
///
/// # Errors
/// [`MonitorError::Refused`] when the runtime could not start the process.
pub async fn exec(
    dir: &Path,
    argv: Vec<Vec<u8>>,
    pid_file: PathBuf,
    timeout: Duration,
    stdio: [OwnedFd; 3],
) -> Result<Exec, MonitorError> {
    let mut stream = connect(dir, conmon::SOCKET).await?;
    let talk = |source| MonitorError::Talk { dir: dir.to_owned(), source };
    let frame = Request::Exec { argv, pid_file, timeout }
        .encode()
        .map_err(|source| MonitorError::Contract { dir: dir.to_owned(), source })?;
    let sent = pass_fds::send(&stream, &frame, &stdio).await.map_err(talk)?;
    stream.write_all(&frame[sent..]).await.map_err(talk)?;
    drop(stdio);
    let mut exec = Exec { frames: Frames::new(stream, dir) };
    let within = timeout + MARGIN;
    match tokio::time::timeout(within, exec.frames.next()).await {
        Ok(Ok(Reply::ExecStarted { .. })) => Ok(exec),
        Ok(Ok(Reply::Failed { message })) => Err(MonitorError::Refused { message }),
        Ok(Ok(other)) => Err(unexpected(dir, &other)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(MonitorError::TimedOut { dir: dir.to_owned(), within }),
    }
}

impl Exec {
    /// Waits for the process's end. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<ExecExit, MonitorError> {
        match self.frames.next().await? {
            Reply::ExecExited { code, .. } => Ok(ExecExit { code }),
            Reply::Failed { message } => Err(MonitorError::Refused { message }),
            other => Err(unexpected(&self.frames.dir, &other)),
        }
    }

    /// Kills the process and everything it started. The end is still to be waited for.
    pub async fn kill(&mut self) -> Result<(), MonitorError> {
        let dir = self.frames.dir.clone();
        send(&dir, &mut self.frames.stream, &Request::Kill).await
    }
}

async fn ask(dir: &Path, request: &Request, within: Duration) -> Result<Reply, MonitorError> {
    let asked = async {
        let mut stream = connect(dir, conmon::SOCKET).await?;
        send(dir, &mut stream, request).await?;
        Frames::new(stream, dir).next().await
    };
    tokio::time::timeout(within, asked)
        .await
        .unwrap_or_else(|_| Err(MonitorError::TimedOut { dir: dir.to_owned(), within }))
}

/// Connects through the directory's descriptor, so that a long path does not matter (unix(7):
/// a socket's path has at most 107 bytes).
async fn connect(dir: &Path, socket: &str) -> Result<UnixStream, MonitorError> {
    let failed = |source| MonitorError::Connect { dir: dir.to_owned(), source };
    let held = File::open(dir).map_err(failed)?;
    let path = format!("/proc/self/fd/{}/{socket}", held.as_raw_fd());
    UnixStream::connect(path).await.map_err(failed)
}

async fn send(dir: &Path, stream: &mut UnixStream, request: &Request) -> Result<(), MonitorError> {
    let frame = request
        .encode()
        .map_err(|source| MonitorError::Contract { dir: dir.to_owned(), source })?;
    let talk = |source| MonitorError::Talk { dir: dir.to_owned(), source };
    stream.write_all(&frame).await.map_err(talk)
}

fn done(dir: &Path, reply: Reply) -> Result<(), MonitorError> {
    match reply {
        Reply::Ok => Ok(()),
        Reply::Failed { message } => Err(MonitorError::Refused { message }),
        other => Err(unexpected(dir, &other)),
    }
}

fn unexpected(dir: &Path, reply: &Reply) -> MonitorError {
    MonitorError::Unexpected { dir: dir.to_owned(), reply: format!("{reply:?}") }
}

/// The replies on one stream.
struct Frames<S> {
    stream: S,
    dir: PathBuf,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    fn new(stream: S, dir: &Path) -> Self {
        Self { stream, dir: dir.to_owned(), buffer: Vec::new() }
    }

    /// The next reply. May be dropped while it waits: what was read stays in the buffer.
    async fn next(&mut self) -> Result<Reply, MonitorError> {
        loop {
            let decoded = Reply::decode(&mut self.buffer);
            let contract = |source| MonitorError::Contract { dir: self.dir.clone(), source };
            if let Some(reply) = decoded.map_err(contract)? {
                return Ok(reply);
            }
            let talk = |source| MonitorError::Talk { dir: self.dir.clone(), source };
            if self.stream.read_buf(&mut self.buffer).await.map_err(talk)? == 0 {
                return Err(talk(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
