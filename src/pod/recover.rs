//! Finds pods again after a restart, and what a failed clean-up left. Containers come first.
//!
//! A pod whose namespaces or pause process are gone is stopped, not forgotten: the kubelet asks for
//! its status. What was half-made is undone, what was half-removed is removed, and a directory
//! without a record is unpinned and deleted.

use std::fs;
use std::sync::Arc;

use crate::ids::PodId;
use crate::nri::Told;
use crate::record::RecordError;
use crate::registry::Reserved;
use crate::steps::blocking;

use super::record::PodRecord;
use super::state::State;
use super::{Parts, PodError, Pods, actor, detach, pause, remove};

impl Pods {
    /// Takes every pod on disk that nobody owns. Called at the start and now and then.
    ///
    /// # Errors
    /// Only when the records cannot be listed. A damaged record is set aside.
    pub async fn recover(&self) -> Result<(), RecordError> {
        let records = blocking({
            let parts = self.parts.clone();
            move || parts.records.load_all()
        })
        .await?;
        for record in records {
            match record {
                Ok(record) if self.registry.get(&record.id).is_some() => {}
                // RACE: it may have been removed since the listing. Its record went before its name
                // did, so a record that is still there has no owner.
                Ok(record) => {
                    if let Ok(Some(record)) = self.parts.records.load(&record.id) {
                        self.take_back(record).await;
                    }
                }
                Err(RecordError::Damaged { path, problem }) => {
                    tracing::error!(path = %path.display(), problem, "a pod's record is damaged; set aside");
                    self.parts.records.set_aside(&path)?;
                }
                Err(error) => {
                    tracing::error!(error = %crate::error::chain(&error), "read a record")
                }
            }
        }
        self.remove_orphans().await;
        Ok(())
    }

    async fn take_back(&self, mut record: PodRecord) {
        let (id, state) = (record.id, record.state);
        if matches!(state, State::Creating | State::Removing) {
            match abandon(&self.parts, &record).await {
                Ok(()) => tracing::info!(pod = %id, ?state, "leftover removed"),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::error!(pod = %id, error, "is left as it is for now");
                }
            }
            return;
        }
        if record.boot_id != self.parts.host.boot_id {
            record.state = State::NotReady;
            record.addresses.clear();
        }
        tracing::info!(pod = %id, state = ?record.state, "found again");
        self.adopt(record);
    }

    fn adopt(&self, record: PodRecord) {
        let (id, key, mut born) = (record.id, record.spec.key.clone(), None);
        let reserved = self.registry.reserve(&key, &id, || {
            let (handle, actor) = actor::owner_of(record, self.parts.clone());
            born = Some(actor);
            handle
        });
        match (reserved, born) {
            (Reserved::New(_), Some(actor)) => {
                let registry = self.registry.clone();
                drop(crate::steps::spawn("pod", actor.adopt(registry)));
            }
            _ => tracing::error!(pod = %id, "another pod has its name"),
        }
    }

    /// Removes run-time directories that no record accounts for, with what is pinned in them.
    async fn remove_orphans(&self) {
        let entries = fs::read_dir(self.parts.layout.pods()).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<PodId>().ok());
        let mut left = 0;
        for id in ids.collect::<Vec<_>>() {
            if self.registry.get(&id).is_none()
                && matches!(self.parts.records.load(&id), Ok(None))
                && self.parts.layout.pod(&id).exists()
                && let Err(error) = end_orphan(&self.parts, id).await
            {
                let error = crate::error::chain(&error);
                tracing::error!(pod = %id, error, "an orphan is left as it is for now");
                left += 1;
            }
        }
        self.parts.metrics.set_leaks("pod", left);
    }
}

/// Undoes or finishes what the record says was in flight.
async fn abandon(parts: &Arc<Parts>, record: &PodRecord) -> Result<(), PodError> {
    pause::kill(parts, record).await?;
    detach::detach(parts, record.id).await;
    // No plugin of this daemon has heard of it.
    remove::remove(parts, record, &Told::default()).await
}

async fn end_orphan(parts: &Arc<Parts>, id: PodId) -> Result<(), PodError> {
    tracing::warn!(pod = %id, "has files but no record; removing them");
    let parts = parts.clone();
    blocking(move || {
        pause::kill_all_in(&parts.layout.pod_namespaces(&id).join("pid"))
            .map_err(|error| PodError::Pause { id, problem: error.to_string() })?;
        remove::files(&parts.layout, &id)
    })
    .await
}
