//! Lets a created container's process go.

use std::sync::Arc;

use super::state::State;
use super::{ContainerError, ContainerRecord, Parts, record::now_ns, tell};

/// Asks the runtime; the monitor already holds the stdio, so no output is lost.
pub async fn start(parts: &Arc<Parts>, record: &ContainerRecord) -> Result<(), ContainerError> {
    let id = record.id;
    let operation = parts.operations.begin("start container", id);
    let runtime = runtime(parts, record)?;
    operation.step("plugins");
    let told = parts.plugins.start_container(tell::container(parts, record)).await;
    told.map_err(ContainerError::Plugins)?;
    operation.step("runtime slot");
    let slot = runtime.slot().await;
    operation.step("runtime start");
    let started = runtime.start(&id, &parts.layout.bundle(&id)).await;
    drop(slot);
    started.map_err(|source| ContainerError::Runtime { id, source })?;
    operation.step("plugins");
    let (state, started_at_ns) = (State::Running, now_ns());
    let started = ContainerRecord { state, started_at_ns, ..record.clone() };
    parts.plugins.post_start_container(tell::container(parts, &started)).await;
    Ok(())
}

/// The runtime of a container's handler, as it is configured now.
pub fn runtime<'a>(
    parts: &'a Parts,
    record: &ContainerRecord,
) -> Result<&'a Arc<crate::runtime::Runtime>, ContainerError> {
    parts.runtimes.get(&record.handler).ok_or_else(|| ContainerError::Request {
        field: "runtime_handler".to_owned(),
        problem: format!("{:?} is not configured", record.handler),
    })
}
