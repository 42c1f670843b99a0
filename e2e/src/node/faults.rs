//! Errors at the system call, in a daemon that knows nothing of it: strace(1) answers in the kernel's
//! place.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;

use super::{Node, START};
use crate::program::Program;
use crate::wait::eventually;

/// How long strace may take to get hold of all threads.
const ATTACH: Duration = Duration::from_secs(60);

/// Calls that fail.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Which, as strace names them: `openat,read`.
    pub calls: String,
    /// With what: `EIO`.
    pub error: String,
    /// The how manieth of each, in each thread: `2`, or `1+` for all.
    pub when: String,
    /// Only those on these files; empty = on all.
    pub paths: Vec<PathBuf>,
}

impl Fault {
    fn strace(&self) -> Command {
        let Self { calls, error, when, paths } = self;
        let mut command = Command::new("strace");
        command.args(["-f", "-qqq", "-o", "/dev/null"]);
        command.arg("-e").arg(format!("trace={calls}"));
        command.arg("-e").arg(format!("inject={calls}:error={error}:when={when}"));
        for path in paths {
            command.arg("-P").arg(path);
        }
        command
    }
}

impl Node {
    /// Starts the daemon with calls that fail from its first on, and waits until it has found its pods
    /// again, or has ended: whether it runs.
    ///
    /// # Errors
    /// If it does neither.
    pub fn spawn_with(&mut self, fault: &Fault) -> Result<bool> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let daemon = self.command(&["serve"])?;
        let mut command = fault.strace();
        // The tracer is the one that is put aside; the daemon stays our child.
        command.arg("-D").arg(daemon.get_program()).args(daemon.get_args());
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut daemon = Program::start(&mut command, &self.log_file())?;
        let runs = eventually(&format!("a start with {fault:?}"), START, || {
            if daemon.ensure_running().is_err() {
                return Ok(false);
            }
            let status = self.cri.status_rpc(pb::StatusRequest { verbose: false })?;
            let conditions = status.status.context("no status")?.conditions;
            let ready = conditions.iter().find(|condition| condition.r#type == "RuntimeReady");
            let ready = ready.context("no RuntimeReady")?;
            // A runtime that the fault hit is missing; only recovery is waited for.
            ensure!(ready.status || ready.reason != "Starting", "{ready:?}");
            Ok(true)
        })?;
        if runs {
            self.daemon = Some(daemon);
        }
        Ok(runs)
    }

    /// Lets calls of the running daemon fail until what is returned is dropped.
    ///
    /// # Errors
    /// If strace does not get hold of the daemon.
    pub fn inject(&self, fault: &Fault) -> Result<Program> {
        let pid = self.pid()?;
        let mut command = fault.strace();
        command.arg("-p").arg(pid.to_string());
        let mut tracer = Program::start(&mut command, &self.log_file())?;
        eventually("strace has the daemon", ATTACH, || {
            tracer.ensure_running()?;
            for task in crate::host::entries(&PathBuf::from(format!("/proc/{pid}/task"))) {
                let status = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/status"))?;
                let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
                ensure!(tracer.is_some_and(|tracer| tracer.trim() != "0"), "not thread {task}");
            }
            Ok(())
        })?;
        Ok(tracer)
    }
}
