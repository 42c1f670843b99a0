//! Why a request cannot become an OCI configuration.

use std::path::PathBuf;

use crate::error::{Classify, Kind};

/// Why a request cannot become an OCI configuration. Messages name the field of the CRI request.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither the request nor the image says what to run.
    #[error("no command specified: command and args are empty and the image has none")]
    NoCommand,
    /// An argument cannot be passed to execve(2).
    #[error("command or args: argument {index} {problem}")]
    Argument {
        /// Position in the final argument list.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Arguments and environment together are more than the kernel ever takes.
    #[error("command, args and envs take {bytes} bytes, more than the {limit} that can be passed")]
    TooManyArguments {
        /// What they take.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A variable cannot be passed.
    #[error("envs: {name:?} {problem}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The working directory is not usable.
    #[error("working_dir {path:?} {problem}")]
    WorkingDir {
        /// As given by the request or the image.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A capability nobody knows.
    #[error("security_context.capabilities: unknown capability {0:?}")]
    UnknownCapability(String),
    /// A path to mask or to make read-only is not usable.
    #[error("security_context.{field}: {path} is not an absolute path below /")]
    GuardedPath {
        /// The field.
        field: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A volume asks for something that can never be.
    #[error("mounts: {path} {problem}")]
    Mount {
        /// Path in the container.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Recursive read-only mounts are missing here.
    #[error("mount {0} cannot be read-only recursively on this host")]
    RecursiveReadOnlyUnsupported(PathBuf),
    /// Idmapped mounts are missing here.
    #[error("mounts: {0} asks for an idmapped mount, which this host cannot do")]
    IdmapUnsupported(PathBuf),
    /// A volume's image was not mounted before: a fault of ours.
    #[error("mounts: the image of {0} was not mounted")]
    ImageVolumeMissing(PathBuf),
    /// A device asks for something that can never be.
    #[error("devices: {path} {problem}")]
    Device {
        /// Path in the container.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A limit is out of range.
    #[error("resources.{field}: {value} {problem}")]
    Resource {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Plugins of the node want what cannot be.
    #[error("adjustment by plugins: {field}: {problem}")]
    Adjustment {
        /// The field of the adjustment, and its key.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The container whose process namespace is asked for was not found.
    #[error("security_context.namespace_options: target container {0:?} has no process namespace")]
    NoTarget(String),
    /// The operator's seccomp file is not a profile.
    #[error("seccomp profile {path} is not valid")]
    SeccompProfile {
        /// As given in the request.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The operator's seccomp file was not read before: a fault of ours.
    #[error("seccomp profile {0} was not read")]
    SeccompProfileMissing(String),
    /// A profile was asked for that this host cannot apply.
    #[error(
        "security_context.{field}: profile {name:?} cannot be applied, this host lacks {field}"
    )]
    ProfileUnsupported {
        /// `seccomp` or `apparmor`.
        field: &'static str,
        /// The profile.
        name: String,
    },
    /// The request asks for what nobody here does.
    #[error("{field}: {problem}")]
    Unsupported {
        /// The field of the request.
        field: &'static str,
        /// What is not done.
        problem: String,
    },
}

impl Classify for SpecError {
    fn kind(&self) -> Kind {
        match self {
            SpecError::RecursiveReadOnlyUnsupported(_)
            | SpecError::ProfileUnsupported { .. }
            | SpecError::Unsupported { .. } => Kind::Refused,
            SpecError::IdmapUnsupported(_) => Kind::Unsupported,
            SpecError::ImageVolumeMissing(_) | SpecError::SeccompProfileMissing(_) => {
                Kind::Internal
            }
            SpecError::NoTarget(_) => Kind::NotFound,
            SpecError::NoCommand
            | SpecError::Argument { .. }
            | SpecError::TooManyArguments { .. }
            | SpecError::Environment { .. }
            | SpecError::WorkingDir { .. }
            | SpecError::UnknownCapability(_)
            | SpecError::GuardedPath { .. }
            | SpecError::Mount { .. }
            | SpecError::Device { .. }
            | SpecError::Resource { .. }
            | SpecError::Adjustment { .. }
            | SpecError::SeccompProfile { .. } => Kind::Invalid,
        }
    }
}
