//! What can go wrong with a container, each by what was tried.

use std::io;
use std::path::PathBuf;

use crate::apparmor::ApparmorError;
use crate::cgroup::CgroupError;
use crate::error::{Classify, Kind};
use crate::ids::ContainerId;
use crate::image::ImageError;
use crate::monitor::MonitorError;
use crate::nri::NriError;
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
    /// Too many commands run in it already.
    #[error(
        "container {id} has {limit} commands of this kind running; try again when one has ended"
    )]
    TooManyCommands {
        /// Which.
        id: ContainerId,
        /// How many there are.
        limit: usize,
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
    /// Its start failed, now or before; it never ran.
    #[error("{problem}")]
    NotStarted {
        /// Which.
        id: ContainerId,
        /// What the caller can do about it.
        kind: Kind,
        /// What went wrong.
        problem: String,
    },
    /// The name and attempt belong to a container with another configuration.
    #[error("container name {name:?} is taken in this pod by {id} with another configuration")]
    NameTaken {
        /// Who has it.
        id: ContainerId,
        /// The name.
        name: String,
    },
    /// A later request wants the name and attempt for something else.
    #[error(
        "container name {name:?}: a later request with another configuration has taken the place of this one"
    )]
    Superseded {
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
    /// The container whose processes were asked for does not run.
    #[error(
        "config.linux.security_context.namespace_options.target_id: container {id} does not run"
    )]
    TargetEnded {
        /// Which.
        id: ContainerId,
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
    /// This host or runtime has no recursive read-only mounts. The kubelet reads the first word.
    #[error("RROUnsupported: container {name:?}")]
    NoRecursiveReadOnly {
        /// The container's name.
        name: String,
        /// Which mount.
        source: SpecError,
    },
    /// Later mounts cannot travel as asked.
    #[error(
        "config.mounts[{index}].propagation: {path} is on a mount of the node that is not {needed}"
    )]
    Propagation {
        /// Which mount of the request.
        index: usize,
        /// Its path on the node.
        path: PathBuf,
        /// What the node's mount has to be.
        needed: &'static str,
    },
    /// A volume is to show the ids of the pod's user namespace and cannot.
    #[error("{field}: {path} cannot be mounted with mapped ids")]
    Unmappable {
        /// The field of the request.
        field: String,
        /// The volume on the host.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
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
    /// The runtime did not change the limits.
    #[error("limits of container {id}")]
    Update {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: RuntimeError,
    },
    /// The container uses more memory than it could have.
    #[error(
        "linux.memory_limit_in_bytes: {limit} is less than the {used} bytes that container {id} uses"
    )]
    BelowUsage {
        /// Which.
        id: ContainerId,
        /// The limit asked for.
        limit: i64,
        /// What it uses.
        used: u64,
    },
    /// AppArmor.
    #[error("confine the container")]
    Apparmor(#[source] ApparmorError),
    /// Its control group.
    #[error("control group of container {id}")]
    Cgroup {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: CgroupError,
    },
    /// Plugins of the node refuse, or want what cannot be.
    #[error("plugins of the node")]
    Plugins(#[source] NriError),
    /// Checkpoints cannot be made here.
    #[error("handler {handler:?} makes no checkpoints: {reason}")]
    NoCheckpoints {
        /// The handler, resolved.
        handler: String,
        /// What is missing.
        reason: String,
    },
    /// One checkpoint of a container at a time.
    #[error("container {id} is being checkpointed already")]
    CheckpointInFlight {
        /// Which.
        id: ContainerId,
    },
    /// A checkpoint took too long.
    #[error("checkpoint of container {id} took longer than {seconds} s")]
    CheckpointTimedOut {
        /// Which.
        id: ContainerId,
        /// The limit.
        seconds: u64,
    },
    /// What was to be restored is no checkpoint of this container, or damaged.
    #[error("checkpoint {path} {problem}")]
    Checkpoint {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The processes of a checkpoint could not be restored.
    #[error("restore container {name:?} with {runtime}: {reason}")]
    NotRestored {
        /// The container's name.
        name: String,
        /// The runtime.
        runtime: String,
        /// Its words, and CRIU's.
        reason: String,
    },
    /// A command wrote more than the node has room for now.
    #[error(
        "command {command:?} in container {id}: no room for its output, other commands write too much"
    )]
    NoRoomForOutput {
        /// Where.
        id: ContainerId,
        /// Its first word.
        command: String,
    },
    /// A command ran out of its time.
    #[error("command {command:?} timed out after {seconds} s")]
    ExecTimedOut {
        /// Its first word.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// The runtime took too long to start a command.
    #[error("a command in container {id} was not started within {seconds} s")]
    ExecNotStarted {
        /// Where.
        id: ContainerId,
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

impl ContainerError {
    /// Why the configuration of the container `name` could not be made.
    pub fn spec(name: String, source: SpecError) -> Self {
        match source {
            SpecError::RecursiveReadOnlyUnsupported(_) => {
                Self::NoRecursiveReadOnly { name, source }
            }
            source => Self::Spec { name, source },
        }
    }
}

impl Classify for ContainerError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Gone { .. } | Self::NoImage { .. } => Kind::NotFound,
            Self::Ambiguous(_) | Self::Request { .. } | Self::Checkpoint { .. } => Kind::Invalid,
            Self::Busy { .. } | Self::TooManyCommands { .. } | Self::NoRoomForOutput { .. } => {
                Kind::Exhausted
            }
            Self::WrongState { .. } | Self::BelowUsage { .. } | Self::TargetEnded { .. } => {
                Kind::WrongState
            }
            Self::Unmappable { source, .. } => match source.kind() {
                io::ErrorKind::TimedOut => Kind::TimedOut,
                io::ErrorKind::ResourceBusy => Kind::Exhausted,
                _ => Kind::WrongState,
            },
            Self::NotStarted { kind, .. } => *kind,
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::Superseded { .. } => Kind::Superseded,
            Self::ImageVolume { .. }
            | Self::NoRecursiveReadOnly { .. }
            | Self::Propagation { .. }
            | Self::Refused { .. }
            | Self::NotRestored { .. }
            | Self::ExecRefused { .. } => Kind::Refused,
            Self::Plugins(source) => source.kind(),
            Self::ExecTimedOut { .. }
            | Self::ExecNotStarted { .. }
            | Self::CheckpointTimedOut { .. } => Kind::TimedOut,
            Self::NoCheckpoints { .. } => Kind::Unsupported,
            Self::CheckpointInFlight { .. } => Kind::WrongState,
            Self::Image { source, .. } => source.kind(),
            Self::Rootfs { source, .. } => source.kind(),
            Self::User { source, .. } => source.kind(),
            Self::Spec { source, .. } => source.kind(),
            Self::Monitor { source, .. } => source.kind(),
            Self::Runtime { source, .. } => source.kind(),
            // A limit that the parent group does not allow, in the runtime's words.
            Self::Update { source: RuntimeError::Failed { .. }, .. } => Kind::Refused,
            Self::Update { source, .. } => source.kind(),
            Self::Cgroup { source, .. } => source.kind(),
            Self::Apparmor(source) => source.kind(),
            Self::File { source, .. } => Kind::of_io(source),
            Self::Record { source, .. } => source.kind(),
            Self::Panicked { .. } => Kind::Internal,
        }
    }
}
