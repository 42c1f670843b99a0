//! A CRI client as the kubelet is one: the generated client over the daemon's unix socket, with
//! calls that block, so that tests read from top to bottom and use threads to be many at once.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use crisol::cri::pb;
use pb::image_service_client::ImageServiceClient;
use pb::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::connection::Connection;

mod events;
mod lists;
mod stats;

pub use events::Events;

/// Longest a call may take: the kubelet's own limit.
const LIMIT: Duration = Duration::from_secs(120);
/// The kubelet accepts and sends messages up to this size.
const MESSAGE: usize = 16 << 20;

/// What a call gives.
pub type Answer<T> = std::result::Result<T, Status>;

/// The generated client.
pub type RuntimeClient = RuntimeServiceClient<Channel>;

/// A connection to the daemon; it connects when first used and again after a restart.
#[derive(Clone, Debug)]
pub struct Cri {
    connection: Connection,
    pods: RuntimeClient,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client of the daemon that listens on `socket`.
    ///
    /// # Errors
    /// If this process is out of threads.
    pub fn new(socket: &Path) -> Result<Self> {
        let connection = Connection::new(socket, |endpoint| endpoint.timeout(LIMIT))?;
        let channel = connection.channel.clone();
        Ok(Self {
            connection,
            pods: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE),
        })
    }

    /// Makes a call and hangs up after `patience`, as a client whose deadline passed does.
    pub fn hang_up<T>(&self, patience: Duration, call: impl AsyncFnOnce(&mut RuntimeClient) -> T) {
        let mut pods = self.pods.clone();
        // Dropping the future resets the stream; the answer, if any, is of no interest.
        self.connection.wait(async { tokio::time::timeout(patience, call(&mut pods)).await }).ok();
    }
}

/// One blocking method for each RPC: name, request, what of the response is wanted.
macro_rules! calls {
    ($client:ident: $($(#[$doc:meta])* $name:ident, $rpc:ident($request:ident) -> $response:ident;)*) => {
        impl Cri {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// With the status that the daemon answered.
                pub fn $name(&self, request: pb::$request) -> Answer<pb::$response> {
                    let mut client = self.$client.clone();
                    self.connection
                        .wait(async { client.$rpc(Request::new(request)).await })
                        .map(tonic::Response::into_inner)
                }
            )*
        }
    };
}

calls! { pods:
    /// Version.
    version_rpc, version(VersionRequest) -> VersionResponse;
    /// Status.
    status_rpc, status(StatusRequest) -> StatusResponse;
    /// RunPodSandbox.
    run_pod_rpc, run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    /// StopPodSandbox.
    stop_pod_rpc, stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    /// RemovePodSandbox.
    remove_pod_rpc, remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    /// PodSandboxStatus.
    pod_status_rpc, pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    /// ListPodSandbox.
    list_pods_rpc, list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    /// CreateContainer.
    create_rpc, create_container(CreateContainerRequest) -> CreateContainerResponse;
    /// StartContainer.
    start_rpc, start_container(StartContainerRequest) -> StartContainerResponse;
    /// StopContainer.
    stop_rpc, stop_container(StopContainerRequest) -> StopContainerResponse;
    /// RemoveContainer.
    remove_rpc, remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    /// ListContainers.
    list_rpc, list_containers(ListContainersRequest) -> ListContainersResponse;
    /// ContainerStatus.
    container_status_rpc, container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    /// ReopenContainerLog.
    reopen_rpc, reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    /// CheckpointContainer.
    checkpoint_rpc, checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    /// CheckpointPod.
    checkpoint_pod_rpc, checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
    /// RestorePod.
    restore_pod_rpc, restore_pod(RestorePodRequest) -> RestorePodResponse;
    /// ExecSync.
    exec_rpc, exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    /// Exec.
    exec_url_rpc, exec(ExecRequest) -> ExecResponse;
    /// Attach.
    attach_url_rpc, attach(AttachRequest) -> AttachResponse;
    /// PortForward.
    port_forward_url_rpc, port_forward(PortForwardRequest) -> PortForwardResponse;
    /// ContainerStats.
    container_stats_rpc, container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    /// ListContainerStats.
    list_container_stats_rpc,
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    /// PodSandboxStats.
    pod_stats_rpc, pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    /// ListPodSandboxStats.
    list_pod_stats_rpc,
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    /// ListMetricDescriptors.
    descriptors_rpc,
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    /// ListPodSandboxMetrics.
    list_pod_metrics_rpc,
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    /// UpdateContainerResources.
    update_rpc, update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    /// UpdatePodSandboxResources.
    update_pod_rpc, update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    /// UpdateRuntimeConfig.
    update_config_rpc, update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    /// RuntimeConfig.
    config_rpc, runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
}

calls! { images:
    /// PullImage.
    pull_rpc, pull_image(PullImageRequest) -> PullImageResponse;
    /// ImageStatus.
    image_status_rpc, image_status(ImageStatusRequest) -> ImageStatusResponse;
    /// ListImages.
    list_images_rpc, list_images(ListImagesRequest) -> ListImagesResponse;
    /// RemoveImage.
    remove_image_rpc, remove_image(RemoveImageRequest) -> RemoveImageResponse;
    /// ImageFsInfo.
    image_fs_info_rpc, image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}

/// The same with plain arguments, for the requests that tests make most.
impl Cri {
    /// Runs a pod with the default handler; its id.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn run_pod(&self, config: &pb::PodSandboxConfig) -> Answer<String> {
        self.run_pod_with(config, "")
    }

    /// Runs a pod with a named handler; its id.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn run_pod_with(&self, config: &pb::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = pb::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        Ok(self.run_pod_rpc(request)?.pod_sandbox_id)
    }

    /// Stops and removes a pod with everything in it.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn drop_pod(&self, pod: &str) -> Answer<()> {
        self.stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() })?;
        self.remove_pod_rpc(pb::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() })?;
        Ok(())
    }

    /// Status of a pod.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pod(&self, pod: &str) -> Answer<pb::PodSandboxStatus> {
        let request =
            pb::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        self.pod_status_rpc(request)?.status.ok_or_else(|| Status::data_loss("no status"))
    }

    /// All pods.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pods(&self) -> Answer<Vec<pb::PodSandbox>> {
        Ok(self.list_pods_rpc(pb::ListPodSandboxRequest::default())?.items)
    }

    /// Creates a container; its id.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn create(
        &self,
        pod: &str,
        config: &pb::ContainerConfig,
        pod_config: &pb::PodSandboxConfig,
    ) -> Answer<String> {
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.create_rpc(request)?.container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn start(&self, container: &str) -> Answer<()> {
        self.start_rpc(pb::StartContainerRequest { container_id: container.to_owned() })?;
        Ok(())
    }

    /// Stops a container within `grace` seconds.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stop(&self, container: &str, grace: i64) -> Answer<()> {
        self.stop_rpc(pb::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: grace,
        })?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn remove(&self, container: &str) -> Answer<()> {
        self.remove_rpc(pb::RemoveContainerRequest { container_id: container.to_owned() })?;
        Ok(())
    }

    /// Status of a container.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn container(&self, container: &str) -> Answer<pb::ContainerStatus> {
        Ok(self.container_verbose(container, false)?.0)
    }

    /// Status of a container and its further information.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn container_verbose(
        &self,
        container: &str,
        verbose: bool,
    ) -> Answer<(pb::ContainerStatus, std::collections::BTreeMap<String, String>)> {
        let request = pb::ContainerStatusRequest { container_id: container.to_owned(), verbose };
        let response = self.container_status_rpc(request)?;
        let status = response.status.ok_or_else(|| Status::data_loss("no status"))?;
        Ok((status, response.info))
    }

    /// All containers.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn containers(&self) -> Answer<Vec<pb::Container>> {
        Ok(self.list_rpc(pb::ListContainersRequest::default())?.containers)
    }

    /// Changes a container's limits.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn update(&self, container: &str, linux: pb::LinuxContainerResources) -> Answer<()> {
        self.update_rpc(pb::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(linux),
            ..Default::default()
        })?;
        Ok(())
    }

    /// Runs a command in a container, for at most 30 seconds.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn exec(&self, container: &str, command: &[&str]) -> Answer<pb::ExecSyncResponse> {
        self.exec_rpc(pb::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 30,
        })
    }

    /// Pulls an image without credentials; its id.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pull(&self, image: &str) -> Answer<String> {
        self.pull_as(image, None)
    }

    /// Pulls an image; its id.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn pull_as(&self, image: &str, auth: Option<pb::AuthConfig>) -> Answer<String> {
        let request =
            pb::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: None };
        Ok(self.pull_rpc(request)?.image_ref)
    }

    /// An image, if it is there.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn image(&self, image: &str) -> Answer<Option<pb::Image>> {
        let request =
            pb::ImageStatusRequest { image: Some(image_spec(image)), ..Default::default() };
        Ok(self.image_status_rpc(request)?.image)
    }

    /// All images.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn images(&self) -> Answer<Vec<pb::Image>> {
        Ok(self.list_images_rpc(pb::ListImagesRequest::default())?.images)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn remove_image(&self, image: &str) -> Answer<()> {
        self.remove_image_rpc(pb::RemoveImageRequest { image: Some(image_spec(image)) })?;
        Ok(())
    }
}

/// An image by reference.
pub fn image_spec(image: &str) -> pb::ImageSpec {
    pb::ImageSpec { image: image.to_owned(), ..Default::default() }
}
