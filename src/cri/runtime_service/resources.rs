//! Changes of limits: UpdateContainerResources and UpdatePodSandboxResources.

use tonic::Request;

use crate::container::handle::Asker;
use crate::cri::answer::{Reply, answer};
use crate::cri::convert;
use crate::cri::pb;
use crate::cri::status::status;

use super::{Runtime, query, refuse};

impl Runtime {
    pub(super) async fn update_container(
        &self,
        request: Request<pb::UpdateContainerResourcesRequest>,
    ) -> Reply<pb::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let query = query("container_id", &request.container_id)?;
        let change = convert::update(request.linux).map_err(refuse)?;
        self.containers.update(&query, change, Asker::Client).await.map_err(status)?;
        answer(pb::UpdateContainerResourcesResponse {})
    }

    /// Best effort: the pod's own group is the kubelet's.
    pub(super) async fn update_pod(
        &self,
        request: Request<pb::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<pb::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let query = query("pod_sandbox_id", &request.pod_sandbox_id)?;
        let resources = convert::update_pod(request.overhead, request.resources).map_err(refuse)?;
        self.pods.update(&query, resources).await.map_err(status)?;
        answer(pb::UpdatePodSandboxResourcesResponse {})
    }
}
