//! Checkpoints of running containers: memory and processes by CRIU, the writable layer by us.
//!
//! ```text
//!  marker ─► pause ─► runtime checkpoint ─► changes of the root file system ─► resume ─► archive
//!                    └──────────── nothing of it moves meanwhile ──────────┘
//! ```
//!
//! The archive is what Kubernetes' forensic tools expect (`config.dump`, `spec.dump`,
//! `checkpoint/`, `rootfs-diff.tar`, `deleted.files`). The container goes on in any case: the marker
//! tells a daemon that finds it after a crash to thaw what its predecessor froze.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ids::ContainerId;
use crate::runtime::RuntimeError;
use crate::runtime::checkpoint::CheckpointDirs;
use crate::steps::{Operation, blocking};
use crate::sys::tree;

use super::{ContainerError, ContainerRecord, Parts, stop};

mod archive;
mod changes;
mod dump;
mod interrupted;
mod together;

pub use interrupted::recover;
pub use together::together;

use archive::place;

/// How long a checkpoint may take if the request does not say: as long as the kubelet waits.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// The directory of CRIU's images in a stage and in an archive.
pub const IMAGES: &str = "checkpoint";

/// Whether checkpoints of containers of this handler can be made, and restored, here.
///
/// # Errors
/// [`ContainerError::NoCheckpoints`] with the reason.
pub fn check_able(parts: &Parts, handler: &str) -> Result<(), ContainerError> {
    let refuse = |reason: String| {
        let handler = handler.to_owned();
        Err(ContainerError::NoCheckpoints { handler, reason })
    };
    if let Err(reason) = parts.criu.load().as_ref() {
        return refuse(reason.clone());
    }
    if !parts.runtime(handler)?.features().checkpoint {
        return refuse("the runtime reports no checkpoints (its `features`)".to_owned());
    }
    Ok(())
}

/// Writes a checkpoint of a running container into the new file `location`.
pub async fn checkpoint(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    location: &Path,
    limit: Duration,
) -> Result<(), ContainerError> {
    check_able(parts, &record.handler)?;
    archive::check_location(location)?;
    let operation = parts.operations.begin("checkpoint container", record.id);
    let limit = Limit::from_now(limit);
    let frozen = Frozen::freeze(parts, record, &operation).await?;
    let stage = frozen.marker.clone();
    let captured = capture(parts, record, &stage, limit, &operation).await;
    operation.step("resume");
    let resumed = frozen.thaw(parts).await;
    operation.step("archive");
    let in_time = limit.left(record.id).map(drop);
    let written = match captured.and(resumed).and(in_time) {
        Ok(()) => {
            let (stage, location) = (stage.clone(), location.to_owned());
            blocking(move || place(&stage, &location)).await
        }
        Err(error) => Err(error),
    };
    let cleared = clear(parts, record.id).await;
    written.and(cleared)
}

/// Until when a checkpoint has to be made.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    whole: Duration,
    from: Instant,
}

impl Limit {
    /// So much time from now on.
    pub fn from_now(whole: Duration) -> Self {
        Self { whole, from: Instant::now() }
    }

    /// What is left of it.
    ///
    /// # Errors
    /// [`ContainerError::CheckpointTimedOut`] if nothing is.
    pub fn left(self, id: ContainerId) -> Result<Duration, ContainerError> {
        let seconds = self.whole.as_secs();
        let left = self.whole.checked_sub(self.from.elapsed()).filter(|left| !left.is_zero());
        left.ok_or(ContainerError::CheckpointTimedOut { id, seconds })
    }
}

/// A container whose processes are frozen.
#[derive(Debug)]
pub struct Frozen {
    /// The directory that says so, which is also the place for what is captured.
    pub marker: PathBuf,
    record: ContainerRecord,
}

impl Frozen {
    /// Freezes a container. On failure it runs.
    pub async fn freeze(
        parts: &Arc<Parts>,
        record: &ContainerRecord,
        operation: &Operation,
    ) -> Result<Self, ContainerError> {
        let id = record.id;
        let marker = parts.layout.checkpoint(&id);
        operation.step("marker");
        blocking({
            let marker = marker.clone();
            move || DirBuilder::new().mode(0o700).create(marker)
        })
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ContainerError::CheckpointInFlight { id },
            _ => file("make directory", &marker, source),
        })?;
        let frozen = Self { marker, record: record.clone() };
        operation.step("pause");
        let paused = match parts.runtime(&record.handler) {
            Ok(runtime) => runtime.pause(&id).await.map_err(|source| runtime_error(id, source)),
            Err(error) => Err(error),
        };
        if let Err(error) = paused {
            // The program may have been killed after it had frozen some of them.
            frozen.thaw(parts).await.ok();
            clear(parts, id).await.ok();
            return Err(error);
        }
        Ok(frozen)
    }

    /// Which container.
    pub fn id(&self) -> ContainerId {
        self.record.id
    }

    /// Lets it go on. One that has ended meanwhile is fine.
    pub async fn thaw(self, parts: &Arc<Parts>) -> Result<(), ContainerError> {
        let id = self.record.id;
        let resumed = parts.runtime(&self.record.handler)?.resume(&id).await;
        match resumed {
            Err(source) if !matches!(stop::find(&self.record), Ok(None)) => {
                tracing::error!(container = %id, error = %crate::error::chain(&source), "resume after a checkpoint");
                Err(runtime_error(id, source))
            }
            _ => Ok(()),
        }
    }
}

/// Writes everything that belongs to a checkpoint of a frozen container into `stage`.
pub async fn capture(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    stage: &Path,
    limit: Limit,
    operation: &Operation,
) -> Result<(), ContainerError> {
    let id = record.id;
    let (images, work) = (stage.join(IMAGES), stage.join("criu"));
    blocking({
        let dirs = [images.clone(), work.clone()];
        move || dirs.iter().try_for_each(|dir| DirBuilder::new().mode(0o700).create(dir))
    })
    .await
    .map_err(|source| file("make directories in", stage, source))?;
    operation.step("runtime checkpoint");
    let dirs = CheckpointDirs { images: &images, work: &work };
    let runtime = parts.runtime(&record.handler)?;
    // The runtime ends with its own deadline: nothing of it may go on behind a container that runs.
    let done = runtime.checkpoint(&id, dirs, limit.left(id)?).await;
    done.map_err(|source| runtime_error(id, source))?;
    operation.step("changed files");
    blocking({
        let (parts, record, stage) = (parts.clone(), record.clone(), stage.to_owned());
        move || {
            changes::write(&parts, &record, &stage)?;
            dump::write(&parts, &record, &stage)
        }
    })
    .await
}

/// Removes the marker of a container that is not frozen, with what was captured into it.
pub async fn clear(parts: &Arc<Parts>, id: ContainerId) -> Result<(), ContainerError> {
    let marker = parts.layout.checkpoint(&id);
    blocking(move || tree::remove(&marker).map_err(|source| file("remove", &marker, source))).await
}

fn runtime_error(id: ContainerId, source: RuntimeError) -> ContainerError {
    ContainerError::Runtime { id, source }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> ContainerError {
    ContainerError::File { action, path: path.to_owned(), source }
}
