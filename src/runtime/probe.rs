//! Asks a program about itself (`--version`, `features`): bounded in time and output, and killed
//! with its process group.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::{Classify, Kind};

/// runc and crun answer in milliseconds, on a node that is very busy in seconds; a program that needs
/// longer hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// `runc features` prints about 10 KiB.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// How much of stderr goes into an error.
const MAX_STDERR: usize = 512;

/// What can go wrong when a program is asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be started: absent, not executable, not a program.
    #[error("start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{} {what} did not end within {} s", program.display(), DEADLINE.as_secs())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// What it was asked.
        what: String,
    },
    /// Its output could not be read.
    #[error("read the answer of {} {what}", program.display())]
    Read {
        /// The program.
        program: PathBuf,
        /// What it was asked.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} {what}: {status}: {stderr}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it was asked.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it said about that.
        stderr: String,
    },
    /// Its answer makes no sense.
    #[error("{} {what} answers {answer:?}", program.display())]
    Nonsense {
        /// The program.
        program: PathBuf,
        /// What it was asked.
        what: String,
        /// The beginning of the answer.
        answer: String,
    },
}

impl Classify for ProbeError {
    fn kind(&self) -> Kind {
        match self {
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Start { .. } | Self::Failed { .. } | Self::Nonsense { .. } => Kind::Unavailable,
            Self::Read { .. } => Kind::Internal,
        }
    }
}

/// Runs `program argument` and returns its standard output.
///
/// # Errors
///
/// See [`ProbeError`]; after an error nothing of the program's process group is left.
pub async fn ask(program: &Path, argument: &str) -> Result<String, ProbeError> {
    let mut child = Command::new(program)
        .arg(argument)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ProbeError::Start { program: program.to_owned(), source })?;
    let group = Group::of(&child);
    let answer = tokio::time::timeout(DEADLINE, answer(&mut child)).await;
    if matches!(answer, Ok(Ok(_))) {
        // It has been waited for, so the number of its group may soon be a stranger's.
        group.disarm();
    }
    let what = || argument.to_owned();
    let program = || program.to_owned();
    match answer {
        Err(_) => Err(ProbeError::TimedOut { program: program(), what: what() }),
        Ok(Err(source)) => Err(ProbeError::Read { program: program(), what: what(), source }),
        Ok(Ok(answer)) if answer.status.success() => Ok(answer.stdout),
        Ok(Ok(Answer { status, stderr, .. })) => {
            Err(ProbeError::Failed { program: program(), what: what(), status, stderr })
        }
    }
}

struct Answer {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

async fn answer(child: &mut Child) -> io::Result<Answer> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, status) =
        tokio::join!(read_bounded(stdout), read_bounded(stderr), child.wait());
    let mut stderr = stderr?.trim().to_owned();
    stderr.truncate(stderr.floor_char_boundary(MAX_STDERR));
    Ok(Answer { status: status?, stdout: stdout?, stderr })
}

async fn read_bounded(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Kills the process group when dropped, also when the caller gave up.
///
/// RACE: a group's number is free for others once its leader is reaped and its last member gone. An
/// answer is missing only while one of them still runs or holds the pipe, so it is not free yet.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // ESRCH is the usual case: everybody has ended.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

/// What `--version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// First word, e.g. `runc`.
    pub name: String,
    /// As printed, e.g. `1.1.5+ds1`.
    pub text: String,
    /// Its numbers; missing ones are 0.
    pub numbers: (u32, u32, u32),
}

/// Runs `program --version`.
///
/// # Errors
///
/// As [`ask`], and if the answer is not `NAME version NUMBER`.
pub async fn version(program: &Path) -> Result<Version, ProbeError> {
    let answer = ask(program, "--version").await?;
    parse_version(&answer).ok_or_else(|| {
        let answer = answer.chars().take(80).collect();
        let what = "--version".to_owned();
        ProbeError::Nonsense { program: program.to_owned(), what, answer }
    })
}

/// `runc version 1.1.5+ds1`, `crun version 1.8.1`, `runsc version release-20260801.0`.
fn parse_version(answer: &str) -> Option<Version> {
    let mut words = answer.lines().next()?.split_whitespace();
    let name = words.next()?.to_owned();
    let text = words.find(|word| word.contains(|c: char| c.is_ascii_digit()))?.to_owned();
    let first = text.find(|c: char| c.is_ascii_digit())?;
    let number_end = |c: char| !c.is_ascii_digit() && c != '.';
    let numbers = text[first..].split(number_end).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let numbers = (next(), next(), next());
    Some(Version { name, text, numbers })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;

    /// A script as a program, and the directory that keeps it.
    fn program(script: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        crate::testing::program(&path, &format!("#!/bin/sh\n{script}\n"));
        (dir, path)
    }

    #[test]
    fn versions_of_known_runtimes_are_understood() {
        for (answer, name, numbers) in [
            ("runc version 1.1.5+ds1\ncommit: x\n", "runc", (1, 1, 5)),
            ("crun version 1.8.1\n", "crun", (1, 8, 1)),
            ("crun version 1.28\n", "crun", (1, 28, 0)),
            ("runc version 1.3.0-rc.2\n", "runc", (1, 3, 0)),
            ("runsc version release-20260801.0\n", "runsc", (20260801, 0, 0)),
        ] {
            let version = parse_version(answer).unwrap();
            assert_eq!((version.name.as_str(), version.numbers), (name, numbers), "{answer}");
        }
        assert_eq!(parse_version("usage: x\n"), None);
        assert_eq!(parse_version(""), None);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children_at_the_deadline() {
        let (dir, hangs) = program("sleep 1000 & echo $! > \"$(dirname $0)/pid\"; wait");
        let start = Instant::now();
        let error = version(&hangs).await.unwrap_err();
        assert!(matches!(error, ProbeError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < DEADLINE * 3);
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + DEADLINE;
        while !gone() {
            assert!(Instant::now() < deadline, "the child still runs");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn failures_say_what_the_program_said() {
        let (_dir, fails) = program("echo no such thing >&2; exit 3");
        let error = ask(&fails, "features").await.unwrap_err();
        assert!(error.to_string().ends_with("features: exit status: 3: no such thing"), "{error}");

        let error = ask(Path::new("/nonexistent/runc"), "features").await.unwrap_err();
        assert_eq!(error.to_string(), "start /nonexistent/runc");

        let (_dir, nonsense) = program("echo hello");
        let error = version(&nonsense).await.unwrap_err();
        assert!(matches!(error, ProbeError::Nonsense { .. }), "{error}");
    }

    #[tokio::test]
    async fn endless_output_is_cut_and_the_program_ended() {
        let (_dir, endless) = program("exec yes");
        let error = ask(&endless, "--version").await.unwrap_err();
        // It is stopped by SIGPIPE or by the deadline, never by our memory.
        assert!(
            matches!(error, ProbeError::Failed { .. } | ProbeError::TimedOut { .. }),
            "{error}"
        );
    }
}
