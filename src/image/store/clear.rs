//! What nobody needs is cleared away: leftovers of crashes, and layers of no image.
//!
//! Nothing goes before it is known what is in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::in_use::InUse;
use super::{Index, Store, StoreError, load, lock};

/// How long layers of an unfinished pull are kept for the next try.
const UNUSED_AGE: Duration = Duration::from_secs(24 * 3600);

/// Which unused layers are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unused {
    /// All of them.
    Any,
    /// Those that no retry of a failed pull will come back for.
    Old,
}

impl Store {
    /// Every container that there is has said what it uses ([`Self::hold`]): what nobody needs is
    /// cleared away, now and from now on. Once is enough; again is fine. Blocks.
    ///
    /// # Errors
    /// If it cannot be told what is in use; nothing was cleared away then.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        if self.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        let _turn = lock(&self.writer);
        self.look_again_in_turn();
        let Some(in_use) = self.in_use()? else { return Ok(()) };
        let failed =
            |source| StoreError::File { what: "list", path: self.dir.join("trash"), source };
        self.trash.empty().map_err(failed)?;
        self.layers.discard_garbage(&in_use);
        load::remove_leftovers(&self.dir)?;
        self.settled.store(true, Ordering::Release);
        self.collect_in_turn(Unused::Old);
        Ok(())
    }

    /// What containers stand on; none if it is not known. In the writer's turn.
    fn in_use(&self) -> Result<Option<InUse>, StoreError> {
        let index = self.index();
        if let Some(id) = self.pins.blind().iter().find(|id| index.get(id).is_none()) {
            debug!(image = %id, "a container uses it and nobody knows its layers: nothing is cleared");
            return Ok(None);
        }
        let path = || PathBuf::from("/proc/self/mountinfo");
        let looked = InUse::look(self.pins.layers(), &self.mounts);
        looked.map(Some).map_err(|source| StoreError::File { what: "read", path: path(), source })
    }

    /// Reads again what could not be read. Blocks.
    pub(crate) fn look_again(&self) {
        let _turn = lock(&self.writer);
        self.look_again_in_turn();
    }

    pub(super) fn look_again_in_turn(&self) {
        self.layers.look_again();
        let unread = lock(&self.unread).clone();
        for path in unread {
            match load::look(&self.dir, &path, &self.layers) {
                load::Look::Good(_, image) => {
                    info!(image = %image.id, "image can be used again");
                    let mut images = self.index().images().clone();
                    // What has its names meanwhile has them rightly.
                    let image = images.values().fold(*image, |image, other| image.without(other));
                    images.insert(image.id, Arc::new(image));
                    self.index.store(Arc::new(Index::new(images)));
                }
                load::Look::Gone => {}
                load::Look::Damaged(error) => {
                    warn!(error = %crate::error::chain(&error), "image is damaged and set aside");
                    load::set_aside(&self.dir, &path);
                }
                load::Look::Unread(error) => {
                    debug!(error = %crate::error::chain(&error), "image still cannot be used");
                    continue;
                }
            }
            lock(&self.unread).remove(&path);
        }
    }

    /// Discards layers that nothing needs. Blocks.
    pub(crate) fn collect(&self, unused: Unused) {
        let _turn = lock(&self.writer);
        self.collect_in_turn(unused);
    }

    /// The writer's turn keeps an image from being committed between the look at the index and
    /// the look at the leases.
    pub(super) fn collect_in_turn(&self, unused: Unused) {
        // The layers of an image that cannot be read are not known.
        if !self.settled.load(Ordering::Acquire) || !lock(&self.unread).is_empty() {
            debug!("unused layers stay: it is not known yet what is in use");
            return;
        }
        let in_use = match self.in_use() {
            Ok(Some(in_use)) => in_use,
            Ok(None) => return,
            Err(error) => {
                warn!(error = %crate::error::chain(&error), "unused layers stay");
                return;
            }
        };
        let index = self.index();
        let chains = index.images().values().flat_map(|image| &image.chain);
        let age = match unused {
            Unused::Any => Duration::ZERO,
            Unused::Old => UNUSED_AGE,
        };
        self.layers.collect(&chains.copied().collect(), age, &in_use);
    }
}
