//! Containers whose record is not there, or not to be used.
//!
//! INVARIANT: a container's record is written before its first file and goes after its last one. So
//! a file without a record is an orphan, which is ended: nobody could ever ask for it. That there is
//! no record must be known: the directories are of this daemon's root, they could be listed, and the
//! system said that no file is there. A record that is damaged, of another crisol, or not readable
//! now is not an absent one; what it names is left as it is and told of.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::container::{ContainerError, ContainerRecord, Containers, Parts, oci, remove, volumes};
use crate::error::chain;
use crate::identity;
use crate::ids::{ContainerId, PodId};
use crate::monitor::{self, Known};
use crate::record::{Found, RecordError, Trouble, Troubles};
use crate::rootfs;
use crate::steps::blocking;

use super::settled;

/// What a record is of, in words.
const WHAT: &str = "container";

impl Containers {
    /// What is wrong with records of containers now.
    pub fn troubles(&self) -> Troubles {
        self.parts.records.troubles().clone()
    }

    /// Has owners write records again that went or were damaged under them.
    pub(super) fn have_lost_records_written(&self, found: &Found<ContainerRecord>) {
        for handle in self.registry.list() {
            let is_whole = found.records.iter().any(|record| record.id == handle.id);
            if !is_whole && !found.is_unknown(&handle.id) {
                handle.rewrite.notify_one();
            }
        }
    }

    /// Sets damaged records aside and tells of all that cannot be used, of containers that nobody
    /// owns.
    pub(super) async fn tell_of_unusable_records(&self, found: Found<ContainerRecord>) {
        let owned = |id: &String| self.registry.get(id).is_some();
        let (failed, aside) = (found.failed.into_iter(), found.aside.into_iter());
        let failed: Vec<_> = failed.filter(|(id, _)| !owned(id)).collect();
        let mut aside: Vec<_> = aside.filter(|id| !owned(id)).collect();
        let parts = self.parts.clone();
        blocking(move || {
            let mut troubles = Vec::new();
            for (id, error) in failed {
                if matches!(error, RecordError::Damaged { .. }) {
                    tracing::error!(error = %chain(&error), "a container's record is set aside");
                    match parts.records.set_aside(&id) {
                        Ok(()) => {
                            aside.push(id);
                            continue;
                        }
                        Err(error) => tracing::error!(error = %chain(&error), "it stays"),
                    }
                }
                troubles.extend(Trouble::of(WHAT, &error));
            }
            aside.retain(|id| {
                id.parse().is_ok_and(|id| !matches!(is_there(&parts, &id), Ok(false)))
            });
            troubles.extend(aside.iter().map(|id| Trouble::aside(WHAT, parts.records.aside(id))));
            parts.metrics.set_unusable_records(WHAT, troubles.len());
            parts.records.troubles().replace(troubles);
        })
        .await;
    }

    /// Ends the containers of a pod whose record cannot be used: nobody can ask for one of them, but
    /// somebody asks for the end of the pod.
    ///
    /// # Errors
    /// If one is left.
    pub(in crate::container) async fn end_unrecorded_of(
        &self,
        pod: PodId,
    ) -> Result<(), ContainerError> {
        for id in self.unrecorded_of(pod).await? {
            tracing::warn!(container = %id, pod = %pod, "has no usable record, and its pod stops");
            end_orphan(&self.parts, id).await?;
            let parts = self.parts.clone();
            let deleted = blocking(move || parts.records.delete(&id)).await;
            deleted.map_err(|source| ContainerError::Record { id, source })?;
        }
        Ok(())
    }

    /// Whether anything is there of a container of this pod, whatever its record is.
    ///
    /// # Errors
    /// If that cannot be told.
    pub async fn has_any_of(&self, pod: PodId) -> Result<bool, ContainerError> {
        Ok(!self.ids_of(pod).is_empty() || !self.unrecorded_of(pod).await?.is_empty())
    }

    /// The containers of a pod that nobody owns, as their bundles tell.
    async fn unrecorded_of(&self, pod: PodId) -> Result<Vec<ContainerId>, ContainerError> {
        let (parts, registry) = (self.parts.clone(), self.registry.clone());
        blocking(move || {
            let dir = parts.layout.bundles();
            let mut ids = ids_in(&dir).map_err(|source| ContainerError::File {
                action: "list",
                path: dir,
                source,
            })?;
            ids.retain(|id| {
                registry.get(id).is_none() && pod_in(&parts.layout.bundle(id)) == Some(pod)
            });
            Ok(ids)
        })
        .await
    }

    /// Ends what has a bundle or a writable layer and certainly no record.
    pub(super) async fn end_orphans(&self) {
        let parts = self.parts.clone();
        let ids = match blocking(move || ids(&parts)).await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::error!(%error, "list the files of containers");
                return;
            }
        };
        let mut left = 0;
        for id in ids {
            if self.registry.get(&id).is_some() {
                continue;
            }
            let parts = self.parts.clone();
            let ended = match blocking(move || is_orphan(&parts, &id)).await {
                Ok(false) => continue,
                Ok(true) => end_orphan(&self.parts, id).await.map_err(|error| chain(&error)),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::error!(container = %id, error, "files without an owner are left for now");
                left += 1;
            }
        }
        self.parts.metrics.set_leaks(WHAT, left);
    }
}

/// The ids of all that has files. Blocks.
fn ids(parts: &Parts) -> io::Result<Vec<ContainerId>> {
    let mut ids = ids_in(&parts.layout.bundles())?;
    ids.extend(ids_in(&parts.layout.writable_layers())?);
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The ids that entries of a directory are named by.
fn ids_in(dir: &Path) -> io::Result<Vec<ContainerId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok()));
    }
    Ok(ids)
}

/// The pod that a bundle says its container is of; none if that cannot be told. Blocks.
fn pod_in(bundle: &Path) -> Option<PodId> {
    let text = fs::read(bundle.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    config["annotations"][oci::POD_ID].as_str()?.parse().ok()
}

/// Whether something is left of a container that certainly has no record. Blocks.
fn is_orphan(parts: &Parts, id: &ContainerId) -> Result<bool, String> {
    // RACE: it may have been removed since the listing; then its files are gone as well.
    Ok(parts.records.is_gone(id).map_err(|error| chain(&error))?
        && identity::is_same(&parts.layout).map_err(|error| chain(&error))?
        && is_there(parts, id).map_err(|error| error.to_string())?)
}

/// Whether a container has files.
fn is_there(parts: &Parts, id: &ContainerId) -> io::Result<bool> {
    Ok(parts.layout.bundle(id).try_exists()? || parts.layout.writable_layer(id).try_exists()?)
}

/// Ends a container of which only files are left, without knowing its handler.
async fn end_orphan(parts: &Arc<Parts>, id: ContainerId) -> Result<(), ContainerError> {
    tracing::warn!(container = %id, "has files but no record; ending it");
    let dir = parts.layout.monitor(&id);
    let settled = settled(&dir).await;
    let settled = settled.map_err(|source| ContainerError::Monitor { id, source })?;
    if let Some(Known { process: Some(process), .. }) = settled
        && let Ok(Some(process)) = crate::sys::pidfd::Process::find(process.pid, process.start_time)
    {
        process.kill().ok();
        process.ended().await.ok();
    }
    monitor::dismiss(&dir).await;
    for runtime in parts.runtimes.values() {
        runtime.delete(&id).await.map_err(|source| ContainerError::Runtime { id, source })?;
    }
    let parts = parts.clone();
    blocking(move || {
        for target in volumes::targets(&parts, &id)? {
            rootfs::unmount(&target).map_err(|source| ContainerError::Rootfs { id, source })?;
        }
        remove::files(&parts, &id)
    })
    .await
}
