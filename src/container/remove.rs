//! Removes what is left of a cleaned-up container: writable layer, bundle, record.
//!
//! The log stays: it is the kubelet's. The record says Removing before anything goes, so that a
//! restart finishes the work, and goes last.

use std::path::Path;
use std::sync::Arc;

use crate::ids::ContainerId;
use crate::monitor;
use crate::sys::tree;

use super::state::State;
use super::{ContainerError, ContainerRecord, Parts};

/// Removes the container's files and then its record.
pub async fn remove(parts: &Arc<Parts>, record: &ContainerRecord) -> Result<(), ContainerError> {
    let operation = parts.operations.begin("remove container", record.id);
    operation.step("record");
    let record = ContainerRecord { state: State::Removing, ..record.clone() };
    parts.save(&record).await?;
    operation.step("monitor");
    monitor::dismiss(&parts.layout.monitor(&record.id)).await;
    operation.step("files");
    let parts = parts.clone();
    crate::steps::blocking(move || {
        files(&parts, &record.id)?;
        parts
            .records
            .delete(&record.id)
            .map_err(|source| ContainerError::Record { id: record.id, source })
    })
    .await
}

/// Removes the container's directories. Blocks; idempotent.
pub fn files(parts: &Parts, id: &ContainerId) -> Result<(), ContainerError> {
    directory(&parts.layout.writable_layer(id))?;
    directory(&parts.layout.checkpoint(id))?;
    directory(&parts.layout.bundle(id))
}

/// Removes a directory of ours and everything in it; absent is fine.
///
/// Nothing may be mounted below it: what is left of a mount is refused, and nothing of
/// a foreign file system is deleted.
fn directory(path: &Path) -> Result<(), ContainerError> {
    tree::remove(path).map_err(|source| ContainerError::File {
        action: "remove",
        path: path.to_owned(),
        source,
    })
}
