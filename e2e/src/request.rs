//! Requests as the kubelet makes them, to be changed by a test in the one place that matters.

use std::sync::atomic::{AtomicU32, Ordering};

use crisol::cri::pb;

use crate::cri::image_spec;
use crate::node::Node;

/// A pod with everything that the kubelet always sets; its uid is new each time.
pub fn pod(node: &Node, name: &str) -> pb::PodSandboxConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let uid = format!("uid-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let namespaces =
        pb::NamespaceOption { pid: pb::NamespaceMode::Container.into(), ..Default::default() };
    let log_directory = node.log_dir().join(format!("default_{name}_{uid}"));
    // The kubelet makes it; without it the daemon does.
    std::fs::create_dir_all(&log_directory).ok();
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.clone(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: log_directory.display().to_string(),
        dns_config: Some(pb::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: [("io.kubernetes.pod.name".to_owned(), name.to_owned())].into(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup().to_owned(),
            security_context: Some(pb::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A pod on the node's network, for tests that are not about networks: it starts much faster.
pub fn host_network_pod(node: &Node, name: &str) -> pb::PodSandboxConfig {
    let mut config = pod(node, name);
    namespaces(&mut config).network = pb::NamespaceMode::Node.into();
    config
}

/// The namespace options of a pod's request.
pub fn namespaces(config: &mut pb::PodSandboxConfig) -> &mut pb::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

/// A container that runs `command`, with a log and the pod's namespaces.
pub fn container(name: &str, image: &str, command: &[&str]) -> pb::ContainerConfig {
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image_spec(image)),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}/0.log"),
        labels: [("io.kubernetes.container.name".to_owned(), name.to_owned())].into(),
        linux: Some(pb::LinuxContainerConfig {
            security_context: Some(pb::LinuxContainerSecurityContext {
                namespace_options: Some(pb::NamespaceOption {
                    pid: pb::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            resources: Some(pb::LinuxContainerResources::default()),
        }),
        ..Default::default()
    }
}

/// Gives the container the namespaces of its pod, as the kubelet does.
pub fn share_namespaces(config: &mut pb::ContainerConfig, pod: &pb::PodSandboxConfig) {
    let of_pod = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.namespace_options.clone());
    security(config).namespace_options = of_pod;
}

/// A container that runs a line of shell.
pub fn shell(name: &str, image: &str, line: &str) -> pb::ContainerConfig {
    container(name, image, &["/bin/sh", "-c", line])
}

/// The security context of a container's request.
pub fn security(config: &mut pb::ContainerConfig) -> &mut pb::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The resources of a container's request.
pub fn resources(config: &mut pb::ContainerConfig) -> &mut pb::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}
