//! [`Index`]: all images as readers see them, and the rules by which a text finds one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ids::ImageId;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::{Image, ImageError};

/// Fewest digits that are taken for the beginning of an id; shorter texts are names.
const MIN_PREFIX: usize = 3;

/// All images. Never changed, only replaced.
#[derive(Debug, Default)]
pub(crate) struct Index {
    images: BTreeMap<ImageId, Arc<Image>>,
    /// Full names with tag or digest.
    names: HashMap<String, ImageId>,
}

impl Index {
    /// An index of `images`.
    pub(crate) fn new(images: BTreeMap<ImageId, Arc<Image>>) -> Self {
        let mut names = HashMap::new();
        for (id, image) in &images {
            for name in image.repo_tags.iter().chain(&image.repo_digests) {
                names.insert(name.clone(), *id);
            }
        }
        Self { images, names }
    }

    /// All images by id.
    pub(super) fn images(&self) -> &BTreeMap<ImageId, Arc<Image>> {
        &self.images
    }

    /// All images in the order of their ids.
    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    /// The image with exactly this id.
    pub(crate) fn get(&self, id: &ImageId) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// The image with this full name.
    pub(crate) fn named(&self, reference: &Reference) -> Option<&Arc<Image>> {
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.as_tag()?,
        };
        self.names.get(&name).and_then(|id| self.images.get(id))
    }

    /// The image with this repository and digest.
    pub(crate) fn by_digest(&self, reference: &Reference, digest: Digest) -> Option<&Arc<Image>> {
        self.names.get(&reference.with_digest(digest)).and_then(|id| self.images.get(id))
    }

    /// The image whose id is or begins with `text`, with or without `sha256:`.
    ///
    /// # Errors
    /// [`ImageError::Ambiguous`] if several begin so.
    pub(crate) fn by_id(&self, text: &str) -> Result<Option<&Arc<Image>>, ImageError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex || !(MIN_PREFIX..=64).contains(&digits.len()) {
            return Ok(None);
        }
        let Ok(first) = format!("{digits:0<64}").parse::<ImageId>() else { return Ok(None) };
        let mut matching =
            self.images.range(first..).take_while(|(id, _)| id.to_string().starts_with(digits));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(ImageError::Ambiguous { text: text.to_owned() }),
            (found, _) => Ok(found.map(|(_, image)| image)),
        }
    }
}
