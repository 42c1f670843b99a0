//! [`PodRecord`]: all that is known of one pod; on disk and published, like a container's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::container::spec::Resources;
use crate::ids::PodId;
use crate::monitor::ProcessId;

use super::spec::PodSpec;
use super::state::State;

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    /// Identity.
    pub id: PodId,
    /// What was asked.
    pub spec: Arc<PodSpec>,
    /// Where it is in its life.
    pub state: State,
    /// The boot that its namespaces and processes belong to.
    pub boot_id: String,
    /// Runtime handler, resolved.
    pub handler: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Host name inside.
    pub hostname: String,
    /// The process that holds the shared process namespace.
    pub pause: Option<ProcessId>,
    /// Resources since the kubelet changed them last; none = still those of the request.
    #[serde(default)]
    pub updated: Option<PodResources>,
    /// Addresses of the pod's own network, the first one preferred.
    pub addresses: Vec<IpAddr>,
}

/// What all containers of a pod have together, and what the pod costs besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// Extra resources of the pod (RuntimeClass overhead).
    pub overhead: Resources,
    /// Sum of the containers' resources.
    pub resources: Resources,
}
