//! What can go wrong with a pod, each by what was tried.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::container;
use crate::error::{Classify, Kind};
use crate::ids::PodId;
use crate::network::NetworkError;
use crate::nri::NriError;
use crate::record::RecordError;
use crate::registry::Ambiguous;
use crate::sys::namespaces::NamespaceError;

use super::state::State;

/// Why something about a pod failed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// No such pod.
    #[error("pod {query:?} does not exist")]
    NotFound {
        /// What was asked for.
        query: String,
    },
    /// The text names several.
    #[error(transparent)]
    Ambiguous(Ambiguous),
    /// The pod ended its life while it was asked.
    #[error("pod {id} is gone")]
    Gone {
        /// Which.
        id: PodId,
    },
    /// Too many requests wait for this pod already.
    #[error("pod {id} has too many requests waiting")]
    Busy {
        /// Which.
        id: PodId,
    },
    /// Not in this state.
    #[error("pod {id} is {state:?}")]
    NotReady {
        /// Which.
        id: PodId,
        /// Where it is.
        state: State,
    },
    /// The name belongs to a pod with another configuration.
    #[error(
        "name, namespace, uid and attempt are those of pod {id}, which has another configuration"
    )]
    NameTaken {
        /// Who has it.
        id: PodId,
    },
    /// A later request wants the pod for something else.
    #[error("a later request with another configuration has taken the place of this one")]
    Superseded,
    /// The request asks for what this host cannot give.
    #[error("{field}: {problem}")]
    Request {
        /// The field of the request.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// This host or the handler's runtime cannot give a pod a user namespace.
    #[error(
        "config.linux.security_context.namespace_options.userns_options: handler {handler:?} offers no user namespaces: {reason}"
    )]
    NoUserNamespaces {
        /// The handler, resolved.
        handler: String,
        /// What is missing.
        reason: String,
    },
    /// No network is configured.
    #[error("network is not ready: {reason}")]
    NoNetwork {
        /// Why.
        reason: String,
    },
    /// The pod's network.
    #[error("network of pod {id}")]
    Network {
        /// Whose.
        id: PodId,
        /// Why.
        source: NetworkError,
    },
    /// The pod's namespaces.
    #[error("namespaces of pod {id}")]
    Namespaces {
        /// Whose.
        id: PodId,
        /// Why.
        source: NamespaceError,
    },
    /// A kernel parameter was refused.
    #[error("config.linux.sysctls")]
    Sysctl(#[source] NamespaceError),
    /// The pod's pause process.
    #[error("pause process of pod {id}: {problem}")]
    Pause {
        /// Whose.
        id: PodId,
        /// What happened.
        problem: String,
    },
    /// A file or directory of ours.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The record.
    #[error("record of pod {id}")]
    Record {
        /// Whose.
        id: PodId,
        /// Why.
        source: RecordError,
    },
    /// The control group.
    #[error("control group of pod {id}")]
    Cgroup {
        /// Whose.
        id: PodId,
        /// Why.
        source: CgroupError,
    },
    /// Plugins of the node refuse.
    #[error("plugins of the node")]
    Plugins(#[source] NriError),
    /// A port of the pod.
    #[error("connect to port {port} of pod {id}")]
    Dial {
        /// Which pod.
        id: PodId,
        /// Which port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// One of its containers.
    #[error(transparent)]
    Container(container::Shared),
    /// A fault of ours.
    #[error("{verb} ended in a panic; see the log")]
    Panicked {
        /// What was being done.
        verb: &'static str,
    },
}

impl Classify for PodError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Gone { .. } => Kind::NotFound,
            Self::Ambiguous(_) | Self::Request { .. } => Kind::Invalid,
            Self::Busy { .. } => Kind::Exhausted,
            Self::NotReady { .. } | Self::NoUserNamespaces { .. } => Kind::WrongState,
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::Superseded => Kind::Superseded,
            Self::NoNetwork { .. } | Self::Dial { .. } => Kind::Unavailable,
            Self::Network { source, .. } => source.kind(),
            Self::Namespaces { source, .. } | Self::Sysctl(source) => source.kind(),
            Self::Plugins(source) => source.kind(),
            Self::Cgroup { source, .. } => source.kind(),
            Self::Container(source) => source.kind(),
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotADirectory => Kind::Invalid,
                _ => Kind::of_io(source),
            },
            Self::Record { source, .. } => source.kind(),
            Self::Pause { .. } | Self::Panicked { .. } => Kind::Internal,
        }
    }
}
