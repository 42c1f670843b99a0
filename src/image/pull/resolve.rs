//! From a reference to one image's manifest: through mirrors, indexes, and what is known already.

use std::sync::Arc;

use tracing::warn;

use crate::error::chain;
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::manifest::{
    self, Descriptor, Document, MAX_DEPTH, Manifest, ManifestError, Platform,
};
use crate::image::reference::Reference;
use crate::image::registry::Registry;
use crate::image::store::Store;
use crate::image::{Image, MAX_CONFIG};

/// What a reference leads to.
pub(super) enum Resolved {
    /// An image that is in the store; the registry has just confirmed that it is the one.
    Known { image: Arc<Image>, digest: Digest },
    /// One that is not.
    New(NewManifest),
}

/// The manifest of an image that is not in the store.
pub(super) struct NewManifest {
    pub manifest: Manifest,
    /// Digest of what the reference leads to directly: this manifest or an index.
    pub digest: Digest,
}

/// A manifest or index that was read and understood.
struct Found {
    document: Document,
    digest: Digest,
    size: u64,
}

/// Asks for what `reference` means.
pub(super) async fn resolve(
    store: &Store,
    reference: &Reference,
    sources: &[Registry],
) -> Result<Resolved, ImageError> {
    let top = top(reference, sources).await?;
    if let Some(image) = store.index().by_digest(reference, top.digest) {
        return Ok(Resolved::Known { image: Arc::clone(image), digest: top.digest });
    }
    descend(&reference.to_string(), sources, top).await.map(Resolved::New)
}

/// The same without looking at what is in the store.
pub(super) async fn anew(
    reference: &Reference,
    sources: &[Registry],
) -> Result<NewManifest, ImageError> {
    let top = top(reference, sources).await?;
    descend(&reference.to_string(), sources, top).await
}

async fn top(reference: &Reference, sources: &[Registry]) -> Result<Found, ImageError> {
    let tag = reference.tag().unwrap_or_default();
    manifest_from(&reference.to_string(), sources, tag, reference.digest()).await
}

/// Goes down through indexes, depth first, to the first image for this machine.
async fn descend(
    reference: &str,
    sources: &[Registry],
    top: Found,
) -> Result<NewManifest, ImageError> {
    let bad = |source| ImageError::Manifest { reference: reference.to_owned(), source };
    let platform = Platform::host();
    let digest = top.digest;
    let mut entries = match top.document {
        Document::Manifest(manifest) => return Ok(NewManifest { manifest, digest }),
        Document::Index(entries) => {
            let chosen = platform.choose(&entries).map_err(bad)?;
            chosen.into_iter().rev().map(|target| (1, target)).collect::<Vec<_>>()
        }
    };
    // A stack, so that what an index leads to comes before what is beside that index.
    while let Some((depth, target)) = entries.pop() {
        let found = manifest_from(reference, sources, "", Some(target.digest)).await?;
        if found.size != target.size {
            // An index that is wrong about a size is wrong about something.
            return Err(bad(ManifestError::Size { digest: target.digest, size: found.size }));
        }
        match found.document {
            Document::Manifest(manifest) => return Ok(NewManifest { manifest, digest }),
            Document::Index(_) if depth == MAX_DEPTH => return Err(bad(ManifestError::Depth)),
            Document::Index(nested) => {
                let chosen = platform.choose(&nested).unwrap_or_default();
                entries.extend(chosen.into_iter().rev().map(|target| (depth + 1, target)));
            }
        }
    }
    Err(bad(platform.missing()))
}

/// A manifest from the first source that has a good one; the error is that of the last, the
/// registry itself.
async fn manifest_from(
    reference: &str,
    sources: &[Registry],
    tag: &str,
    digest: Option<Digest>,
) -> Result<Found, ImageError> {
    let mut last = None;
    for source in sources {
        if let Some(error) = last.take() {
            passed_over(&error);
        }
        match source.manifest(tag, digest).await {
            Ok(raw) => match manifest::parse(&raw.bytes, raw.content_type.as_deref()) {
                Ok(document) => {
                    let size = raw.bytes.len() as u64;
                    return Ok(Found { document, digest: raw.digest, size });
                }
                Err(source) => {
                    last = Some(ImageError::Manifest { reference: reference.to_owned(), source });
                }
            },
            Err(error) => last = Some(ImageError::registry(&reference, error)),
        }
    }
    Err(last.unwrap_or(ImageError::Panicked))
}

/// An image's configuration, likewise.
pub(super) async fn config_blob(
    reference: &str,
    sources: &[Registry],
    blob: Descriptor,
) -> Result<Vec<u8>, ImageError> {
    let mut last = None;
    for source in sources {
        if let Some(error) = last.take() {
            passed_over(&error);
        }
        match source.small_blob(blob, MAX_CONFIG).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = Some(ImageError::registry(&reference, error)),
        }
    }
    Err(last.unwrap_or(ImageError::Panicked))
}

fn passed_over(error: &ImageError) {
    warn!(error = %chain(error), "mirror is passed over");
}
