//! Statistics and metrics, with plain arguments.

use crisol::cri::pb;
use tonic::{Request, Status};

use super::{Answer, Cri};

impl Cri {
    /// Statistics of one container.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn container_stats(&self, container: &str) -> Answer<pb::ContainerStats> {
        let request = pb::ContainerStatsRequest { container_id: container.to_owned() };
        self.container_stats_rpc(request)?.stats.ok_or_else(|| Status::data_loss("no statistics"))
    }

    /// Statistics of all containers that match.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn all_container_stats(
        &self,
        filter: pb::ContainerStatsFilter,
    ) -> Answer<Vec<pb::ContainerStats>> {
        let request = pb::ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.list_container_stats_rpc(request)?.stats)
    }

    /// The same, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_container_stats(
        &self,
        filter: pb::ContainerStatsFilter,
    ) -> Answer<Vec<pb::ContainerStats>> {
        let mut client = self.pods.clone();
        let request = Request::new(pb::StreamContainerStatsRequest { filter: Some(filter) });
        let messages = self.all(async { client.stream_container_stats(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.container_stats).collect())
    }

    /// Statistics of one pod.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pod_stats(&self, pod: &str) -> Answer<pb::PodSandboxStats> {
        let request = pb::PodSandboxStatsRequest { pod_sandbox_id: pod.to_owned() };
        self.pod_stats_rpc(request)?.stats.ok_or_else(|| Status::data_loss("no statistics"))
    }

    /// Statistics of all pods that match.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn all_pod_stats(
        &self,
        filter: pb::PodSandboxStatsFilter,
    ) -> Answer<Vec<pb::PodSandboxStats>> {
        let request = pb::ListPodSandboxStatsRequest { filter: Some(filter) };
        Ok(self.list_pod_stats_rpc(request)?.stats)
    }

    /// The same, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_pod_stats(
        &self,
        filter: pb::PodSandboxStatsFilter,
    ) -> Answer<Vec<pb::PodSandboxStats>> {
        let mut client = self.pods.clone();
        let request = Request::new(pb::StreamPodSandboxStatsRequest { filter: Some(filter) });
        let messages = self.all(async { client.stream_pod_sandbox_stats(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.pod_sandbox_stats).collect())
    }

    /// Metrics of all pods.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pod_metrics(&self) -> Answer<Vec<pb::PodSandboxMetrics>> {
        Ok(self.list_pod_metrics_rpc(pb::ListPodSandboxMetricsRequest {})?.pod_metrics)
    }

    /// The same, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_pod_metrics(&self) -> Answer<Vec<pb::PodSandboxMetrics>> {
        let mut client = self.pods.clone();
        let request = Request::new(pb::StreamPodSandboxMetricsRequest {});
        let messages = self.all(async { client.stream_pod_sandbox_metrics(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.pod_sandbox_metrics).collect())
    }
}
