//! Makes a container from a checkpoint: its files when it is created, its processes when it is
//! started.
//!
//! A checkpoint comes from outside (R28). What the container may do is derived from the request
//! alone; the configuration in the checkpoint (`spec.dump`) is never read. Taken from it are the
//! changed files, which are laid over the image below the container's own root, and the images of
//! processes, which are copied to a place of ours. Whoever can write those images is as good as
//! root: CRIU restores the credentials that they name.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use crate::ids::ContainerId;
use crate::monitor::ProcessId;
use crate::steps::{Operation, blocking};
use crate::sys::tree;

use super::{ContainerError, ContainerRecord, Parts, checkpoint, launch};

mod files;
mod source;

use source::Source;
pub(crate) use source::names;

/// How much of the end of CRIU's log is looked at for its reason.
const LOG_TAIL: usize = 64 << 10;

/// CRIU's log of a restore, in the directory that it is given for logs.
const LOG: &str = "restore.log";

/// Whether the container of `record`, whose image is known, can be made from `checkpoint`.
///
/// # Errors
/// [`ContainerError::Checkpoint`] if it is none, or one of another image.
pub async fn check(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    checkpoint: &Path,
) -> Result<(), ContainerError> {
    checkpoint::check_able(parts, &record.handler)?;
    let (path, image) = (checkpoint.to_owned(), record.image.clone());
    blocking(move || {
        let source = Source::open(&path)?;
        let of = source.image()?;
        let image = image.map(|image| format!("sha256:{}", image.id));
        match (of, image) {
            (Some(of), Some(image)) if of != image => {
                Err(source.refuse(format!("is of the image {of}, the request names {image}")))
            }
            _ => Ok(()),
        }
    })
    .await
}

/// Lays the changed files over the container's mounted root and keeps the images of its processes,
/// so that the checkpoint is needed no more.
pub async fn prepare(
    parts: &Arc<Parts>,
    id: ContainerId,
    checkpoint: &Path,
) -> Result<(), ContainerError> {
    let (layout, path) = (parts.layout.clone(), checkpoint.to_owned());
    blocking(move || {
        let source = Source::open(&path)?;
        files::apply(&source, &layout.rootfs(&id))?;
        source.copy_images(&layout.restored_images(&id))
    })
    .await
}

/// Restores the processes; they run. Their images go.
pub async fn restore(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    operation: &Operation,
) -> Result<ProcessId, ContainerError> {
    let id = record.id;
    checkpoint::check_able(parts, &record.handler)?;
    operation.step("directory of logs");
    let logs = parts.layout.restore_logs(&id);
    blocking({
        let logs = logs.clone();
        move || directory(&logs)
    })
    .await?;
    operation.step("runtime restore");
    match launch::restore(parts, record, operation).await {
        Ok(process) => {
            operation.step("images");
            let images = parts.layout.restored_images(&id);
            // What is left of them goes with the container.
            if let Err(error) = blocking(move || tree::remove(&images)).await {
                tracing::warn!(container = %id, %error, "remove the images of its processes");
            }
            Ok(process)
        }
        Err(ContainerError::Refused { name, runtime, mut reason }) => {
            if let Some(said) = blocking(move || cause(&logs.join(LOG))).await {
                reason = format!("{reason}: {said}");
            }
            Err(ContainerError::NotRestored { name, runtime, reason })
        }
        Err(error) => Err(error),
    }
}

/// Forgets a restore that a crash cut off and that came to nothing, so that it can begin anew.
pub async fn forget(parts: &Arc<Parts>, record: &ContainerRecord) -> Result<(), ContainerError> {
    let id = record.id;
    let dir = parts.layout.monitor(&id);
    match dir.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(source) => {
            return Err(ContainerError::File { action: "look for", path: dir, source });
        }
    }
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    blocking(move || cgroups.kill(&group))
        .await
        .map_err(|source| ContainerError::Cgroup { id, source })?;
    let deleted = parts.runtime(&record.handler)?.delete(&id).await;
    deleted.map_err(|source| ContainerError::Runtime { id, source })?;
    let removed = {
        let dir = dir.clone();
        blocking(move || tree::remove(&dir)).await
    };
    removed.map_err(|source| ContainerError::File { action: "remove", path: dir, source })
}

/// The first of CRIU's own errors; the rest follows from it.
fn cause(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned();
    tail.lines().find(|line| line.contains("Error (")).map(|line| line.trim().to_owned())
}

fn directory(path: &Path) -> Result<(), ContainerError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(ContainerError::File { action: "make directory", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
