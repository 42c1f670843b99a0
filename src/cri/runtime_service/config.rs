//! What the kubelet tells about the node: UpdateRuntimeConfig.

use tonic::Request;

use crate::cri::answer::{Reply, answer};
use crate::cri::pb;
use crate::cri::status::{invalid, status};
use crate::steps::blocking;

use super::Runtime;

impl Runtime {
    pub(super) async fn update_config(
        &self,
        request: Request<pb::UpdateRuntimeConfigRequest>,
    ) -> Reply<pb::UpdateRuntimeConfigResponse> {
        let Some(config) = request.into_inner().runtime_config else {
            return Err(invalid("runtime_config: is missing"));
        };
        let told = config.network_config.unwrap_or_default().pod_cidr;
        let ranges = self.reporter.pod_ranges.clone();
        blocking(move || ranges.set(&told)).await.map_err(|error| status(&error))?;
        answer(pb::UpdateRuntimeConfigResponse {})
    }
}
