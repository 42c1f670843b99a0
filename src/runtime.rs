//! An OCI runtime as a program (runc, crun, youki, runsc): its command lines, and the commands that
//! need no stdio of the container: start, kill, update, delete, state.
//!
//! `create` and `exec` run under the monitor, which holds the stdio; only their command lines are
//! made here. Every call has a deadline, after which the program's whole process group is killed.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::config;
use crate::error::{Classify, Kind};
use crate::ids::ContainerId;
use crate::trust::Program;

pub mod checkpoint;
pub mod criu;
pub mod environment;
pub mod features;
pub mod handlers;
pub mod probe;
mod turns;

pub use environment::Environment;
pub use features::Features;
pub use turns::{Slot, Turns};

/// How long `create` may take: it pulls nothing, but hooks and slow disks count.
pub const CREATE_DEADLINE: Duration = Duration::from_secs(240);

/// How long starting an exec may take before its own time begins.
pub const EXEC_DEADLINE: Duration = Duration::from_secs(60);

/// How long `start`, `kill`, `update`, `delete` and `state` may take.
const SHORT_DEADLINE: Duration = Duration::from_secs(60);

/// What is kept of a runtime's output, for the error message.
const OUTPUT_CAP: u64 = 16 << 10;

/// How much of the end of a runtime's log is looked at for the reason of a failure.
const LOG_TAIL: usize = 16 << 10;

/// Why a runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The program could not be started.
    #[error("start runtime {program}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It failed, in its own words.
    #[error("{runtime} {command}: {message}")]
    Failed {
        /// The handler's program name.
        runtime: String,
        /// What it was asked to do.
        command: &'static str,
        /// Its own words.
        message: String,
    },
    /// It was killed because what it worked on was gone.
    #[error("{runtime} {command} was given up: the container has ended")]
    GivenUp {
        /// The handler's program name.
        runtime: String,
        /// What it was asked to do.
        command: &'static str,
    },
    /// It was killed because it took too long.
    #[error("{runtime} {command} took longer than {within:?}")]
    TimedOut {
        /// The handler's program name.
        runtime: String,
        /// What it was asked to do.
        command: &'static str,
        /// The deadline.
        within: Duration,
    },
}

impl Classify for RuntimeError {
    fn kind(&self) -> Kind {
        match self {
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::GivenUp { .. } => Kind::WrongState,
            Self::Spawn { .. } | Self::Failed { .. } => Kind::Unavailable,
        }
    }
}

/// What a runtime says of one of its containers (OCI runtime specification, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// The user's process has not been let go yet.
    Created,
    /// It runs, or is paused.
    Running,
    /// It has ended.
    Stopped,
    /// The runtime knows no such container.
    Absent,
}

/// One handler's runtime.
#[derive(Debug)]
pub struct Runtime {
    program: Program,
    /// Global options: `--root`, those of the configuration, the cgroup driver's.
    global: Vec<OsString>,
    root: PathBuf,
    environment: Environment,
    /// What it says it can do, as last asked.
    features: ArcSwap<Features>,
    /// When it may be started.
    turns: Turns,
}

impl Runtime {
    /// The runtime of a handler; `turns` are those of the node, of all its runtimes.
    pub fn new(
        (handler, program): (&config::Handler, Program),
        features: Features,
        systemd_cgroup: SystemdCgroup,
        environment: Environment,
        turns: Turns,
    ) -> Self {
        let mut global = vec!["--root".into(), handler.root.clone().into_os_string()];
        global.extend(handler.options.iter().map(OsString::from));
        if systemd_cgroup == SystemdCgroup::Yes {
            global.push("--systemd-cgroup".into());
        }
        let features = ArcSwap::from_pointee(features);
        let root = handler.root.clone();
        Self { program, global, root, environment, features, turns }
    }

    /// The environment that it runs in.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What it says it can do.
    pub fn features(&self) -> Arc<Features> {
        self.features.load_full()
    }

    /// Takes what it says now: its program may have been replaced.
    pub fn learn(&self, features: Features) {
        self.features.store(Arc::new(features));
    }

    /// The program's file name, for messages.
    pub fn name(&self) -> String {
        self.program.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Waits for one of the node's slots for starting containers and processes, and looks whether
    /// the program may still be run: who has a slot runs it next.
    ///
    /// # Errors
    /// [`RuntimeError::Spawn`] if others than root may change it now.
    pub async fn slot(&self) -> Result<Slot, RuntimeError> {
        let slot = self.turns.slot().await;
        match self.program.to_run() {
            Ok(_) => Ok(slot),
            Err(source) => {
                let program = self.program.path().to_owned();
                Err(RuntimeError::Spawn { program, source })
            }
        }
    }

    /// The command line that creates a container from its bundle.
    pub fn create_argv(&self, id: &ContainerId, bundle: &Path, stdio: Stdin<'_>) -> Vec<OsString> {
        self.make_argv("create", id, bundle, stdio, Vec::new())
    }

    /// The command line of `command`, one of those after which a container has a process.
    fn make_argv(
        &self,
        command: &str,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdin<'_>,
        options: Vec<OsString>,
    ) -> Vec<OsString> {
        let mut argv = self.argv(&bundle.join("runtime.log"));
        argv.extend([command.into(), "--bundle".into(), bundle.as_os_str().to_owned()]);
        argv.extend(options);
        argv.extend(["--pid-file".into(), stdio.monitor.join(conmon::PID).into_os_string()]);
        if stdio.terminal {
            argv.push("--console-socket".into());
            argv.push(stdio.monitor.join(conmon::CONSOLE).into_os_string());
        }
        argv.push(id.to_string().into());
        argv
    }

    /// The command line that starts the process described in `files.process` in a container.
    pub fn exec_argv(&self, id: &ContainerId, files: &ExecFiles) -> Vec<Vec<u8>> {
        let mut argv = self.argv(&files.log);
        argv.extend(["exec".into(), "--detach".into()]);
        argv.extend(["--process".into(), files.process.clone().into_os_string()]);
        argv.extend(["--pid-file".into(), files.pid.clone().into_os_string()]);
        if let Some(console) = &files.console {
            argv.extend(["--console-socket".into(), console.clone().into_os_string()]);
        }
        argv.push(id.to_string().into());
        argv.into_iter().map(OsString::into_vec).collect()
    }

    /// Lets the container's process go.
    pub async fn start(&self, id: &ContainerId, bundle: &Path) -> Result<(), RuntimeError> {
        self.run("start", Some(bundle), &[id.to_string().into()]).await.map(drop)
    }

    /// Sends a signal, by number, to the container's first process.
    pub async fn kill(&self, id: &ContainerId, signal: u8) -> Result<(), RuntimeError> {
        self.run("kill", None, &[id.to_string().into(), signal.to_string().into()]).await.map(drop)
    }

    /// Changes the container's limits to those in `file` (OCI `linux.resources`), unless `ended`
    /// comes first: the container's end.
    pub async fn update(
        &self,
        id: &ContainerId,
        file: &Path,
        ended: impl Future<Output = ()>,
    ) -> Result<(), RuntimeError> {
        let file = file.as_os_str().to_owned();
        let arguments = ["--resources".into(), file, id.to_string().into()];
        self.run_until("update", None, &arguments, SHORT_DEADLINE, ended).await.map(drop)
    }

    /// Forgets the container, killing what is left of it. One that it does not know is fine.
    pub async fn delete(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.run("delete", None, &["--force".into(), id.to_string().into()]).await {
            Err(RuntimeError::Failed { .. }) if !self.knows(id) => Ok(()),
            other => other.map(drop),
        }
    }

    /// What the runtime says of the container.
    pub async fn state(&self, id: &ContainerId) -> Result<RuntimeState, RuntimeError> {
        #[derive(serde::Deserialize)]
        struct State {
            status: String,
        }
        let output = match self.run("state", None, &[id.to_string().into()]).await {
            Err(RuntimeError::Failed { .. }) if !self.knows(id) => return Ok(RuntimeState::Absent),
            other => other?,
        };
        let said = serde_json::from_slice::<State>(&output).map(|state| state.status);
        match said.as_deref() {
            Ok("creating" | "created") => Ok(RuntimeState::Created),
            Ok("running" | "paused" | "pausing") => Ok(RuntimeState::Running),
            Ok("stopped") => Ok(RuntimeState::Stopped),
            _ => Err(RuntimeError::Failed {
                runtime: self.name(),
                command: "state",
                message: format!("no state in {:?}", String::from_utf8_lossy(&output)),
            }),
        }
    }

    /// Whether the runtime keeps a state of the container. All of them keep it below their root,
    /// under the container's id.
    fn knows(&self, id: &ContainerId) -> bool {
        !matches!(self.root.join(id.to_string()).symlink_metadata(),
            Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    fn argv(&self, log: &Path) -> Vec<OsString> {
        let mut argv = vec![self.program.path().as_os_str().to_owned()];
        argv.extend(self.global.iter().cloned());
        argv.extend(["--log".into(), log.as_os_str().to_owned()]);
        argv.extend(["--log-format".into(), "json".into()]);
        argv
    }

    async fn run(
        &self,
        command: &'static str,
        bundle: Option<&Path>,
        arguments: &[OsString],
    ) -> Result<Vec<u8>, RuntimeError> {
        let never = std::future::pending();
        self.run_until(command, bundle, arguments, SHORT_DEADLINE, never).await
    }

    async fn run_until(
        &self,
        command: &'static str,
        bundle: Option<&Path>,
        arguments: &[OsString],
        within: Duration,
        pointless: impl Future<Output = ()>,
    ) -> Result<Vec<u8>, RuntimeError> {
        let spawn =
            |source| RuntimeError::Spawn { program: self.program.path().to_owned(), source };
        let mut call = Command::new(self.program.to_run().map_err(spawn)?);
        call.args(&self.global).arg(command).args(arguments);
        call.env_clear().envs(self.environment.variables());
        call.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        call.current_dir(bundle.unwrap_or(Path::new("/"))).process_group(0);
        let mut child = call.spawn().map_err(spawn)?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finished = async {
            // A hook may leave a process behind that holds our pipe; the exit alone decides.
            let status = child.wait().await;
            let (stdout, stderr) = tokio::join!(head(stdout), head(stderr));
            status.map(|status| (status, stdout, stderr))
        };
        let runtime = self.name();
        let given_up = tokio::select! {
            biased;
            finished = finished => return match finished {
                Ok((status, stdout, stderr)) => {
                    self.judge(command, status, &stderr).map(|()| stdout)
                }
                Err(source) => Err(spawn(source)),
            },
            () = tokio::time::sleep(within) => {
                RuntimeError::TimedOut { runtime, command, within }
            }
            () = pointless => RuntimeError::GivenUp { runtime, command },
        };
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL).ok();
        }
        Err(given_up)
    }

    fn judge(
        &self,
        command: &'static str,
        status: ExitStatus,
        stderr: &[u8],
    ) -> Result<(), RuntimeError> {
        if status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(stderr);
        let message = match last_message(&words) {
            Some(message) => message,
            None => status.to_string(),
        };
        Err(RuntimeError::Failed { runtime: self.name(), command, message })
    }
}

/// Whether the runtime asks systemd for control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemdCgroup {
    /// It does.
    Yes,
    /// It uses the file system.
    No,
}

/// Where a created container's stdio comes from.
#[derive(Clone, Copy, Debug)]
pub struct Stdin<'a> {
    /// The monitor's directory.
    pub monitor: &'a Path,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// The files of one exec.
#[derive(Clone, Debug)]
pub struct ExecFiles {
    /// The OCI process to start, as JSON.
    pub process: PathBuf,
    /// Where the runtime writes its pid.
    pub pid: PathBuf,
    /// The runtime's log.
    pub log: PathBuf,
    /// Where the runtime sends the process's terminal; none = the process gets none.
    pub console: Option<PathBuf>,
}

/// Why a runtime failed, from the log that its command line named.
pub async fn reason_in_log(log: &Path) -> Option<String> {
    let bytes = tokio::fs::read(log).await.ok()?;
    let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL)..];
    last_message(&String::from_utf8_lossy(tail))
}

/// The last message at level error in JSON log lines, or else the last line of plain text.
fn last_message(text: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: Option<String>,
        msg: String,
    }
    let mut plain = None;
    for line in text.lines().rev().map(str::trim).filter(|line| !line.is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(line) if line.level.as_deref().is_none_or(|l| l == "error" || l == "fatal") => {
                return Some(line.msg);
            }
            Ok(_) => {}
            Err(_) => plain = plain.or_else(|| Some(unwrap_logfmt(line))),
        }
    }
    plain
}

/// `time=… level=error msg="words"` → `words`; other lines as they are.
fn unwrap_logfmt(line: &str) -> String {
    let message = line.split_once("msg=").map(|(_, message)| message);
    match message.map(serde_json::from_str::<String>) {
        Some(Ok(words)) => words,
        _ => line.to_owned(),
    }
}

async fn head(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let mut bounded = stream.take(OUTPUT_CAP);
        let read = bounded.read_to_end(&mut bytes);
        // The program has ended: what it wrote is in the pipe already.
        tokio::time::timeout(Duration::from_millis(200), read).await.ok();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_error_of_a_json_log() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"exec: no such file\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n";
        assert_eq!(last_message(log).as_deref(), Some("exec: no such file"));
    }

    #[test]
    fn the_reason_is_the_last_line_of_a_plain_log() {
        assert_eq!(last_message("a\n\nb c\n").as_deref(), Some("b c"));
        let logfmt = "time=\"x\" level=error msg=\"container \\\"y\\\" does not exist\"";
        assert_eq!(last_message(logfmt).as_deref(), Some("container \"y\" does not exist"));
        assert_eq!(last_message(" \n"), None);
    }
}
