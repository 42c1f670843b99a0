//! Finds containers again after a restart, and what a failed clean-up left.
//!
//! Whoever is nearest the kernel wins: the monitor, then the exit record it left, then the process
//! itself, then our record. What was half-made is undone, what was half-removed is removed, and
//! what has no record that could be read is `unowned`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::image::ImageHold;
use crate::monitor::{self, Known, MonitorError};
use crate::record::RecordError;
use crate::registry::Reserved;
use crate::runtime::RuntimeState;
use crate::steps::blocking;

use super::record::{ContainerRecord, Ended, now_ns};
use super::state::State;
use super::{
    ContainerError, Containers, Key, Parts, actor, bundle, checkpoint, cleanup, exec, remove,
    restore, stop,
};

/// Containers looked at side by side.
const SIDE_BY_SIDE: usize = 32;

/// How long a monitor that is still creating is waited for.
const CREATING: Duration = Duration::from_secs(20);

/// How often is asked meanwhile.
const ASK: Duration = Duration::from_millis(20);

mod unowned;

impl Containers {
    /// Takes every container on disk that nobody owns. Called at the start and now and then.
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
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut restorations = JoinSet::new();
        for record in std::mem::take(&mut found.records) {
            if self.registry.get(&record.id).is_some() {
                continue;
            }
            let (all, places) = (self.clone(), places.clone());
            restorations.spawn(async move {
                let _place = places.acquire_owned().await;
                // RACE: it may have been removed since the listing. Its record went before
                // its name did, so a record that is still there has no owner.
                match all.parts.records.load(&record.id) {
                    Ok(Some(record)) => all.take_back(record).await,
                    Ok(None) => {}
                    Err(error) => {
                        let error = crate::error::chain(&error);
                        tracing::warn!(container = %record.id, error, "is looked for again later");
                    }
                }
            });
        }
        while restorations.join_next().await.is_some() {}
        self.tell_of_unusable_records(found).await;
        self.end_orphans().await;
        Ok(())
    }

    async fn take_back(&self, record: ContainerRecord) {
        let parts = &self.parts;
        let id = record.id;
        let state = record.state;
        let restored = match state {
            State::Creating | State::Removing => abandon(parts, record).await.map(|()| None),
            _ => {
                exec::sweep(&parts.layout.bundle(&id));
                bundle::tighten(parts, &id);
                checkpoint::recover(parts, &record);
                revive(parts, record).await.map(Some)
            }
        };
        match restored {
            Ok(None) => tracing::info!(container = %id, ?state, "leftover removed"),
            Ok(Some(record)) => {
                tracing::info!(container = %id, state = ?record.state, "found again");
                self.adopt(record);
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(container = %id, error, "is left as it is for now");
            }
        }
    }

    fn adopt(&self, record: ContainerRecord) {
        let key =
            Key { pod: record.pod, name: record.spec.name.clone(), attempt: record.spec.attempt };
        let pins = pins(&self.parts, &record);
        let (id, mut born) = (record.id, None);
        let reserved = self.registry.reserve(&key, &id, || {
            let (handle, actor) = actor::owner_of(record, self.parts.clone());
            born = Some(actor);
            handle
        });
        match (reserved, born) {
            (Reserved::New(_), Some(actor)) => {
                let registry = self.registry.clone();
                drop(crate::steps::spawn("container", actor.adopt(pins, registry)));
            }
            _ => tracing::error!(container = %id, "another container has its name"),
        }
    }
}

/// The record as things stand now.
async fn revive(
    parts: &Arc<Parts>,
    mut record: ContainerRecord,
) -> Result<ContainerRecord, ContainerError> {
    let dir = parts.layout.monitor(&record.id);
    if record.ended.is_some() {
        // The exit may have been recorded just before a crash, and the monitor not been told.
        monitor::dismiss(&dir).await;
        record.state = State::Exited;
        record.cleaned |= record.boot_id != parts.host.boot_id;
        return Ok(record);
    }
    if record.boot_id != parts.host.boot_id {
        record.cleaned = true;
        return end(parts, record, Ended::unseen("NodeRebooted", "the node was rebooted")).await;
    }
    if record.waits_to_be_restored() {
        let settled = settled(&dir).await;
        let settled =
            settled.map_err(|source| ContainerError::Monitor { id: record.id, source })?;
        match settled.and_then(|known| known.process) {
            Some(process) => {
                record.process = Some(process);
                record.state = State::Running;
                record.started_at_ns = now_ns();
                parts.save(&record).await?;
            }
            None => return restore::forget(parts, &record).await.map(|()| record),
        }
    }
    match monitor::known(&dir).await {
        Ok(Known { exit: Some(exit), .. }) => {
            let record = end(parts, record, Ended::from_monitor(&exit)).await?;
            monitor::dismiss(&dir).await;
            Ok(record)
        }
        Ok(Known { exit: None, .. }) => started_meanwhile(parts, record).await,
        Err(MonitorError::Connect { .. }) => match monitor::left_behind(&dir) {
            Ok(Some(exit)) => end(parts, record, Ended::from_monitor(&exit)).await,
            // The owner looks for the process itself, and again for the record, and tells Unknown from
            // ended.
            Ok(None) | Err(_) => Ok(record),
        },
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::warn!(container = %record.id, error, "its monitor does not answer");
            Ok(record)
        }
    }
}

/// A start may have succeeded just before a crash kept it from the record.
async fn started_meanwhile(
    parts: &Arc<Parts>,
    mut record: ContainerRecord,
) -> Result<ContainerRecord, ContainerError> {
    if record.state != State::Created {
        record.state = State::Running;
        return Ok(record);
    }
    let id = record.id;
    let state = parts.runtime(&record.handler)?.state(&id).await;
    if state.map_err(|source| ContainerError::Runtime { id, source })? == RuntimeState::Running {
        record.state = State::Running;
        record.started_at_ns = record.created_at_ns;
        parts.save(&record).await?;
    }
    Ok(record)
}

async fn end(
    parts: &Arc<Parts>,
    mut record: ContainerRecord,
    mut ended: Ended,
) -> Result<ContainerRecord, ContainerError> {
    ended.at_ns = ended.at_ns.max(record.started_at_ns).max(record.created_at_ns);
    if ended.by_oom() {
        parts.metrics.oom_killed();
    }
    record.ended = Some(ended);
    record.state = State::Exited;
    parts.save(&record).await?;
    Ok(record)
}

/// Ends and removes what was being created or removed.
async fn abandon(parts: &Arc<Parts>, mut record: ContainerRecord) -> Result<(), ContainerError> {
    if record.boot_id == parts.host.boot_id {
        let (id, dir) = (record.id, parts.layout.monitor(&record.id));
        let settled = settled(&dir).await;
        if let Some(known) = settled.map_err(|source| ContainerError::Monitor { id, source })? {
            record.process = known.process.or(record.process);
        }
        stop::kill(parts, &record).await;
        monitor::dismiss(&dir).await;
    } else {
        record.cleaned = true;
    }
    cleanup::cleanup(parts, &record).await?;
    remove::remove(parts, &record).await
}

/// What the monitor knows once the runtime's create has ended; none if there is no monitor, or none
/// that answers.
///
/// # Errors
/// If it could not be asked: then there may well be one.
async fn settled(dir: &Path) -> Result<Option<Known>, MonitorError> {
    let asking = async {
        loop {
            match monitor::known(dir).await {
                Ok(Known { process: None, exit: None }) => tokio::time::sleep(ASK).await,
                Ok(known) => return Ok(Some(known)),
                Err(error @ MonitorError::Connect { .. }) if !error.is_absence() => {
                    return Err(error);
                }
                Err(_) => return Ok(None),
            }
        }
    };
    tokio::time::timeout(CREATING, asking).await.unwrap_or(Ok(None))
}

/// Keeps what a container uses, and tells what the store cannot give: the container stands on it
/// all the same.
fn pins(parts: &Parts, record: &ContainerRecord) -> ImageHold {
    let volumes = record.image_volumes.iter().map(|volume| volume.id);
    let images = record.image.iter().map(|image| image.id).chain(volumes);
    let hold = parts.images.hold(images.collect(), record.layers.clone());
    // One that is cleaned up stands on nothing any more.
    for image in hold.missing().iter().filter(|_| !record.cleaned) {
        tracing::error!(container = %record.id, %image, "uses an image that the store cannot give");
    }
    hold
}
