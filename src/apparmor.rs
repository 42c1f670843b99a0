//! AppArmor: our default profile, and whether a profile is loaded.
//!
//! The kernel is asked through its security file system; a profile is compiled and loaded by
//! `apparmor_parser`, a program of the host. Profiles of others are none of our business: they are
//! loaded by whoever wrote them, and only looked for here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Classify, Kind, chain};
use crate::steps::{self, blocking};

mod profile;

/// The profile of containers that name none.
pub const DEFAULT: &str = "crisol-default";

/// Where distributions have the program.
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// One line for each loaded profile: `name (mode)` (apparmor(7)).
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Compiling one profile takes well under a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// How much of the program's complaint is repeated.
const MAX_COMPLAINT: usize = 512;

/// Why a profile could not be loaded or looked for.
#[derive(Debug, thiserror::Error)]
pub enum ApparmorError {
    /// The kernel's list could not be read.
    #[error("look for AppArmor profiles in {path}")]
    List {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("load AppArmor profile {DEFAULT} with {program}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed.
    #[error("load AppArmor profile {DEFAULT} with {program}: {complaint}")]
    Refused {
        /// The program.
        program: PathBuf,
        /// Its own words.
        complaint: String,
    },
}

impl Classify for ApparmorError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// AppArmor of this host.
#[derive(Clone, Debug)]
pub struct Apparmor {
    enabled: bool,
    parser: Option<PathBuf>,
    loaded: PathBuf,
}

impl Apparmor {
    /// AppArmor as the kernel has it; `enabled` is what the kernel says.
    pub fn new(enabled: bool) -> Self {
        let parser = if enabled { find_parser() } else { None };
        Self { enabled, parser, loaded: LOADED.into() }
    }

    /// The same, with our profile being loaded: before the first container needs it, and again if
    /// another version of crisol loaded another one.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(enabled: bool) -> Self {
        let apparmor = Self::new(enabled);
        if enabled && apparmor.parser.is_none() {
            tracing::warn!("no apparmor_parser: containers that name no profile run without one");
        }
        let loading = apparmor.clone();
        drop(steps::spawn("load AppArmor profile", async move {
            if let Err(error) = loading.load_default().await {
                tracing::error!(error = %chain(&error), "the default AppArmor profile is not loaded");
            }
        }));
        apparmor
    }

    /// Whether the kernel enforces profiles.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The profile of containers that name none; none if it cannot be loaded here at all.
    pub fn default_profile(&self) -> Option<&'static str> {
        self.parser.as_ref().map(|_| DEFAULT)
    }

    /// Loads the default profile, whether it is loaded or not: another version of it may be.
    ///
    /// # Errors
    /// [`ApparmorError`]; a host without AppArmor or without its program has nothing to load.
    pub async fn load_default(&self) -> Result<(), ApparmorError> {
        let Some(program) = &self.parser else { return Ok(()) };
        let failed = |source| ApparmorError::Run { program: program.clone(), source };
        let mut child = Command::new(program)
            .args(["--replace", "--skip-cache", "--quiet"])
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let work = async {
            if let Some(mut stdin) = stdin {
                stdin.write_all(profile::text().as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let timed_out = |_| failed(io::ErrorKind::TimedOut.into());
        let output =
            tokio::time::timeout(DEADLINE, work).await.map_err(timed_out)?.map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let mut complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        complaint.truncate(complaint.floor_char_boundary(MAX_COMPLAINT));
        Err(ApparmorError::Refused { program: program.clone(), complaint })
    }

    /// Loads the default profile if it is not loaded any more.
    ///
    /// # Errors
    /// As [`load_default`](Self::load_default).
    pub async fn ensure_default(&self) -> Result<(), ApparmorError> {
        if self.parser.is_none() || self.is_loaded(DEFAULT).await? {
            return Ok(());
        }
        tracing::info!(profile = DEFAULT, "the AppArmor profile is gone; loading it again");
        self.load_default().await
    }

    /// Whether a profile of this name is loaded.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn is_loaded(&self, name: &str) -> Result<bool, ApparmorError> {
        let path = self.loaded.clone();
        let list = blocking(move || fs::read_to_string(path))
            .await
            .map_err(|source| ApparmorError::List { path: self.loaded.clone(), source })?;
        Ok(list.lines().filter_map(name_of).any(|loaded| loaded == name))
    }
}

/// The program that loads profiles, if this host has it.
pub fn find_parser() -> Option<PathBuf> {
    PARSERS.iter().map(PathBuf::from).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The name in a line `name (mode)`; a name may have blanks and parentheses itself.
fn name_of(line: &str) -> Option<&str> {
    line.strip_suffix(')')?.rsplit_once(" (").map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// AppArmor with a parser that is this shell script.
    fn with_parser(dir: &Path, script: &str) -> Apparmor {
        let parser = dir.join("parser");
        crate::testing::program(&parser, &format!("#!/bin/sh\n{script}\n"));
        Apparmor { enabled: true, parser: Some(parser), loaded: dir.join("profiles") }
    }

    #[tokio::test]
    async fn a_loaded_profile_is_found_by_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let apparmor = with_parser(dir.path(), "");
        assert!(apparmor.is_loaded("x").await.is_err(), "no list is no answer");
        fs::write(&apparmor.loaded, "web (enforce)\nodd (x) (complain)\n/bin/a//b (unconfined)\n")
            .unwrap();
        for there in ["web", "odd (x)", "/bin/a//b"] {
            assert!(apparmor.is_loaded(there).await.unwrap(), "{there}");
        }
        for absent in ["we", "web (enforce)", "", "odd"] {
            assert!(!apparmor.is_loaded(absent).await.unwrap(), "{absent}");
        }
    }

    #[tokio::test]
    async fn the_default_profile_is_loaded_again_only_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "cat >>{0}/seen; echo \"$@\" >>{0}/options; echo 'crisol-default (enforce)' >{0}/profiles",
            dir.path().display()
        );
        let apparmor = with_parser(dir.path(), &script);
        fs::write(&apparmor.loaded, "web (enforce)\n").unwrap();
        apparmor.ensure_default().await.unwrap();
        apparmor.ensure_default().await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("seen")).unwrap(), profile::text());
        let options = fs::read_to_string(dir.path().join("options")).unwrap();
        assert_eq!(options, "--replace --skip-cache --quiet\n", "once");
    }

    #[tokio::test]
    async fn a_refusal_is_in_the_programs_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let apparmor = with_parser(dir.path(), "cat >/dev/null; echo 'no such flag' >&2; exit 1");
        let error = apparmor.load_default().await.unwrap_err();
        assert!(error.to_string().ends_with(": no such flag"), "{error}");
    }

    #[tokio::test]
    async fn a_host_without_apparmor_has_no_default_and_loads_nothing() {
        let none = Apparmor::new(false);
        assert_eq!((none.is_enabled(), none.default_profile()), (false, None));
        none.load_default().await.unwrap();
        none.ensure_default().await.unwrap();
    }
}
