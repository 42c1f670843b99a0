//! The image store: what is on disk, and the view of it that readers get.
//!
//! ```text
//! images/ID.json         record: names, layers          images/ID.config  the configuration, raw
//! layers/KEY/ KEY.json   content and record             tmp/N/            being unpacked
//! trash/N                being deleted                  quarantine/       records that were damaged
//! ```
//!
//! Readers see an [`Index`] that is replaced as a whole and never wait. Writers (commit, remove,
//! collect) take turns; they block and run on blocking threads, where no caller who goes away can
//! stop them half-way.
//!
//! INVARIANT: an image in the index has all its layers committed, and none of them is collected
//! as long as it is there.
//!
//! INVARIANT: nothing is collected before [`Store::settle`], and nothing while an image's record
//! could not be read: an error while reading never removes what a container may stand on.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

mod clear;
mod in_use;
mod index;
mod layers;
mod load;
mod pins;
mod record;

pub(crate) use clear::Unused;
pub(crate) use index::Index;
use layers::Layers;
pub(crate) use layers::Lease;
use pins::Pins;
use record::ImageRecord;
pub(super) use record::RecordError;

use super::digest::{Digest, chain_ids};
use super::gc::{Temporary, Trash};
use super::reference::Reference;
use super::unpack::Unpacked;
use super::{Image, ImageConfig, ImageError, StoreUsage};
use crate::error::{Classify, Kind};
use crate::ids::ImageId;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A configuration is what was received, and of no use.
    #[error("use {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<super::config::ConfigError>,
    },
    /// It cannot be told whether a layer is committed.
    #[error("layer {chain} cannot be used: its record {} cannot be read", path.display())]
    LayerUnread {
        /// The layer.
        chain: Digest,
        /// Its record.
        path: PathBuf,
    },
    /// A layer that should be committed is not.
    #[error("layer {0} is not in the store")]
    LayerGone(Digest),
    /// All names for the layer are taken.
    #[error("no free name for layer {0}")]
    LayerNames(Digest),
}

impl Classify for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { source, .. } | Self::Record(RecordError::File { source, .. }) => {
                Kind::of_io(source)
            }
            Self::LayerUnread { .. } => Kind::Unavailable,
            Self::Record(_) => Kind::DataLoss,
            Self::Config { .. } | Self::LayerGone(_) | Self::LayerNames(_) => Kind::Internal,
        }
    }
}

impl StoreError {
    /// Whether what is on disk was read and is wrong. Any other error says nothing of it.
    fn is_damage(&self) -> bool {
        match self {
            Self::Record(error) => error.is_damage(),
            Self::Config { .. } | Self::LayerGone(_) => true,
            Self::File { .. } | Self::LayerUnread { .. } | Self::LayerNames(_) => false,
        }
    }

    /// Whether a later release wrote what was read.
    fn is_newer(&self) -> bool {
        matches!(self, Self::Record(RecordError::Newer { .. }))
    }
}

/// Locks a mutex whose state is valid between any two statements, so a panic elsewhere does not
/// matter.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    trash: Arc<Trash>,
    layers: Arc<Layers>,
    index: ArcSwap<Index>,
    /// Where containers have their file systems.
    mounts: PathBuf,
    /// Held by whoever changes images or collects layers. Only ever taken on blocking threads.
    writer: Mutex<()>,
    pins: Pins,
    /// Records of images that could not be read.
    unread: Mutex<HashSet<PathBuf>>,
    /// Every container has said what it uses.
    settled: AtomicBool,
    next_temporary: AtomicU64,
}

/// A pulled image, verified, whose layers are committed.
#[derive(Debug)]
pub(crate) struct NewImage {
    /// The configuration as it was received.
    pub config_bytes: Vec<u8>,
    /// The same, parsed.
    pub config: ImageConfig,
    /// Diff ids, bottom first.
    pub diff_ids: Vec<Digest>,
    /// What it was pulled by.
    pub reference: Reference,
    /// Digest of the manifest, or of the index if that came first.
    pub digest: Digest,
}

impl Store {
    /// Opens the store in `dir`, making it if needed; containers are mounted below `mounts`. What a
    /// crash left stays until [`Self::settle`]. Blocks.
    ///
    /// # Errors
    /// If the directories cannot be made or read, and if a later release has written there. Content
    /// that is damaged, or cannot be read, is no error.
    pub(super) fn open(dir: &Path, mounts: &Path) -> Result<Self, StoreError> {
        for name in ["", "images", "layers", "tmp", "trash", "quarantine"] {
            let path = dir.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| StoreError::File { what: "make directory", path, source })?;
        }
        let failed = |what: &'static str, path: PathBuf| {
            move |source| StoreError::File { what, path, source }
        };
        let path = dir.join("trash");
        let trash = Arc::new(Trash::open(&path).map_err(failed("open", path))?);
        for entry in fs::read_dir(dir.join("tmp")).map_err(failed("open", dir.join("tmp")))? {
            let path = entry.map_err(failed("list", dir.join("tmp")))?.path();
            trash.discard(&path).map_err(failed("discard", path))?;
        }
        let layers = Arc::new(Layers::open(&dir.join("layers"), Arc::clone(&trash))?);
        let load::Loaded { images, unread } = load::images(dir, &layers)?;
        Ok(Self {
            dir: dir.to_owned(),
            mounts: mounts.to_owned(),
            trash,
            layers,
            index: ArcSwap::from_pointee(Index::new(images)),
            writer: Mutex::default(),
            pins: Pins::default(),
            unread: Mutex::new(unread),
            settled: AtomicBool::new(false),
            next_temporary: AtomicU64::new(0),
        })
    }

    /// Tells apart that an image is not here and that nobody knows. Blocks if there is doubt.
    ///
    /// # Errors
    /// Why its record, or one of a layer, cannot be read.
    pub(crate) fn doubt(&self, id: &ImageId) -> Result<(), StoreError> {
        let path = load::record_path(&self.dir, id);
        if !lock(&self.unread).contains(&path) {
            return Ok(());
        }
        match load::look(&self.dir, &path, &self.layers) {
            load::Look::Unread(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// All images as of now.
    pub(crate) fn index(&self) -> Arc<Index> {
        self.index.load_full()
    }

    /// What the store takes on disk, from memory.
    pub(crate) fn usage(&self) -> StoreUsage {
        let (used_bytes, inodes_used) = self.layers.usage();
        StoreUsage { mountpoint: self.dir.clone(), used_bytes, inodes_used, at: SystemTime::now() }
    }

    /// A new, empty directory on the store's file system, discarded unless committed.
    pub(crate) fn temporary(&self) -> Result<Temporary, StoreError> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("tmp").join(number.to_string());
        Temporary::create(path.clone(), Arc::clone(&self.trash))
            .map_err(|source| StoreError::File { what: "make directory", path, source })
    }

    /// Keeps layers, there or to come, from being collected.
    pub(crate) fn lease(&self, chains: &[Digest]) -> Lease {
        self.layers.lease(chains)
    }

    /// Whether a layer is committed. Blocks if there is doubt.
    ///
    /// # Errors
    /// [`StoreError::LayerUnread`] if its record cannot be read.
    pub(crate) fn has_layer(&self, chain: &Digest) -> Result<bool, StoreError> {
        if self.layers.get(chain).is_some() {
            return Ok(true);
        }
        if self.layers.unread(chain).is_some() {
            self.layers.look_again();
            if let Some(path) = self.layers.unread(chain) {
                return Err(StoreError::LayerUnread { chain: *chain, path });
            }
        }
        Ok(self.layers.get(chain).is_some())
    }

    /// Commits a layer on top of the committed chain `below`. Blocks.
    pub(crate) fn commit_layer(
        &self,
        unpacked: Unpacked,
        chain: Digest,
        below: &[Digest],
    ) -> Result<(), StoreError> {
        self.layers.commit(unpacked, chain, below)
    }

    /// Commits an image, or gives one that is there another name. Blocks.
    pub(crate) fn commit_image(&self, new: &NewImage) -> Result<Arc<Image>, StoreError> {
        let _turn = lock(&self.writer);
        let config = Digest::of(&new.config_bytes);
        let id = ImageId::from_bytes(*config.as_bytes());
        // A record that cannot be read is not replaced: it has names of its own.
        self.look_again_in_turn();
        self.doubt(&id)?;
        let record = match self.index().get(&id) {
            Some(image) => ImageRecord::of(image),
            None => {
                record::replace(&load::config_path(&self.dir, &id), &new.config_bytes)?;
                ImageRecord::new(config, &new.diff_ids)
            }
        };
        self.publish(record, new.config.clone(), &new.reference, new.digest)
    }

    /// Gives an image another name; none if it is not there any more. Blocks.
    pub(crate) fn add_name(
        &self,
        id: &ImageId,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Option<Arc<Image>>, StoreError> {
        let _turn = lock(&self.writer);
        let index = self.index();
        let Some(image) = index.get(id) else { return Ok(None) };
        let record = ImageRecord::of(image);
        let known = {
            let mut named = record.clone();
            named.add(reference, digest);
            named == record
        };
        if known {
            return Ok(Some(Arc::clone(image)));
        }
        self.publish(record, image.config.clone(), reference, digest).map(Some)
    }

    /// Writes an image's record with one more name and makes it visible. In the writer's turn.
    fn publish(
        &self,
        mut record: ImageRecord,
        config: ImageConfig,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Arc<Image>, StoreError> {
        record.add(reference, digest);
        let image = Arc::new(load::assemble(&self.dir, &record, config, &self.layers)?);
        self.write(&image.id, &record)?;
        let index = self.index();
        let mut images = index.images().clone();
        images.insert(image.id, Arc::clone(&image));
        // A tag moves: the image that had it loses it, after the new one has it.
        for (id, old) in index.images().iter().filter(|(id, _)| **id != image.id) {
            let without = old.without(&image);
            if without.names() < old.names() {
                self.write(id, &ImageRecord::of(&without))?;
                images.insert(*id, Arc::new(without));
            }
        }
        self.index.store(Arc::new(Index::new(images)));
        Ok(image)
    }

    fn write(&self, id: &ImageId, record: &ImageRecord) -> Result<(), StoreError> {
        let record = ImageRecord { written_at: now_ns(), ..record.clone() };
        Ok(record::write(&load::record_path(&self.dir, id), &record)?)
    }

    /// Removes an image with all its names, and layers that nothing needs any more. Blocks.
    ///
    /// # Errors
    /// [`ImageError::InUse`] if it is pinned. Absence is success.
    pub(crate) fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        let _turn = lock(&self.writer);
        if !self.pins.begin_removal(id) {
            return Err(ImageError::InUse { id: *id });
        }
        let removed = self.remove_files(id);
        if removed.is_ok() {
            let mut images = self.index().images().clone();
            images.remove(id);
            self.index.store(Arc::new(Index::new(images)));
            self.collect_in_turn(Unused::Any);
        }
        self.pins.end_removal(id);
        Ok(removed?)
    }

    fn remove_files(&self, id: &ImageId) -> Result<(), StoreError> {
        // The record first: a configuration without one is swept at the next start.
        for path in [load::record_path(&self.dir, id), load::config_path(&self.dir, id)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::File { what: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps an image from being removed until [`Self::unpin`].
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if it is not there or on its way out.
    pub(crate) fn pin(&self, id: &ImageId) -> Result<Arc<Image>, ImageError> {
        let found = self.pins.pin(id, || self.index().get(id).cloned());
        found.ok_or(ImageError::NotFound { text: id.to_string() })
    }

    /// Takes back one [`Self::pin`].
    pub(crate) fn unpin(&self, id: &ImageId) {
        self.pins.unpin(id);
    }

    /// Keeps images and layers (names of their directories) that a container uses, also if they are
    /// not there, or not known to be, until [`Self::release`] with the same arguments. Gives the
    /// images that are not.
    pub(crate) fn hold(&self, images: &[ImageId], layers: &[String]) -> Vec<ImageId> {
        self.pins.hold(images, layers);
        let index = self.index();
        images.iter().filter(|id| index.get(id).is_none()).copied().collect()
    }

    /// Takes back one [`Self::hold`].
    pub(crate) fn release(&self, images: &[ImageId], layers: &[String]) {
        self.pins.release(images, layers);
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
