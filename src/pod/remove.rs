//! Removes a stopped pod: containers, control group, files, record. Idempotent; the record says
//! Removing before anything goes, so that a restart finishes the work, and goes last.

use std::sync::Arc;

use crate::ids::PodId;
use crate::nri::Told;
use crate::path::Layout;
use crate::steps::blocking;
use crate::sys::{namespaces, tmpfs, tree};

use super::record::PodRecord;
use super::state::State;
use super::{Parts, PodError, detach, etc, tell};

/// Removes everything of the pod of `record`.
pub async fn remove(parts: &Arc<Parts>, record: &PodRecord, told: &Told) -> Result<(), PodError> {
    let id = record.id;
    let operation = parts.operations.begin("remove pod", id);
    operation.step("record");
    let record = PodRecord { state: State::Removing, ..record.clone() };
    parts.save(&record).await?;
    operation.step("containers");
    parts.containers.remove_pod(id).await?;
    operation.step("plugins");
    parts.plugins.remove_pod(told, || tell::pod(&record)).await;
    operation.step("network");
    detach::detach(parts, id).await;
    operation.step("files");
    let parts = parts.clone();
    blocking(move || {
        if record.boot_id == parts.host.boot_id {
            let group = parts.cgroups.pod(record.spec.cgroup_parent.as_deref(), &id);
            parts.cgroups.remove(&group).map_err(|source| PodError::Cgroup { id, source })?;
        }
        files(&parts.layout, &id)?;
        parts.records.delete(&id).map_err(|source| PodError::Record { id, source })
    })
    .await
}

/// Unpins, unmounts and deletes everything in the pod's run-time directory. Blocks; idempotent.
pub fn files(layout: &Layout, id: &PodId) -> Result<(), PodError> {
    etc::unmount(layout, id)?;
    let (dir, pins, shm) = (layout.pod(id), layout.pod_namespaces(id), layout.pod_shm(id));
    let failed = |action, path: &std::path::Path, source| PodError::File {
        action,
        path: path.to_owned(),
        source,
    };
    namespaces::unpin(&pins).map_err(|source| failed("unpin", &pins, source))?;
    tmpfs::unmount(&shm).map_err(|source| failed("unmount", &shm, source))?;
    tree::remove(&dir).map_err(|source| failed("remove", &dir, source))
}
