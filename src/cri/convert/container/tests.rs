//! Tests of the rules about containers.

use std::collections::BTreeMap;

use super::*;
use crate::container::spec::{IdMapping, UserNamespace};

fn config() -> pb::ContainerConfig {
    pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata { name: "app".to_owned(), attempt: 3 }),
        image: Some(pb::ImageSpec { image: "example.org/app:1".to_owned(), ..Default::default() }),
        ..pb::ContainerConfig::default()
    }
}

fn convert_with(change: impl FnOnce(&mut pb::ContainerConfig)) -> Result<ContainerSpec, Invalid> {
    let mut config = config();
    change(&mut config);
    container_spec(Some(config))
}

/// The only field that is wrong.
fn wrong(change: impl FnOnce(&mut pb::ContainerConfig)) -> String {
    let error = convert_with(change).expect_err("accepted");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].field.clone()
}

fn env(key: &str, value: &[u8]) -> pb::KeyValue {
    pb::KeyValue { key: key.to_owned(), value: value.to_vec() }
}

#[test]
fn a_container_needs_a_name_and_an_image() {
    assert_eq!(container_spec(None).unwrap_err().to_string(), "config: is missing");
    assert_eq!(wrong(|c| c.metadata = None), "config.metadata.name");
    assert_eq!(wrong(|c| c.image = None), "config.image");
    let nameless = |c: &mut pb::ContainerConfig| c.image = Some(pb::ImageSpec::default());
    assert_eq!(wrong(nameless), "config.image.image");
    let spec = convert_with(|_| ()).unwrap();
    assert_eq!(metadata_into_pb(&spec), config().metadata.unwrap());
    assert_eq!((spec.working_dir, spec.log_path, spec.stop_signal), (None, None, None));
}

#[test]
fn annotations_of_a_container_and_its_image_are_bounded() {
    let one = |size: usize| BTreeMap::from([("k".to_owned(), "v".repeat(size - 1))]);
    assert!(convert_with(|c| c.annotations = one(text::CONTAINER_ANNOTATIONS)).is_ok());
    let over = one(text::CONTAINER_ANNOTATIONS + 1);
    assert_eq!(wrong(|c| c.annotations = over), "config.annotations");
    let image = |c: &mut pb::ContainerConfig, size| {
        c.image.get_or_insert_default().annotations = one(size);
    };
    assert!(convert_with(|c| image(c, text::POD_ANNOTATIONS)).is_ok());
    assert_eq!(wrong(|c| image(c, text::POD_ANNOTATIONS + 1)), "config.image.annotations");
}

#[test]
fn arguments_fit_into_an_execve() {
    assert_eq!(wrong(|c| c.command = vec![String::new()]), "config.command[0]");
    assert_eq!(wrong(|c| c.args = vec!["a".to_owned(), "\0".to_owned()]), "config.args[1]");
    assert_eq!(wrong(|c| c.args = vec!["a".repeat(128 * 1024)]), "config.args[0]");
    assert!(convert_with(|c| c.args = vec!["a".repeat(128 * 1024 - 1), String::new()]).is_ok());
    assert_eq!(wrong(|c| c.args = vec!["a".to_owned(); 1_000_000]), "config");
    assert_eq!(wrong(|c| c.envs = vec![env("A", &[b'a'; 100_000]); 21]), "config");
}

#[test]
fn variables_have_names_and_values_that_config_json_can_hold() {
    for bad in ["", "A=B", "A\0", "A\nB"] {
        assert_eq!(wrong(|c| c.envs = vec![env(bad, b"x")]), "config.envs[0].key", "{bad:?}");
    }
    assert_eq!(wrong(|c| c.envs = vec![env("A", b"x\0")]), "config.envs[0].value");
    assert_eq!(wrong(|c| c.envs = vec![env("A", b"\xff")]), "config.envs[0].value");
    let lines = vec![env("A", b"1\n2"), env("A", b"=3"), env("b.c-d e", b"")];
    let spec = convert_with(|c| c.envs = lines).unwrap();
    assert_eq!(spec.envs[0], ("A".to_owned(), b"1\n2".to_vec()));
    assert_eq!(spec.envs.len(), 3);
}

#[test]
fn no_home_adds_a_line_to_a_password_file() {
    let home = |value: &[u8]| convert_with(|c| c.envs = vec![env("HOME", value)]);
    let attack = b"/root:/sbin/nologin\ntest::0:0::/:/bin/bash";
    let next_line = "/a\u{85}b".as_bytes();
    let line_separator = "/a\u{2028}b".as_bytes();
    for bad in [&attack[..], b"/a\rb", b"/a\0b", b"/a\x85b", next_line, line_separator] {
        let error = home(bad).unwrap_err().to_string();
        assert!(error.starts_with("config.envs[0].value: ") && !error.contains("nologin"));
    }
    assert_eq!(home(br"/root\nx").unwrap().envs[0].1, br"/root\nx");
}

#[test]
fn no_error_repeats_the_value_of_a_variable() {
    let error = convert_with(|c| c.envs = vec![env("TOKEN", b"hunter2\0")]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn a_working_directory_is_absolute() {
    for bad in ["a", "/a/..", "/proc//self/fd/7/../..", "/a\n"] {
        let error = convert_with(|c| c.working_dir = bad.to_owned()).expect_err(bad);
        assert_eq!(error.problems()[0].field, "config.working_dir", "{bad:?}");
    }
    for good in ["/", "/a/b/", "/process/self"] {
        assert!(convert_with(|c| c.working_dir = good.to_owned()).is_ok(), "{good}");
    }
}

#[test]
fn a_log_stays_below_the_pods_directory_and_is_a_file() {
    let long = format!("{}/0.log", "a".repeat(256));
    for bad in ["/abs", "../x", "a/../../b", "a\0", "a/", ".", "a/.", long.as_str()] {
        assert_eq!(wrong(|c| c.log_path = bad.to_owned()), "config.log_path", "{bad:?}");
    }
    let spec = convert_with(|c| c.log_path = "app/0.log".to_owned()).unwrap();
    assert_eq!(spec.log_path, Some(PathBuf::from("app/0.log")));
}

#[test]
fn the_parts_for_windows_are_ignored_and_wrong_numbers_are_not() {
    let windows = Some(pb::WindowsContainerConfig::default());
    assert!(convert_with(|c| c.windows = windows).is_ok());
    assert_eq!(wrong(|c| c.stop_signal = 200), "config.stop_signal");
    let pid = |mode: i32, target: &str| {
        let options = pb::NamespaceOption {
            pid: mode,
            target_id: target.to_owned(),
            ..pb::NamespaceOption::default()
        };
        move |c: &mut pb::ContainerConfig| {
            let linux = c.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().namespace_options = Some(options);
        }
    };
    let base = "config.linux.security_context.namespace_options";
    assert_eq!(wrong(pid(3, "")), format!("{base}.target_id"));
    assert_eq!(wrong(pid(3, "../x")), format!("{base}.target_id"));
    assert_eq!(wrong(pid(0, "abc")), format!("{base}.target_id"));
    assert_eq!(wrong(pid(9, "")), format!("{base}.pid"));
    let spec = convert_with(pid(3, "abc")).unwrap();
    assert_eq!(spec.security.pid, NamespaceMode::Target("abc".to_owned()));
}

#[test]
fn no_container_gets_what_its_pod_has_not() {
    let metadata = pb::PodSandboxMetadata {
        name: "p".to_owned(),
        namespace: "n".to_owned(),
        ..pb::PodSandboxMetadata::default()
    };
    let pod = pb::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let mut pod = super::super::pod::pod_spec(Some(pod), String::new()).unwrap();
    let plain = convert_with(|_| ()).unwrap();
    assert_eq!(check_against_pod(&pod, &plain), Ok(()));

    let refused = |pod: &PodSpec, change: &dyn Fn(&mut ContainerSpec)| {
        let mut spec = plain.clone();
        change(&mut spec);
        check_against_pod(pod, &spec).err().map(|error| error.problems()[0].field.clone())
    };
    let base = "config.linux.security_context";
    let privileged = |spec: &mut ContainerSpec| spec.security.privileged = true;
    assert_eq!(refused(&pod, &privileged), Some(format!("{base}.privileged")));
    let node = |spec: &mut ContainerSpec| spec.security.pid = NamespaceMode::Node;
    assert_eq!(refused(&pod, &node), Some(format!("{base}.namespace_options.pid")));

    let range = IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
    let user = UserNamespace { uids: vec![range], gids: vec![range] };
    let mapped = |spec: &mut ContainerSpec| spec.security.user_namespace = Some(user.clone());
    let place = format!("{base}.namespace_options.userns_options");
    assert_eq!(refused(&pod, &mapped), Some(place));

    pod.privileged = true;
    pod.pid = NamespaceMode::Node;
    pod.user_namespace = Some(user.clone());
    assert_eq!(refused(&pod, &privileged), None);
    assert_eq!(refused(&pod, &node), None);
    assert_eq!(refused(&pod, &mapped), None);

    let volume = |uid: IdMapping| {
        let mount = pb::Mount {
            container_path: "/v".to_owned(),
            host_path: "/v".to_owned(),
            ..pb::Mount::default()
        };
        let spec = convert_with(|c| c.mounts = vec![mount]).unwrap();
        move |target: &mut ContainerSpec| {
            target.mounts = spec.mounts.clone();
            target.mounts[0].uid_mappings = vec![uid];
            target.mounts[0].gid_mappings = vec![range];
        }
    };
    assert_eq!(refused(&pod, &volume(range)), None);
    let other = IdMapping { host_id: 1, ..range };
    assert_eq!(refused(&pod, &volume(other)), Some("config.mounts[0]".to_owned()));
}
