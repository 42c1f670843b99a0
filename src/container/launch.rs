//! Starts the monitor of a container, which starts the runtime: `create` for a new one, `restore`
//! for one whose processes are in a checkpoint.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conmon::{Launch, Owner};

use crate::monitor::{self, MonitorError, ProcessId};
use crate::runtime::checkpoint::CheckpointDirs;
use crate::runtime::{CREATE_DEADLINE, Runtime, Stdin, reason_in_log};
use crate::steps::{Operation, blocking};
use crate::sys::beneath;

use super::{ContainerError, ContainerRecord, Parts};

/// Makes the runtime create the container; its process waits to be let go.
pub async fn create(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    owner: Option<Owner>,
    operation: &Operation,
) -> Result<ProcessId, ContainerError> {
    let runtime = parts.runtime(&record.handler)?;
    let dir = parts.layout.monitor(&record.id);
    let stdio = Stdin { monitor: &dir, terminal: record.spec.tty };
    let argv = runtime.create_argv(&record.id, &parts.layout.bundle(&record.id), stdio);
    let launch = Launch { owner, ..launch(parts, record, argv) };
    run(parts, record, runtime, &launch, operation).await
}

/// Makes the runtime restore the container; its process runs.
pub async fn restore(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    operation: &Operation,
) -> Result<ProcessId, ContainerError> {
    let (id, layout) = (&record.id, &parts.layout);
    let runtime = parts.runtime(&record.handler)?;
    let dir = layout.monitor(id);
    let stdio = Stdin { monitor: &dir, terminal: record.spec.tty };
    let (images, work) = (layout.restored_images(id), layout.restore_logs(id));
    let dirs = CheckpointDirs { images: &images, work: &work };
    let argv = runtime.restore_argv(id, &layout.bundle(id), stdio, dirs);
    let launch = Launch { restore: true, ..launch(parts, record, argv) };
    run(parts, record, runtime, &launch, operation).await
}

fn launch(parts: &Parts, record: &ContainerRecord, runtime: Vec<OsString>) -> Launch {
    let spec = &record.spec;
    Launch {
        dir: parts.layout.monitor(&record.id),
        id: record.id.to_string(),
        log: record.log.clone(),
        log_dir: record.log.as_ref().and(record.log_directory.clone()),
        terminal: spec.tty,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        restore: false,
        owner: None,
        create_timeout: CREATE_DEADLINE,
        runtime,
    }
}

async fn run(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    runtime: &Runtime,
    launch: &Launch,
    operation: &Operation,
) -> Result<ProcessId, ContainerError> {
    if let Some(log) = record.log.clone() {
        let base = record.log_directory.clone();
        blocking(move || make_log_directories(&log, base)).await?;
    }
    let slot = runtime.slot().await;
    let slot = slot.map_err(|source| ContainerError::Runtime { id: record.id, source })?;
    operation.step("monitor");
    let spawned = monitor::spawn(&parts.monitor, launch, runtime.environment().variables());
    let spawned = slot.during(spawned).await;
    match spawned {
        Ok(process) => Ok(process),
        Err(MonitorError::Refused { message }) => {
            let log = parts.layout.bundle(&record.id).join("runtime.log");
            let reason = reason_in_log(&log).await.unwrap_or(message);
            let (name, runtime) = (record.spec.name.clone(), runtime.name());
            Err(ContainerError::Refused { name, runtime, reason })
        }
        Err(source) => Err(ContainerError::Monitor { id: record.id, source }),
    }
}

/// Makes the directories of the log. Those below `base` are in the reach of who may write to the pod's
/// directory of logs, so no link is followed there.
fn make_log_directories(log: &Path, base: Option<PathBuf>) -> Result<(), ContainerError> {
    let failed = |path: &Path, source| ContainerError::File {
        action: "make directory",
        path: path.to_owned(),
        source,
    };
    let Some(parent) = log.parent() else { return Ok(()) };
    let mut path = base.unwrap_or_else(|| parent.to_owned());
    let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
    made.map_err(|source| failed(&path, source))?;
    let below = parent.strip_prefix(&path).map_err(io::Error::other);
    let below = below.map_err(|source| failed(parent, source))?;
    let mut dir = beneath::open(&path).map_err(|source| failed(&path, source))?;
    for name in below {
        path.push(name);
        dir = beneath::make_dir(&dir, name, 0o755).map_err(|source| failed(&path, source))?;
    }
    Ok(())
}
