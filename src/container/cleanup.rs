//! Gives back what an ended container holds of the kernel: processes, runtime state, mounts.
//!
//! Every part is idempotent and is tried even when another failed; the first failure is returned.

use std::sync::Arc;

use crate::rootfs;

use super::{ContainerError, ContainerRecord, Parts, volumes};

/// Cleans up after a container whose process has ended.
pub async fn cleanup(parts: &Arc<Parts>, record: &ContainerRecord) -> Result<(), ContainerError> {
    let id = record.id;
    let operation = parts.operations.begin("clean up container", id);
    if record.boot_id != parts.host.boot_id {
        return Ok(()); // Everything below went with the boot that it belonged to.
    }
    operation.step("control group");
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    let killed = crate::steps::blocking(move || cgroups.kill(&group))
        .await
        .map_err(|source| ContainerError::Cgroup { id, source });

    operation.step("runtime delete");
    let deleted = match parts.runtime(&record.handler) {
        Ok(runtime) => {
            runtime.delete(&id).await.map_err(|source| ContainerError::Runtime { id, source })
        }
        // The handler went from the configuration: its state directory stays behind, no more.
        Err(_) => Ok(()),
    };
    operation.step("control group removal");
    let (cgroups, group) = (parts.cgroups.clone(), record.cgroup.clone());
    let removed = crate::steps::blocking(move || cgroups.remove(&group))
        .await
        .map_err(|source| ContainerError::Cgroup { id, source });

    operation.step("unmount");
    let unmounted = crate::steps::blocking({
        let parts = parts.clone();
        // The record of a container that was half-made does not name its image volumes yet.
        move || {
            let targets = volumes::targets(&parts, &id)?;
            let unmounted: Vec<_> = targets.iter().map(|target| rootfs::unmount(target)).collect();
            let unmounted = unmounted.into_iter().collect::<Result<(), _>>();
            unmounted.map_err(|source| ContainerError::Rootfs { id, source })
        }
    });
    killed.and(deleted).and(removed).and(unmounted.await)
}
