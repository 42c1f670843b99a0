//! Metrics as the wire's, with the labels that say whose they are.

use crate::cgroup::relative_path;
use crate::container::ContainerRecord;
use crate::cri::pb;
use crate::pod::PodRecord;
use crate::pod::spec::PodKey;
use crate::stats::PodSample;
use crate::stats::metrics::{self, ALL, Metric, MetricKind};

/// The labels of every metric, in this order before its own; cAdvisor's names, as the kubelet
/// completes them.
const OWNER: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What stands for the pod itself among its containers: the network is its.
const POD: &str = "POD";

/// Every metric there is.
pub fn descriptors() -> Vec<pb::MetricDescriptor> {
    let keys = |own: &[&str]| OWNER.iter().chain(own).map(|key| (*key).to_owned()).collect();
    ALL.iter()
        .map(|descriptor| pb::MetricDescriptor {
            name: descriptor.name.to_owned(),
            help: descriptor.help.to_owned(),
            label_keys: keys(descriptor.labels),
        })
        .collect()
}

/// The metrics of a container.
pub fn container_metrics(
    pod: &PodKey,
    record: &ContainerRecord,
    at_ns: i64,
    metrics: Vec<Metric>,
) -> pb::ContainerMetrics {
    let owner = [
        record.spec.name.clone(),
        format!("/{}", relative_path(&record.cgroup).display()),
        record.spec.image.reference.clone(),
        record.id.to_string(),
        pod.namespace.clone(),
        pod.name.clone(),
    ];
    let metrics = metrics.into_iter().map(|metric| into_pb(&owner, at_ns, metric)).collect();
    pb::ContainerMetrics { container_id: record.id.to_string(), metrics }
}

/// The metrics of a pod and its containers.
pub fn pod_metrics(
    record: &PodRecord,
    sample: &PodSample,
    container_metrics: Vec<pb::ContainerMetrics>,
) -> pb::PodSandboxMetrics {
    let key = &record.spec.key;
    let group = sample.group.as_ref().map(|group| format!("/{}", group.display()));
    let group = group.unwrap_or_default();
    let owner = |container: &str, name: String| {
        let (namespace, pod) = (key.namespace.clone(), key.name.clone());
        [container.to_owned(), group.clone(), String::new(), name, namespace, pod]
    };
    let of_group = (owner("", String::new()), metrics::of_pod(sample, record.created_at_ns));
    let of_network = owner(POD, record.id.to_string());
    let of_network = (of_network, metrics::of_network(&sample.interfaces));
    let all = [of_group, of_network].into_iter().flat_map(|(owner, metrics)| {
        metrics.into_iter().map(move |metric| into_pb(&owner, sample.at_ns, metric))
    });
    pb::PodSandboxMetrics {
        pod_sandbox_id: record.id.to_string(),
        metrics: all.collect(),
        container_metrics,
    }
}

fn into_pb(owner: &[String; 6], at_ns: i64, metric: Metric) -> pb::Metric {
    let kind = match metric.descriptor.kind {
        MetricKind::Counter => pb::MetricType::Counter,
        MetricKind::Gauge => pb::MetricType::Gauge,
    };
    pb::Metric {
        name: metric.descriptor.name.to_owned(),
        timestamp: at_ns,
        metric_type: kind.into(),
        label_values: owner.iter().cloned().chain(metric.labels).collect(),
        value: Some(pb::UInt64Value { value: metric.value }),
    }
}
