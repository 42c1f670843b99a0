//! Tests of the rules about pods.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::container::spec::NamespaceMode;

fn config() -> pb::PodSandboxConfig {
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            namespace: "default".to_owned(),
            attempt: u32::MAX,
        }),
        ..pb::PodSandboxConfig::default()
    }
}

fn convert_with(change: impl FnOnce(&mut pb::PodSandboxConfig)) -> Result<PodSpec, Invalid> {
    let mut config = config();
    change(&mut config);
    pod_spec(Some(config), String::new())
}

/// The only field that is wrong.
fn wrong(change: impl FnOnce(&mut pb::PodSandboxConfig)) -> String {
    let error = convert_with(change).expect_err("accepted");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].field.clone()
}

fn metadata(config: &mut pb::PodSandboxConfig) -> &mut pb::PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn context(config: &mut pb::PodSandboxConfig) -> &mut pb::LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn options(config: &mut pb::PodSandboxConfig) -> &mut pb::NamespaceOption {
    context(config).namespace_options.get_or_insert_default()
}

fn user_namespace(config: &mut pb::PodSandboxConfig) -> &mut pb::UserNamespace {
    options(config).userns_options.get_or_insert_default()
}

const RANGE: pb::IdMapping = pb::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };

#[test]
fn a_pod_needs_a_name_and_a_namespace_and_nothing_else() {
    assert_eq!(pod_spec(None, String::new()).unwrap_err().to_string(), "config: is missing");
    assert_eq!(wrong(|c| c.metadata = None), "config.metadata");
    assert_eq!(wrong(|c| metadata(c).name.clear()), "config.metadata.name");
    assert_eq!(wrong(|c| metadata(c).namespace.clear()), "config.metadata.namespace");
    let spec = convert_with(|c| metadata(c).uid.clear()).unwrap();
    assert_eq!(spec.key.attempt, u32::MAX);
    assert_eq!((spec.pid, spec.network, spec.ipc), Default::default());
    assert_eq!((spec.hostname, spec.dns, spec.user_namespace), (None, None, None));
}

#[test]
fn names_are_no_paths_and_no_lines_but_may_have_underscores() {
    for bad in ["a/b", "..", ".", "a\nb", "a\0b", &"a".repeat(254), "a\u{85}b"] {
        assert_eq!(wrong(|c| metadata(c).name = bad.to_owned()), "config.metadata.name");
        assert_eq!(wrong(|c| metadata(c).uid = bad.to_owned()), "config.metadata.uid");
    }
    for good in ["a_b", "pöd", &"a".repeat(253)] {
        assert!(convert_with(|c| metadata(c).name = good.to_owned()).is_ok());
    }
    let handler = pod_spec(Some(config()), "../x".to_owned()).unwrap_err();
    assert_eq!(handler.problems()[0].field, "runtime_handler");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let error = convert_with(|c| {
        metadata(c).name.clear();
        c.hostname = "a b".to_owned();
        c.log_directory = "logs".to_owned();
        c.port_mappings = vec![pb::PortMapping { protocol: 9, ..pb::PortMapping::default() }];
        options(c).network = 9;
    });
    let error = error.unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
    for field in [
        "config.metadata.name",
        "config.hostname",
        "config.log_directory",
        "config.port_mappings[0].container_port",
        "config.port_mappings[0].protocol",
        "config.linux.security_context.namespace_options.network",
    ] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
    assert_eq!(fields.len(), 6);
}

#[test]
fn labels_and_annotations_come_back_unaltered_or_are_refused_for_their_size() {
    let odd = BTreeMap::from([
        ("org.systemd.property.SuccessAction".to_owned(), "'poweroff-force'".to_owned()),
        (String::new(), "a=b\nc".to_owned()),
    ]);
    let spec = convert_with(|c| (c.labels, c.annotations) = (odd.clone(), odd.clone())).unwrap();
    assert_eq!((spec.labels, spec.annotations), (odd.clone(), odd));

    let one = |size: usize| BTreeMap::from([("k".to_owned(), "v".repeat(size - 1))]);
    assert!(convert_with(|c| c.labels = one(4096)).is_ok());
    assert_eq!(wrong(|c| c.labels = one(4097)), r#"config.labels["k"]"#);
    // An object at the API's bound, and what the kubelet adds.
    for size in [256 << 10, (256 << 10) + 1024, text::POD_ANNOTATIONS] {
        assert!(convert_with(|c| c.annotations = one(size)).is_ok(), "{size}");
    }
    assert_eq!(wrong(|c| c.annotations = one(text::POD_ANNOTATIONS + 1)), "config.annotations");
    let many = (0..100_000).map(|n| (n.to_string(), String::new())).collect();
    assert_eq!(wrong(|c| c.labels = many), "config.labels");
}

#[test]
fn a_log_directory_is_absolute_and_a_parent_group_stays_below_the_root() {
    for bad in ["logs", "/var/../log", "/a\nb", &format!("/{}", "a/".repeat(3000))] {
        assert_eq!(wrong(|c| c.log_directory = bad.to_owned()), "config.log_directory");
    }
    let spec = convert_with(|c| c.log_directory = "/var/log/pods/x".to_owned()).unwrap();
    assert_eq!(spec.log_directory, Some(PathBuf::from("/var/log/pods/x")));

    let parent = |c: &mut pb::PodSandboxConfig, text: &str| {
        c.linux.get_or_insert_default().cgroup_parent = text.to_owned();
    };
    for bad in ["../../x", "a/../b", "/kubepods/../..", "/a\0", &"/a".repeat(4096)] {
        assert_eq!(wrong(|c| parent(c, bad)), "config.linux.cgroup_parent", "{bad:?}");
    }
    for good in ["/", "/kubepods/x", "kubepods-burstable.slice"] {
        let spec = convert_with(|c| parent(c, good)).unwrap();
        assert_eq!(spec.cgroup_parent.as_deref(), Some(good));
    }
    assert_eq!(convert_with(|c| parent(c, "")).unwrap().cgroup_parent, None);
}

#[test]
fn a_host_name_is_one_word() {
    for bad in [&"a".repeat(65), "a\nb", "a\0", "a/b", "a b"] {
        assert_eq!(wrong(|c| c.hostname = bad.to_owned()), "config.hostname", "{bad:?}");
    }
    let spec = convert_with(|c| c.hostname = "a".repeat(64)).unwrap();
    assert_eq!(spec.hostname, Some("a".repeat(64)));
}

#[test]
fn an_absent_resolver_is_not_an_empty_one() {
    let spec = convert_with(|c| c.dns_config = Some(pb::DnsConfig::default())).unwrap();
    assert_eq!(spec.dns, Some(Dns::default()));
    for (field, place) in [("servers", 0), ("searches", 1), ("options", 2)] {
        let error = wrong(|c| {
            let mut lists = [vec![], vec![], vec![]];
            lists[place] = vec!["fine".to_owned(), "a\nnameserver 6.6.6.6".to_owned()];
            let [servers, searches, options] = lists;
            c.dns_config = Some(pb::DnsConfig { servers, searches, options });
        });
        assert_eq!(error, format!("config.dns_config.{field}[1]"));
    }
    let long = pb::DnsConfig { searches: vec!["a".repeat(2048)], ..pb::DnsConfig::default() };
    assert!(convert_with(|c| c.dns_config = Some(long)).is_ok());
}

#[test]
fn ports_are_ports_and_a_host_port_of_zero_is_no_mapping() {
    let mapping = |container_port, host_port, host_ip: &str| pb::PortMapping {
        container_port,
        host_port,
        host_ip: host_ip.to_owned(),
        ..pb::PortMapping::default()
    };
    let spec = convert_with(|c| {
        c.port_mappings = vec![
            mapping(80, 0, ""),
            mapping(80, 8080, "::"),
            mapping(80, 8080, "::"),
            mapping(65_535, 8080, "127.0.0.1"),
            pb::PortMapping { protocol: 2, ..mapping(80, 8080, "::") },
        ];
    });
    let ports: Vec<_> =
        spec.unwrap().port_mappings.iter().map(|p| (p.container_port, p.host_port)).collect();
    assert_eq!(ports, [(80, 8080), (65_535, 8080), (80, 8080)]);

    for (bad, field) in [
        (mapping(80, -1, ""), ".host_port"),
        (mapping(80, 65_536, ""), ".host_port"),
        (mapping(80, i32::MAX, ""), ".host_port"),
        (mapping(0, 80, ""), ".container_port"),
        (mapping(-1, 80, ""), ".container_port"),
        (mapping(65_536, 80, ""), ".container_port"),
        (mapping(80, 80, "999.1.1.1"), ".host_ip"),
    ] {
        let found = wrong(|c| c.port_mappings = vec![bad]);
        assert_eq!(found, format!("config.port_mappings[0]{field}"));
    }
    let twice = vec![mapping(80, 8080, ""), mapping(81, 8080, "")];
    assert_eq!(wrong(|c| c.port_mappings = twice), "config.port_mappings[1]");
}

#[test]
fn a_pods_namespaces_are_its_own_or_the_nodes() {
    let base = "config.linux.security_context.namespace_options";
    for bad in [1, 3, 9, -1] {
        assert_eq!(wrong(|c| options(c).network = bad), format!("{base}.network"));
        assert_eq!(wrong(|c| options(c).ipc = bad), format!("{base}.ipc"));
    }
    for bad in [3, 9] {
        assert_eq!(wrong(|c| options(c).pid = bad), format!("{base}.pid"));
    }
    let spec = convert_with(|c| {
        options(c).pid = pb::NamespaceMode::Container.into();
        options(c).network = pb::NamespaceMode::Node.into();
    });
    let spec = spec.unwrap();
    assert_eq!((&spec.pid, &spec.network), (&NamespaceMode::Container, &NamespaceMode::Node));
    let wire = crate::cri::convert::namespace_options(&spec);
    assert_eq!((wire.pid, wire.network, wire.ipc), (1, 2, 0));
}

#[test]
fn a_user_namespace_has_one_range_from_root_on() {
    let with = |ranges: Vec<pb::IdMapping>| {
        move |c: &mut pb::PodSandboxConfig| {
            user_namespace(c).uids = ranges.clone();
            user_namespace(c).gids = ranges;
        }
    };
    let spec = convert_with(with(vec![RANGE])).unwrap();
    assert_eq!(spec.user_namespace.as_ref().unwrap().uids[0].host_id, 65_536);
    let wire = crate::cri::convert::namespace_options(&spec).userns_options.unwrap();
    assert_eq!((wire.mode, wire.uids), (0, vec![RANGE]));

    let bad = [
        vec![],
        vec![RANGE, RANGE],
        vec![pb::IdMapping { container_id: 1, ..RANGE }],
        vec![pb::IdMapping { host_id: 0, ..RANGE }],
        vec![pb::IdMapping { length: 0, ..RANGE }],
        vec![pb::IdMapping { length: u32::MAX, ..RANGE }],
    ];
    for ranges in bad {
        assert!(convert_with(with(ranges.clone())).is_err(), "{ranges:?}");
    }
    let base = "config.linux.security_context.namespace_options.userns_options";
    let roots = |c: &mut pb::PodSandboxConfig| {
        with(vec![RANGE])(c);
        user_namespace(c).uids[0].host_id = 0;
        user_namespace(c).gids[0].host_id = 0;
    };
    let refused = convert_with(roots).unwrap_err().to_string();
    for ids in ["uids", "gids"] {
        assert!(refused.contains(&format!("{base}.{ids}[0].host_id: is 0")), "{refused}");
    }
    let uneven = |c: &mut pb::PodSandboxConfig| {
        with(vec![RANGE])(c);
        user_namespace(c).gids[0].host_id = 7;
    };
    assert_eq!(wrong(uneven), base);
    let node = |c: &mut pb::PodSandboxConfig| {
        with(vec![RANGE])(c);
        options(c).network = pb::NamespaceMode::Node.into();
    };
    assert_eq!(wrong(node), base);
    for mode in [1, 3, 9] {
        assert_eq!(wrong(|c| user_namespace(c).mode = mode), format!("{base}.mode"));
    }
    let node = pb::UserNamespace { mode: 2, ..pb::UserNamespace::default() };
    assert!(convert_with(|c| *user_namespace(c) = node.clone()).unwrap().user_namespace.is_none());
    let mapped = pb::UserNamespace { uids: vec![RANGE], ..node };
    assert_eq!(wrong(|c| *user_namespace(c) = mapped), base);
}

#[test]
fn a_group_without_a_user_and_negative_sums_are_refused() {
    let base = "config.linux.security_context";
    let group = |c: &mut pb::PodSandboxConfig| {
        context(c).run_as_group = Some(pb::Int64Value { value: 1 });
    };
    assert_eq!(wrong(group), format!("{base}.run_as_group"));
    let wrapped = |c: &mut pb::PodSandboxConfig| {
        context(c).run_as_user = Some(pb::Int64Value { value: 4_294_967_296 });
    };
    assert_eq!(wrong(wrapped), format!("{base}.run_as_user"));
    let negative = |c: &mut pb::PodSandboxConfig| {
        c.linux.get_or_insert_default().overhead.get_or_insert_default().cpu_shares = -1;
    };
    assert_eq!(wrong(negative), "config.linux.overhead.cpu_shares");
}

proptest! {
    /// Whatever is in the fields, conversion ends, and what it lets through has no second line.
    #[test]
    fn texts_that_get_through_are_of_one_line(
        name in any::<String>(),
        hostname in any::<String>(),
        server in any::<String>(),
        sysctl in any::<String>(),
        numbers in any::<[i32; 4]>(),
    ) {
        let converted = convert_with(|c| {
            metadata(c).name = name;
            c.hostname = hostname;
            c.dns_config =
                Some(pb::DnsConfig { servers: vec![server], ..pb::DnsConfig::default() });
            options(c).pid = numbers[0];
            c.port_mappings = vec![pb::PortMapping {
                protocol: numbers[1],
                container_port: numbers[2],
                host_port: numbers[3],
                host_ip: String::new(),
            }];
            c.linux.get_or_insert_default().sysctls =
                BTreeMap::from([(sysctl, "1".to_owned())]);
        });
        if let Ok(spec) = converted {
            let dns = spec.dns.unwrap();
            let texts = [&spec.key.name, &dns.servers[0]].into_iter().chain(&spec.hostname);
            for text in texts {
                prop_assert!(!text.chars().any(char::is_control));
            }
            prop_assert!(!spec.key.name.is_empty());
        }
    }
}
