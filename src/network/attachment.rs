//! [`Attachment`]: one pod as its network sees it, and what plugins are told of it.

use std::path::PathBuf;

use cni::NetworkConfig;
use serde_json::{Map, Value, json};

use super::INTERFACE;
use super::bandwidth::Bandwidth;
use super::error::NetworkError;
use crate::pod::spec::{Dns, PortMapping, Protocol};

/// Most host ports of one pod. Plugins make several packet filter rules of each.
const MAX_PORT_MAPPINGS: usize = 1024;

/// One pod as its network sees it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The pod's id.
    pub pod: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its Kubernetes uid; may be empty.
    pub uid: String,
    /// Its host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Limits on its traffic; see [`Bandwidth::from_annotations`].
    pub bandwidth: Option<Bandwidth>,
    /// What its resolv.conf says.
    pub dns: Option<Dns>,
}

impl Attachment {
    pub(super) fn to_cni(&self) -> Result<cni::Attachment, NetworkError> {
        let count = self.port_mappings.len();
        if count > MAX_PORT_MAPPINGS {
            return Err(NetworkError::TooManyPorts { count, most: MAX_PORT_MAPPINGS });
        }
        Ok(cni::Attachment {
            container_id: self.pod.clone(),
            netns: Some(self.netns.clone()),
            ifname: INTERFACE.to_owned(),
            args: self.args(),
            capability_args: self.capability_args(),
        })
    }

    /// COMPAT: the names that plugins know from the kubelet's own CNI driver.
    fn args(&self) -> Vec<(String, String)> {
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &self.namespace),
            ("K8S_POD_NAME", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.pod),
            ("K8S_POD_UID", &self.uid),
        ];
        args.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// By the names of CNI's conventions ("Well-known Capabilities").
    fn capability_args(&self) -> Map<String, Value> {
        let mut args = Map::new();
        if !self.port_mappings.is_empty() {
            let mappings: Value = self.port_mappings.iter().map(port_mapping).collect();
            args.insert("portMappings".to_owned(), mappings);
        }
        if let Some(bandwidth) = self.bandwidth {
            args.insert("bandwidth".to_owned(), bandwidth.to_json());
        }
        if let Some(dns) = &self.dns {
            let Dns { servers, searches, options } = dns;
            let dns = json!({"servers": servers, "searches": searches, "options": options});
            args.insert("dns".to_owned(), dns);
        }
        args
    }

    /// CNI lets a capability that no plugin declares pass in silence; a pod without the host
    /// ports or the limits that it asked for is worth a line.
    pub(super) fn warn_of_what_is_not_declared(&self, config: &NetworkConfig) {
        let asked = [
            ("portMappings", !self.port_mappings.is_empty()),
            ("bandwidth", self.bandwidth.is_some()),
        ];
        for (capability, is_asked) in asked {
            if is_asked && !config.has_capability(capability) {
                tracing::warn!(
                    pod = self.pod,
                    network = config.name(),
                    capability,
                    "no plugin of the network has a capability that the pod needs"
                );
            }
        }
    }
}

fn port_mapping(mapping: &PortMapping) -> Value {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let mut fields = json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": protocol,
    });
    if let Some(ip) = mapping.host_ip {
        fields["hostIP"] = ip.to_string().into();
    }
    fields
}
