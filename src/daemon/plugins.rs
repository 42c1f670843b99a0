//! What plugins of the Node Resource Interface may learn of pods and containers and ask of them.

use crate::container::Containers;
use crate::container::handle::Asker;
use crate::container::tell;
use crate::error::chain;
use crate::ids::{ContainerId, IdQuery};
use crate::nri::wire::{ContainerUpdate, Pod};
use crate::nri::{Host, Picture, Work};
use crate::pod::{self, Pods};

/// All pods and containers, for plugins.
pub(super) struct Objects {
    pub(super) pods: Pods,
    pub(super) containers: Containers,
}

impl Host for Objects {
    fn pod(&self, id: &str) -> Option<Pod> {
        self.pods.any_record(id).map(|record| pod::tell::pod(&record))
    }

    fn picture(&self) -> Work<'_, Picture> {
        Box::pin(async {
            // At one moment; what is read from files afterwards belongs to these.
            let (pods, containers) = (self.pods.told(), self.containers.told());
            let pods = pods.iter().map(|record| pod::tell::pod(record)).collect();
            let mut shown = Vec::with_capacity(containers.len());
            for record in containers {
                shown.push(self.containers.shown(&record).await);
            }
            Picture { pods, containers: shown }
        })
    }

    fn update<'a>(&'a self, update: &'a ContainerUpdate) -> Work<'a, Result<(), String>> {
        Box::pin(async {
            // Not what a person may type: a beginning of an id could be another container's.
            let id: ContainerId =
                update.container_id.parse().map_err(|_| "is no id of a container")?;
            let query = IdQuery::parse(&id.to_string()).map_err(|error| error.to_string())?;
            let wanted = update.linux.clone().and_then(|linux| linux.resources);
            let change = tell::change(&wanted.unwrap_or_default());
            let change = change.map_err(|error| chain(&error))?;
            let updated = self.containers.update(&query, change, Asker::Plugin).await;
            updated.map_err(|error| chain(&*error))
        })
    }
}
