//! [`ContainerRecord`]: all that is known of one container.
//!
//! One struct is both what is on disk and what readers see: the task that owns the container
//! publishes a copy after each change. A state that only lives in memory (Starting, Stopping) is
//! published and not saved; after a restart the kernel and the monitor tell what came of it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::ids::{ContainerId, ImageId, PodId};
use crate::monitor::ProcessId;

use super::spec::{ContainerSpec, Resources};
use super::state::State;
use super::user::Identity;

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Identity.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What was asked.
    pub spec: Arc<ContainerSpec>,
    /// Limits since they were changed last, or since plugins changed them at the creation; none =
    /// still those of the request.
    #[serde(default)]
    pub updated: Option<Resources>,
    /// Where it is in its life.
    pub state: State,
    /// The boot that its process, mounts and control group belong to.
    pub boot_id: String,
    /// Runtime handler, resolved.
    pub handler: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// The same; 0 = not started.
    pub started_at_ns: i64,
    /// How it ended.
    pub ended: Option<Ended>,
    /// The image it was made from.
    pub image: Option<ImageUsed>,
    /// Images mounted as volumes.
    pub image_volumes: Vec<ImageVolume>,
    /// Names of the directories of the layers that its mounts stand on.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Absolute path of the log.
    pub log: Option<PathBuf>,
    /// The pod's directory of logs, which the log is below. No link between them is followed; none =
    /// the record is of a crisol that did not know.
    #[serde(default)]
    pub log_directory: Option<PathBuf>,
    /// Its control group, as the runtime takes it.
    pub cgroup: String,
    /// Number of the signal that asks it to end.
    pub stop_signal: u8,
    /// Who its process runs as.
    pub user: Option<Identity>,
    /// Its first process.
    pub process: Option<ProcessId>,
    /// Its runtime state, mounts and control group are given back.
    pub cleaned: bool,
}

impl ContainerRecord {
    /// The limits in force.
    pub fn resources(&self) -> &Resources {
        self.updated.as_ref().unwrap_or(&self.spec.resources)
    }

    /// Whether it is created, but its processes are still in the images of a checkpoint.
    pub fn waits_to_be_restored(&self) -> bool {
        self.spec.restored_from.is_some() && self.process.is_none() && self.ended.is_none()
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Status, or 128 + signal.
    pub code: i32,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// One word (CRI `ContainerStatus.reason`).
    pub reason: String,
    /// For people.
    pub message: String,
    /// It never ran: what kind of error its start met. The message is the error's.
    #[serde(default)]
    pub start_failure: Option<Kind>,
}

/// The image a container was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsed {
    /// Its id.
    pub id: ImageId,
    /// A digest reference to it, or its id when it has none.
    pub reference: String,
}

/// An image mounted as a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// Its id.
    pub id: ImageId,
    /// Where on the host it is mounted.
    pub target: PathBuf,
}

/// Kubernetes' word for the end of a container that was killed for want of memory.
const OOM_KILLED: &str = "OOMKilled";

impl Ended {
    /// From what the monitor saw.
    pub fn from_monitor(exit: &conmon::Exit) -> Self {
        let (reason, message) = match exit.code {
            0 => ("Completed", String::new()),
            _ if exit.oom_killed => (OOM_KILLED, "out of memory".to_owned()),
            _ => ("Error", String::new()),
        };
        let message = match exit.lost_bytes {
            0 => message,
            lost => format!("{message}{lost} bytes of its log could not be written"),
        };
        Self::new(i32::from(exit.code), exit.at_ns, reason, message)
    }

    /// Whether it ended for want of memory.
    pub fn by_oom(&self) -> bool {
        self.reason == OOM_KILLED
    }

    /// Nobody saw it end.
    pub fn unseen(reason: &str, message: &str) -> Self {
        Self::new(255, now_ns(), reason, message.to_owned())
    }

    /// It was given up before its processes were restored: as one that is killed before its start.
    pub fn never_restored() -> Self {
        let message = "its checkpoint was never restored".to_owned();
        Self::new(137, now_ns(), "Error", message)
    }

    /// Its process could not be let go (Kubernetes' code and word for it).
    pub fn start_failed(message: String, kind: Kind) -> Self {
        let ended = Self::new(128, now_ns(), "StartError", message);
        Self { start_failure: Some(kind), ..ended }
    }

    fn new(code: i32, at_ns: i64, reason: &str, message: String) -> Self {
        Self { code, at_ns, reason: reason.to_owned(), message, start_failure: None }
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}
