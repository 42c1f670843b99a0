//! Images: pull, find, list, remove. The public face of the image store.
//!
//! ```text
//!  pull ─► reference ─► registries_conf, policy, auth_file     whom to ask, and whether
//!            │
//!            ▼
//!          registry (manifest, config) ─► manifest, config     parsed, verified by digest
//!            │
//!            ▼
//!          layer: registry ══chunks══► unpack ─► store         one process a layer, no file between
//!            │
//!            ▼
//!          store: commit image ─► index                        what find and list read
//! ```
//!
//! INVARIANT: nothing a registry says is believed before its digest is; nothing an archive says
//! leads outside the layer's own directory.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

mod auth_file;
mod config;
mod credentials;
mod digest;
mod error;
mod gc;
mod layer;
mod manifest;
mod policy;
mod pull;
mod reference;
mod registries_conf;
mod registry;
mod store;
mod unpack;

pub use config::ImageConfig;
pub use credentials::{Credentials, CredentialsError};
pub use digest::Digest;
pub use error::ImageError;
pub use reference::{Name, Reference, ReferenceError};
pub use unpack::{
    MAX_EXTENSION, MAX_XATTRS, UnpackError, is_taken, lay_over, serve_unpacker, unpacker_gaps,
};

use crate::ids::ImageId;
use crate::metrics::Metrics;
use crate::trust::Trust;
use pull::Pulls;
use store::Store;

/// Longest image configuration.
const MAX_CONFIG: u64 = 4 << 20;

/// All images of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    pulls: Pulls,
}

/// One image. Never changes; another name makes another `Image` with the same id.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its configuration.
    pub id: ImageId,
    /// Full names with tag, sorted.
    pub repo_tags: Vec<String>,
    /// Full names with the digest it was pulled by, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes that its layers and configuration take on disk, shared ones included.
    pub size: u64,
    /// Directories with the content of its layers, absolute, topmost first.
    pub layers: Vec<PathBuf>,
    /// How it wants to be run.
    pub config: ImageConfig,
    diff_ids: Vec<Digest>,
    /// Chain ids, bottom first; unlike `layers` all of them.
    chain: Vec<Digest>,
    config_path: PathBuf,
}

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The image as the request names it.
    pub reference: String,
    /// Credentials of the request; none = those of the configured file, if any.
    pub credentials: Option<Credentials>,
}

/// Disk usage of the store, from memory.
#[derive(Clone, Debug)]
pub struct StoreUsage {
    /// The store's directory.
    pub mountpoint: PathBuf,
    /// Bytes of all layers.
    pub used_bytes: u64,
    /// Inodes of all layers.
    pub inodes_used: u64,
    /// When this was true.
    pub at: SystemTime,
}

impl Images {
    /// Opens the store in `dir`. Blocks for a moment; needs no runtime. Nothing is cleared away before
    /// [`Self::settle`].
    ///
    /// # Errors
    /// If the directories cannot be made or read, or a later release has written there. Damaged
    /// content is logged and set aside; what cannot be read is logged and read again later.
    pub fn open(
        (dir, mounts): (&Path, &Path),
        config: &crate::config::Image,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(dir, mounts)?);
        let pulls = Pulls::new(Arc::clone(&store), config.clone(), metrics);
        Ok(Self(Arc::new(Shared { store, pulls })))
    }

    /// [`Self::open`] with less patience, for tests.
    #[cfg(test)]
    fn open_with(
        (dir, mounts): (&Path, &Path),
        config: &crate::config::Image,
        pace: registry::Pace,
        grace: std::time::Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(dir, mounts)?);
        let network = registry::Network::with_pace(pace);
        let pulls = Pulls::with(Arc::clone(&store), config.clone(), network, grace, metrics);
        Ok(Self(Arc::new(Shared { store, pulls })))
    }

    /// Pulls an image, or joins the same pull with the same credentials if it is under way.
    ///
    /// The work goes on when the caller goes away; 30 seconds after the last caller did, it stops.
    ///
    /// # Errors
    /// [`ImageError`]; its text names the reference and contains no secret.
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        self.0.pulls.pull(request).await
    }

    /// The image that `reference` means: an id, with or without `sha256:`; the beginning of one;
    /// a name with or without tag or digest.
    ///
    /// # Errors
    /// Text that is neither, the beginning of several ids, and the id of an image whose record cannot
    /// be read.
    pub fn find(&self, reference: &str) -> Result<Option<Arc<Image>>, ImageError> {
        let index = self.0.store.index();
        let whole = reference.strip_prefix("sha256:").unwrap_or(reference);
        if let Ok(id) = whole.parse() {
            if index.get(&id).is_none() {
                self.0.store.doubt(&id)?;
            }
            return Ok(index.get(&id).cloned());
        }
        if reference.starts_with("sha256:") {
            return Ok(index.by_id(reference)?.cloned());
        }
        let name: Name = reference.parse()?;
        let candidates = self.0.pulls.candidates(&name);
        if let Some(found) = candidates.iter().find_map(|candidate| index.named(candidate)) {
            return Ok(Some(Arc::clone(found)));
        }
        Ok(index.by_id(reference)?.cloned())
    }

    /// All images, in the order of their ids.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.store.index().list()
    }

    /// Removes the image that `reference` means, with all its names. Layers that no other image
    /// needs are deleted in the background. An absent image is success.
    ///
    /// # Errors
    /// As [`Self::find`]; [`ImageError::InUse`] if it is pinned, [`ImageError::BeingPulled`] if a
    /// pull by this name is under way.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        if let Ok(name) = reference.parse::<Name>() {
            let candidates = self.0.pulls.candidates(&name);
            if let Some(busy) = candidates.iter().find(|name| self.0.pulls.is_pulling(name)) {
                return Err(ImageError::BeingPulled { reference: busy.to_string() });
            }
        }
        let Some(image) = self.find(reference)? else { return Ok(()) };
        let store = Arc::clone(&self.0.store);
        let removal = tokio::task::spawn_blocking(move || store.remove(&image.id));
        removal.await.map_err(|_| ImageError::Panicked)?
    }

    /// Keeps an image from being removed until the pin is dropped.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none with this id.
    pub fn pin(&self, id: &ImageId) -> Result<ImagePin, ImageError> {
        let image = self.0.store.pin(id)?;
        Ok(ImagePin { image, store: Arc::clone(&self.0.store) })
    }

    /// Keeps what a container of a former daemon uses, whether the store can give it or not, until
    /// the hold is dropped: images, and the names of directories of layers.
    pub fn hold(&self, images: Vec<ImageId>, layers: Vec<String>) -> ImageHold {
        let missing = self.0.store.hold(&images, &layers);
        ImageHold { images, layers, missing, store: Arc::clone(&self.0.store) }
    }

    /// Every container that there is holds what it uses: what nobody needs is cleared away, now and
    /// from now on. Blocks.
    ///
    /// # Errors
    /// If it cannot be told what is in use; nothing was cleared away then.
    pub fn settle(&self) -> Result<(), ImageError> {
        Ok(self.0.store.settle()?)
    }

    /// Reads again what could not be read. Blocks.
    pub fn look_again(&self) {
        self.0.store.look_again();
    }

    /// What this host does not give of the confinement of the processes that unpack, as far as pulls
    /// have shown; empty = nothing.
    pub fn unpacker_gaps(&self) -> Vec<String> {
        unpack::known_gaps()
    }

    /// What the store takes on disk. Never touches it.
    pub fn usage(&self) -> StoreUsage {
        self.0.store.usage()
    }
}

impl Image {
    /// The names of the directories of its layers.
    pub fn layer_names(&self) -> impl Iterator<Item = String> {
        self.layers.iter().filter_map(|layer| Some(layer.file_name()?.to_str()?.to_owned()))
    }

    /// The configuration as it was received: JSON, at most 4 MiB. Reads a file.
    ///
    /// # Errors
    /// Those of reading it; an image that was removed meanwhile has none.
    pub fn raw_config(&self) -> std::io::Result<Vec<u8>> {
        std::fs::read(&self.config_path)
    }

    /// This image without the names that `other` has too.
    fn without(&self, other: &Self) -> Self {
        let taken: HashSet<&String> = other.repo_tags.iter().chain(&other.repo_digests).collect();
        let mut image = self.clone();
        image.repo_tags.retain(|tag| !taken.contains(tag));
        image.repo_digests.retain(|digest| !taken.contains(digest));
        image
    }

    /// Number of names.
    fn names(&self) -> usize {
        self.repo_tags.len() + self.repo_digests.len()
    }
}

/// Keeps an image, and so its layers, in the store.
#[derive(Debug)]
pub struct ImagePin {
    image: Arc<Image>,
    store: Arc<Store>,
}

impl ImagePin {
    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Drop for ImagePin {
    fn drop(&mut self) {
        self.store.unpin(&self.image.id);
    }
}

/// Keeps what a container uses, as far as it is there.
#[derive(Debug)]
pub struct ImageHold {
    images: Vec<ImageId>,
    layers: Vec<String>,
    missing: Vec<ImageId>,
    store: Arc<Store>,
}

impl ImageHold {
    /// The images that the store could not give when they were asked for.
    pub fn missing(&self) -> &[ImageId] {
        &self.missing
    }
}

impl Drop for ImageHold {
    fn drop(&mut self) {
        self.store.release(&self.images, &self.layers);
    }
}

/// The text of a configuration file of at most `limit` bytes, or none if there is no such file.
fn read_config_file(path: &Path, trust: Trust, limit: u64) -> io::Result<Option<String>> {
    let file = match trust.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests;
