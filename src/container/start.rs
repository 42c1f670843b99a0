//! Lets a created container's process go.

use std::sync::Arc;

use crate::monitor::ProcessId;

use super::state::State;
use super::{ContainerError, ContainerRecord, Parts, record::now_ns, restore, tell};

/// Asks the runtime; the monitor already holds the stdio, so no output is lost. Returns the process
/// of a container that had none before.
pub async fn start(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
) -> Result<Option<ProcessId>, ContainerError> {
    let id = record.id;
    let operation = parts.operations.begin("start container", id);
    let runtime = parts.runtime(&record.handler)?;
    operation.step("plugins");
    let told = parts.plugins.start_container(tell::container(parts, record)).await;
    told.map_err(ContainerError::Plugins)?;
    let restored = if record.waits_to_be_restored() {
        Some(restore::restore(parts, record, &operation).await?)
    } else {
        operation.step("runtime slot");
        let slot = runtime.slot().await;
        let slot = slot.map_err(|source| ContainerError::Runtime { id, source })?;
        operation.step("runtime start");
        let started = slot.during(runtime.start(&id, &parts.layout.bundle(&id))).await;
        started.map_err(|source| ContainerError::Runtime { id, source })?;
        None
    };
    operation.step("plugins");
    let (state, started_at_ns) = (State::Running, now_ns());
    let process = restored.or(record.process);
    let started = ContainerRecord { state, started_at_ns, process, ..record.clone() };
    parts.plugins.post_start_container(tell::container(parts, &started)).await;
    Ok(restored)
}
