//! Requests that can never succeed: refused by the name of the field, and nothing is left behind.
//!
//! Each row is one change to a request that would succeed.

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::Node;
use e2e::request::{self, namespaces, resources, security};
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use tonic::Code;

/// What a row changes.
enum Change {
    Pod(fn(&mut pb::PodSandboxConfig)),
    Handler(&'static str),
    Container(fn(&mut pb::ContainerConfig)),
}
use Change::{Container, Handler, Pod};

/// A change, and a word of the field that the message must name.
type Row = (&'static str, Change);

fn linux(config: &mut pb::PodSandboxConfig) -> &mut pb::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn metadata(config: &mut pb::PodSandboxConfig) -> &mut pb::PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn sysctl(config: &mut pb::PodSandboxConfig, name: &str, value: &str) {
    linux(config).sysctls.insert(name.to_owned(), value.to_owned());
}

fn mapping(config: &mut pb::PodSandboxConfig, container_port: i32, host_port: i32, ip: &str) {
    config.port_mappings = vec![pb::PortMapping {
        container_port,
        host_port,
        host_ip: ip.to_owned(),
        ..pb::PortMapping::default()
    }];
}

fn env(config: &mut pb::ContainerConfig, key: &str, value: &str) {
    config.envs = vec![pb::KeyValue { key: key.to_owned(), value: value.into() }];
}

fn mount(config: &mut pb::ContainerConfig, host: &str, container: &str) {
    config.mounts = vec![pb::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        ..pb::Mount::default()
    }];
}

fn number(value: i64) -> Option<pb::Int64Value> {
    Some(pb::Int64Value { value })
}

const ROWS: &[Row] = &[
    ("metadata", Pod(|c| c.metadata = None)),
    ("name", Pod(|c| metadata(c).name.clear())),
    ("namespace", Pod(|c| metadata(c).namespace.clear())),
    ("name", Pod(|c| metadata(c).name = "a/b".to_owned())),
    ("name", Pod(|c| metadata(c).name = "a\nb".to_owned())),
    ("name", Pod(|c| metadata(c).name = "n".repeat(4096))),
    ("runtime_handler", Handler("nope")),
    ("runtime_handler", Handler("../runc")),
    ("hostname", Pod(|c| c.hostname = "a\nb".to_owned())),
    ("hostname", Pod(|c| c.hostname = "h".repeat(65))),
    ("log_directory", Pod(|c| c.log_directory = "relative".to_owned())),
    ("log_directory", Pod(|c| c.log_directory = "/var/log/../../etc".to_owned())),
    ("dns", Pod(|c| c.dns_config.get_or_insert_default().servers = vec!["1.1.1.1\nx".to_owned()])),
    ("dns", Pod(|c| c.dns_config.get_or_insert_default().searches = vec!["a b\n".to_owned()])),
    ("port", Pod(|c| mapping(c, 0, 80, ""))),
    ("port", Pod(|c| mapping(c, 80, 65536, ""))),
    ("port", Pod(|c| mapping(c, 80, -1, ""))),
    ("host_ip", Pod(|c| mapping(c, 80, 18_081, "999.1.1.1"))),
    ("sysctl", Pod(|c| sysctl(c, "kernel.panic", "1"))),
    ("sysctl", Pod(|c| sysctl(c, "vm.swappiness", "1"))),
    ("sysctl", Pod(|c| sysctl(c, "net/../kernel/panic", "1"))),
    ("net.core.somaxconn", Pod(|c| sysctl(c, "net.core.somaxconn", "not a number"))),
    (
        "sysctl",
        Pod(|c| {
            namespaces(c).network = pb::NamespaceMode::Node.into();
            sysctl(c, "net.core.somaxconn", "77");
        }),
    ),
    (
        "sysctl",
        Pod(|c| {
            namespaces(c).ipc = pb::NamespaceMode::Node.into();
            sysctl(c, "kernel.shm_rmid_forced", "1");
        }),
    ),
    ("cgroup_parent", Pod(|c| linux(c).cgroup_parent = "/../../escape".to_owned())),
    ("cgroup_parent", Pod(|c| linux(c).cgroup_parent = "/a\nb".to_owned())),
    ("network", Pod(|c| namespaces(c).network = 9)),
    ("network", Pod(|c| namespaces(c).network = pb::NamespaceMode::Container.into())),
    (
        "run_as",
        Pod(|c| {
            linux(c).security_context.get_or_insert_default().run_as_group = number(5);
        }),
    ),
    ("metadata", Container(|c| c.metadata = None)),
    ("name", Container(|c| c.metadata.get_or_insert_default().name.clear())),
    ("image", Container(|c| c.image = None)),
    ("log_path", Container(|c| c.log_path = "../../escape.log".to_owned())),
    ("log_path", Container(|c| c.log_path = "/absolute.log".to_owned())),
    ("log_path", Container(|c| c.log_path = "a\0b".to_owned())),
    ("command", Container(|c| c.command = vec!["a\0b".to_owned()])),
    ("working_dir", Container(|c| c.working_dir = "relative".to_owned())),
    ("env", Container(|c| env(c, "", "x"))),
    ("env", Container(|c| env(c, "A=B", "x"))),
    ("env", Container(|c| env(c, "A\nB", "x"))),
    ("env", Container(|c| env(c, "A", "x\0y"))),
    ("run_as_user", Container(|c| security(c).run_as_user = number(4_294_967_296))),
    ("run_as_user", Container(|c| security(c).run_as_user = number(-1))),
    ("run_as_group", Container(|c| security(c).run_as_group = number(5))),
    ("supplemental_groups", Container(|c| security(c).supplemental_groups = vec![4_294_967_296])),
    ("user", Container(|c| security(c).run_as_username = "nobody-here".to_owned())),
    (
        "capabilit",
        Container(|c| {
            security(c).capabilities.get_or_insert_default().add_capabilities =
                vec!["NO_SUCH".to_owned()];
        }),
    ),
    ("privileged", Container(|c| security(c).privileged = true)),
    ("seccomp", Container(|c| security(c).seccomp = Some(localhost("relative.json")))),
    ("seccomp", Container(|c| security(c).seccomp = Some(localhost("/no/such/profile.json")))),
    ("masked_paths", Container(|c| security(c).masked_paths = vec!["relative".to_owned()])),
    ("mounts", Container(|c| mount(c, "/no/such/source", "/x"))),
    ("mounts", Container(|c| mount(c, "relative", "/x"))),
    ("mounts", Container(|c| mount(c, "/tmp", "relative"))),
    ("mounts", Container(|c| mount(c, "/tmp", "/x/../../y"))),
    ("mounts", Container(|c| mount(c, "/tmp", "/"))),
    (
        "mounts",
        Container(|c| {
            mount(c, "/tmp", "/x");
            c.mounts[0].propagation = 9;
        }),
    ),
    (
        "recursive_read_only",
        Container(|c| {
            mount(c, "/tmp", "/x");
            c.mounts[0].recursive_read_only = true;
        }),
    ),
    (
        "device",
        Container(|c| {
            c.devices = vec![pb::Device {
                host_path: "/dev/no-such-device".to_owned(),
                container_path: "/dev/x".to_owned(),
                permissions: "rw".to_owned(),
            }];
        }),
    ),
    (
        "CDI_devices",
        Container(|c| c.cdi_devices = vec![pb::CdiDevice { name: "no-device".to_owned() }]),
    ),
    ("cpu_shares", Container(|c| resources(c).cpu_shares = -1)),
    ("oom_score_adj", Container(|c| resources(c).oom_score_adj = 1001)),
    ("cpuset", Container(|c| resources(c).cpuset_cpus = "0-".to_owned())),
    ("memory", Container(|c| resources(c).memory_limit_in_bytes = -2)),
];

fn localhost(path: &str) -> pb::SecurityProfile {
    pb::SecurityProfile {
        profile_type: pb::security_profile::ProfileType::Localhost.into(),
        localhost_ref: path.to_owned(),
    }
}

pub(crate) fn each_is_refused_by_the_name_of_its_field(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let good_pod = request::host_network_pod(&node, "good");
    let pod = node.cri().run_pod(&good_pod)?;
    let before = node.traces();
    let mut wrong = Vec::new();
    for (index, (field, change)) in ROWS.iter().enumerate() {
        let case = Case { node: &node, pod: &pod, pod_config: &good_pod, image: &image };
        if let Err(error) = case.refused(field, change) {
            wrong.push(format!("row {index} ({field}): {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
    ensure_nothing_new(&before, || node.traces())?;
    // A bad request is nobody's business but its own: the pod it was about is as before.
    ensure!(node.cri().pod(&pod)?.state() == pb::PodSandboxState::SandboxReady);
    Ok(())
}

struct Case<'a> {
    node: &'a Node,
    pod: &'a str,
    pod_config: &'a pb::PodSandboxConfig,
    image: &'a str,
}

impl Case<'_> {
    fn refused(&self, field: &str, change: &Change) -> Result<()> {
        let result = match change {
            Pod(change) => {
                let mut config = request::pod(self.node, "bad");
                change(&mut config);
                self.node.cri().run_pod(&config)
            }
            Handler(name) => self.node.cri().run_pod_with(&request::pod(self.node, "bad"), name),
            Container(change) => {
                let mut config = request::container("bad", self.image, &["/bin/true"]);
                request::share_namespaces(&mut config, self.pod_config);
                change(&mut config);
                self.node.cri().create(self.pod, &config, self.pod_config)
            }
        };
        let made = result.as_ref().ok().cloned();
        if let Some(id) = &made {
            self.node.cri().remove(id).ok();
            if !matches!(change, Container(_)) {
                self.node.cri().drop_pod(id).ok();
            }
        }
        let status = result.err().context("accepted")?;
        ensure!(
            status.code() == Code::InvalidArgument,
            "{:?}: {}",
            status.code(),
            status.message()
        );
        ensure!(status.message().contains(field), "does not name it: {}", status.message());
        ensure!(!status.message().contains('\n'), "more than one line: {:?}", status.message());
        Ok(())
    }
}
