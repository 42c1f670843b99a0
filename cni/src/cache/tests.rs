use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn entry(container: &str) -> Entry {
    Entry {
        kind: KIND.to_owned(),
        container_id: container.to_owned(),
        config: br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"p"}]}"#.to_vec(),
        if_name: "eth0".to_owned(),
        network_name: "n".to_owned(),
        netns: "/ns".to_owned(),
        cni_args: vec![("K".to_owned(), "V".to_owned())],
        capability_args: Map::new(),
        result: None,
    }
}

#[test]
fn an_entry_has_libcnis_name_and_form_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    cache.save(&entry("abc")).unwrap();
    let path = dir.path().join("results/n-abc-eth0");
    let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        value,
        json!({
            "kind": "cniCacheV1",
            "containerId": "abc",
            "config": BASE64.encode(&entry("abc").config),
            "ifName": "eth0",
            "networkName": "n",
            "netns": "/ns",
            "cniArgs": [["K", "V"]],
        })
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file");
}

#[test]
fn entries_are_found_listed_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    assert_eq!(cache.list().unwrap().0, [], "a cache that was never written is empty");
    let mut second = entry("b");
    second.result = Some(json!({"cniVersion": "1.0.0"}));
    cache.save(&entry("a")).unwrap();
    cache.save(&entry("b")).unwrap();
    cache.save(&second).unwrap();
    assert_eq!(cache.find("n", "b", "eth0").unwrap(), Some(second.clone()));
    assert_eq!(cache.list().unwrap().0, [entry("a"), second]);
    cache.remove("n", "a", "eth0").unwrap();
    cache.remove("n", "a", "eth0").unwrap();
    assert_eq!(cache.find("n", "a", "eth0").unwrap(), None);
}

#[test]
fn damaged_files_are_named_and_do_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    cache.save(&entry("good")).unwrap();
    let put = |name: &str, text: &str| fs::write(dir.path().join("results").join(name), text);
    put("n-truncated-eth0", "{\"kind\":\"cniCache").unwrap();
    put("n-kind-eth0", &serde_json::to_string(&entry("k")).unwrap().replace("V1", "V9")).unwrap();
    put(".n-unfinished-eth0", "{").unwrap();
    let (entries, damaged) = cache.list().unwrap();
    assert_eq!(entries, [entry("good")]);
    let names: Vec<_> = damaged.iter().map(|damaged| damaged.name.as_str()).collect();
    assert_eq!(names, ["n-kind-eth0", "n-truncated-eth0"]);
    assert!(cache.find("n", "truncated", "eth0").is_err());
}

#[test]
fn what_libcni_writes_for_nothing_is_read() {
    let text = json!({
        "kind": "cniCacheV1", "containerId": "a", "ifName": "eth0", "networkName": "n",
        "config": BASE64.encode(r#"{"cniVersion":"0.3.1","name":"n","type":"p"}"#),
        "cniArgs": null, "capabilityArgs": null,
    });
    let entry: Entry = serde_json::from_value(text).unwrap();
    assert_eq!(entry.network().unwrap().plugins()[0].kind(), "p", "a single plugin's file");
    assert!(entry.cni_args.is_empty() && entry.netns.is_empty() && entry.result.is_none());
}

#[test]
fn a_failed_write_leaves_the_old_entry_and_no_rest() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    cache.save(&entry("a")).unwrap();
    // A name that is too long for the file system stands for every failure to create.
    let mut long = entry(&"x".repeat(300));
    long.netns = "/other".to_owned();
    let error = cache.save(&long).unwrap_err();
    assert!(error.io().is_some());
    assert_eq!(cache.list().unwrap().0, [entry("a")]);
}
