//! [`NetworkError`]: why a pod's network could not be made, unmade or looked after.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::status::NotReady;
use crate::error::{Classify, Kind};
use crate::sys::namespaces::NamespaceError;

/// Why a pod's network could not be made, unmade or looked after.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no network to attach to.
    #[error("attach to the network")]
    NotReady(#[source] NotReady),
    /// More host ports than anybody can mean.
    #[error("{count} port mappings are more than {most}")]
    TooManyPorts {
        /// How many.
        count: usize,
        /// The bound.
        most: usize,
    },
    /// ADD failed.
    #[error("attach pod {pod}")]
    Add {
        /// The pod.
        pod: String,
        /// Why; the plugin's own words are innermost.
        source: Box<cni::Error>,
    },
    /// ADD took too long as a whole.
    #[error("attaching pod {pod} did not end within {after:?}")]
    AddTimedOut {
        /// The pod.
        pod: String,
        /// Its time.
        after: Duration,
    },
    /// ADD succeeded without an address for the pod.
    #[error("the network gave pod {pod} no address")]
    NoAddress {
        /// The pod.
        pod: String,
    },
    /// ADD succeeded without the interface.
    #[error("the network gave pod {pod} no interface {}", super::INTERFACE)]
    NoInterface {
        /// The pod.
        pod: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// ADD gave an address that another pod has.
    #[error("the network gave pod {pod} the address {address} of pod {holder}")]
    AddressTaken {
        /// The pod.
        pod: String,
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The pod's namespace could not be looked into.
    #[error("network namespace of pod {pod}")]
    Namespace {
        /// The pod.
        pod: String,
        /// Why.
        source: NamespaceError,
    },
    /// DEL failed; it is owed.
    #[error("detach pod {pod}")]
    Del {
        /// The pod.
        pod: String,
        /// Why.
        source: Box<cni::Error>,
    },
    /// DEL took too long as a whole; it is owed.
    #[error("detaching pod {pod} did not end within {after:?}")]
    DelTimedOut {
        /// The pod.
        pod: String,
        /// Its time.
        after: Duration,
    },
    /// How the pod was attached cannot be read any more, and its network is not configured now.
    #[error("detach pod {pod}: its record is damaged and network {network:?} is not configured")]
    Forgotten {
        /// The pod.
        pod: String,
        /// Its network.
        network: String,
    },
    /// What is attached could not be read.
    #[error("list attached pods")]
    Cache(#[source] Box<cni::cache::CacheError>),
    /// GC beside ADD or DEL.
    #[error("collect the network's garbage while pods are being attached or detached")]
    Busy,
    /// GC failed, in part at least.
    #[error("collect the network's garbage")]
    Gc(#[source] cni::GcErrors),
    /// GC took too long.
    #[error("collecting the network's garbage did not end within {after:?}")]
    GcTimedOut {
        /// Its time.
        after: Duration,
    },
    /// The daemon is ending.
    #[error("interrupted by the end of the daemon")]
    Interrupted,
}

impl Classify for NetworkError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooManyPorts { .. } => Kind::Invalid,
            Self::Add { source, .. } | Self::Del { source, .. } => kind_of(source),
            Self::AddTimedOut { .. } | Self::DelTimedOut { .. } | Self::GcTimedOut { .. } => {
                Kind::TimedOut
            }
            Self::Cache(source) => kind_of_cache(source),
            Self::Namespace { source, .. } => source.kind(),
            Self::Forgotten { .. } => Kind::DataLoss,
            Self::NotReady(_)
            | Self::NoAddress { .. }
            | Self::NoInterface { .. }
            | Self::AddressTaken { .. }
            | Self::Busy
            | Self::Gc(_)
            | Self::Interrupted => Kind::Unavailable,
        }
    }
}

fn kind_of(error: &cni::Error) -> Kind {
    match error {
        _ if error.is_timeout() => Kind::TimedOut,
        cni::Error::Attachment { .. } => Kind::Invalid,
        cni::Error::NoNamespace { .. } => Kind::Internal,
        cni::Error::NotAttached { .. } => Kind::WrongState,
        cni::Error::NotSpoken { .. } => Kind::Unsupported,
        cni::Error::Cache(source) => kind_of_cache(source),
        cni::Error::RememberedConfig { .. } => Kind::DataLoss,
        cni::Error::Plugin { .. } | cni::Error::Result { .. } | cni::Error::Interrupted => {
            Kind::Unavailable
        }
    }
}

fn kind_of_cache(error: &cni::cache::CacheError) -> Kind {
    error.io().map_or(Kind::DataLoss, Kind::of_io)
}

impl Classify for NamespaceError {
    fn kind(&self) -> Kind {
        match self {
            // The kernel's refusal of a value that the request brought.
            Self::Sysctl(_) | Self::Hostname { .. } | Self::HostnameOfNode(_) => Kind::Invalid,
            Self::Thread(source)
            | Self::Directory { source, .. }
            | Self::Unshare { source, .. }
            | Self::User { source, .. }
            | Self::Loopback(source)
            | Self::Interface { source, .. }
            | Self::Pin { source, .. }
            | Self::Enter { source, .. } => Kind::of_io(source),
        }
    }
}
