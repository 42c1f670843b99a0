//! Images from their records: at the start, and right after a record was written.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::layers::Layers;
use super::record::{self, ImageRecord, RecordError};
use super::{StoreError, chain_ids};
use crate::error::chain;
use crate::ids::ImageId;
use crate::image::digest::Digest;
use crate::image::{Image, ImageConfig, MAX_CONFIG, config};

/// Where an image's record is.
pub(super) fn record_path(dir: &Path, id: &ImageId) -> PathBuf {
    dir.join("images").join(format!("{id}.json"))
}

/// Where an image's configuration is.
pub(super) fn config_path(dir: &Path, id: &ImageId) -> PathBuf {
    dir.join("images").join(format!("{id}.config"))
}

/// All images with a good record and all their layers. Damaged records are moved aside, so that
/// somebody can look at them; such an image is absent until it is pulled again.
pub(super) fn images(
    dir: &Path,
    layers: &Layers,
) -> Result<BTreeMap<ImageId, Arc<Image>>, StoreError> {
    let place = dir.join("images");
    let failed = |source| StoreError::File { what: "open", path: place.clone(), source };
    let mut loaded: Vec<(u64, ImageId, Image)> = Vec::new();
    let mut others: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&place).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            others.push(path);
            continue;
        }
        match image(dir, &path, layers) {
            Ok((written_at, image)) => loaded.push((written_at, image.id, image)),
            Err(error) => {
                warn!(error = %chain(&*error), "image is damaged and set aside");
                set_aside(dir, &path);
            }
        }
    }
    // A crash while a tag moved leaves it on both images: the newer record has it.
    loaded.sort_by_key(|(written_at, ..)| std::cmp::Reverse(*written_at));
    let mut images: BTreeMap<ImageId, Arc<Image>> = BTreeMap::new();
    let mut taken: HashSet<String> = HashSet::new();
    for (_, id, mut image) in loaded {
        image.repo_tags.retain(|tag| taken.insert(tag.clone()));
        image.repo_digests.retain(|digest| taken.insert(digest.clone()));
        images.insert(id, Arc::new(image));
    }
    let known: HashSet<PathBuf> = images.keys().map(|id| config_path(dir, id)).collect();
    for path in others.iter().filter(|path| !known.contains(*path)) {
        if let Err(error) = fs::remove_file(path) {
            warn!(path = %path.display(), %error, "leftover of an image remains");
        }
    }
    Ok(images)
}

fn image(
    dir: &Path,
    path: &Path,
    layers: &Layers,
) -> Result<(u64, Image), Box<dyn std::error::Error>> {
    let damaged = |why| RecordError::Damaged { path: path.to_owned(), why };
    let record: ImageRecord = record::read(path)?;
    if record.version != record::VERSION {
        return Err(damaged("has another version").into());
    }
    let id = ImageId::from_bytes(*record.config.as_bytes());
    if path != record_path(dir, &id) {
        return Err(damaged("is the record of another image").into());
    }
    let bytes = record::read_bounded(&config_path(dir, &id), MAX_CONFIG)?;
    if Digest::of(&bytes) != record.config {
        return Err(damaged("has a damaged configuration beside it").into());
    }
    let (config, _) = config::parse(&bytes)?;
    Ok((record.written_at, assemble(dir, &record, config, layers)?))
}

/// Puts an image together from its record.
///
/// # Errors
/// [`StoreError::LayerGone`] if one of its layers is not in the store.
pub(super) fn assemble(
    dir: &Path,
    record: &ImageRecord,
    config: ImageConfig,
    layers: &Layers,
) -> Result<Image, StoreError> {
    let id = ImageId::from_bytes(*record.config.as_bytes());
    let config_path = config_path(dir, &id);
    let mut size = fs::metadata(&config_path).map_or(1, |metadata| metadata.len());
    let chain = chain_ids(&record.layers);
    let mut visible = Vec::with_capacity(chain.len());
    let mut covered = false;
    for chain in chain.iter().rev() {
        let stored = layers.get(chain).ok_or(StoreError::LayerGone(*chain))?;
        size += stored.record.bytes;
        // Overlayfs ignores that the root of a layer is opaque, so what is below is left out.
        if !covered {
            visible.push(stored.path);
        }
        covered |= stored.record.opaque;
    }
    Ok(Image {
        id,
        repo_tags: record.tags.clone(),
        repo_digests: record.digests.clone(),
        size,
        layers: visible,
        config,
        diff_ids: record.layers.clone(),
        chain,
        config_path,
    })
}

fn set_aside(dir: &Path, path: &Path) {
    let Some(name) = path.file_name() else { return };
    if let Err(error) = fs::rename(path, dir.join("quarantine").join(name)) {
        warn!(path = %path.display(), %error, "damaged record remains in its place");
    }
}
