//! The grammar of references by example.

use super::*;
use proptest::prelude::*;

fn full(text: &str) -> String {
    text.parse::<Name>().unwrap_or_else(|e| panic!("{text}: {e}")).qualify().to_string()
}

#[test]
fn short_names_are_completed() {
    assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
    assert_eq!(full("busybox:1.36"), "docker.io/library/busybox:1.36");
    assert_eq!(full("prom/node-exporter"), "docker.io/prom/node-exporter:latest");
    assert_eq!(full("index.docker.io/busybox"), "docker.io/library/busybox:latest");
    assert_eq!(full("docker.io/busybox"), "docker.io/library/busybox:latest");
}

#[test]
fn hosts_are_told_from_paths() {
    assert_eq!(full("localhost/x"), "localhost/x:latest");
    assert_eq!(full("localhost:5000/x/y:t"), "localhost:5000/x/y:t");
    assert_eq!(full("[::1]:5000/x"), "[::1]:5000/x:latest");
    assert_eq!(full("[fd00::2]/x"), "[fd00::2]/x:latest");
    assert_eq!(full("Registry.Example.com/x"), "registry.example.com/x:latest");
    assert_eq!(full("127.0.0.1:5000/a_b/c__d/e---f"), "127.0.0.1:5000/a_b/c__d/e---f:latest");
}

#[test]
fn a_digest_decides_alone() {
    let hex = "a".repeat(64);
    let text = format!("quay.io/x/y:v1@sha256:{hex}");
    let reference = text.parse::<Name>().expect("parse").qualify();
    assert_eq!(reference.to_string(), text);
    assert_eq!(reference.as_tag(), None);
    assert_eq!(full(&format!("x@sha256:{hex}")), format!("docker.io/library/x@sha256:{hex}"));
}

#[test]
fn what_is_not_a_reference_is_refused() {
    let hex = "a".repeat(64);
    for bad in [
        "".to_owned(),
        "UPPER/case".into(),
        "a b".into(),
        "http://x/y".into(),
        "https://registry.example.com/y".into(),
        "x:tag:tag".into(),
        "x@sha256:zz".into(),
        format!("x@sha256:{}", &hex[1..]),
        format!("x@md5:{}", &hex[..32]),
        format!("x@sha256:{hex}@sha256:{hex}"),
        format!("x:{}", "t".repeat(129)),
        format!("{}/x", "n".repeat(254)),
        "-x".into(),
        "x-".into(),
        "x/../y".into(),
        "x//y".into(),
        "/x".into(),
        "x/".into(),
        "x:".into(),
        "x:.t".into(),
        "x:-t".into(),
        "bücher/x".into(),
        "bücher.example/x".into(),
        "localhost:99999/x".into(),
        "localhost:0/x".into(),
        "localhost:/x".into(),
        "localhost:+80/x".into(),
        "[::1/x".into(),
        "[::1]5000/x".into(),
        "[zz]:5000/x".into(),
        "%2e%2e/x".into(),
        "a___b".into(),
        "a..b".into(),
        "a.-b".into(),
        "x\n".into(),
        "x\0".into(),
        ".hidden.example/x".into(),
        "-a.example/x".into(),
    ] {
        assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn tags_and_names_of_the_greatest_length_are_accepted() {
    assert_eq!(full(&format!("x:{}", "t".repeat(128))).len(), 18 + 1 + 1 + 128);
    assert!("n".repeat(255).parse::<Name>().is_ok());
}

proptest! {
    #[test]
    fn no_text_is_a_panic_and_printing_is_stable(text in "[ -~é]{0,80}") {
        if let Ok(name) = text.parse::<Name>() {
            let printed = name.qualify().to_string();
            let again = printed.parse::<Name>().expect("what we print parses").qualify();
            prop_assert_eq!(again.to_string(), printed);
        }
    }
}
