//! Runs one plugin once: finds its program, hands it environment and input, takes its answer.
//!
//! Everything a plugin can do wrong ends here as an [`InvokeError`]. It runs in a process group of
//! its own with a deadline; when that passes, or when the future is dropped, the whole group is
//! killed. Its answer ends with its main process, even if a child that it left behind still holds
//! the pipe. A plugin that succeeds may leave such a child: it is not killed then.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::Guard;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

mod talk;

/// Time that one plugin has where [`Plugins::with_deadline`] says nothing else.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Largest answer. Results have a few hundred bytes; a thousand addresses still fit.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Most of standard error that is kept; the rest is read and dropped.
pub const MAX_STDERR_BYTES: usize = 16 << 10;

/// Longest text of a plugin that becomes part of an error. It is shown in events and logs.
pub const MAX_MESSAGE_BYTES: usize = 1 << 10;

/// A program that is being replaced on disk cannot be run for a moment (ETXTBSY).
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Wait for a killed plugin. One that is stuck in the kernel is reaped later by tokio.
const REAP: Duration = Duration::from_secs(1);

/// Search path for programs that plugins run (iptables, ip) if we were started without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is asked of a plugin (`CNI_COMMAND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Is the attachment as it was made?
    Check,
    /// Detach a container.
    Del,
    /// Drop what belongs to no attachment.
    Gc,
    /// Can containers be attached?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    /// As it is written in the environment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a plugin gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// No executable file of that name in any directory.
    #[error("plugin {plugin} is not an executable file in {directories}")]
    NotFound {
        /// Its type.
        plugin: String,
        /// Where it was looked for, joined by colons.
        directories: String,
    },
    /// Others may change its program than whose programs are run.
    #[error("plugin {plugin} is not used")]
    NotTrusted {
        /// Its type.
        plugin: String,
        /// What the caller's [`Guard`] says.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("run {path}", path = path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its pipes or its end could not be followed.
    #[error("follow plugin {plugin} during {verb}")]
    Follow {
        /// Its type.
        plugin: String,
        /// What it was doing.
        verb: Verb,
        /// Why.
        source: io::Error,
    },
    /// It was killed, with its process group, at its deadline.
    #[error("plugin {plugin} did not finish {verb} within {after:?} and was killed")]
    TimedOut {
        /// Its type.
        plugin: String,
        /// What it was doing.
        verb: Verb,
        /// Its time.
        after: Duration,
    },
    /// It wrote more than [`MAX_OUTPUT_BYTES`] and was killed.
    #[error("plugin {plugin} answered {verb} with more than {MAX_OUTPUT_BYTES} bytes")]
    OutputTooLong {
        /// Its type.
        plugin: String,
        /// What it was doing.
        verb: Verb,
    },
    /// It failed and said why, in the form of the specification.
    #[error("plugin {plugin} failed {verb}: {error}")]
    Refused {
        /// Its type.
        plugin: String,
        /// What it was doing.
        verb: Verb,
        /// What it said.
        error: PluginError,
    },
    /// It failed without an answer in that form.
    #[error("plugin {plugin} failed {verb} with {status}{}", if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    })]
    Failed {
        /// Its type.
        plugin: String,
        /// What it was doing.
        verb: Verb,
        /// How it ended.
        status: ExitStatus,
        /// End of what it wrote, if anything.
        said: String,
    },
}

/// A plugin's own error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, thiserror::Error)]
#[error("{}{}{} (code {code})", self.msg, if self.details.is_empty() { "" } else { ": " }, self.details)]
pub struct PluginError {
    /// What kind; [`PluginError::TRY_AGAIN_LATER`] and its like, from 100 on the plugin's own.
    pub code: u64,
    /// In short.
    #[serde(default)]
    pub msg: String,
    /// At length; may be empty.
    #[serde(default)]
    pub details: String,
}

impl PluginError {
    /// The condition should clear up by itself.
    pub const TRY_AGAIN_LATER: u64 = 11;
    /// STATUS: nothing can be attached now.
    pub const NOT_AVAILABLE: u64 = 50;
    /// STATUS: nothing can be attached now, and what is attached may have lost connectivity.
    pub const LIMITED_CONNECTIVITY: u64 = 51;
}

/// Where plugins are and how long each may take. A cheap clone.
#[derive(Clone, Debug)]
pub struct Plugins {
    directories: Arc<[PathBuf]>,
    deadline: Duration,
    guard: Guard,
}

impl Plugins {
    /// Plugins in these directories; the first that has a program wins.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories: directories.into(), deadline: DEADLINE, guard: |_| Ok(()) }
    }

    /// The same with another time for each plugin.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same, but only programs that `guard` lets be run, and configurations that it lets be
    /// read. It is asked each time.
    #[must_use]
    pub fn with_guard(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    /// What may be used.
    pub(crate) fn guard(&self) -> Guard {
        self.guard
    }

    /// The directories in search order.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The program of a plugin.
    pub fn find(&self, plugin: &str) -> Result<PathBuf, InvokeError> {
        // A configuration has been checked for this; a caller's own text has not.
        if !plugin.contains('/') {
            for directory in self.directories.iter() {
                let path = directory.join(plugin);
                if is_executable_file(&path) {
                    let refused =
                        |source| InvokeError::NotTrusted { plugin: plugin.to_owned(), source };
                    return (self.guard)(&path).map(|()| path).map_err(refused);
                }
            }
        }
        let directories = self.search_path().to_string_lossy().into_owned();
        Err(InvokeError::NotFound { plugin: plugin.to_owned(), directories })
    }

    fn search_path(&self) -> OsString {
        let directories: Vec<_> = self.directories.iter().map(|d| d.as_os_str()).collect();
        directories.join(":".as_ref())
    }

    /// Runs one plugin and returns what it wrote. Dropping the future kills it.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Vec<u8>, InvokeError> {
        let path = self.find(call.plugin)?;
        let mut process = self.spawn(&path, &call).await?;
        let talk = talk::with(&mut process.child, call.input);
        let answer = match tokio::time::timeout(self.deadline, talk).await {
            Ok(answer) => answer,
            Err(_) => {
                process.kill_and_reap().await;
                return Err(InvokeError::TimedOut {
                    plugin: call.plugin.to_owned(),
                    verb: call.verb,
                    after: self.deadline,
                });
            }
        };
        match answer {
            Ok(talk::Answer::Ended { status, stdout, stderr }) => {
                judge(&call, status, stdout, &stderr)
            }
            Ok(talk::Answer::TooLong) => {
                process.kill_and_reap().await;
                Err(InvokeError::OutputTooLong { plugin: call.plugin.to_owned(), verb: call.verb })
            }
            Err(source) => {
                process.kill_and_reap().await;
                let (plugin, verb) = (call.plugin.to_owned(), call.verb);
                Err(InvokeError::Follow { plugin, verb, source })
            }
        }
    }

    async fn spawn(&self, path: &Path, call: &Call<'_>) -> Result<Process, InvokeError> {
        let mut command = Command::new(path);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            command.env_remove(name);
        }
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", DEFAULT_PATH);
        }
        command
            .env("CNI_COMMAND", call.verb.as_str())
            .env("CNI_PATH", self.search_path())
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut tries = 0;
        loop {
            match command.spawn() {
                Ok(child) => return Ok(Process { child }),
                Err(error)
                    if Errno::from_io_error(&error) == Some(Errno::TXTBSY)
                        && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(source) => return Err(InvokeError::Spawn { path: path.to_owned(), source }),
            }
        }
    }
}

/// One run of one plugin.
pub(crate) struct Call<'a> {
    /// Its type.
    pub(crate) plugin: &'a str,
    /// What is asked.
    pub(crate) verb: Verb,
    /// `CNI_CONTAINERID` and its like, where the verb has them.
    pub(crate) environment: &'a [(&'static str, OsString)],
    /// The request, JSON.
    pub(crate) input: &'a [u8],
}

/// Is there a regular file with an execute bit (links followed)?
pub(crate) fn is_executable_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn judge(
    call: &Call<'_>,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: &[u8],
) -> Result<Vec<u8>, InvokeError> {
    let (plugin, verb) = (call.plugin, call.verb);
    if status.success() {
        if !stderr.is_empty() {
            tracing::debug!(plugin, %verb, stderr = readable(stderr), "plugin wrote to stderr");
        }
        return Ok(stdout);
    }
    let plugin = plugin.to_owned();
    if let Ok(mut error) = serde_json::from_slice::<PluginError>(&stdout) {
        error.msg = readable(error.msg.as_bytes());
        error.details = readable(error.details.as_bytes());
        return Err(InvokeError::Refused { plugin, verb, error });
    }
    let said = readable(if stderr.is_empty() { &stdout } else { stderr });
    Err(InvokeError::Failed { plugin, verb, status, said })
}

/// A foreign text as part of one line of ours: the last [`MAX_MESSAGE_BYTES`] of it, without
/// control characters. The end is kept because programs say last why they gave up.
fn readable(text: &[u8]) -> String {
    let text = text.trim_ascii();
    let start = text.len().saturating_sub(MAX_MESSAGE_BYTES);
    let cut = String::from_utf8_lossy(&text[start..]);
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A running plugin. Dropping it kills its process group.
struct Process {
    child: Child,
}

impl Process {
    fn kill(&self) {
        // RACE: the plugin may exit by itself just now. Its id is ours until it is reaped, and
        // `id` is none from then on, so the signal can only reach its own group.
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id
            && let Err(error) = kill_process_group(id, Signal::KILL)
            && error != Errno::SRCH
        {
            tracing::warn!(pid = id.as_raw_nonzero(), %error, "kill a plugin's process group");
        }
    }

    async fn kill_and_reap(&mut self) {
        self.kill();
        if tokio::time::timeout(REAP, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.child.id(), "a killed plugin does not end");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_message_details_and_code() {
        let error: PluginError =
            serde_json::from_str(r#"{"code":7,"msg":"bad","details":"subnet"}"#).unwrap();
        assert_eq!(error.to_string(), "bad: subnet (code 7)");
        let error: PluginError = serde_json::from_str(r#"{"code":100,"msg":"bad"}"#).unwrap();
        assert_eq!(error.to_string(), "bad (code 100)");
    }

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        assert_eq!(readable(b"\n a\x1b[31m\nb \n"), "a [31m b");
        let long = [b"x".repeat(5000), b"the reason".to_vec()].concat();
        assert!(readable(&long).ends_with("the reason"));
        assert!(readable(&long).len() <= MAX_MESSAGE_BYTES);
        // Cutting inside a character leaves a replacement character, never a panic.
        assert!(readable("é".repeat(2000).as_bytes()).contains('é'));
    }

    #[test]
    fn a_plugin_is_never_found_outside_its_directories() {
        let plugins = Plugins::new(vec!["/usr/lib/cni".into()]);
        assert!(plugins.find("../../bin/sh").is_err());
        assert!(plugins.find("/bin/sh").is_err());
    }
}
