//! Checkpoints: CheckpointContainer, CheckpointPod, RestorePod.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tonic::{Request, Status};

use crate::container::checkpoint::DEFAULT_LIMIT;
use crate::cri::answer::{Reply, answer};
use crate::cri::convert;
use crate::cri::pb;
use crate::cri::status::{invalid, status};

use super::{MAX_GRACE, Runtime, query, refuse};

/// Containers of one checkpoint of a pod: more than any pod has.
const MAX_CONTAINERS: usize = 1024;

impl Runtime {
    pub(super) async fn checkpoint(
        &self,
        request: Request<pb::CheckpointContainerRequest>,
    ) -> Reply<pb::CheckpointContainerResponse> {
        let request = request.into_inner();
        let query = query("container_id", &request.container_id)?;
        let location = absolute("location", &request.location)?;
        let limit = match u64::try_from(request.timeout) {
            Ok(0) => DEFAULT_LIMIT,
            Ok(seconds) => Duration::from_secs(seconds).min(MAX_GRACE),
            Err(_) => return Err(invalid("timeout: is negative")),
        };
        self.containers.checkpoint(&query, location, limit).await.map_err(status)?;
        answer(pb::CheckpointContainerResponse {})
    }

    pub(super) async fn checkpoint_together(
        &self,
        request: Request<pb::CheckpointPodRequest>,
    ) -> Reply<pb::CheckpointPodResponse> {
        let request = request.into_inner();
        let pod = query("pod_sandbox_id", &request.pod_sandbox_id)?;
        let output = absolute("output_path", &request.output_path)?;
        no_options(&request.options)?;
        let ids = &request.container_ids;
        if ids.is_empty() || ids.len() > MAX_CONTAINERS {
            return Err(invalid(format!("container_ids: has {} ids", ids.len())));
        }
        let ids = ids.iter().enumerate().map(|(n, id)| query(&format!("container_ids[{n}]"), id));
        let ids = ids.collect::<Result<_, _>>()?;
        self.pods.checkpoint(&pod, output, ids).await.map_err(status)?;
        answer(pb::CheckpointPodResponse {})
    }

    pub(super) async fn restore(
        &self,
        request: Request<pb::RestorePodRequest>,
    ) -> Reply<pb::RestorePodResponse> {
        let request = request.into_inner();
        let checkpoint = absolute("checkpoint_path", &request.checkpoint_path)?;
        no_options(&request.options)?;
        let configs = request.container_configs;
        if configs.is_empty() || configs.len() > MAX_CONTAINERS {
            let count = configs.len();
            return Err(invalid(format!("container_configs: has {count} containers")));
        }
        let spec = convert::pod::pod_spec(request.config, request.runtime_handler);
        let spec = spec.map_err(refuse)?;
        let containers = convert::container::restored_specs(configs, &spec).map_err(refuse)?;
        let restored = self.pods.restore(spec, containers, checkpoint).await;
        let (pod, containers) = restored.map_err(status)?;
        self.first_sample_of_pod(&pod).await;
        let restored_containers = containers.into_iter().map(|(name, id)| {
            let container_id = id.to_string();
            pb::RestoredContainer { name, container_id }
        });
        answer(pb::RestorePodResponse {
            pod_sandbox_id: pod.to_string(),
            restored_containers: restored_containers.collect(),
        })
    }
}

fn absolute(field: &str, text: &str) -> Result<PathBuf, Status> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs || text.contains(char::is_control) {
        return Err(invalid(format!("{field}: {text:?} is not an absolute path")));
    }
    Ok(path.to_owned())
}

fn no_options(options: &BTreeMap<String, String>) -> Result<(), Status> {
    match options.keys().next() {
        Some(key) => Err(invalid(format!("options: {key:?} is unknown"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn paths_are_absolute_and_do_not_climb() {
        assert!(absolute("location", "/var/lib/kubelet/checkpoints/c.tar").is_ok());
        for wrong in ["", "c.tar", "./c.tar", "/a/../c.tar", "/a\n/c.tar"] {
            let error = absolute("location", wrong).expect_err(wrong);
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().starts_with("location: "), "{error}");
        }
    }

    #[test]
    fn an_option_that_nobody_knows_is_refused_by_its_name() {
        assert!(no_options(&BTreeMap::new()).is_ok());
        let options = BTreeMap::from([("speed".to_owned(), "high".to_owned())]);
        assert!(no_options(&options).expect_err("unknown").message().contains("speed"));
    }
}
