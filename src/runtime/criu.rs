//! CRIU, which runtimes freeze and thaw processes with: there, and able on this kernel or not.
//!
//! Runtimes look for `criu` in their own PATH, so that is where it is looked for here.

use std::path::{Path, PathBuf};

use super::Environment;
use super::probe::{self, ProbeError};
use crate::error::chain;
use crate::trust::Trust;

/// The version of a CRIU that works here, or why checkpoints cannot be made.
pub type Criu = Result<String, String>;

/// Looks for CRIU and lets it look at the kernel.
pub async fn find(environment: &Environment, trust: Trust) -> Criu {
    let program = environment.find("criu")?;
    trust.check(&program).map_err(|error| error.to_string())?;
    ask(&program).await
}

async fn ask(program: &Path) -> Criu {
    let failed = |error: ProbeError| match error {
        ProbeError::Failed { program, what, stderr, .. } => said(&program, &what, &stderr),
        other => chain(&other),
    };
    let version = probe::ask(program, "--version").await.map_err(failed)?;
    let version = version.lines().find_map(|line| line.strip_prefix("Version:"));
    let version = version.ok_or_else(|| format!("{} has no version", program.display()))?.trim();
    probe::ask(program, "check")
        .await
        .map_err(|error| format!("criu {version}: {}", failed(error)))?;
    Ok(version.to_owned())
}

/// The first of its own words is the cause; the rest follows from it.
fn said(program: &Path, what: &str, words: &str) -> String {
    let first = words.lines().find(|line| line.contains("Error")).or(words.lines().next());
    let program: PathBuf = program.into();
    format!("{} {what}: {}", program.display(), first.unwrap_or("failed without a word").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("criu");
        crate::testing::program(&path, &format!("#!/bin/sh\n{script}\n"));
        path
    }

    #[tokio::test]
    async fn a_criu_is_usable_only_if_its_check_says_so() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let answers = "[ $1 = --version ] && echo 'Version: 4.1.1'";
        let good = program(dir.path(), &format!("{answers}; exit 0"));
        assert_eq!(ask(&good).await.as_deref(), Ok("4.1.1"));
        let unable =
            format!("{answers} && exit; echo 'Warn x'; echo 'Error (a.c:1): vdso' >&2; exit 1");
        let why = ask(&program(dir.path(), &unable)).await.expect_err("its check fails");
        assert!(
            why.starts_with("criu 4.1.1: ") && why.ends_with("check: Error (a.c:1): vdso"),
            "{why}"
        );
        let why = ask(&program(dir.path(), "echo nonsense")).await.expect_err("no version");
        assert!(why.ends_with("has no version"), "{why}");
    }
}
