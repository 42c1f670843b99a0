//! [`ImageError`]: what can go wrong between a reference and an image.

use std::sync::Arc;

use super::auth_file::AuthFileError;
use super::config::ConfigError;
use super::credentials::CredentialsError;
use super::digest::Digest;
use super::manifest::ManifestError;
use super::policy::PolicyError;
use super::reference::ReferenceError;
use super::registries_conf::RegistriesError;
use super::registry::RegistryError;
use super::store::StoreError;
use super::unpack::UnpackError;
use crate::error::{Classify, Kind};
use crate::ids::ImageId;

/// Why an image could not be pulled, found or removed.
///
/// Two variants begin with a word that the kubelet looks for, byte for byte, in the status
/// message of PullImage (`cri-api/pkg/errors`).
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The text is the beginning of several ids.
    #[error("image id {text:?} is the beginning of several")]
    Ambiguous {
        /// What was asked.
        text: String,
    },
    /// There is no such image.
    #[error("no image {text:?}")]
    NotFound {
        /// What was asked.
        text: String,
    },
    /// The image is pinned.
    #[error("image {id} is in use")]
    InUse {
        /// Which.
        id: ImageId,
    },
    /// A pull by this name is under way.
    #[error("image {reference} is being pulled")]
    BeingPulled {
        /// The name.
        reference: String,
    },
    /// The credentials of the request cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The configured credentials cannot be read.
    #[error("pull {reference}")]
    AuthFile {
        /// What was pulled.
        reference: String,
        /// Why.
        source: AuthFileError,
    },
    /// registries.conf cannot be used, or forbids it.
    #[error("pull {reference}")]
    Registries {
        /// What was pulled.
        reference: String,
        /// Why.
        source: RegistriesError,
    },
    /// The signature policy forbids it, or is broken.
    #[error("SignatureValidationFailed: pull {reference}")]
    Rejected {
        /// What was pulled.
        reference: String,
        /// Why.
        source: PolicyError,
    },
    /// No registry could be reached, or it is out of order.
    #[error("RegistryUnavailable: pull {reference}")]
    Unavailable {
        /// What was pulled.
        reference: String,
        /// Why.
        source: RegistryError,
    },
    /// The registry's answer is no, or not what it should be.
    #[error("pull {reference}")]
    Registry {
        /// What was pulled.
        reference: String,
        /// Why.
        source: RegistryError,
    },
    /// The manifest is not one we can use.
    #[error("pull {reference}")]
    Manifest {
        /// What was pulled.
        reference: String,
        /// Why.
        source: ManifestError,
    },
    /// The configuration is not one we can use.
    #[error("pull {reference}")]
    Config {
        /// What was pulled.
        reference: String,
        /// Why.
        source: ConfigError,
    },
    /// A layer could not be unpacked.
    #[error("pull {reference}: unpack layer {layer}")]
    Unpack {
        /// What was pulled.
        reference: String,
        /// Digest of the blob.
        layer: Digest,
        /// Why.
        source: Box<UnpackError>,
    },
    /// The store could not do it.
    #[error("image store")]
    Store(#[from] StoreError),
    /// Nobody waited for the pull any more.
    #[error("pull {reference}: given up because nobody waits for it")]
    Abandoned {
        /// What was pulled.
        reference: String,
    },
    /// A task of ours panicked.
    #[error("a task of the image store panicked")]
    Panicked,
    /// The pull that this request joined failed.
    #[error(transparent)]
    Shared(Arc<ImageError>),
}

impl ImageError {
    /// A registry's failure, in the variant whose text the kubelet understands.
    pub(super) fn registry(reference: &impl ToString, source: RegistryError) -> Self {
        let reference = reference.to_string();
        match source.kind() {
            Kind::NamedByFirstWord => Self::Unavailable { reference, source },
            _ => Self::Registry { reference, source },
        }
    }
}

impl Classify for ImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Reference(error) => error.kind(),
            Self::Ambiguous { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::InUse { .. } | Self::BeingPulled { .. } => Kind::WrongState,
            Self::Credentials(error) => error.kind(),
            Self::AuthFile { source, .. } => source.kind(),
            Self::Registries { source, .. } => source.kind(),
            Self::Rejected { .. } | Self::Unavailable { .. } => Kind::NamedByFirstWord,
            Self::Registry { source, .. } => source.kind(),
            Self::Manifest { source, .. } => source.kind(),
            Self::Config { source, .. } => source.kind(),
            Self::Unpack { source, .. } => source.kind(),
            Self::Store(error) => error.kind(),
            Self::Abandoned { .. } => Kind::Superseded,
            Self::Panicked => Kind::Internal,
            Self::Shared(error) => error.kind(),
        }
    }
}
