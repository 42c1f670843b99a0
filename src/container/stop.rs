//! Ends a container's process: asks, then kills.
//!
//! Owns no deadline (the actor does) and no exit status: that comes from the monitor, so a stop
//! that races a natural exit reports the natural one.

use std::io;
use std::sync::Arc;

use crate::sys::pidfd::Process;

use super::{ContainerError, ContainerRecord, Parts};

/// Sends the container's stop signal. That it could not be sent is logged and no failure: either
/// the process is gone, or the kill follows.
pub async fn signal(parts: &Arc<Parts>, record: &ContainerRecord) {
    let operation = parts.operations.begin("signal container", record.id);
    operation.step("runtime kill");
    let sent = match parts.runtime(&record.handler) {
        Ok(runtime) => runtime
            .kill(&record.id, record.stop_signal)
            .await
            .map_err(|source| ContainerError::Runtime { id: record.id, source }),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        let error = crate::error::chain(&error);
        tracing::debug!(container = %record.id, error, "send the stop signal");
    }
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
