//! What every container is made with: the hands of the daemon, in one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::apparmor::Apparmor;
use crate::cgroup::Cgroups;
use crate::events::Publisher;
use crate::host::Host;
use crate::ids::{ContainerId, PodId};
use crate::image::Images;
use crate::metrics::Metrics;
use crate::nri::Plugins;
use crate::path::Layout;
use crate::record::Records;
use crate::runtime::Runtime;
use crate::runtime::criu::Criu;
use crate::steps::Operations;
use crate::trust::Program;

use super::exec::Outputs;
use super::{ContainerError, ContainerRecord};

/// Shared by all containers; nothing in here changes.
pub struct Parts {
    /// Where files are.
    pub layout: Layout,
    /// Containers' records.
    pub records: Records<ContainerRecord>,
    /// The image store.
    pub images: Images,
    /// What checkpoints need besides a runtime that makes them, as last looked for.
    pub criu: ArcSwap<Criu>,
    /// Runtimes by handler name.
    pub runtimes: BTreeMap<String, Arc<Runtime>>,
    /// The monitor's program.
    pub monitor: Program,
    /// Control groups.
    pub cgroups: Cgroups,
    /// AppArmor.
    pub apparmor: Apparmor,
    /// Facts about this host.
    pub host: Host,
    /// Plugins of the node, which are told and may change things.
    pub plugins: Plugins,
    /// Work in flight.
    pub operations: Operations,
    /// Room for the output of commands.
    pub outputs: Outputs,
    /// Where owners hand in what they publish.
    pub events: Publisher<(PodId, ContainerId), ContainerRecord>,
    /// Where ends for want of memory and leftovers are counted.
    pub metrics: Arc<Metrics>,
}

impl Parts {
    /// The runtime of a handler.
    ///
    /// # Errors
    /// [`ContainerError::Request`] if the handler is not configured, any more or at all.
    pub fn runtime(&self, handler: &str) -> Result<&Arc<Runtime>, ContainerError> {
        self.runtimes.get(handler).ok_or_else(|| ContainerError::Request {
            field: "runtime_handler".to_owned(),
            problem: format!("{handler:?} is not configured"),
        })
    }

    /// Saves a record off the reactor.
    pub async fn save(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), ContainerError> {
        let (parts, record) = (self.clone(), record.clone());
        let id = record.id;
        crate::steps::blocking(move || parts.records.save(&record.id, &record))
            .await
            .map_err(|source| ContainerError::Record { id, source })
    }
}
