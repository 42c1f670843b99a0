//! Image manifests and indexes as a registry serves them: parsed, and checked against themselves.
//!
//! Understood are OCI index and manifest and Docker list and manifest of schema 2. Nothing here
//! does I/O; the caller has verified that the bytes are the ones it asked for.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::digest::Digest;
use crate::error::{Classify, Kind};

/// OCI image index.
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker manifest list.
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, schema 2.
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Configurations of images; any other makes the document an artifact.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Layers that are tar archives, by what is before the compression. The foreign ones are fetched
/// from the registry like all others: their `urls` name hosts that nobody configured.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// Overlayfs stacks at most 500 layers (`OVL_MAX_STACK`).
pub(super) const MAX_LAYERS: usize = 500;

/// Longest compressed layer; ten times the largest seen in practice.
pub(super) const MAX_LAYER_BYTES: u64 = 256 << 30;

/// Indexes within indexes: real ones have one level, build caches two.
pub(super) const MAX_DEPTH: usize = 3;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("read manifest")]
    Json(#[source] serde_json::Error),
    /// Of a kind that is not understood.
    #[error("unsupported media type {0:?}")]
    MediaType(String),
    /// Docker schema 1.
    #[error("manifest has Docker schema 1, which is not supported: push the image again")]
    SchemaOne,
    /// `schemaVersion` is neither 1 nor 2.
    #[error("manifest has unknown schema version {0}")]
    SchemaVersion(u64),
    /// The document contradicts itself or its Content-Type (CVE-2021-41190).
    #[error("manifest contradicts itself: {0}")]
    Contradiction(String),
    /// A part is not there.
    #[error("manifest has no {0}")]
    Missing(&'static str),
    /// More layers than can be mounted.
    #[error("manifest has {0} layers, more than 500")]
    Layers(usize),
    /// A layer is larger than any may be.
    #[error("layer {digest} has {size} bytes, more than 256 GiB")]
    LayerSize {
        /// The layer.
        digest: Digest,
        /// Its declared size.
        size: u64,
    },
    /// No entry of the index fits this machine.
    #[error("no image for {0}")]
    Platform(String),
    /// What an index names has another size than the index says.
    #[error("{digest} has {size} bytes, its index says otherwise")]
    Size {
        /// What was named.
        digest: Digest,
        /// Its real size.
        size: u64,
    },
    /// Indexes point to indexes point to indexes.
    #[error("indexes are nested more than 3 deep")]
    Depth,
}

impl Classify for ManifestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Layers(_) | Self::LayerSize { .. } => Kind::Exhausted,
            Self::Platform(_) => Kind::NotFound,
            Self::Size { .. } => Kind::DataLoss,
            _ => Kind::Invalid,
        }
    }
}

/// What a reference can lead to.
#[derive(Debug)]
pub(super) enum Document {
    /// Several images, one per platform.
    Index(Vec<Entry>),
    /// One image.
    Manifest(Manifest),
}

/// One line of an index.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it leads.
    pub target: Descriptor,
    /// Whether that is an index again.
    pub nested: bool,
    platform: Option<RawPlatform>,
}

/// One image.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// Content named by digest and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    fn target(&self) -> Descriptor {
        Descriptor { digest: self.digest, size: self.size }
    }
}

/// Parses a manifest or index that came with this `Content-Type`.
///
/// # Errors
/// [`ManifestError`] if it is neither, or contradicts itself or the header.
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ManifestError> {
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(ManifestError::SchemaOne);
    }
    if let Some(version) = raw.schema_version.filter(|version| *version != 2) {
        return Err(ManifestError::SchemaVersion(version));
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(ManifestError::Contradiction("it has both manifests and layers".into()));
    }
    let shape = if raw.manifests.is_some() { Shape::Index } else { Shape::Manifest };
    check_media_type(&raw, content_type, shape)?;
    match raw.manifests {
        Some(entries) => {
            entries.into_iter().map(entry).collect::<Result<_, _>>().map(Document::Index)
        }
        None => manifest(raw.config, raw.layers).map(Document::Manifest),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Index,
    Manifest,
}

fn shape_of(media_type: &str) -> Option<Shape> {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Some(Shape::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Shape::Manifest),
        _ => None,
    }
}

/// The three sources of the type must agree: the field, the header and the document's own shape.
/// A header that names no manifest at all (plain `application/json`) says nothing.
fn check_media_type(
    raw: &RawDocument,
    header: Option<&str>,
    shape: Shape,
) -> Result<(), ManifestError> {
    let header = header.map(|h| h.split(';').next().unwrap_or_default().trim());
    let header = header.filter(|h| h.starts_with("application/vnd."));
    if let (Some(field), Some(header)) = (raw.media_type.as_deref(), header)
        && field != header
    {
        let text = format!("mediaType {field:?} came as Content-Type {header:?}");
        return Err(ManifestError::Contradiction(text));
    }
    match raw.media_type.as_deref().or(header) {
        None => Ok(()),
        Some(named) => match shape_of(named) {
            Some(known) if known == shape => Ok(()),
            Some(_) => Err(ManifestError::Contradiction(format!("its content is no {named}"))),
            None => Err(ManifestError::MediaType(named.chars().take(100).collect())),
        },
    }
}

fn entry(raw: RawDescriptor) -> Result<Entry, ManifestError> {
    let nested = shape_of(&raw.media_type) == Some(Shape::Index);
    Ok(Entry { target: raw.target(), nested, platform: raw.platform })
}

fn manifest(
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
) -> Result<Manifest, ManifestError> {
    let config = config.ok_or(ManifestError::Missing("config"))?;
    let layers = layers.ok_or(ManifestError::Missing("layers"))?;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(ManifestError::MediaType(config.media_type));
    }
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::Layers(layers.len()));
    }
    for layer in &layers {
        let known = LAYERS.iter().any(|plain| {
            layer.media_type.strip_prefix(plain).is_some_and(|compression| {
                matches!(compression, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd")
            })
        });
        if !known {
            return Err(ManifestError::MediaType(layer.media_type.chars().take(100).collect()));
        }
        if layer.size > MAX_LAYER_BYTES {
            return Err(ManifestError::LayerSize { digest: layer.digest, size: layer.size });
        }
    }
    let layers = layers.iter().map(RawDescriptor::target).collect();
    Ok(Manifest { config: config.target(), layers })
}

/// What this machine runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Platform {
    /// Architecture in Go's words.
    pub architecture: &'static str,
    /// Variants that run here, the best first; the empty one stands for "none named".
    variants: &'static [&'static str],
}

impl Platform {
    /// The machine this program was built for.
    pub(super) fn host() -> Self {
        match std::env::consts::ARCH {
            // v2 and later are left out: images for them may use instructions this machine lacks.
            "x86_64" => Self { architecture: "amd64", variants: &["", "v1"] },
            "aarch64" => Self { architecture: "arm64", variants: &["v8", ""] },
            "arm" => Self { architecture: "arm", variants: &["v7", "v6", "v5", ""] },
            "powerpc64" => Self { architecture: "ppc64le", variants: &[""] },
            other => Self { architecture: other, variants: &[""] },
        }
    }

    /// The entries of an index to try, the best first: by variant, then by position. Images come
    /// before nested indexes; entries without platform are taken only if none has a fitting one.
    ///
    /// # Errors
    /// [`ManifestError::Platform`] if nothing fits.
    pub(super) fn choose(&self, entries: &[Entry]) -> Result<Vec<Descriptor>, ManifestError> {
        let rank = |entry: &Entry| {
            let platform = entry.platform.as_ref()?;
            let variant = platform.variant.as_deref().unwrap_or_default();
            let same = platform.os == "linux" && platform.architecture == self.architecture;
            self.variants.iter().position(|v| *v == variant).filter(|_| same)
        };
        let best = entries
            .iter()
            .filter(|entry| !entry.nested)
            .filter_map(|entry| rank(entry).map(|rank| (rank, entry)))
            .min_by_key(|(rank, _)| *rank);
        if let Some((_, entry)) = best {
            return Ok(vec![entry.target]);
        }
        let fits = |entry: &&Entry| entry.platform.is_none() || rank(entry).is_some();
        let nested = entries.iter().filter(|entry| entry.nested).filter(fits);
        let unnamed = entries.iter().filter(|entry| !entry.nested && entry.platform.is_none());
        let rest: Vec<_> =
            nested.chain(unnamed.take(1)).take(MAX_NESTED).map(|entry| entry.target).collect();
        if rest.is_empty() { Err(self.missing()) } else { Ok(rest) }
    }

    /// The error of an index that has nothing for this machine.
    pub(super) fn missing(&self) -> ManifestError {
        ManifestError::Platform(format!("linux/{}", self.architecture))
    }
}

/// Nested indexes of one index that are looked into; each costs a request.
const MAX_NESTED: usize = 8;

#[cfg(test)]
mod tests;
