//! Finds pods again after a restart, and what a failed clean-up left. Containers come first.
//!
//! A pod whose namespaces or pause process are gone is stopped, not forgotten: the kubelet asks for
//! its status. What was half-made is undone, what was half-removed is removed, and what has no record
//! that could be read is `unowned`'s.

use std::sync::Arc;

use crate::nri::Told;
use crate::record::RecordError;
use crate::registry::Reserved;
use crate::steps::blocking;

use super::record::PodRecord;
use super::state::State;
use super::{Parts, PodError, Pods, actor, detach, pause, remove};

mod unowned;

impl Pods {
    /// Takes every pod on disk that nobody owns. Called at the start and now and then.
    ///
    /// # Errors
    /// Only when the records cannot be listed; nothing was done then. Records that cannot be used
    /// are told of, and what they name is left as it is.
    pub async fn recover(&self) -> Result<(), RecordError> {
        let mut found = blocking({
            let parts = self.parts.clone();
            move || parts.records.load_all()
        })
        .await?;
        self.have_lost_records_written(&found);
        for record in std::mem::take(&mut found.records) {
            if self.registry.get(&record.id).is_some() {
                continue;
            }
            // RACE: it may have been removed since the listing. Its record went before its name
            // did, so a record that is still there has no owner.
            match self.parts.records.load(&record.id) {
                Ok(Some(record)) => self.take_back(record).await,
                Ok(None) => {}
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(pod = %record.id, error, "is looked for again later");
                }
            }
        }
        let mut troubles = self.set_unusable_records_aside(found).await;
        troubles.extend(self.end_orphans().await);
        self.parts.metrics.set_unusable_records("pod", troubles.len());
        self.parts.records.troubles().replace(troubles);
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
}

/// Undoes or finishes what the record says was in flight.
async fn abandon(parts: &Arc<Parts>, record: &PodRecord) -> Result<(), PodError> {
    pause::kill(parts, record).await?;
    detach::detach(parts, record.id).await;
    // No plugin of this daemon has heard of it.
    remove::remove(parts, record, &Told::default()).await
}
