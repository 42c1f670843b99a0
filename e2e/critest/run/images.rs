//! The images that the suite names: built once, served from loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use e2e::layout;
use e2e::node::sweep::temporary_dir;
use e2e::program::run;
use e2e::registry::{Access, Registry};
use sha2::{Digest, Sha256};

/// The registries of the images' names. All of them are ours: no path is in two of them.
pub(crate) const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// What the images are made by; another text makes other images.
const SOURCES: [&str; 3] = ["build.sh", "push.sh", "nnp.c"];

/// Starts a registry below `dir` that has the images; they are built when no earlier run did.
///
/// # Errors
/// If a tool is missing or Debian's archive cannot be reached.
pub(crate) fn serve(dir: &Path) -> Result<Registry> {
    let storage = storage()?;
    Registry::start_on(dir, &storage, Access::Open)
}

/// Builds the images unless an earlier run did.
///
/// # Errors
/// As [`serve`].
pub(crate) fn build() -> Result<()> {
    storage().map(drop)
}

/// The registry's storage, filled.
fn storage() -> Result<PathBuf> {
    let cache = layout::cache().join("critest-images");
    let storage = cache.join(key()?);
    if storage.exists() {
        return Ok(storage);
    }
    println!("building the images of critest from Debian's packages");
    fs::create_dir_all(&cache)?;
    let new = tempfile::Builder::new().prefix("new-").tempdir_in(&cache)?;
    let work = temporary_dir("crisol-critest-images-")?;
    let registry = Registry::start_on(&work.path().join("registry"), new.path(), Access::Open)?;
    let images = work.path().join("layout");
    let mut build = Command::new(source("build.sh"));
    run(build.arg(layout::tool("busybox")?).arg(&images))?.ok().context("build the images")?;
    let mut push = Command::new(source("push.sh"));
    run(push.arg(&images).arg(registry.address()))?.ok().context("push the images")?;
    drop(registry);
    // Under its name only when it is whole; what an older script built is of no use any more.
    for old in fs::read_dir(&cache)?.flatten().filter(|old| old.path() != new.path()) {
        fs::remove_dir_all(old.path()).ok();
    }
    fs::rename(new.keep(), &storage)?;
    Ok(storage)
}

/// Names what the images are made by.
fn key() -> Result<String> {
    let mut hash = Sha256::new();
    for name in SOURCES {
        let path = source(name);
        hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn source(name: &str) -> PathBuf {
    layout::source("critest/images").join(name)
}
