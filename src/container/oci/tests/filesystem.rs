//! Mounts and devices.

use proptest::prelude::*;

use super::*;
use crate::container::ContainerError;

fn volume(path: &str, source: &str) -> Mount {
    Mount {
        container_path: path.into(),
        source: MountSource::Host(source.into()),
        readonly: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        selinux_relabel: false,
        options: Vec::new(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
    }
}

fn with_volumes(volumes: Vec<Mount>) -> Fixture {
    Fixture::with(|f| f.spec.mounts = volumes)
}

fn destinations(fixture: &Fixture) -> Vec<PathBuf> {
    let spec = fixture.build().unwrap().spec;
    spec.mounts().as_ref().unwrap().iter().map(|mount| mount.destination().clone()).collect()
}

/// The last mount at a path.
fn mount_at(fixture: &Fixture, path: &str) -> Value {
    let config = fixture.json();
    let mounts = config["mounts"].as_array().unwrap();
    mounts.iter().rfind(|mount| mount["destination"] == path).cloned().unwrap_or_default()
}

fn options(fixture: &Fixture, path: &str) -> Vec<String> {
    texts(&mount_at(fixture, path)["options"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn every_container_has_the_usual_mounts() {
    let fixture = Fixture::new();
    let expected = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/shm",
        "/etc/resolv.conf",
        "/etc/hostname",
    ];
    assert_eq!(destinations(&fixture), expected.map(PathBuf::from));
    assert_eq!(mount_at(&fixture, "/dev")["type"], "tmpfs");
    assert!(options(&fixture, "/sys").contains(&"ro".into()));
    assert!(options(&fixture, "/sys/fs/cgroup").contains(&"ro".into()));
    assert!(options(&fixture, "/dev/pts").contains(&"gid=5".into()));
    assert_eq!(mount_at(&fixture, "/dev/shm")["source"], "/run/pod/shm");
    let bound = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"];
    assert_eq!(options(&fixture, "/etc/hostname"), bound);
    assert_eq!(options(&fixture, "/etc/resolv.conf"), bound);
}

#[test]
fn privileges_and_a_read_only_root_change_access() {
    let privileged = Fixture::with(|f| f.spec.security.privileged = true);
    assert!(options(&privileged, "/sys").contains(&"rw".into()));
    assert!(options(&privileged, "/sys/fs/cgroup").contains(&"rw".into()));
    let readonly = Fixture::with(|f| f.spec.security.readonly_rootfs = true);
    assert!(options(&readonly, "/etc/resolv.conf").contains(&"ro".into()));
}

#[test]
fn what_the_user_namespace_does_not_own_is_bound_from_the_node() {
    let kinds = |fixture: &Fixture| {
        ["/proc", "/dev/mqueue", "/sys"].map(|path| mount_at(fixture, path)["type"].clone())
    };
    let user = |f: &mut Fixture| f.user = Some("/run/ns/user".into());
    assert_eq!(kinds(&Fixture::with(user)), ["proc", "mqueue", "sysfs"]);
    let node = |f: &mut Fixture| {
        (f.net, f.ipc) = (None, None);
        f.spec.security.pid = NamespaceMode::Node;
    };
    assert_eq!(kinds(&Fixture::with(node)), ["proc", "mqueue", "sysfs"]);
    let both = Fixture::with(|f| (user(f), node(f)).0);
    assert_eq!(kinds(&both), ["bind", "bind", "bind"]);
    let narrow = Fixture::with(|f| {
        user(f);
        f.ids = vec![IdMapping { host_id: 1, container_id: 0, length: 5 }];
    });
    assert!(!options(&narrow, "/dev/pts").contains(&"gid=5".into()));
}

#[test]
fn volumes_come_parents_first_and_the_last_of_equals_wins() {
    let fixture = with_volumes(vec![
        volume("/data/a/b", "/h/deep"),
        volume("/data", "/h/old"),
        volume("/x", "/h/x"),
        volume("/data", "/h/new"),
        volume("/data/a", "/h/a"),
    ]);
    let own: Vec<PathBuf> = destinations(&fixture).split_off(9);
    assert_eq!(own, ["/x", "/data", "/data/a", "/data/a/b"].map(PathBuf::from));
    assert_eq!(mount_at(&fixture, "/data")["source"], "/h/new");
    assert_eq!(fixture.warnings(), ["several mounts at /data, only the last is used"]);
}

#[test]
fn a_volume_replaces_the_usual_mounts_at_and_below_it() {
    let left = |path: &str| destinations(&with_volumes(vec![volume(path, "/h")])).len();
    assert_eq!(left("/etc/resolv.conf"), 9);
    assert_eq!(left("/etc"), 8, "resolv.conf and hostname");
    assert_eq!(left("/dev"), 6, "/dev, pts, mqueue and shm");
    assert_eq!(left("/sys/fs"), 9);
    assert_eq!(left("/etcetera"), 10);
}

#[test]
fn access_and_propagation_become_options() {
    let fixture = with_volumes(vec![
        Mount { readonly: true, ..volume("/ro", "/h") },
        Mount { readonly: true, recursive_read_only: true, ..volume("/rro", "/h") },
        Mount { propagation: Propagation::HostToContainer, ..volume("/slave", "/h") },
        Mount { options: vec!["noexec".into()], ..volume("/noexec", "/h") },
    ]);
    assert_eq!(options(&fixture, "/ro"), ["rbind", "rprivate", "ro"]);
    assert_eq!(options(&fixture, "/rro"), ["rbind", "rprivate", "ro", "rro"]);
    assert_eq!(options(&fixture, "/slave"), ["rbind", "rslave", "rw"]);
    assert_eq!(options(&fixture, "/noexec"), ["rbind", "rprivate", "rw", "noexec"]);
    assert_eq!(fixture.json()["linux"]["rootfsPropagation"], "rslave");
    let both = with_volumes(vec![
        Mount { propagation: Propagation::HostToContainer, ..volume("/a", "/h") },
        Mount { propagation: Propagation::Bidirectional, ..volume("/b", "/h") },
    ]);
    assert_eq!(both.json()["linux"]["rootfsPropagation"], "rshared");
}

#[test]
fn an_image_volume_is_read_only_and_comes_from_its_mount() {
    let image = Mount {
        source: MountSource::Image { image: ImageRequest::default(), sub_path: PathBuf::new() },
        ..volume("/model", "/unused")
    };
    let missing = with_volumes(vec![image.clone()]);
    assert_eq!(missing.build().unwrap_err().kind(), Kind::Internal);
    let fixture = Fixture::with(|f| {
        f.spec.mounts = vec![volume("/x", "/h"), image];
        f.image_volumes = vec![None, Some("/run/images/1".into())];
    });
    assert_eq!(mount_at(&fixture, "/model")["source"], "/run/images/1");
    assert_eq!(options(&fixture, "/model"), ["rbind", "rprivate", "ro"]);
}

#[test]
fn volumes_that_can_never_be_are_refused() {
    let rro = Mount { recursive_read_only: true, ..volume("/a", "/h") };
    let refused = [
        volume("relative", "/h"),
        volume("/", "/h"),
        volume("/a/../b", "/h"),
        volume("/proc", "/h"),
        volume("/proc/self/attr", "/h"),
        volume("/proc/sys", "/h"),
        rro.clone(),
        Mount { readonly: true, propagation: Propagation::HostToContainer, ..rro },
        Mount {
            uid_mappings: vec![IdMapping { host_id: 0, container_id: 0, length: 1 }],
            ..volume("/a", "/h")
        },
    ];
    for mount in refused {
        with_volumes(vec![mount]).refusal();
    }
    for (path, source) in [("/proc", "/proc"), ("/proc/meminfo", "/h"), ("/sys", "/sys")] {
        assert!(with_volumes(vec![volume(path, source)]).build().is_ok());
    }
}

#[test]
fn what_the_host_cannot_mount_is_said_in_the_kubelets_words() {
    let rro = Mount { readonly: true, recursive_read_only: true, ..volume("/a", "/h") };
    let error = Fixture::with(|f| {
        f.spec.mounts = vec![rro];
        f.host.rro = false;
    })
    .build()
    .unwrap_err();
    let told = ContainerError::spec("main".to_owned(), error);
    assert_eq!(told.kind(), Kind::Refused);
    assert!(told.to_string().starts_with("RROUnsupported: "));

    let mapping = vec![IdMapping { host_id: 7, container_id: 0, length: 9 }];
    let mut idmapped = Fixture::with(|f| {
        f.spec.mounts = vec![Mount {
            uid_mappings: mapping.clone(),
            gid_mappings: mapping,
            ..volume("/a", "/h")
        }];
    });
    let expected = json!([{"containerID": 0, "hostID": 7, "size": 9}]);
    assert_eq!(mount_at(&idmapped, "/a")["uidMappings"], expected);
    assert_eq!(mount_at(&idmapped, "/a")["gidMappings"], expected);
    idmapped.host.idmap = false;
    assert_eq!(idmapped.build().unwrap_err().kind(), Kind::Unsupported);
}

fn device(path: &str, permissions: &str) -> HostDevice {
    HostDevice {
        path: path.into(),
        kind: DeviceKind::Block,
        major: 8,
        minor: 1,
        mode: 0o60660,
        uid: 0,
        gid: 6,
        permissions: permissions.into(),
    }
}

#[test]
fn devices_are_closed_unless_asked_for() {
    let config = Fixture::with(|f| {
        f.spec.devices = vec![Device {
            container_path: "/dev/disk".into(),
            host_path: "/dev/sda1".into(),
            permissions: "r".into(),
        }];
        f.devices = vec![device("/dev/disk", "r")];
    })
    .json();
    assert_eq!(
        config["linux"]["devices"],
        json!([{
            "path": "/dev/disk", "type": "b", "major": 8, "minor": 1,
            "fileMode": 0o660, "uid": 0, "gid": 6,
        }])
    );
    let rules = config["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(rules[1], json!({"allow": true, "type": "c", "access": "m"}));
    let pts = json!({"allow": true, "type": "c", "major": 136, "access": "rwm"});
    assert!(rules.contains(&pts));
    let last = json!({"allow": true, "type": "b", "major": 8, "minor": 1, "access": "r"});
    assert_eq!(rules.last(), Some(&last));
    assert!(!rules[1..].iter().any(|rule| rule["major"].is_null() && rule["access"] != "m"));
}

/// Whether the last rule that fits opens a character device for reading or writing.
fn opens(config: &Value, (major, minor): (u64, u64)) -> bool {
    let fits = |rule: &&Value| {
        let is = |field: &str, number: u64| rule[field].is_null() || rule[field] == number;
        let access = rule["access"].as_str().unwrap_or("rwm");
        let kind = rule["type"].as_str().unwrap_or("a");
        is("major", major)
            && is("minor", minor)
            && (kind == "a" || kind == "c")
            && access.contains(['r', 'w'])
    };
    let rules = config["linux"]["resources"]["devices"].as_array().unwrap();
    rules.iter().rfind(fits).unwrap()["allow"] == true
}

#[test]
fn the_nodes_console_is_opened_by_privilege_or_request_alone() {
    const CONSOLE: (u64, u64) = (5, 1);
    for tty in [false, true] {
        let config = Fixture::with(|f| f.spec.tty = tty).json();
        assert!(!opens(&config, CONSOLE));
        assert!(opens(&config, (5, 0)) && opens(&config, (136, 7)) && !opens(&config, (4, 64)));
        let nodes = config["linux"]["devices"].as_array().unwrap();
        assert!(nodes.is_empty(), "{nodes:?}");
    }
    let asked =
        HostDevice { kind: DeviceKind::Char, major: 5, minor: 1, ..device("/dev/node", "rw") };
    assert!(opens(&Fixture::with(|f| f.devices = vec![asked]).json(), CONSOLE));
    assert!(opens(&Fixture::with(|f| f.spec.security.privileged = true).json(), CONSOLE));
}

#[test]
fn a_privileged_container_has_the_hosts_devices() {
    let config = Fixture::with(|f| {
        f.spec.security.privileged = true;
        f.devices = ["/dev/sda1", "/dev/pts/3", "/dev/ptmx", "/dev/console", "/dev/net/tun"]
            .map(|path| device(path, "rwm"))
            .into();
    })
    .json();
    let devices = config["linux"]["devices"].as_array().unwrap();
    let paths: Vec<&str> = devices.iter().map(|node| node["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/dev/sda1", "/dev/net/tun"]);
    let rules = &config["linux"]["resources"]["devices"];
    assert_eq!(*rules, json!([{"allow": true, "access": "rwm"}]));
}

#[test]
fn devices_that_can_never_be_are_refused() {
    for bad in [
        device("/proc/x", "r"),
        device("/sys/x", "r"),
        device("dev/x", "r"),
        device("/", "r"),
        device("/dev/../etc/x", "r"),
        device("/dev/x", "rwx"),
        device("/dev/x", ""),
    ] {
        Fixture::with(|f| f.devices = vec![bad]).refusal();
    }
    let many: Vec<HostDevice> = (0..8193).map(|n| device(&format!("/dev/d{n}"), "r")).collect();
    Fixture::with(|f| f.devices = many).refusal();
}

proptest! {
    /// Whatever is asked for, `/dev` is mounted, no path is mounted twice, and no mount comes
    /// before one that would cover it.
    #[test]
    fn mounts_never_cover_earlier_ones(
        paths in proptest::collection::vec("(/(dev|sys|etc|a|shm|fs|cgroup)){1,3}", 0..8)
    ) {
        let fixture = with_volumes(paths.iter().map(|path| volume(path, "/h")).collect());
        let list = destinations(&fixture);
        prop_assert!(list.iter().any(|path| path == Path::new("/dev")));
        for (index, later) in list.iter().enumerate() {
            for earlier in &list[..index] {
                prop_assert!(!earlier.starts_with(later), "{later:?} after {earlier:?}");
            }
        }
    }
}
