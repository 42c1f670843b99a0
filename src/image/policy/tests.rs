//! The rules of containers-policy.json(5) by example.

use super::*;
use crate::image::reference::Name;

const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
const REJECT: &str = r#"[{"type":"reject"}]"#;

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(PathBuf::from("/x/policy.json"), text)
}

fn check(policy: &Policy, name: &str) -> Result<(), PolicyError> {
    policy.check(&name.parse::<Name>().expect("reference").qualify())
}

#[test]
fn no_file_accepts_everything() {
    let policy =
        Policy::load(Path::new("/nonexistent/policy.json"), Trust::RootAlone).expect("absent");
    check(&policy, "busybox").expect("accepted");
}

#[test]
fn the_narrowest_scope_decides() {
    let policy = parse(&format!(
        r#"{{"default":{REJECT},"transports":{{"docker":{{
            "docker.io":{ACCEPT},
            "docker.io/evil":{REJECT},
            "docker.io/evil/tamed":{ACCEPT},
            "docker.io/evil/tamed:v2":{REJECT},
            "*.example.com":{ACCEPT},
            "*.bad.example.com":{REJECT}
        }},"oci":{{"":{ACCEPT}}}}}}}"#
    ))
    .expect("a policy");
    for (name, accepted) in [
        ("busybox", true),
        ("evil/x", false),
        ("evil/tamed:v1", true),
        ("evil/tamed:v2", false),
        ("a.example.com/x", true),
        ("a.b.example.com/x", true),
        ("a.bad.example.com/x", false),
        ("example.com/x", false),
        ("quay.io/x", false),
    ] {
        assert_eq!(check(&policy, name).is_ok(), accepted, "{name}");
    }
}

#[test]
fn the_empty_scope_is_the_transport_s_default() {
    let policy = format!(r#"{{"default":{REJECT},"transports":{{"docker":{{"":{ACCEPT}}}}}}}"#);
    check(&parse(&policy).expect("a policy"), "quay.io/x").expect("accepted");
}

#[test]
fn demanded_signatures_reject_and_name_the_scope() {
    for kind in ["signedBy", "sigstoreSigned"] {
        let policy = parse(&format!(
            r#"{{"default":{ACCEPT},"transports":{{"docker":{{"quay.io/team":
                [{{"type":"insecureAcceptAnything"}},{{"type":"{kind}","keyPath":"/k"}}]}}}}}}"#
        ))
        .expect("a policy");
        check(&policy, "quay.io/other/x").expect("accepted");
        let error = check(&policy, "quay.io/team/x").expect_err("rejected").to_string();
        assert!(error.contains(kind) && error.contains("quay.io/team"), "{error}");
    }
}

#[test]
fn what_is_not_exactly_a_policy_is_an_error() {
    for bad in [
        "".to_owned(),
        "{}".into(),
        r#"{"default":[]}"#.into(),
        r#"{"default":[{"type":"unknown"}]}"#.into(),
        r#"{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}"#.into(),
        r#"{"default":[{"type":"insecureAcceptAnything","extra":1}]}"#.into(),
        format!(r#"{{"default":{ACCEPT},"defaults":{ACCEPT}}}"#),
        format!(r#"{{"default":{REJECT},"default":{ACCEPT}}}"#),
        format!(
            r#"{{"default":{ACCEPT},"transports":{{"docker":{{"x.io":{REJECT},"x.io":{ACCEPT}}}}}}}"#
        ),
        format!(r#"{{"default":{ACCEPT},"transports":{{"docker":{{}},"docker":{{}}}}}}"#),
        format!(r#"{{"default":{ACCEPT}}} x"#),
    ] {
        assert!(matches!(parse(&bad), Err(PolicyError::Parse { .. })), "{bad}");
    }
}
