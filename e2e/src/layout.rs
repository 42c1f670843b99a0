//! Where the programs under test and the tools are.
//!
//! The Makefile says so in the environment; without it everything is looked for beside the running
//! program, so that a single test can also be started by cargo.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The daemon.
///
/// # Errors
/// If it has not been built.
pub fn daemon() -> Result<PathBuf> {
    let path = match env::var_os("CRISOL_BIN") {
        Some(path) => PathBuf::from(path),
        None => target()?.join("release/crisol"),
    };
    built(path)
}

/// The static monitor.
///
/// # Errors
/// If it has not been built.
pub fn monitor() -> Result<PathBuf> {
    let path = match env::var_os("CRISOL_MONITOR") {
        Some(path) => PathBuf::from(path),
        None => {
            let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
            target()?.join("monitor").join(triple).join("monitor/conmon")
        }
    };
    built(path)
}

/// A program that `e2e/tools/setup.sh` provides.
///
/// # Errors
/// If it is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = cache().join("bin").join(name);
    ensure!(path.exists(), "{} is missing: run `make tools`", path.display());
    Ok(path)
}

/// What was built or downloaded once and is kept between runs.
pub fn cache() -> PathBuf {
    env::var_os("CRISOL_CACHE").map_or_else(|| repository().join(".cache"), PathBuf::from)
}

/// A file of this package's source.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The repository.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// cargo's target directory: the parent of `release/` above this program.
fn target() -> Result<PathBuf> {
    let me = env::current_exe().context("own path")?;
    let release = me.ancestors().find(|dir| dir.ends_with("release"));
    let target = release.and_then(Path::parent).context("not below target/release")?;
    Ok(target.to_owned())
}

fn built(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.exists(), "{} is missing: run `make build`", path.display());
    Ok(path)
}
