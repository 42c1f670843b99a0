//! Ends a container's process: asks, then kills.
//!
//! Owns no deadline (the actor does) and no exit status: that comes from the monitor, so a stop
//! that races a natural exit reports the natural one.

use std::io;
use std::sync::Arc;

use crate::runtime::RuntimeError;
use crate::sys::pidfd::Process;

use super::{ContainerError, ContainerRecord, Parts};

/// Sends the container's stop signal, through the runtime or, if that cannot be run (it is gone, or
/// others may change it), without it. That it could not be sent is logged and no failure: either the
/// process is gone, or the kill follows.
pub async fn signal(parts: &Arc<Parts>, record: &ContainerRecord) {
    let operation = parts.operations.begin("signal container", record.id);
    operation.step("runtime kill");
    let id = record.id;
    let sent = match parts.runtime(&record.handler) {
        Ok(runtime) => match runtime.kill(&id, record.stop_signal).await {
            Err(RuntimeError::Spawn { .. }) => without_runtime(record),
            sent => sent.map_err(|source| ContainerError::Runtime { id, source }),
        },
        Err(_) => without_runtime(record),
    };
    if let Err(error) = sent {
        let error = crate::error::chain(&error);
        tracing::debug!(container = %record.id, error, "send the stop signal");
    }
}

fn without_runtime(record: &ContainerRecord) -> Result<(), ContainerError> {
    let sent = match find(record) {
        Ok(Some(process)) => process.signal(record.stop_signal),
        found => found.map(drop),
    };
    let path = record.id.to_string().into();
    sent.map_err(|source| ContainerError::File { action: "signal the process of", path, source })
}

/// Kills the container's process and everything in its control group.
///
/// No runtime is asked: one that hangs must not keep a container alive.
pub async fn kill(parts: &Arc<Parts>, record: &ContainerRecord) {
    let operation = parts.operations.begin("kill container", record.id);
    operation.step("signal");
    match find(record) {
        Ok(Some(process)) => {
            if let Err(error) = process.kill() {
                tracing::warn!(container = %record.id, %error, "kill its process");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(container = %record.id, %error, "look for its process"),
    }
    operation.step("control group");
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    if let Err(error) = crate::steps::blocking(move || cgroups.kill(&group)).await {
        let error = crate::error::chain(&error);
        tracing::warn!(container = %record.id, error, "kill its control group");
    }
}

/// The container's first process; none when the kernel says that it is gone.
pub fn find(record: &ContainerRecord) -> io::Result<Option<Process>> {
    match record.process {
        Some(process) => Process::find(process.pid, process.start_time),
        None => Ok(None),
    }
}
