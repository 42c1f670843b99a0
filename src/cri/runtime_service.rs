//! `RuntimeService`: one method per RPC, convert, call, convert.
//!
//! What this version does not do says so with its reason; the kubelet falls back on exactly that
//! code. A list that streams sends one object a message, so that no list is ever too large.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Status};

use crate::container::{ContainerRecord, Containers};
use crate::health;
use crate::ids::IdQuery;
use crate::pod::{PodRecord, Pods};
use crate::stats::Stats;
use crate::stream::Streaming;

use super::answer::{Replies, Reply, answer, each, list, live};
use super::audit::Caller;
use super::convert::{self, Invalid, filter, view};
use super::pb;
use super::pb::runtime_service_server::RuntimeService;
use super::report::Reporter;
use super::status::{invalid, status};

mod checkpoint;
mod config;
mod events;
mod metrics;
mod resources;
mod stats;
mod streaming;

pub use events::NodeEvents;

/// A grace longer than this is this long: nobody waits for it.
const MAX_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The service.
pub struct Runtime {
    pods: Pods,
    containers: Containers,
    streaming: Streaming,
    reporter: Arc<Reporter>,
    events: NodeEvents,
    stats: Stats,
}

impl Runtime {
    /// A service for these pods and containers.
    pub fn new(
        pods: Pods,
        containers: Containers,
        streaming: Streaming,
        reporter: Arc<Reporter>,
        events: NodeEvents,
        stats: Stats,
    ) -> Self {
        Self { pods, containers, streaming, reporter, events, stats }
    }

    fn pods_that_match(
        &self,
        filter: Option<pb::PodSandboxFilter>,
    ) -> Result<Vec<Arc<PodRecord>>, Status> {
        let filter = filter::PodFilter::from_pb(filter).map_err(refuse)?;
        let mut pods = self.pods.list();
        pods.retain(|pod| filter.matches(&pod.id, view::pod_state(pod.state), &pod.spec.labels));
        Ok(pods)
    }

    fn containers_that_match(
        &self,
        filter: Option<pb::ContainerFilter>,
    ) -> Result<Vec<Arc<ContainerRecord>>, Status> {
        let filter = filter::ContainerFilter::from_pb(filter).map_err(refuse)?;
        let mut containers = self.containers.list();
        containers.retain(|c| {
            filter.matches(&c.id, &c.pod, view::container_state(c.state), &c.spec.labels)
        });
        Ok(containers)
    }
}

fn query(field: &str, id: &str) -> Result<IdQuery, Status> {
    IdQuery::parse(id).map_err(|error| invalid(format!("{field}: {error}")))
}

/// The command line of an exec.
fn command(cmd: Vec<String>) -> Result<Vec<String>, Status> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd: no command"));
    }
    if cmd.iter().any(|word| word.contains('\0')) {
        return Err(invalid("cmd: a word has a NUL byte"));
    }
    Ok(cmd)
}

fn refuse(error: Invalid) -> Status {
    status(&error)
}

fn verbose(
    asked: bool,
    info: impl FnOnce() -> BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    if asked { info() } else { BTreeMap::new() }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<pb::VersionRequest>) -> Reply<pb::VersionResponse> {
        let version = health::version();
        answer(pb::VersionResponse {
            version: version.kubelet_api.to_owned(),
            runtime_name: version.name.to_owned(),
            runtime_version: version.version.to_owned(),
            runtime_api_version: version.cri.to_owned(),
        })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<pb::RunPodSandboxRequest>,
    ) -> Reply<pb::RunPodSandboxResponse> {
        let caller = Caller::of(&request);
        let pb::RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let spec = convert::pod::pod_spec(config, runtime_handler).map_err(refuse)?;
        if spec.privileged {
            let name = format!("{}/{}", spec.key.namespace, spec.key.name);
            caller.asks("RunPodSandbox", &name, "privileged");
        }
        let id = self.pods.run(spec).await.map_err(status)?;
        self.first_sample_of_pod(&id).await;
        answer(pb::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<pb::StopPodSandboxRequest>,
    ) -> Reply<pb::StopPodSandboxResponse> {
        let query = query("pod_sandbox_id", &request.into_inner().pod_sandbox_id)?;
        self.pods.stop(&query).await.map_err(status)?;
        answer(pb::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<pb::RemovePodSandboxRequest>,
    ) -> Reply<pb::RemovePodSandboxResponse> {
        let query = query("pod_sandbox_id", &request.into_inner().pod_sandbox_id)?;
        self.pods.remove(&query).await.map_err(status)?;
        answer(pb::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<pb::PodSandboxStatusRequest>,
    ) -> Reply<pb::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let query = query("pod_sandbox_id", &request.pod_sandbox_id)?;
        let pod = self.pods.record(&query).map_err(status)?;
        let containers = self.containers.list();
        let of_pod = containers.iter().filter(|container| container.pod == pod.id);
        answer(pb::PodSandboxStatusResponse {
            status: Some(view::pod_status(&pod)),
            info: verbose(request.verbose, || view::pod_info(&pod)),
            containers_statuses: of_pod.map(|c| view::container_status(c)).collect(),
            timestamp: crate::container::record::now_ns(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<pb::ListPodSandboxRequest>,
    ) -> Reply<pb::ListPodSandboxResponse> {
        let pods = self.pods_that_match(request.into_inner().filter)?;
        let items = pods.iter().map(|pod| view::pod(pod)).collect();
        list(pb::ListPodSandboxResponse { items }, "StreamPodSandboxes")
    }

    type StreamPodSandboxesStream = Replies<pb::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<pb::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let pods = self.pods_that_match(request.into_inner().filter)?;
        each(
            pods.iter()
                .map(|pod| pb::StreamPodSandboxesResponse { pod_sandboxes: vec![view::pod(pod)] }),
        )
    }

    async fn create_container(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Reply<pb::CreateContainerResponse> {
        // The pod's own configuration is the one that counts; the copy in the request is advice.
        let caller = Caller::of(&request);
        let pb::CreateContainerRequest { pod_sandbox_id, config, .. } = request.into_inner();
        let query = query("pod_sandbox_id", &pod_sandbox_id)?;
        let spec = convert::container::container_spec(config).map_err(refuse)?;
        if spec.security.privileged {
            let name = format!("{} in {pod_sandbox_id}", spec.name);
            caller.asks("CreateContainer", &name, "privileged");
        }
        let pod = self.pods.record(&query).map_err(status)?;
        convert::container::check_against_pod(&pod.spec, &spec).map_err(refuse)?;
        let id = self.pods.create_container(&query, spec).await.map_err(status)?;
        answer(pb::CreateContainerResponse { container_id: id.to_string() })
    }

    /// A container is started once. Whoever asks again, at the same moment, while it runs, after it
    /// has ended or after a restart of the daemon, is told how that start went: OK, or the same
    /// error. It is what a client needs whose first answer was lost; how the container is now,
    /// ContainerStatus says. FailedPrecondition means that it was never started and cannot be any
    /// more. CRI-O and containerd answer every repetition with an error about the state.
    async fn start_container(
        &self,
        request: Request<pb::StartContainerRequest>,
    ) -> Reply<pb::StartContainerResponse> {
        let query = query("container_id", &request.into_inner().container_id)?;
        self.containers.start(&query).await.map_err(status)?;
        self.first_sample_of_container(&query).await;
        answer(pb::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<pb::StopContainerRequest>,
    ) -> Reply<pb::StopContainerResponse> {
        let request = request.into_inner();
        let query = query("container_id", &request.container_id)?;
        let seconds = u64::try_from(request.timeout).unwrap_or(0);
        let grace = Duration::from_secs(seconds).min(MAX_GRACE);
        self.containers.stop(&query, grace).await.map_err(status)?;
        answer(pb::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<pb::RemoveContainerRequest>,
    ) -> Reply<pb::RemoveContainerResponse> {
        let query = query("container_id", &request.into_inner().container_id)?;
        self.containers.remove(&query).await.map_err(status)?;
        answer(pb::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Reply<pb::ListContainersResponse> {
        let containers = self.containers_that_match(request.into_inner().filter)?;
        let containers = containers.iter().map(|c| view::container(c)).collect();
        list(pb::ListContainersResponse { containers }, "StreamContainers")
    }

    type StreamContainersStream = Replies<pb::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<pb::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let containers = self.containers_that_match(request.into_inner().filter)?;
        each(
            containers
                .iter()
                .map(|c| pb::StreamContainersResponse { containers: vec![view::container(c)] }),
        )
    }

    async fn container_status(
        &self,
        request: Request<pb::ContainerStatusRequest>,
    ) -> Reply<pb::ContainerStatusResponse> {
        let request = request.into_inner();
        let query = query("container_id", &request.container_id)?;
        let container = self.containers.record(&query).map_err(status)?;
        answer(pb::ContainerStatusResponse {
            status: Some(view::container_status(&container)),
            info: verbose(request.verbose, || view::container_info(&container)),
        })
    }

    async fn reopen_container_log(
        &self,
        request: Request<pb::ReopenContainerLogRequest>,
    ) -> Reply<pb::ReopenContainerLogResponse> {
        let query = query("container_id", &request.into_inner().container_id)?;
        self.containers.reopen_log(&query).await.map_err(status)?;
        answer(pb::ReopenContainerLogResponse {})
    }

    async fn exec_sync(
        &self,
        request: Request<pb::ExecSyncRequest>,
    ) -> Reply<pb::ExecSyncResponse> {
        let caller = Caller::of_exec_sync(&request);
        let pb::ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        let query = query("container_id", &container_id)?;
        let cmd = command(cmd)?;
        if let Some(caller) = caller {
            caller.runs(&container_id, cmd.first().map_or("", String::as_str));
        }
        let timeout = u64::try_from(timeout).map_err(|_| invalid("timeout: is negative"))?;
        let timeout = Duration::from_secs(timeout).min(MAX_GRACE);
        let output = self.containers.exec_sync(&query, cmd, timeout).await.map_err(status)?;
        answer(pb::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        })
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Reply<pb::StatusResponse> {
        answer(self.reporter.status(request.into_inner().verbose))
    }

    async fn runtime_config(
        &self,
        _: Request<pb::RuntimeConfigRequest>,
    ) -> Reply<pb::RuntimeConfigResponse> {
        let cgroup_driver = self.reporter.cgroup_driver().into();
        let linux = Some(pb::LinuxRuntimeConfiguration { cgroup_driver });
        answer(pb::RuntimeConfigResponse { linux })
    }

    async fn update_runtime_config(
        &self,
        request: Request<pb::UpdateRuntimeConfigRequest>,
    ) -> Reply<pb::UpdateRuntimeConfigResponse> {
        self.update_config(request).await
    }

    async fn update_container_resources(
        &self,
        request: Request<pb::UpdateContainerResourcesRequest>,
    ) -> Reply<pb::UpdateContainerResourcesResponse> {
        self.update_container(request).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<pb::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<pb::UpdatePodSandboxResourcesResponse> {
        self.update_pod(request).await
    }

    async fn exec(&self, request: Request<pb::ExecRequest>) -> Reply<pb::ExecResponse> {
        self.exec_url(&Caller::of(&request), request.into_inner())
    }

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Reply<pb::AttachResponse> {
        self.attach_url(&Caller::of(&request), request.into_inner())
    }

    async fn port_forward(
        &self,
        request: Request<pb::PortForwardRequest>,
    ) -> Reply<pb::PortForwardResponse> {
        self.port_forward_url(&Caller::of(&request), request.into_inner())
    }

    async fn container_stats(
        &self,
        request: Request<pb::ContainerStatsRequest>,
    ) -> Reply<pb::ContainerStatsResponse> {
        let stats = self.stats_of_container(&request.into_inner().container_id)?;
        answer(pb::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<pb::ListContainerStatsRequest>,
    ) -> Reply<pb::ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter)?;
        list(pb::ListContainerStatsResponse { stats }, "StreamContainerStats")
    }

    type StreamContainerStatsStream = Replies<pb::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<pb::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let stats = self.stats_of_containers(request.into_inner().filter)?.into_iter();
        each(stats.map(|one| pb::StreamContainerStatsResponse { container_stats: vec![one] }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<pb::PodSandboxStatsRequest>,
    ) -> Reply<pb::PodSandboxStatsResponse> {
        let stats = self.stats_of_pod(&request.into_inner().pod_sandbox_id)?;
        answer(pb::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<pb::ListPodSandboxStatsRequest>,
    ) -> Reply<pb::ListPodSandboxStatsResponse> {
        let stats = self.stats_of_pods(request.into_inner().filter)?;
        list(pb::ListPodSandboxStatsResponse { stats }, "StreamPodSandboxStats")
    }

    type StreamPodSandboxStatsStream = Replies<pb::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<pb::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let stats = self.stats_of_pods(request.into_inner().filter)?.into_iter();
        each(stats.map(|one| pb::StreamPodSandboxStatsResponse { pod_sandbox_stats: vec![one] }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<pb::CheckpointContainerRequest>,
    ) -> Reply<pb::CheckpointContainerResponse> {
        self.checkpoint(request).await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<pb::CheckpointPodRequest>,
    ) -> Reply<pb::CheckpointPodResponse> {
        self.checkpoint_together(request).await
    }

    async fn restore_pod(
        &self,
        request: Request<pb::RestorePodRequest>,
    ) -> Reply<pb::RestorePodResponse> {
        self.restore(request).await
    }

    type GetContainerEventsStream = events::EventStream;

    async fn get_container_events(
        &self,
        _: Request<pb::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        live(self.events()?)
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<pb::ListMetricDescriptorsRequest>,
    ) -> Reply<pb::ListMetricDescriptorsResponse> {
        let descriptors = convert::metrics::descriptors();
        answer(pb::ListMetricDescriptorsResponse { descriptors })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<pb::ListPodSandboxMetricsRequest>,
    ) -> Reply<pb::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.metrics_of_pods();
        list(pb::ListPodSandboxMetricsResponse { pod_metrics }, "StreamPodSandboxMetrics")
    }

    type StreamPodSandboxMetricsStream = Replies<pb::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<pb::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.metrics_of_pods().into_iter();
        each(
            metrics
                .map(|one| pb::StreamPodSandboxMetricsResponse { pod_sandbox_metrics: vec![one] }),
        )
    }
}
