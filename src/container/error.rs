//! What can go wrong with a container, each by what was tried.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::error::{Classify, Kind};
use crate::ids::ContainerId;
use crate::image::ImageError;
use crate::monitor::MonitorError;
use crate::record::RecordError;
use crate::registry::Ambiguous;
use crate::rootfs::RootfsError;
use crate::runtime::RuntimeError;

use super::oci::SpecError;
use super::state::{Request, State};
use super::user::UserError;

/// Why something about a container failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No such container.
    #[error("container {query:?} does not exist")]
    NotFound {
        /// What was asked for.
        query: String,
    },
    /// The text names several.
    #[error(transparent)]
    Ambiguous(Ambiguous),
    /// The container ended its life while it was asked.
    #[error("container {id} is gone")]
    Gone {
        /// Which.
        id: ContainerId,
    },
    /// Too many requests wait for this container already.
    #[error("container {id} has too many requests waiting")]
    Busy {
        /// Which.
        id: ContainerId,
    },
    /// Not in this state.
    #[error("container {id} is {state:?}: cannot {request:?}")]
    WrongState {
        /// Which.
        id: ContainerId,
        /// Where it is.
        state: State,
        /// What was asked.
        request: Request,
    },
    /// The name and attempt belong to a container with another configuration.
    #[error("container name {name:?} is taken in this pod by {id} with another configuration")]
    NameTaken {
        /// Who has it.
        id: ContainerId,
        /// The name.
        name: String,
    },
    /// The request asks for what the pod or this host cannot give.
    #[error("{field}: {problem}")]
    Request {
        /// The field of the request.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The image is not here.
    #[error("image {reference:?} not found")]
    NoImage {
        /// As requested.
        reference: String,
    },
    /// The image could not be used.
    #[error("use image {reference:?}")]
    Image {
        /// As requested.
        reference: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// An image volume could not be mounted. The kubelet reads the first word.
    #[error("ImageVolumeMountFailed: {reference:?} {problem}")]
    ImageVolume {
        /// As requested.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The root file system could not be mounted or unmounted.
    #[error("root file system of container {id}")]
    Rootfs {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: RootfsError,
    },
    /// The user could not be found out.
    #[error("{field}")]
    User {
        /// The field of the request, or the image.
        field: &'static str,
        /// Why.
        source: UserError,
    },
    /// The runtime's configuration could not be made.
    #[error("configuration of container {name:?}")]
    Spec {
        /// The container's name.
        name: String,
        /// Why.
        source: SpecError,
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
    #[error("record of container {id}")]
    Record {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
    /// The monitor.
    #[error("monitor of container {id}")]
    Monitor {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: MonitorError,
    },
    /// The runtime refused to create it.
    #[error("create container {name:?} with {runtime}: {reason}")]
    Refused {
        /// The container's name.
        name: String,
        /// The runtime.
        runtime: String,
        /// Its words.
        reason: String,
    },
    /// The runtime.
    #[error("container {id}")]
    Runtime {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RuntimeError,
    },
    /// Its control group.
    #[error("control group of container {id}")]
    Cgroup {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: CgroupError,
    },
    /// A command ran out of its time.
    #[error("command {command:?} timed out after {seconds} s")]
    ExecTimedOut {
        /// Its first word.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// A command could not be started.
    #[error("exec in container {id}: {reason}")]
    ExecRefused {
        /// Where.
        id: ContainerId,
        /// The runtime's words.
        reason: String,
    },
    /// A fault of ours.
    #[error("{verb} ended in a panic; see the log")]
    Panicked {
        /// What was being done.
        verb: &'static str,
    },
}

impl Classify for ContainerError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Gone { .. } | Self::NoImage { .. } => Kind::NotFound,
            Self::Ambiguous(_) | Self::Request { .. } => Kind::Invalid,
            Self::Busy { .. } => Kind::Exhausted,
            Self::WrongState { .. } => Kind::WrongState,
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::ImageVolume { .. } | Self::Refused { .. } | Self::ExecRefused { .. } => {
                Kind::Refused
            }
            Self::ExecTimedOut { .. } => Kind::TimedOut,
            Self::Image { source, .. } => source.kind(),
            Self::Rootfs { source, .. } => source.kind(),
            Self::User { source, .. } => source.kind(),
            Self::Spec { source, .. } => source.kind(),
            Self::Monitor { source, .. } => source.kind(),
            Self::Runtime { source, .. } => source.kind(),
            Self::Cgroup { source, .. } => source.kind(),
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Exhausted,
                io::ErrorKind::TimedOut => Kind::TimedOut,
                _ => Kind::Internal,
            },
            Self::Record { .. } | Self::Panicked { .. } => Kind::Internal,
        }
    }
}
