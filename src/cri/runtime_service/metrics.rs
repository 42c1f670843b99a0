//! Metrics of pods and containers, from what was sampled last.

use std::sync::Arc;

use crate::container::ContainerRecord;
use crate::cri::convert::metrics as convert;
use crate::cri::pb;
use crate::pod::PodRecord;
use crate::pod::state::State as PodState;
use crate::stats::{Room, metrics};

use super::Runtime;
use super::stats::runs;

impl Runtime {
    /// Of all pods that are ready. One that was never looked at or ends meanwhile is left out.
    pub(super) fn metrics_of_pods(&self) -> Vec<pb::PodSandboxMetrics> {
        let mut pods = self.pods.list();
        pods.retain(|pod| pod.state == PodState::Ready);
        let (containers, room) = (self.containers.list(), self.stats.room());
        pods.iter().filter_map(|pod| self.metrics_of_pod(pod, &containers, &room)).collect()
    }

    fn metrics_of_pod(
        &self,
        pod: &PodRecord,
        containers: &[Arc<ContainerRecord>],
        room: &Room,
    ) -> Option<pb::PodSandboxMetrics> {
        let sample = self.stats.pod(&pod.id)?;
        let of_pod = containers.iter().filter(|c| c.pod == pod.id && runs(c));
        let of_containers = of_pod.filter_map(|record| {
            let sample = self.stats.container(&record.id)?;
            let layer = self.stats.layer(&record.id);
            let metrics = metrics::of_container(record, &sample, layer, room);
            Some(convert::container_metrics(&pod.spec.key, record, sample.at_ns, metrics))
        });
        Some(convert::pod_metrics(pod, &sample, of_containers.collect()))
    }
}
