//! A command that somebody talks to: Exec.
//!
//! Its process belongs to whoever holds [`Process`]: when that is dropped, the monitor kills it and
//! everything it has started. Its stdio are parts of their own, so that each can be read, written
//! and closed without the others.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::monitor::Exec;
use crate::runtime::EXEC_DEADLINE;

use super::super::{ContainerError, ContainerRecord, Parts};
use super::terminal::Console;
use super::{
    FILES, Files, KILLED, NEXT, Room, monitor_error, no_pipe, pipe_pair, read_pipe, run_runtime,
};

pub use super::terminal::Terminal;

/// What a process has for its standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Pipes; the standard input has ended from the start unless it is wanted.
    Pipes {
        /// Whether somebody will write to it.
        stdin: bool,
    },
    /// One terminal.
    Terminal,
}

/// Where a process reads from.
#[derive(Debug)]
pub enum Input {
    /// A pipe; dropped = ended.
    Pipe(pipe::Sender),
    /// Its terminal, and whether a line has been begun.
    Terminal(Terminal, bool),
}

/// What a process writes to.
#[derive(Debug)]
pub enum Output {
    /// A pipe.
    Pipe(pipe::Receiver),
    /// Its terminal.
    Terminal(Terminal),
}

/// A running process.
pub struct Process {
    exec: Exec,
    record: ContainerRecord,
    /// Standard input, if wanted.
    pub stdin: Option<Input>,
    /// Standard output, or the terminal's.
    pub stdout: Option<Output>,
    /// Standard error; none with a terminal.
    pub stderr: Option<Output>,
    /// The terminal, to resize it.
    pub terminal: Option<Terminal>,
    /// Its place among the container's commands.
    _room: Room,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Status, or 128 + signal.
    pub code: i32,
}

/// Starts `command` in the container of `record`; it holds `room` for as long as it lives.
///
/// # Errors
/// [`ContainerError::ExecRefused`] with the runtime's words when there is no such program.
pub async fn start_process(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    command: Vec<String>,
    stdio: Stdio,
    room: Room,
) -> Result<Process, ContainerError> {
    let operation = parts.operations.begin("exec", record.id);
    operation.step("files");
    match stdio {
        Stdio::Pipes { stdin } => with_pipes(parts, record, &command, stdin, room).await,
        Stdio::Terminal => with_terminal(parts, record, &command, room).await,
    }
}

async fn with_pipes(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    command: &[String],
    stdin: bool,
    room: Room,
) -> Result<Process, ContainerError> {
    let files = Files::write(&parts.layout.bundle(&record.id), command, None).await?;
    let (out_read, out_write) = read_pipe(record)?;
    let (err_read, err_write) = read_pipe(record)?;
    let (in_read, in_write) = pipe_pair(record)?;
    let input = match stdin {
        true => Some(pipe::Sender::from_owned_fd(in_write).map_err(|e| no_pipe(record, e))?),
        // An input that has ended.
        false => None,
    };
    let stdio = [in_read, out_write, err_write];
    let exec = run_runtime(parts, record, &room, &files, stdio, EXEC_DEADLINE).await?;
    Ok(Process {
        exec,
        record: record.clone(),
        stdin: input.map(Input::Pipe),
        stdout: Some(Output::Pipe(out_read)),
        stderr: Some(Output::Pipe(err_read)),
        terminal: None,
        _room: room,
    })
}

async fn with_terminal(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    command: &[String],
    room: Room,
) -> Result<Process, ContainerError> {
    let bundle = parts.layout.bundle(&record.id);
    let failed = |action| {
        let path = bundle.clone();
        move |source| ContainerError::File { action, path, source }
    };
    let name = format!("{FILES}{}.tty", NEXT.fetch_add(1, Ordering::Relaxed));
    let console = Console::bind(&bundle, &name).map_err(failed("make a console socket in"))?;
    let path: PathBuf = console.path().to_owned();
    let files = Files::write(&bundle, command, Some(path)).await?;
    // The runtime program's own streams; the process does not get them. What it says in case of a
    // failure is also in its log.
    let (in_read, _) = pipe_pair(record)?;
    let (_words, out) = pipe_pair(record)?;
    let err = out.try_clone().map_err(|source| no_pipe(record, source))?;
    let stdio = [in_read, out, err];
    let exec = run_runtime(parts, record, &room, &files, stdio, EXEC_DEADLINE).await?;
    let terminal = console.receive().await.map_err(failed("receive a terminal in"))?;
    Ok(Process {
        exec,
        record: record.clone(),
        stdin: Some(Input::Terminal(terminal.clone(), false)),
        stdout: Some(Output::Terminal(terminal.clone())),
        stderr: None,
        terminal: Some(terminal),
        _room: room,
    })
}

impl Process {
    /// Waits for the process's end. May be dropped and called again, but not after it has returned.
    ///
    /// # Errors
    /// When the monitor is gone.
    pub async fn wait(&mut self) -> Result<Ended, ContainerError> {
        let exit = self.exec.wait().await;
        let exit = exit.map_err(|source| monitor_error(&self.record, source))?;
        Ok(Ended { code: i32::from(exit.code) })
    }

    /// Ends the process: its streams are closed, which is a hang-up for one with a terminal; after
    /// `grace` it is killed with everything that it has started. How it ended, if that was seen.
    pub async fn end(mut self, grace: Duration) -> Option<Ended> {
        (self.stdin, self.stdout, self.stderr, self.terminal) = (None, None, None, None);
        if let Ok(ended) = tokio::time::timeout(grace, self.wait()).await {
            return ended.ok();
        }
        // A monitor that is gone has taken its container along.
        self.exec.kill().await.ok()?;
        match tokio::time::timeout(KILLED, self.wait()).await {
            Ok(ended) => ended.ok(),
            Err(_) => {
                tracing::warn!(container = %self.record.id, "a command outlives SIGKILL");
                None
            }
        }
    }
}

impl Input {
    /// Writes all of `bytes`; waits while the process does not read.
    ///
    /// # Errors
    /// When the process reads no more.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal, in_line) => {
                *in_line = bytes.last().is_some_and(|&last| last != b'\n' && last != b'\r');
                terminal.write_all(bytes).await
            }
        }
    }

    /// Nothing more will be written.
    ///
    /// # Errors
    /// When the process's terminal is gone.
    pub async fn end(self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => {
                drop(pipe);
                Ok(())
            }
            Self::Terminal(terminal, in_line) => terminal.end(in_line).await,
        }
    }
}

impl Output {
    /// Reads some bytes; 0 at the end. May be dropped while it waits.
    ///
    /// # Errors
    /// Those of read(2).
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => terminal.read(buffer).await,
        }
    }
}
