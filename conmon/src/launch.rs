//! The command line that starts a monitor.
//!
//! ```text
//! conmon run --dir D --id ID [--log P [--log-dir L]] [--terminal] [--stdin] [--stdin-once]
//!            [--owner UID:GID] [--restore] --create-timeout-ms N -- RUNTIME ARGS...
//! ```
//!
//! [`Launch::args`] and [`Launch::parse`] are each other's inverse.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The longest create deadline taken: a day. More is a unit mistake of the caller.
pub const MAX_CREATE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything a monitor is told when it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The monitor directory: absolute, existing, on tmpfs, owned by the daemon, one per
    /// container. Holds the socket, the exit record and the pid file.
    pub dir: PathBuf,
    /// The container's id; for messages and the process list only.
    pub id: String,
    /// The CRI log file, absolute. None discards the output.
    pub log: Option<PathBuf>,
    /// The directory that the log is below: absolute, and a prefix of `log`. It is found as any path
    /// is; below it, where pods may write, no link is followed. None only excepts the log's own name.
    pub log_dir: Option<PathBuf>,
    /// The container has a terminal: its output comes from the pty master which the runtime
    /// delivers on [`crate::CONSOLE`].
    pub terminal: bool,
    /// The container has a standard input that somebody may attach to; else it is at its end.
    pub stdin: bool,
    /// The standard input is closed when the first client that attached to it leaves.
    pub stdin_once: bool,
    /// Who owns the standard streams of the container and of what is started in it; none = root.
    /// With a user namespace its root, who could not open `/dev/stdout` of another's again.
    pub owner: Option<Owner>,
    /// The runtime restores the container from a checkpoint: its processes run, and may write, before
    /// the runtime program has ended.
    pub restore: bool,
    /// How long the runtime program may take to create or restore the container.
    pub create_timeout: Duration,
    /// The whole command line of the runtime's `create` or `restore`: with `--pid-file DIR/pid`, and with
    /// `--console-socket DIR/console.sock` if `terminal`, which the runtime gets in a form that is
    /// short enough for a socket. The program's path is absolute.
    pub runtime: Vec<OsString>,
}

/// A user and a group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// Reads `UID:GID`. -1 is no id: it means "leave as it is" to chown(2) and setresuid(2).
    pub fn parse(text: &str) -> Option<Owner> {
        let (uid, gid) = text.split_once(':')?;
        let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
        Some(Owner { uid: id(uid)?, gid: id(gid)? })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Launch {
    /// The arguments that follow the monitor program's name.
    pub fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec!["run".into(), "--dir".into(), self.dir.clone().into(), "--id".into()];
        args.push(self.id.clone().into());
        if let Some(log) = &self.log {
            args.extend(["--log".into(), log.clone().into()]);
        }
        if let Some(dir) = &self.log_dir {
            args.extend(["--log-dir".into(), dir.clone().into()]);
        }
        let switches = [
            (self.terminal, "--terminal"),
            (self.stdin, "--stdin"),
            (self.stdin_once, "--stdin-once"),
            (self.restore, "--restore"),
        ];
        args.extend(switches.iter().filter(|(on, _)| *on).map(|(_, name)| OsString::from(name)));
        if let Some(owner) = self.owner {
            args.extend(["--owner".into(), owner.to_string().into()]);
        }
        args.push("--create-timeout-ms".into());
        args.push(self.create_timeout.as_millis().to_string().into());
        args.push("--".into());
        args.extend(self.runtime.iter().cloned());
        args
    }

    /// Reads the arguments that follow the monitor program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Launch, LaunchError> {
        let mut args = args.into_iter();
        match args.next() {
            Some(command) if command == "run" => {}
            other => return Err(LaunchError::Command(other.unwrap_or_default())),
        }
        let mut draft = Draft::default();
        loop {
            let Some(option) = args.next() else { return Err(LaunchError::Missing("--")) };
            if option == "--" {
                break;
            }
            draft.option(&option, &mut args)?;
        }
        draft.finish(args.collect())
    }
}

/// A command line half read.
#[derive(Default)]
struct Draft {
    dir: Option<PathBuf>,
    id: Option<String>,
    log: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    terminal: Option<()>,
    stdin: Option<()>,
    stdin_once: Option<()>,
    restore: Option<()>,
    owner: Option<Owner>,
    create_timeout: Option<Duration>,
}

impl Draft {
    fn option(
        &mut self,
        option: &OsStr,
        rest: &mut dyn Iterator<Item = OsString>,
    ) -> Result<(), LaunchError> {
        match option.as_bytes() {
            b"--dir" => set(&mut self.dir, "--dir", absolute("--dir", rest)?),
            b"--id" => {
                let id = value("--id", rest)?.into_string();
                let id = id.ok().filter(|id| !id.is_empty());
                set(&mut self.id, "--id", id.ok_or(LaunchError::Value("--id"))?)
            }
            b"--log" => set(&mut self.log, "--log", absolute("--log", rest)?),
            b"--log-dir" => set(&mut self.log_dir, "--log-dir", absolute("--log-dir", rest)?),
            b"--terminal" => set(&mut self.terminal, "--terminal", ()),
            b"--stdin" => set(&mut self.stdin, "--stdin", ()),
            b"--stdin-once" => set(&mut self.stdin_once, "--stdin-once", ()),
            b"--restore" => set(&mut self.restore, "--restore", ()),
            b"--owner" => {
                let owner = value("--owner", rest)?.to_str().and_then(Owner::parse);
                set(&mut self.owner, "--owner", owner.ok_or(LaunchError::Value("--owner"))?)
            }
            b"--create-timeout-ms" => {
                let name = "--create-timeout-ms";
                let millis = value(name, rest)?.to_str().and_then(|text| text.parse().ok());
                let timeout = millis.map(Duration::from_millis);
                let timeout = timeout.filter(|t| !t.is_zero() && *t <= MAX_CREATE_TIMEOUT);
                set(&mut self.create_timeout, name, timeout.ok_or(LaunchError::Value(name))?)
            }
            _ => Err(LaunchError::Option(option.to_owned())),
        }
    }

    fn finish(self, runtime: Vec<OsString>) -> Result<Launch, LaunchError> {
        if runtime.is_empty() {
            return Err(LaunchError::Missing("the runtime's command line"));
        }
        if self.log_dir.as_ref().is_some_and(|dir| !is_below(self.log.as_deref(), dir)) {
            return Err(LaunchError::Value("--log-dir"));
        }
        Ok(Launch {
            dir: self.dir.ok_or(LaunchError::Missing("--dir"))?,
            id: self.id.ok_or(LaunchError::Missing("--id"))?,
            log: self.log,
            log_dir: self.log_dir,
            terminal: self.terminal.is_some(),
            stdin: self.stdin.is_some(),
            stdin_once: self.stdin_once.is_some(),
            restore: self.restore.is_some(),
            owner: self.owner,
            create_timeout: self
                .create_timeout
                .ok_or(LaunchError::Missing("--create-timeout-ms"))?,
            runtime,
        })
    }
}

fn value(
    name: &'static str,
    rest: &mut dyn Iterator<Item = OsString>,
) -> Result<OsString, LaunchError> {
    rest.next().ok_or(LaunchError::Value(name))
}

fn absolute(
    name: &'static str,
    rest: &mut dyn Iterator<Item = OsString>,
) -> Result<PathBuf, LaunchError> {
    let path = PathBuf::from(value(name, rest)?);
    if path.is_absolute() { Ok(path) } else { Err(LaunchError::Value(name)) }
}

/// Whether the log is a name below `dir`, and no `..` leads out of that again.
fn is_below(log: Option<&Path>, dir: &Path) -> bool {
    let rest = log.and_then(|log| log.strip_prefix(dir).ok());
    rest.is_some_and(|rest| {
        let mut parts = rest.components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    })
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), LaunchError> {
    if slot.replace(value).is_some() { Err(LaunchError::Twice(name)) } else { Ok(()) }
}

/// Why a command line does not start a monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// The first argument is not `run`.
    Command(OsString),
    /// There is no such option.
    Option(OsString),
    /// The option stands there twice.
    Twice(&'static str),
    /// The option's value is absent or not valid.
    Value(&'static str),
    /// Something that must be given is not.
    Missing(&'static str),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(name) => write!(f, "unknown command {name:?}"),
            Self::Option(name) => write!(f, "unknown option {name:?}"),
            Self::Twice(name) => write!(f, "{name} is given twice"),
            Self::Value(name) => write!(f, "{name} has no valid value"),
            Self::Missing(name) => write!(f, "{name} is missing"),
        }
    }
}

impl Error for LaunchError {}

#[cfg(test)]
mod tests;
