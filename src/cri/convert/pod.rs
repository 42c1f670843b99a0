//! What a pod is asked to be.

use std::collections::HashMap;
use std::net::IpAddr;

use super::namespaces::{Asker, namespaces};
use super::security::{Kind, group, groups, id, policy, profile, selinux};
use super::{Field, Invalid, Mistakes, resources, shown, sysctl, text};
use crate::cri::pb;
use crate::pod::spec::{Dns, PodKey, PodSpec, PortMapping, Protocol};

/// Longest host name: HOST_NAME_MAX (sethostname(2)).
const MAX_HOSTNAME: usize = 64;
/// Entries of each list in a pod's resolv.conf. Libraries read fewer, files have had more.
const MAX_DNS: usize = 256;
/// Longest of these entries; a search list of 2048 characters is the longest Kubernetes makes.
const MAX_DNS_ENTRY: usize = 4_096;
/// Host ports of one pod: each one there is, for each protocol.
const MAX_PORTS: usize = 3 * 65_535;

/// Checks the `config` of a RunPodSandbox request and takes over the name of the handler.
///
/// Left to the caller, because it takes more than the request: whether the handler exists, and
/// whether the parent control group suits the cgroup driver.
pub fn pod_spec(config: Option<pb::PodSandboxConfig>, handler: String) -> Result<PodSpec, Invalid> {
    let Some(config) = config else { return Err(Invalid::new("config", "is missing")) };
    let mut mistakes = Mistakes::default();
    text::optional_name(&mut mistakes, &Field::root("runtime_handler"), &handler);
    let spec = convert(&mut mistakes, &Field::root("config"), config, handler);
    mistakes.finish(spec)
}

fn convert(
    m: &mut Mistakes,
    field: &Field<'_>,
    config: pb::PodSandboxConfig,
    handler: String,
) -> PodSpec {
    text::labels(m, &field.at("labels"), &config.labels);
    text::annotations(m, &field.at("annotations"), &config.annotations, text::POD_ANNOTATIONS);
    let linux = config.linux.unwrap_or_default();
    let linux_field = field.at("linux");
    let context = linux.security_context.unwrap_or_default();
    let c_field = linux_field.at("security_context");
    let options = c_field.at("namespace_options");
    let spaces = namespaces(m, &options, context.namespace_options, Asker::Pod);
    let seccomp = (context.seccomp, context.seccomp_profile_path.as_str());
    // No process of a pod is confined by it, but a wrong one is a mistake all the same.
    profile(m, &c_field, Kind::AppArmor, (context.apparmor, ""));
    let sums = resources::Of::Pod;
    let run_as_user = id(m, &c_field.at("run_as_user"), context.run_as_user.as_ref());
    let has_user = context.run_as_user.is_some();
    PodSpec {
        key: key(m, &field.at("metadata"), config.metadata),
        handler,
        hostname: hostname(m, &field.at("hostname"), config.hostname),
        log_directory: (!config.log_directory.is_empty())
            .then(|| text::absolute_path(m, &field.at("log_directory"), &config.log_directory)),
        dns: config.dns_config.map(|dns| resolver(m, &field.at("dns_config"), dns)),
        port_mappings: ports(m, &field.at("port_mappings"), &config.port_mappings),
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: cgroup_parent(m, &linux_field.at("cgroup_parent"), linux.cgroup_parent),
        sysctls: sysctl::sysctls(
            m,
            &linux_field.at("sysctls"),
            linux.sysctls,
            &spaces.network,
            &spaces.ipc,
        ),
        pid: spaces.pid,
        network: spaces.network,
        ipc: spaces.ipc,
        user_namespace: spaces.user,
        privileged: context.privileged,
        selinux: selinux(m, &c_field.at("selinux_options"), context.selinux_options),
        seccomp: profile(m, &c_field, Kind::Seccomp, seccomp),
        run_as_user,
        run_as_group: group(m, &c_field, context.run_as_group.as_ref(), has_user),
        supplemental_groups: groups(m, &c_field, &context.supplemental_groups),
        supplemental_groups_policy: policy(m, &c_field, context.supplemental_groups_policy),
        readonly_rootfs: context.readonly_rootfs,
        overhead: resources::resources(m, &linux_field.at("overhead"), linux.overhead, sums),
        resources: resources::resources(m, &linux_field.at("resources"), linux.resources, sums),
        restored_from: None,
    }
}

fn key(m: &mut Mistakes, field: &Field<'_>, metadata: Option<pb::PodSandboxMetadata>) -> PodKey {
    let Some(metadata) = metadata else {
        m.add(field, "is missing");
        return PodKey {
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            attempt: 0,
        };
    };
    text::name(m, &field.at("name"), &metadata.name);
    text::name(m, &field.at("namespace"), &metadata.namespace);
    // crictl sends none.
    text::optional_name(m, &field.at("uid"), &metadata.uid);
    PodKey {
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        attempt: metadata.attempt,
    }
}

/// A host name is one word of one line of /etc/hostname.
fn hostname(m: &mut Mistakes, field: &Field<'_>, name: String) -> Option<String> {
    if name.contains('/') || name.chars().any(char::is_whitespace) {
        m.add(field, format_args!("{} is not a host name", shown(&name)));
    } else {
        text::plain(m, field, &name, MAX_HOSTNAME);
    }
    (!name.is_empty()).then_some(name)
}

fn resolver(m: &mut Mistakes, field: &Field<'_>, dns: pb::DnsConfig) -> Dns {
    for (name, list) in
        [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)]
    {
        let here = field.at(name);
        text::at_most(m, &here, list, MAX_DNS);
        for (n, entry) in list.iter().enumerate() {
            text::plain(m, &here.index(n), entry, MAX_DNS_ENTRY);
        }
    }
    Dns { servers: dns.servers, searches: dns.searches, options: dns.options }
}

/// The ports of the node; a mapping without one is the kubelet's way of listing a port.
fn ports(m: &mut Mistakes, field: &Field<'_>, requested: &[pb::PortMapping]) -> Vec<PortMapping> {
    text::at_most(m, field, requested, MAX_PORTS);
    let mut checked: Vec<PortMapping> = Vec::new();
    let mut taken = HashMap::new();
    for (n, mapping) in requested.iter().take(MAX_PORTS).enumerate() {
        let Some(mapping) = port(m, &field.index(n), mapping) else { continue };
        let host = (mapping.protocol as u8, mapping.host_port, mapping.host_ip);
        match taken.insert(host, mapping.container_port) {
            None => checked.push(mapping),
            Some(same) if same == mapping.container_port => {}
            Some(_) => {
                let problem = format_args!("maps host port {} again", mapping.host_port);
                m.add(&field.index(n), problem);
            }
        }
    }
    checked
}

fn port(m: &mut Mistakes, field: &Field<'_>, mapping: &pb::PortMapping) -> Option<PortMapping> {
    let mut number = |name, value: i32, least: u16| {
        let port = u16::try_from(value).ok().filter(|port| *port >= least);
        if port.is_none() {
            m.add(&field.at(name), format_args!("{value} is not a port"));
        }
        port
    };
    let container_port = number("container_port", mapping.container_port, 1);
    let host_port = number("host_port", mapping.host_port, 0);
    let protocol = match pb::Protocol::try_from(mapping.protocol) {
        Ok(pb::Protocol::Tcp) => Some(Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Some(Protocol::Udp),
        Ok(pb::Protocol::Sctp) => Some(Protocol::Sctp),
        Err(_) => {
            m.add(&field.at("protocol"), format_args!("{} is not a protocol", mapping.protocol));
            None
        }
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => {
            let address: Result<IpAddr, _> = text.parse();
            if address.is_err() {
                m.add(&field.at("host_ip"), format_args!("{} is not an address", shown(text)));
            }
            address.ok()
        }
    };
    Some(PortMapping {
        protocol: protocol?,
        container_port: container_port?,
        host_port: host_port.filter(|port| *port != 0)?,
        host_ip,
    })
}

/// A path below the control groups' root, or a slice; which of them fits is for the driver to say.
fn cgroup_parent(m: &mut Mistakes, field: &Field<'_>, parent: String) -> Option<String> {
    text::relative_path(m, field, parent.trim_start_matches('/'));
    (!parent.is_empty()).then_some(parent)
}

/// The identity of a pod, for answers.
pub fn metadata_into_pb(key: &PodKey) -> pb::PodSandboxMetadata {
    pb::PodSandboxMetadata {
        name: key.name.clone(),
        uid: key.uid.clone(),
        namespace: key.namespace.clone(),
        attempt: key.attempt,
    }
}

#[cfg(test)]
mod tests;
