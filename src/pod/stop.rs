//! Stops a pod: containers, then its pause, then the network, then the namespaces. Plugins are told
//! when the containers have ended and everything else is still there.
//!
//! In this order, so that nothing keeps a process alive: a network that cannot be given back is
//! owed (`detach`) and fails nothing; and so that nothing is given back that a process still uses.
//! Every part is idempotent, and who was not successful does all of it again.

use std::sync::Arc;

use crate::nri::Told;
use crate::steps::blocking;
use crate::sys::{namespaces, tmpfs};

use super::gate::Gate;
use super::record::PodRecord;
use super::{Parts, PodError, detach, etc, pause, tell};

/// Ends everything in the pod of `record`. Returns when no process of it is left.
pub async fn end(
    parts: &Arc<Parts>,
    gate: &Gate,
    record: &PodRecord,
    told: &Told,
) -> Result<(), PodError> {
    let operation = parts.operations.begin("stop pod", record.id);
    operation.step("creations in flight");
    gate.close().await;
    operation.step("containers");
    parts.containers.stop_pod(record.id).await?;
    operation.step("plugins");
    parts.plugins.stop_pod(told, || tell::pod(record)).await;
    operation.step("pause");
    pause::kill(parts, record).await
}

/// Gives back what a pod holds in which everything has ended.
pub async fn give_back(parts: &Arc<Parts>, record: &PodRecord) -> Result<(), PodError> {
    let operation = parts.operations.begin("give back pod", record.id);
    operation.step("cni del");
    detach::detach(parts, record.id).await;
    operation.step("namespaces");
    release_namespaces(parts, record).await
}

/// Unpins the namespaces and unmounts what the pod's containers wrote to.
async fn release_namespaces(parts: &Arc<Parts>, record: &PodRecord) -> Result<(), PodError> {
    let id = record.id;
    let (pins, shm) = (parts.layout.pod_namespaces(&id), parts.layout.pod_shm(&id));
    let layout = parts.layout.clone();
    blocking(move || {
        etc::unmount(&layout, &id)?;
        namespaces::unpin(&pins).map_err(|source| PodError::File {
            action: "unpin",
            path: pins.clone(),
            source,
        })?;
        tmpfs::unmount(&shm).map_err(|source| PodError::File {
            action: "unmount",
            path: shm.clone(),
            source,
        })
    })
    .await
}
