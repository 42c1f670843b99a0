use std::path::Path;

use serde_json::json;

use super::*;
use crate::error_chain;

fn full() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "00:11:22:33:44:55", "mtu": 1500},
            {"name": "eth0", "sandbox": "/ns", "socketPath": "/s", "pciID": "0000:04:00.5"},
        ],
        "ips": [
            {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
            {"address": "fd00::5/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1, "priority": 2,
                    "table": 3, "scope": 0}],
        "dns": {"nameservers": ["10.1.0.1"], "domain": "d", "search": ["s"], "options": ["o"]},
    })
}

#[test]
fn every_field_of_1_1_survives() {
    let result = AddResult::from_value(full(), Version::V1_1_0).unwrap();
    assert_eq!(result.to_value(Version::V1_1_0), full());
}

#[test]
fn older_versions_get_their_own_fields_only() {
    let result = AddResult::from_value(full(), Version::V1_1_0).unwrap();
    let v1 = result.to_value(Version::V1_0_0);
    assert_eq!(v1["cniVersion"], "1.0.0");
    assert_eq!(v1["interfaces"][0], json!({"name": "br0", "mac": "00:11:22:33:44:55"}));
    assert_eq!(v1["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]));
    assert_eq!(v1["ips"][0].get("version"), None);

    for version in [Version::V0_3_1, Version::V0_4_0] {
        let old = result.to_value(version);
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        let again = AddResult::from_value(old, version).unwrap();
        assert_eq!(again.ips, result.ips, "the family is not lost or doubled");
    }
}

#[test]
fn what_go_plugins_write_for_nothing_is_nothing() {
    let text = br#"{"cniVersion":"0.4.0","interfaces":null,"ips":[
        {"version":"4","address":"10.0.0.2/24","gateway":""}],"routes":null,"dns":{}}"#;
    let result = AddResult::parse(text, Version::V0_4_0).unwrap();
    assert_eq!(result.ips[0].gateway, None);
    assert!(result.interfaces.is_empty() && result.routes.is_empty());
}

#[test]
fn results_that_cannot_be_right_are_refused() {
    for (text, message) in [
        ("", "EOF"),
        ("garbage", "expected value"),
        ("{}{}", "trailing characters"),
        (r#"{"ips":[{"address":"10.0.0.1"}]}"#, "not an address with a prefix"),
        (r#"{"ips":[{"address":"10.0.0.1/33"}]}"#, "not an address with a prefix"),
        (
            r#"{"ips":[{"address":"10.0.0.1/8","interface":1}],"interfaces":[{"name":"a"}]}"#,
            "interface 1 of 1",
        ),
        (r#"{"ips":[{"address":"10.0.0.1/8","interface":-1}]}"#, "invalid value"),
        (r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"}}"#, "cniVersion \"0.2.0\""),
        (r#"{"cniVersion":7}"#, "cniVersion \"7\""),
        ("[1]", "invalid type"),
    ] {
        let error = AddResult::parse(text.as_bytes(), Version::V1_0_0).unwrap_err();
        assert!(error_chain(&error).contains(message), "{text}: {}", error_chain(&error));
    }
    assert!(AddResult::parse(b"{\"a\":\"\xff\"}", Version::V1_0_0).is_err(), "not UTF-8");
}

#[test]
fn only_addresses_inside_the_namespace_count() {
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours");
    std::fs::write(&ours, "").unwrap();
    std::fs::write(dir.path().join("theirs"), "").unwrap();
    std::os::unix::fs::symlink(&ours, dir.path().join("link")).unwrap();
    let result = AddResult::from_value(
        json!({
            "interfaces": [
                {"name": "host"},
                {"name": "a", "sandbox": ours},
                {"name": "b", "sandbox": dir.path().join("theirs")},
                {"name": "c", "sandbox": dir.path().join("link")},
                {"name": "d", "sandbox": ""},
            ],
            "ips": [
                {"address": "10.0.0.1/8", "interface": 0},
                {"address": "10.0.0.2/8", "interface": 1},
                {"address": "10.0.0.3/8", "interface": 2},
                {"address": "fd00::4/8", "interface": 3},
                {"address": "10.0.0.5/8"},
                {"address": "10.0.0.6/8", "interface": 4},
            ],
        }),
        Version::V1_0_0,
    )
    .unwrap();
    let expected: Vec<IpAddr> =
        ["10.0.0.2", "fd00::4", "10.0.0.5"].iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(result.addresses_in(&ours), expected);
    assert!(!result.addresses_in(Path::new("/absent")).contains(&expected[0]));
}
