//! What a request becomes, field by field. [`runtime`] hands the result to real runtimes.

#![allow(clippy::unwrap_used)]

mod confinement;
mod filesystem;
mod limits;
mod process;
mod runtime;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::container::spec::{
    Capabilities, Device, ImageRequest, Mount, MountSource, NamespaceMode, Profile, Propagation,
    Resources, Security,
};
use crate::error::{Classify, Kind};

/// Everything that [`Inputs`] borrows, with defaults that build.
pub(super) struct Fixture {
    pub(super) spec: ContainerSpec,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) image_env: Vec<String>,
    pub(super) image_dir: String,
    pub(super) host: HostFacts,
    pub(super) identity: Identity,
    pub(super) rootfs: PathBuf,
    pub(super) image_volumes: Vec<Option<PathBuf>>,
    pub(super) seccomp: Option<String>,
    pub(super) devices: Vec<HostDevice>,
    /// Network, IPC, UTS, pid, target and user namespace.
    pub(super) net: Option<PathBuf>,
    pub(super) ipc: Option<PathBuf>,
    pub(super) uts: Option<PathBuf>,
    pub(super) pid: Option<PathBuf>,
    pub(super) pid_target: Option<PathBuf>,
    pub(super) user: Option<PathBuf>,
    pub(super) ids: Vec<IdMapping>,
    pub(super) files: PathBuf,
    pub(super) cgroups_path: String,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Fixture {
            spec: container_spec(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            image_env: Vec::new(),
            image_dir: String::new(),
            host: host_facts(),
            identity: Identity { uid: 0, gid: 0, additional_gids: vec![0], home: None },
            rootfs: "/rootfs".into(),
            image_volumes: Vec::new(),
            seccomp: None,
            devices: Vec::new(),
            net: Some("/run/ns/net".into()),
            ipc: Some("/run/ns/ipc".into()),
            uts: Some("/run/ns/uts".into()),
            pid: None,
            pid_target: None,
            user: None,
            ids: vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }],
            files: "/run/pod".into(),
            cgroups_path: "/pods/one".into(),
        }
    }

    /// A fixture after a change.
    pub(super) fn with(change: impl FnOnce(&mut Fixture)) -> Self {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        fixture
    }

    pub(super) fn build(&self) -> Result<Built, SpecError> {
        let image = ImageDefaults {
            entrypoint: &self.entrypoint,
            cmd: &self.cmd,
            env: &self.image_env,
            working_dir: &self.image_dir,
        };
        let (resolv_conf, hostname_file, shm) =
            (self.files.join("resolv.conf"), self.files.join("hostname"), self.files.join("shm"));
        let ids = &self.ids;
        let user = |path| PodUserNamespace { path, uids: ids, gids: ids };
        let pod = PodPaths {
            id: "p0d",
            name: "web",
            namespace: "shop",
            uid: "u1d",
            hostname: "web-0",
            net: self.net.as_deref(),
            ipc: self.ipc.as_deref(),
            uts: self.uts.as_deref(),
            pid: self.pid.as_deref(),
            pid_target: self.pid_target.as_deref(),
            user: self.user.as_deref().map(user),
            resolv_conf: &resolv_conf,
            hostname_file: &hostname_file,
            shm: &shm,
            cgroups_path: &self.cgroups_path,
        };
        build(&Inputs {
            spec: &self.spec,
            image: &image,
            pod: &pod,
            host: &self.host,
            identity: &self.identity,
            rootfs: &self.rootfs,
            image_volumes: &self.image_volumes,
            localhost_seccomp: self.seccomp.as_deref(),
            host_devices: &self.devices,
        })
    }

    /// The configuration as the runtime reads it.
    pub(super) fn json(&self) -> Value {
        serde_json::to_value(self.build().unwrap().spec).unwrap()
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.build().unwrap().warnings
    }

    /// The message of a refusal that is the caller's fault.
    pub(super) fn refusal(&self) -> String {
        let error = self.build().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        error.to_string()
    }
}

fn container_spec() -> ContainerSpec {
    ContainerSpec {
        name: "main".into(),
        attempt: 0,
        image: ImageRequest::default(),
        command: vec!["/bin/true".into()],
        args: Vec::new(),
        working_dir: None,
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: [("label".into(), "kept out".into())].into(),
        annotations: [
            ("org.systemd.property.SuccessAction".into(), "'poweroff-force'".into()),
            ("run.oci.hooks.stderr".into(), "/etc/x".into()),
            (" io.kubernetes.cri-o.UnifiedCgroup.main".into(), "memory.max=max".into()),
        ]
        .into(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
        resources: Resources::default(),
        security: Security::default(),
        restored_from: None,
    }
}

fn host_facts() -> HostFacts {
    HostFacts {
        oci_version: "1.0.2".into(),
        kernel: (6, 18),
        cgroup_v2: true,
        bounding: CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
        oom_score_adj_min: -1000,
        seccomp: true,
        apparmor: false,
        selinux: false,
        default_apparmor: None,
        rro: true,
        idmap: true,
        hugetlb: true,
        swap_accounting: true,
    }
}

/// Texts of a JSON list.
pub(super) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn nothing_but_what_was_asked_is_in_the_configuration() {
    let config = Fixture::new().json();
    let keys = |value: &Value| -> Vec<String> {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(
        keys(&config),
        ["annotations", "linux", "mounts", "ociVersion", "process", "root"],
        "the crate's examples must not show"
    );
    assert_eq!(
        keys(&config["process"]),
        [
            "args",
            "capabilities",
            "cwd",
            "env",
            "noNewPrivileges",
            "oomScoreAdj",
            "terminal",
            "user"
        ]
    );
    assert_eq!(keys(&config["process"]["user"]), ["additionalGids", "gid", "uid"]);
    assert_eq!(
        keys(&config["linux"]),
        ["cgroupsPath", "devices", "maskedPaths", "namespaces", "readonlyPaths", "resources"]
    );
    assert_eq!(keys(&config["linux"]["resources"]), ["devices"]);
    assert_eq!(config["root"], json!({"path": "/rootfs", "readonly": false}));
    assert_eq!(config["ociVersion"], "1.0.2");
}

#[test]
fn annotations_are_ours_alone() {
    assert_eq!(
        Fixture::new().json()["annotations"],
        json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": "main",
            "io.kubernetes.cri.sandbox-id": "p0d",
            "io.kubernetes.cri.sandbox-name": "web",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.sandbox-uid": "u1d",
        })
    );
}

#[test]
fn namespaces_are_those_of_the_pod() {
    let namespaces = |fixture: Fixture| fixture.json()["linux"]["namespaces"].clone();
    assert_eq!(
        namespaces(Fixture::new()),
        json!([
            {"type": "mount"},
            {"type": "network", "path": "/run/ns/net"},
            {"type": "ipc", "path": "/run/ns/ipc"},
            {"type": "uts", "path": "/run/ns/uts"},
            {"type": "pid"},
            {"type": "cgroup"},
        ])
    );
    let node = Fixture::with(|f| {
        (f.net, f.ipc, f.uts) = (None, None, None);
        f.spec.security.pid = NamespaceMode::Node;
        f.host.cgroup_v2 = false;
    });
    assert_eq!(namespaces(node), json!([{"type": "mount"}]));
    let shared = Fixture::with(|f| {
        f.pid = Some("/run/ns/pid".into());
        f.spec.security.privileged = true;
    });
    let list = namespaces(shared);
    assert_eq!(list[4], json!({"type": "pid", "path": "/run/ns/pid"}));
    assert_eq!(list[5], Value::Null, "a privileged container keeps the node's cgroup namespace");
}

#[test]
fn the_process_namespace_of_a_target_is_joined_or_missed() {
    let target = |f: &mut Fixture| {
        f.pid = Some("/run/ns/pid".into());
        f.spec.security.pid = NamespaceMode::Target("c1".into());
    };
    let error = Fixture::with(target).build().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let found = Fixture::with(|f| {
        target(f);
        f.pid_target = Some("/proc/7/ns/pid".into());
    });
    let expected = json!({"type": "pid", "path": "/proc/7/ns/pid"});
    assert_eq!(found.json()["linux"]["namespaces"][4], expected);
}

#[test]
fn a_user_namespace_comes_with_its_mappings() {
    let config = Fixture::with(|f| f.user = Some("/run/ns/user".into())).json();
    let linux = &config["linux"];
    assert_eq!(linux["namespaces"][1], json!({"type": "user", "path": "/run/ns/user"}));
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    assert_eq!(linux["uidMappings"], mapping);
    assert_eq!(linux["gidMappings"], mapping);
}
