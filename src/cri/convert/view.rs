//! What is known of pods, containers and images, as the wire's types.

use std::collections::BTreeMap;

use crate::container::spec::ImageRequest;
use crate::container::state::State as ContainerState;
use crate::container::{ContainerRecord, record::ImageVolume};
use crate::cri::pb;
use crate::image::Image;
use crate::pod::PodRecord;
use crate::pod::state::State as PodState;

use super::container::metadata_into_pb as container_metadata;
use super::image::image_into_pb;
use super::pod::metadata_into_pb as pod_metadata;
use super::signal::stop_signal_into_pb;
use super::{mounts_into_pb, namespace_options, resources_into_pb};

/// A pod in a list.
pub fn pod(record: &PodRecord) -> pb::PodSandbox {
    pb::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(pod_metadata(&record.spec.key)),
        state: pod_state(record.state).into(),
        created_at: record.created_at_ns,
        labels: record.spec.labels.clone(),
        annotations: record.spec.annotations.clone(),
        runtime_handler: record.spec.handler.clone(),
    }
}

/// A pod by itself.
pub fn pod_status(record: &PodRecord) -> pb::PodSandboxStatus {
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    pb::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(pod_metadata(&record.spec.key)),
        state: pod_state(record.state).into(),
        created_at: record.created_at_ns,
        network: Some(pb::PodSandboxNetworkStatus {
            // Empty with the node's network (CRI `PodSandboxNetworkStatus`).
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| pb::PodIp { ip }).collect(),
        }),
        linux: Some(pb::LinuxPodSandboxStatus {
            namespaces: Some(pb::Namespace { options: Some(namespace_options(&record.spec)) }),
        }),
        labels: record.spec.labels.clone(),
        annotations: record.spec.annotations.clone(),
        runtime_handler: record.spec.handler.clone(),
    }
}

/// A pod's state as the wire has it.
pub fn pod_state(state: PodState) -> pb::PodSandboxState {
    match state {
        // Until everything in it has ended, whoever needs it gone has to go on asking for its stop.
        PodState::Ready | PodState::Stopping => pb::PodSandboxState::SandboxReady,
        PodState::Creating | PodState::NotReady | PodState::Removing => {
            pb::PodSandboxState::SandboxNotready
        }
    }
}

/// A container in a list.
pub fn container(record: &ContainerRecord) -> pb::Container {
    let (image_ref, image_id) = image_names(record);
    pb::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.pod.to_string(),
        metadata: Some(container_metadata(&record.spec)),
        image: Some(image_into_pb(&record.spec.image)),
        image_ref,
        state: container_state(record.state).into(),
        created_at: record.created_at_ns,
        labels: record.spec.labels.clone(),
        annotations: record.spec.annotations.clone(),
        image_id,
    }
}

/// A container by itself.
pub fn container_status(record: &ContainerRecord) -> pb::ContainerStatus {
    let (image_ref, image_id) = image_names(record);
    let ended = record.ended.as_ref();
    pb::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(container_metadata(&record.spec)),
        state: container_state(record.state).into(),
        created_at: record.created_at_ns,
        started_at: record.started_at_ns,
        finished_at: ended.map_or(0, |ended| ended.at_ns),
        exit_code: ended.map_or(0, |ended| ended.code),
        image: Some(image_into_pb(&record.spec.image)),
        image_ref,
        reason: ended.map(|ended| ended.reason.clone()).unwrap_or_default(),
        message: ended.map(|ended| ended.message.clone()).unwrap_or_default(),
        labels: record.spec.labels.clone(),
        annotations: record.spec.annotations.clone(),
        mounts: mounts(record),
        log_path: record.log.as_ref().map(|log| log.display().to_string()).unwrap_or_default(),
        resources: Some(pb::ContainerResources {
            linux: Some(resources_into_pb(record.resources())),
            windows: None,
        }),
        image_id,
        user: record.user.as_ref().map(|user| pb::ContainerUser {
            linux: Some(pb::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.additional_gids.iter().map(|gid| (*gid).into()).collect(),
            }),
        }),
        stop_signal: stop_signal_into_pb(record.spec.stop_signal.as_ref(), record.stop_signal),
    }
}

fn mounts(record: &ContainerRecord) -> Vec<pb::Mount> {
    let mut mounts = mounts_into_pb(&record.spec.mounts);
    let images = mounts.iter_mut().filter_map(|mount| mount.image.as_mut());
    for (image, ImageVolume { id, .. }) in images.zip(&record.image_volumes) {
        image.image_ref = format!("sha256:{id}");
    }
    mounts
}

/// A container's state as the wire has it.
pub fn container_state(state: ContainerState) -> pb::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created | ContainerState::Starting => {
            pb::ContainerState::ContainerCreated
        }
        ContainerState::Running | ContainerState::Stopping => pb::ContainerState::ContainerRunning,
        ContainerState::Exited | ContainerState::Removing => pb::ContainerState::ContainerExited,
        ContainerState::Unknown => pb::ContainerState::ContainerUnknown,
    }
}

/// `image_ref` (a digest reference where there is one) and `image_id`.
fn image_names(record: &ContainerRecord) -> (String, String) {
    let Some(image) = &record.image else { return Default::default() };
    (image.reference.clone(), format!("sha256:{}", image.id))
}

/// An image.
pub fn image(image: &Image) -> pb::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| pb::Int64Value { value: uid.into() });
    pb::Image {
        id: format!("sha256:{}", image.id),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        // A number or a name, never both (CRI `Image`).
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid,
        spec: Some(image_into_pb(&ImageRequest {
            reference: format!("sha256:{}", image.id),
            ..ImageRequest::default()
        })),
        pinned: false,
    }
}

/// What `crictl inspect` shows besides the status.
pub fn container_info(record: &ContainerRecord) -> BTreeMap<String, String> {
    verbose(&serde_json::json!({
        "sandboxID": record.pod,
        "pid": record.process.map_or(0, |process| process.pid),
        "runtimeType": record.handler,
        "cgroup": record.cgroup,
        "state": record.state,
        "config": record.spec,
    }))
}

/// What `crictl inspectp` shows besides the status.
pub fn pod_info(record: &PodRecord) -> BTreeMap<String, String> {
    verbose(&serde_json::json!({
        "pid": record.pause.map_or(0, |pause| pause.pid),
        "runtimeHandler": record.handler,
        "state": record.state,
        "config": record.spec,
        "updated": record.updated,
    }))
}

/// What `crictl inspecti` shows besides the status.
pub fn image_info(image: &Image) -> BTreeMap<String, String> {
    verbose(&serde_json::json!({
        "imageSpec": raw_config(image),
        "layers": image.layers,
    }))
}

/// The configuration as it was received. One that went with its image meanwhile is null.
fn raw_config(image: &Image) -> serde_json::Value {
    let raw = image.raw_config().ok();
    raw.and_then(|raw| serde_json::from_slice(&raw).ok()).unwrap_or_default()
}

fn verbose(info: &serde_json::Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cri::convert::pod::pod_spec;
    use crate::ids::PodId;

    #[test]
    fn a_pod_says_all_its_addresses_and_what_was_asked_as_it_was_asked() {
        let map = |key: &str| [(key.to_owned(), "value".to_owned())].into();
        let config = pb::PodSandboxConfig {
            metadata: Some(pb::PodSandboxMetadata {
                name: "web".to_owned(),
                uid: "u1d".to_owned(),
                namespace: "shop".to_owned(),
                attempt: 3,
            }),
            labels: map("label"),
            annotations: map("io.kubernetes.cri-o.TTY"),
            ..Default::default()
        };
        let spec = pod_spec(Some(config.clone()), String::new()).expect("a good request");
        let mut record = PodRecord {
            id: PodId::random(),
            hostname: "web".to_owned(),
            spec: Arc::new(spec),
            state: PodState::Ready,
            boot_id: "b007".to_owned(),
            handler: "runc".to_owned(),
            created_at_ns: 1,
            pause: None,
            updated: None,
            addresses: ["10.0.0.7", "fd00::7"].map(|ip| ip.parse().expect("an address")).into(),
        };
        let status = pod_status(&record);
        let network = status.network.expect("a network");
        assert_eq!(network.ip, "10.0.0.7");
        assert_eq!(network.additional_ips, [pb::PodIp { ip: "fd00::7".to_owned() }]);
        assert_eq!((status.metadata, status.labels), (config.metadata, config.labels));
        assert_eq!(status.annotations, config.annotations);
        // The handler that was asked for, not the one that it stands for.
        assert_eq!(status.runtime_handler, "");

        record.addresses.clear();
        assert_eq!(pod_status(&record).network, Some(pb::PodSandboxNetworkStatus::default()));
    }
}
