//! A pod as plugins of the Node Resource Interface are shown it.

use crate::container::tell::resources;
use crate::nri::wire;

use super::record::PodRecord;

/// The pod as it is recorded.
pub fn pod(record: &PodRecord) -> wire::Pod {
    let spec = &record.spec;
    let now = record.updated.as_ref();
    let overhead = now.map_or(&spec.overhead, |now| &now.overhead);
    let sum = now.map_or(&spec.resources, |now| &now.resources);
    wire::Pod {
        id: record.id.to_string(),
        name: spec.key.name.clone(),
        uid: spec.key.uid.clone(),
        namespace: spec.key.namespace.clone(),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: record.handler.clone(),
        linux: Some(wire::LinuxPod {
            pod_overhead: Some(resources(overhead)),
            pod_resources: Some(resources(sum)),
            cgroup_parent: spec.cgroup_parent.clone().unwrap_or_default(),
            ..wire::LinuxPod::default()
        }),
        pid: record.pause.and_then(|pause| u32::try_from(pause.pid).ok()).unwrap_or(0),
        ips: record.addresses.iter().map(ToString::to_string).collect(),
    }
}
