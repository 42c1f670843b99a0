//! What every pod is made with: the hands of the daemon, in one place.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cgroup::Cgroups;
use crate::container::Containers;
use crate::events::Publisher;
use crate::host::Host;
use crate::ids::PodId;
use crate::metrics::Metrics;
use crate::network::Networks;
use crate::nri::Plugins;
use crate::path::Layout;
use crate::record::Records;
use crate::steps::Operations;
use crate::trust::Program;

use super::{PodError, PodRecord};

/// Shared by all pods; nothing in here changes.
pub struct Parts {
    /// Where files are.
    pub layout: Layout,
    /// Pods' records.
    pub records: Records<PodRecord>,
    /// The pods' containers.
    pub containers: Containers,
    /// Networks.
    pub networks: Networks,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Facts about this host.
    pub host: Host,
    /// The monitor's program, which is the pause program too.
    pub monitor: Program,
    /// Names of the runtime handlers that can be used.
    pub handlers: BTreeSet<String>,
    /// Whether root file systems can be mapped for user namespaces here; if not, why.
    pub mapped_rootfs: Result<(), String>,
    /// The handler of requests that name none.
    pub default_handler: String,
    /// Plugins of the node, which are told and may change things.
    pub plugins: Plugins,
    /// Work in flight.
    pub operations: Operations,
    /// Where owners hand in what they publish.
    pub events: Publisher<PodId, PodRecord>,
    /// Where leftovers are counted.
    pub metrics: Arc<Metrics>,
}

impl Parts {
    /// Saves a record off the reactor.
    pub async fn save(self: &Arc<Self>, record: &PodRecord) -> Result<(), PodError> {
        let (parts, record) = (self.clone(), record.clone());
        let id = record.id;
        crate::steps::blocking(move || parts.records.save(&record.id, &record))
            .await
            .map_err(|source| PodError::Record { id, source })
    }
}
