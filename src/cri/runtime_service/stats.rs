//! Statistics of containers and pods: what was sampled last, never a look of its own.
//!
//! A list has what runs, as the kubelet expects; what does not run is there when it is asked for by
//! its id, with what is still true of it.

use std::sync::Arc;

use tonic::Status;

use crate::container::ContainerRecord;
use crate::container::state::State as ContainerState;
use crate::cri::convert::{filter, stats, view};
use crate::cri::pb;
use crate::cri::status::status;
use crate::ids::{IdQuery, PodId};
use crate::pod::PodRecord;
use crate::pod::state::State as PodState;

use super::{Runtime, query, refuse};

impl Runtime {
    /// A pod has figures from its beginning.
    pub(super) async fn first_sample_of_pod(&self, id: &PodId) {
        if let Some(record) = self.pods.get(id) {
            self.stats.pod_started(record).await;
        }
    }

    /// A container has figures from its beginning.
    pub(super) async fn first_sample_of_container(&self, query: &IdQuery) {
        // One that has ended already has none.
        if let Ok(record) = self.containers.record(query)
            && runs(&record)
        {
            self.stats.container_started(record).await;
        }
    }

    pub(super) fn stats_of_container(&self, id: &str) -> Result<pb::ContainerStats, Status> {
        let record = self.containers.record(&query("container_id", id)?).map_err(status)?;
        Ok(self.container_stats_of(&record))
    }

    pub(super) fn stats_of_containers(
        &self,
        filter: Option<pb::ContainerStatsFilter>,
    ) -> Result<Vec<pb::ContainerStats>, Status> {
        let by_id = filter.as_ref().is_some_and(|filter| !filter.id.is_empty());
        let filter = filter::ContainerFilter::from_stats_pb(filter).map_err(refuse)?;
        let mut containers = self.containers.list();
        containers.retain(|c| {
            let state = view::container_state(c.state);
            (by_id || runs(c)) && filter.matches(&c.id, &c.pod, state, &c.spec.labels)
        });
        Ok(containers.iter().map(|record| self.container_stats_of(record)).collect())
    }

    pub(super) fn stats_of_pod(&self, id: &str) -> Result<pb::PodSandboxStats, Status> {
        let record = self.pods.record(&query("pod_sandbox_id", id)?).map_err(status)?;
        Ok(self.pod_stats_of(&record, &self.containers.list()))
    }

    pub(super) fn stats_of_pods(
        &self,
        filter: Option<pb::PodSandboxStatsFilter>,
    ) -> Result<Vec<pb::PodSandboxStats>, Status> {
        let by_id = filter.as_ref().is_some_and(|filter| !filter.id.is_empty());
        let filter = filter::PodFilter::from_stats_pb(filter).map_err(refuse)?;
        let mut pods = self.pods.list();
        pods.retain(|pod| {
            let matches = filter.matches(&pod.id, view::pod_state(pod.state), &pod.spec.labels);
            (by_id || pod.state == PodState::Ready) && matches
        });
        let containers = self.containers.list();
        Ok(pods.iter().map(|record| self.pod_stats_of(record, &containers)).collect())
    }

    fn container_stats_of(&self, record: &ContainerRecord) -> pb::ContainerStats {
        let sample = self.stats.container(&record.id).filter(|_| runs(record));
        let layer = self.stats.layer(&record.id).map(|usage| (usage, self.stats.layers_dir()));
        stats::container_stats(record, sample.as_deref(), layer)
    }

    fn pod_stats_of(
        &self,
        record: &PodRecord,
        containers: &[Arc<ContainerRecord>],
    ) -> pb::PodSandboxStats {
        let of_pod = containers.iter().filter(|c| c.pod == record.id && runs(c));
        let of_pod = of_pod.map(|c| self.container_stats_of(c)).collect();
        let sample = self.stats.pod(&record.id).filter(|_| record.state == PodState::Ready);
        stats::pod_stats(record, sample.as_deref(), of_pod)
    }
}

pub(super) fn runs(record: &ContainerRecord) -> bool {
    matches!(record.state, ContainerState::Running | ContainerState::Stopping)
}
