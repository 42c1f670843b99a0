//! One layer of one pull: from a registry into the store, without a file in between.
//!
//! Pieces go from the network through a short queue to threads that have a process unpack them. A layer is
//! fetched once however many pulls want it: they take turns by chain id, and whoever comes second
//! finds it committed, or does it over if the first one failed. One that occurs in several chains
//! is fetched for each, one after the other: overlayfs does not take one directory twice.
//!
//! RACE: a pull that holds the turn of a layer waits for the layer below, whose turn another pull
//! may hold. That one waits for a layer further below, and so on to the bottom, which waits for
//! nobody; so there is no circle. No share of a bound (registry, layers) is held while waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, mpsc, oneshot};
use tracing::warn;

use super::ImageError;
use super::digest::Digest;
use super::manifest::Descriptor;
use super::registry::Registry;
use super::store::{Store, lock};
use super::unpack::{self, Line, UnpackError, Unpacked, Unpacker};
use crate::error::chain;

/// Layers that are unpacked at a time, from all registries together: each has two threads, a queue
/// and a process, whose decoders' memory is bounded for all of them together (`unpack/memory.rs`).
const MAX_LAYERS: usize = 12;

/// Pieces between the network and the thread: enough to never wait for each other over a short
/// pause, little enough to be no buffer.
const QUEUE: usize = 8;

/// A layer of a manifest.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub blob: Descriptor,
    pub diff_id: Digest,
    pub chain: Digest,
    /// Chain ids below it, bottom first.
    pub below: Vec<Digest>,
}

/// One pull, as far as its layers are concerned.
#[derive(Debug)]
pub(super) struct Pulling {
    /// What is pulled.
    pub reference: String,
    /// Whom to ask, in order.
    pub sources: Arc<[Registry]>,
    /// The process that unpacks all of its layers.
    pub unpacker: Arc<Unpacker>,
}

/// What is done by one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Turn {
    /// Committing the layer with this chain id, from before it is fetched.
    Chain(Digest),
    /// Fetching the layer with this diff id. Taken second, and given back before any waiting.
    Content(Digest),
}

/// Fetches layers.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Arc<Store>,
    turns: Mutex<HashMap<Turn, Weak<AsyncMutex<()>>>>,
    layers: Semaphore,
    /// Bytes that a zstd frame may have its decoder keep.
    max_window: u64,
}

impl Fetcher {
    /// Into this store.
    pub(super) fn new(store: Arc<Store>, max_window: u64) -> Self {
        let layers = Semaphore::new(MAX_LAYERS);
        Self { store, turns: Mutex::default(), layers, max_window }
    }

    /// Sees to it that a layer is committed. `below_done` tells when the one below it is; the
    /// bottom one has none.
    pub(super) async fn ensure(
        &self,
        pulling: &Pulling,
        wanted: Wanted,
        below_done: Option<oneshot::Receiver<()>>,
    ) -> Result<(), ImageError> {
        if self.store.has_layer(&wanted.chain)? {
            return Ok(());
        }
        let turn = self.turn(Turn::Chain(wanted.chain)).await;
        if self.store.has_layer(&wanted.chain)? {
            return Ok(());
        }
        let unpacked = self.fetch(pulling, &wanted).await?;
        if let Some(below_done) = below_done {
            // The sender goes without a word only if its layer failed, and the pull with it.
            below_done.await.map_err(|_| ImageError::Panicked)?;
        }
        let store = Arc::clone(&self.store);
        let commit = move || {
            // Kept to the end even if the pull is given up meanwhile.
            let _turn = turn;
            store.commit_layer(unpacked, wanted.chain, &wanted.below)
        };
        let committed = tokio::task::spawn_blocking(commit).await;
        Ok(committed.map_err(|_| ImageError::Panicked)??)
    }

    async fn turn(&self, of: Turn) -> OwnedMutexGuard<()> {
        let mutex = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let mutex = turns.get(&of).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(of, Arc::downgrade(&mutex));
            mutex
        };
        mutex.lock_owned().await
    }

    /// From the first source that has it right.
    async fn fetch(&self, pulling: &Pulling, wanted: &Wanted) -> Result<Unpacked, ImageError> {
        // Another chain may have the same layer in it: an empty one, most often.
        let _turn = self.turn(Turn::Content(wanted.diff_id)).await;
        let mut sources = pulling.sources.iter().peekable();
        while let Some(source) = sources.next() {
            let error = match self.fetch_from(pulling, wanted, source).await {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => error,
            };
            // Right bytes that cannot be unpacked are no better elsewhere.
            let elsewhere = match &error {
                ImageError::Unavailable { .. } | ImageError::Registry { .. } => true,
                ImageError::Unpack { source, .. } => matches!(**source, UnpackError::Digest { .. }),
                _ => false,
            };
            if !elsewhere || sources.peek().is_none() {
                return Err(error);
            }
            warn!(host = source.host(), layer = %wanted.blob.digest, error = %chain(&error),
                "mirror is passed over");
        }
        Err(ImageError::Panicked)
    }

    async fn fetch_from(
        &self,
        pulling: &Pulling,
        wanted: &Wanted,
        source: &Registry,
    ) -> Result<Unpacked, ImageError> {
        let reference = &pulling.reference;
        // The registry's share first: a slow one must not keep places from the others.
        let _share = source.blob_share().await;
        // The semaphore is never closed, so this cannot fail.
        let _place = self.layers.acquire().await;
        let unpack_failed = |source| {
            let (reference, layer) = (reference.clone(), wanted.blob.digest);
            ImageError::Unpack { reference, layer, source: Box::new(source) }
        };
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (result, done) = oneshot::channel();
        let line = Awaited(Arc::new(Line::new().map_err(unpack_failed)?));
        let (store, unpacker) = (Arc::clone(&self.store), Arc::clone(&pulling.unpacker));
        let layer = unpack::Layer::new(wanted.blob, wanted.diff_id, self.max_window);
        let work = {
            let line = Arc::clone(&line.0);
            move || {
                let unpacked = store.temporary().map_err(Failure::Store).and_then(|place| {
                    unpack::unpack(&unpacker, &layer, place, queue, &line).map_err(Failure::Unpack)
                });
                // Nobody waits if the pull was given up; the layer discards itself.
                result.send(unpacked).ok();
            }
        };
        std::thread::Builder::new()
            .name("unpack".into())
            .spawn(work)
            .map_err(|source| unpack_failed(UnpackError::Thread(source)))?;
        let sent = tokio::select! {
            sent = source.blob(wanted.blob, &pieces) => sent.map(drop),
            () = line.0.given_up() => Ok(()),
        };
        drop(pieces);
        if sent.is_err() {
            // Whatever its process makes of a part of it, nobody wants to know.
            line.0.hang_up();
        }
        let unpacked = done.await.map_err(|_| ImageError::Panicked)?;
        // If the transfer failed, that is why unpacking did.
        sent.map_err(|error| ImageError::registry(reference, error))?;
        unpacked.map_err(|failure| match failure {
            Failure::Store(error) => error.into(),
            Failure::Unpack(error) => unpack_failed(error),
        })
    }
}

/// The line of a layer that somebody waits for: it ends when this is dropped.
struct Awaited(Arc<Line>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.hang_up();
    }
}

/// Why there is no layer.
enum Failure {
    Store(super::store::StoreError),
    Unpack(UnpackError),
}
