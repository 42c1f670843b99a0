//! Images from their records: at the start, and right after a record was written.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, warn};

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

/// What the records give.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// The images that can be used.
    pub images: BTreeMap<ImageId, Arc<Image>>,
    /// Records of images that could not be read, or not all that they need. Nobody knows whether
    /// anything is wrong with them.
    pub unread: HashSet<PathBuf>,
}

/// How it stands with one record.
pub(super) enum Look {
    /// It is good: when it was written, and the image.
    Good(u64, Box<Image>),
    /// There is none any more.
    Gone,
    /// It was read, and is wrong.
    Damaged(StoreError),
    /// It could not be read.
    Unread(StoreError),
}

/// All images with a good record and all their layers. Damaged records are moved aside, so that
/// somebody can look at them; such an image is absent until it is pulled again.
///
/// # Errors
/// If the directory cannot be listed, and records of a newer version.
pub(super) fn images(dir: &Path, layers: &Layers) -> Result<Loaded, StoreError> {
    let place = dir.join("images");
    let failed = |source| StoreError::File { what: "open", path: place.clone(), source };
    let mut good: Vec<(u64, ImageId, Image)> = Vec::new();
    let mut loaded = Loaded::default();
    for entry in fs::read_dir(&place).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match look(dir, &path, layers) {
            Look::Good(written_at, image) => good.push((written_at, image.id, *image)),
            Look::Gone => {}
            Look::Damaged(error) => {
                warn!(error = %chain(&error), "image is damaged and set aside");
                set_aside(dir, &path);
            }
            Look::Unread(error) if error.is_newer() => return Err(error),
            Look::Unread(error) => {
                error!(error = %chain(&error), "image cannot be used for now");
                loaded.unread.insert(path);
            }
        }
    }
    // A crash while a tag moved leaves it on both images: the newer record has it.
    good.sort_by_key(|(written_at, ..)| std::cmp::Reverse(*written_at));
    let mut taken: HashSet<String> = HashSet::new();
    for (_, id, mut image) in good {
        image.repo_tags.retain(|tag| taken.insert(tag.clone()));
        image.repo_digests.retain(|digest| taken.insert(digest.clone()));
        loaded.images.insert(id, Arc::new(image));
    }
    Ok(loaded)
}

/// Removes what lies beside the records and belongs to none of them. Failures are told of.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), StoreError> {
    let place = dir.join("images");
    let failed = |source| StoreError::File { what: "list", path: place.clone(), source };
    for entry in fs::read_dir(&place).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_record = path.extension().is_some_and(|extension| extension == "json");
        let is_config = path.extension().is_some_and(|extension| extension == "config");
        let beside = fs::symlink_metadata(path.with_extension("json"));
        let has_record = !matches!(&beside, Err(e) if e.kind() == io::ErrorKind::NotFound);
        if is_record || is_config && has_record {
            continue;
        }
        if let Err(error) = fs::remove_file(&path) {
            warn!(path = %path.display(), %error, "leftover of an image remains");
        }
    }
    Ok(())
}

/// Looks at one record and all that it needs.
pub(super) fn look(dir: &Path, path: &Path, layers: &Layers) -> Look {
    let record = match record::read::<ImageRecord>(path) {
        Ok(record) => record,
        Err(error) if error.is_absence() => return Look::Gone,
        Err(error) if error.is_damage() => return Look::Damaged(error.into()),
        Err(error) => return Look::Unread(error.into()),
    };
    let written_at = record.written_at;
    match image(dir, path, record, layers) {
        Ok(image) => Look::Good(written_at, Box::new(image)),
        Err(error) if error.is_damage() => Look::Damaged(error),
        Err(error) => Look::Unread(error),
    }
}

fn image(
    dir: &Path,
    path: &Path,
    record: ImageRecord,
    layers: &Layers,
) -> Result<Image, StoreError> {
    let damaged = |why| RecordError::Damaged { path: path.to_owned(), why };
    let id = ImageId::from_bytes(*record.config.as_bytes());
    if path != record_path(dir, &id) {
        return Err(damaged("is the record of another image").into());
    }
    let bytes = match record::read_bounded(&config_path(dir, &id), MAX_CONFIG) {
        Err(error) if error.is_absence() => {
            return Err(damaged("has no configuration beside it").into());
        }
        read => read?,
    };
    if Digest::of(&bytes) != record.config {
        return Err(damaged("has a damaged configuration beside it").into());
    }
    let (config, _) = config::parse(&bytes).map_err(|source| StoreError::Config {
        path: config_path(dir, &id),
        source: Box::new(source),
    })?;
    assemble(dir, &record, config, layers)
}

/// Puts an image together from its record.
///
/// # Errors
/// [`StoreError::LayerGone`] if one of its layers is not in the store,
/// [`StoreError::LayerUnread`] if nobody can tell.
pub(super) fn assemble(
    dir: &Path,
    record: &ImageRecord,
    config: ImageConfig,
    layers: &Layers,
) -> Result<Image, StoreError> {
    let id = ImageId::from_bytes(*record.config.as_bytes());
    let config_path = config_path(dir, &id);
    let mut size = match fs::metadata(&config_path) {
        Ok(metadata) => metadata.len(),
        Err(source) => {
            return Err(StoreError::File { what: "look at", path: config_path, source });
        }
    };
    let chain = chain_ids(&record.layers);
    let mut visible = Vec::with_capacity(chain.len());
    let mut covered = false;
    for chain in chain.iter().rev() {
        let stored = layers.get(chain).ok_or_else(|| match layers.unread(chain) {
            Some(path) => StoreError::LayerUnread { chain: *chain, path },
            None => StoreError::LayerGone(*chain),
        })?;
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

/// Moves a damaged record to where a person finds it.
pub(super) fn set_aside(dir: &Path, path: &Path) {
    let Some(name) = path.file_name() else { return };
    if let Err(error) = fs::rename(path, dir.join("quarantine").join(name)) {
        warn!(path = %path.display(), %error, "damaged record remains in its place");
    }
}
