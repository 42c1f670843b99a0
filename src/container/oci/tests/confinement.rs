//! Capabilities, masked paths, profiles.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::container::spec::SelinuxOptions;

fn capabilities(add: &[&str], drop: &[&str], ambient: &[&str]) -> Fixture {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Fixture::with(|f| {
        f.spec.security.capabilities =
            Capabilities { add: owned(add), drop: owned(drop), ambient: owned(ambient) };
    })
}

/// One set of `process.capabilities`, sorted.
fn set(fixture: &Fixture, name: &str) -> Vec<String> {
    let config = fixture.json();
    let mut names: Vec<String> = texts(&config["process"]["capabilities"][name])
        .into_iter()
        .map(|name| name.strip_prefix("CAP_").unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn the_default_capabilities_are_the_usual_fourteen() {
    let fixture = Fixture::new();
    for name in ["bounding", "effective", "permitted"] {
        assert_eq!(set(&fixture, name), security::DEFAULT, "{name}");
    }
    assert!(set(&fixture, "inheritable").is_empty());
    assert!(set(&fixture, "ambient").is_empty());
}

#[test]
fn every_capability_is_one_that_the_runtime_knows() {
    let all = Fixture::with(|f| f.spec.security.privileged = true);
    let known: BTreeSet<String> = CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(set(&all, "bounding"), known.into_iter().collect::<Vec<_>>());
}

#[test]
fn adding_and_dropping_follow_the_kubernetes_habit() {
    let bounding = |add: &[&str], drop: &[&str]| set(&capabilities(add, drop, &[]), "bounding");
    assert_eq!(bounding(&[], &["ALL"]), Vec::<String>::new());
    assert_eq!(bounding(&["NET_ADMIN"], &["ALL"]), ["NET_ADMIN"]);
    assert_eq!(bounding(&["ALL"], &[]).len(), 41);
    assert_eq!(bounding(&["ALL"], &["SYS_ADMIN"]).len(), 40);
    assert_eq!(bounding(&["ALL"], &["ALL"]), Vec::<String>::new());
    assert_eq!(bounding(&["SYS_TIME"], &["SYS_TIME", "CHOWN"]).len(), 13);
}

#[test]
fn ambient_capabilities_are_inheritable_and_held() {
    let fixture = capabilities(&[], &["ALL"], &["NET_BIND_SERVICE"]);
    for name in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(set(&fixture, name), ["NET_BIND_SERVICE"], "{name}");
    }
    let dropped = capabilities(&[], &["NET_RAW"], &["NET_RAW"]);
    assert!(set(&dropped, "ambient").is_empty());
}

#[test]
fn unknown_capabilities_are_refused() {
    for name in ["FOO", "CAP_CHOWN", "chown", ""] {
        capabilities(&[name], &[], &[]).refusal();
        capabilities(&[], &[name], &[]).refusal();
        capabilities(&[], &[], &[name]).refusal();
    }
}

#[test]
fn what_the_daemon_lacks_is_left_out_with_a_warning() {
    let mut fixture = capabilities(&["SYS_RESOURCE", "BPF"], &[], &["BPF"]);
    fixture.host.bounding.retain(|name| name != "SYS_RESOURCE" && name != "BPF");
    assert_eq!(set(&fixture, "bounding"), security::DEFAULT);
    assert!(set(&fixture, "ambient").is_empty());
    let warnings = fixture.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].ends_with("BPF, SYS_RESOURCE"), "{}", warnings[0]);
}

#[test]
fn what_is_not_done_is_refused_or_told_of() {
    let cdi = Fixture::with(|f| f.spec.cdi_devices = vec!["vendor.com/gpu=0".to_owned()]);
    let error = cdi.build().unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("CDI_devices[0].name: \"vendor.com/gpu=0\""), "{error}");

    let labelled = |selinux: bool, privileged: bool| {
        let fixture = Fixture::with(|f| {
            f.host.selinux = selinux;
            f.spec.security.privileged = privileged;
            let level = "s0:c1".to_owned();
            f.spec.security.selinux = Some(SelinuxOptions { level, ..Default::default() });
        });
        fixture.warnings().iter().any(|warning| warning.contains("selinux_options"))
    };
    assert!(labelled(true, false));
    assert!(!labelled(false, false) && !labelled(true, true));
}

#[test]
fn paths_are_guarded_by_default_by_request_or_not_at_all() {
    let guarded = |change: fn(&mut Fixture)| {
        let config = Fixture::with(change).json();
        let count = |list: &str| config["linux"][list].as_array().unwrap().len();
        (count("maskedPaths"), count("readonlyPaths"))
    };
    assert_eq!(guarded(|_| {}), (12, 5));
    assert_eq!(guarded(|f| f.spec.security.privileged = true), (0, 0));
    assert_eq!(guarded(|f| f.spec.security.masked_paths = vec!["/proc/kcore".into()]), (1, 5));
    assert_eq!(guarded(|f| f.spec.security.readonly_paths = vec!["/proc/sys".into()]), (12, 1));
    let unmasked = |f: &mut Fixture| f.user = Some("/run/ns/user".into());
    assert_eq!(guarded(unmasked), (0, 0), "procMount: Unmasked");
    for bad in ["", "/", "proc", "/proc/../x", "//"] {
        Fixture::with(|f| f.spec.security.masked_paths = vec![bad.into()]).refusal();
        Fixture::with(|f| f.spec.security.readonly_paths = vec![bad.into()]).refusal();
    }
}

#[test]
fn apparmor_is_applied_where_there_is_any() {
    let with = |profile: Profile, apparmor: bool| {
        Fixture::with(|f| {
            f.spec.security.apparmor = profile;
            f.host.apparmor = apparmor;
            f.host.default_apparmor = apparmor.then_some("ours");
        })
    };
    let applied = |fixture: &Fixture| fixture.json()["process"]["apparmorProfile"].clone();
    let named = Profile::Localhost("web".into());
    assert_eq!(applied(&with(named.clone(), true)), "web");
    assert_eq!(with(named.clone(), false).build().unwrap_err().kind(), Kind::Refused);
    for default in [Profile::Unset, Profile::RuntimeDefault] {
        assert_eq!(applied(&with(default.clone(), true)), "ours");
        assert_eq!(applied(&with(default.clone(), false)), Value::Null);
        let mut privileged = with(default, true);
        privileged.spec.security.privileged = true;
        assert_eq!(applied(&privileged), Value::Null);
    }
    assert_eq!(applied(&with(Profile::Unconfined, true)), Value::Null);
    let mut privileged = with(named, true);
    privileged.spec.security.privileged = true;
    assert_eq!(applied(&privileged), "web");
    // Enabled, but nothing on the host can load ours.
    let mut without = with(Profile::Unset, true);
    without.host.default_apparmor = None;
    assert_eq!(applied(&without), Value::Null);
}

fn seccomp(profile: Profile) -> Fixture {
    Fixture::with(|f| f.spec.security.seccomp = profile)
}

/// Names that a filter allows whatever the arguments.
fn allowed(fixture: &Fixture) -> BTreeSet<String> {
    let config = fixture.json();
    let rules = config["linux"]["seccomp"]["syscalls"].as_array().unwrap();
    rules
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null())
        .flat_map(|rule| texts(&rule["names"]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The rules about one system call.
fn rules_for(fixture: &Fixture, name: &str) -> Vec<Value> {
    let config = fixture.json();
    let rules = config["linux"]["seccomp"]["syscalls"].as_array().unwrap();
    let about = |rule: &&Value| texts(&rule["names"]).contains(&name);
    rules.iter().filter(about).cloned().collect()
}

#[test]
fn a_filter_is_there_only_if_asked_for_and_possible() {
    let filter = |fixture: &Fixture| fixture.json()["linux"]["seccomp"].clone();
    assert!(filter(&seccomp(Profile::Unset)).is_null());
    assert!(filter(&seccomp(Profile::Unconfined)).is_null());
    let mut fixture = seccomp(Profile::RuntimeDefault);
    assert_eq!(filter(&fixture)["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(filter(&fixture)["defaultErrnoRet"], 1);
    fixture.spec.security.privileged = true;
    assert!(filter(&fixture).is_null());
    fixture.spec.security.privileged = false;
    fixture.host.seccomp = false;
    assert!(filter(&fixture).is_null());
    assert_eq!(fixture.warnings().len(), 1);
    fixture.spec.security.seccomp = Profile::Localhost("/p.json".into());
    assert_eq!(fixture.build().unwrap_err().kind(), Kind::Refused);
    fixture.host.seccomp = true;
    assert_eq!(fixture.build().unwrap_err().kind(), Kind::Internal, "not read");
}

#[test]
fn the_default_filter_keeps_the_kernel_out_of_reach() {
    let mut fixture = seccomp(Profile::RuntimeDefault);
    let names = allowed(&fixture);
    for name in ["read", "execve", "futex", "clone", "statx", "openat2", "rseq", "ptrace"] {
        assert_eq!(names.contains(name), name != "clone", "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "init_module",
        "finit_module",
        "reboot",
        "kexec_load",
        "keyctl",
        "add_key",
        "userfaultfd",
        "io_uring_setup",
        "perf_event_open",
        "open_by_handle_at",
        "pivot_root",
        "swapon",
        "clone3",
        "socket",
        "personality",
        "syslog",
    ] {
        assert!(!names.contains(name), "{name}");
    }
    assert!(names.contains("chroot"), "SYS_CHROOT is a default capability");
    let clone = json!([{
        "names": ["clone"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0x7E02_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
    }]);
    assert_eq!(json!(rules_for(&fixture, "clone")), clone);
    let clone3 = json!([{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]);
    assert_eq!(json!(rules_for(&fixture, "clone3")), clone3);
    let vsock = json!([{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]);
    assert_eq!(rules_for(&fixture, "socket")[0]["args"], vsock);
    assert_eq!(rules_for(&fixture, "personality").len(), 5);

    fixture.spec.security.capabilities.add = vec!["SYS_ADMIN".into()];
    let names = allowed(&fixture);
    for name in ["mount", "unshare", "setns", "clone", "clone3", "bpf"] {
        assert!(names.contains(name), "{name}");
    }
    assert_eq!(rules_for(&fixture, "clone").len(), 1);
    assert_eq!(rules_for(&fixture, "clone3").len(), 1);
    fixture.host.bounding.retain(|name| name != "SYS_ADMIN");
    assert!(!allowed(&fixture).contains("mount"), "what is left out opens nothing");
}

#[test]
fn both_forms_of_a_profile_file_are_understood() {
    let parsed = |text: &str| {
        let mut fixture = seccomp(Profile::Localhost("/p.json".into()));
        fixture.seccomp = Some(text.to_owned());
        fixture.json()["linux"]["seccomp"].clone()
    };
    let oci = json!({
        "defaultAction": "SCMP_ACT_LOG",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{
            "names": ["mkdir"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 13,
            "args": [{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}],
        }],
    });
    assert_eq!(parsed(&oci.to_string()), oci);

    let docker = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": null,
        "archMap": [
            {"architecture": "SCMP_ARCH_FUTURE", "subArchitectures": null},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x",
             "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": null, "includes": null},
            {"names": ["chown"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["fchown"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.20"}},
            {"names": ["mips"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["mips"]}},
            {"names": ["here"], "action": "SCMP_ACT_ALLOW",
             "includes": {"arches": ["amd64", "arm64", "riscv64", "s390x", "ppc64le"]}},
            {"names": [], "action": "SCMP_ACT_ALLOW"}
        ]}"#;
    let filter = parsed(docker);
    let names: Vec<&str> = filter["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| texts(&rule["names"]))
        .collect();
    assert_eq!(names, ["read", "write", "chown", "old", "here"]);
    if cfg!(target_arch = "x86_64") {
        assert_eq!(filter["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    }
}

#[test]
fn a_profile_file_that_is_none_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"defaultAction": "SCMP_ACT_NONSENSE"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_FUTURE"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"],
            "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}]}"#,
    ] {
        let mut fixture = seccomp(Profile::Localhost("/p.json".into()));
        fixture.seccomp = Some(text.to_owned());
        assert!(fixture.refusal().contains("/p.json"));
    }
}

proptest! {
    /// No container ever holds what the daemon lacks, or inherits what is not ambient.
    #[test]
    fn capabilities_stay_within_bounds(
        add in proptest::sample::subsequence(CAPABILITIES.to_vec(), 0..6),
        drop in proptest::sample::subsequence(CAPABILITIES.to_vec(), 0..6),
        ambient in proptest::sample::subsequence(CAPABILITIES.to_vec(), 0..6),
        bounding in proptest::sample::subsequence(CAPABILITIES.to_vec(), 0..41),
    ) {
        let mut fixture = capabilities(&add, &drop, &ambient);
        fixture.host.bounding = bounding.iter().map(|name| (*name).to_owned()).collect();
        let held = set(&fixture, "bounding");
        prop_assert!(held.iter().all(|name| bounding.contains(&name.as_str())));
        prop_assert!(held.iter().all(|name| !drop.contains(&name.as_str())));
        prop_assert_eq!(set(&fixture, "inheritable"), set(&fixture, "ambient"));
        prop_assert!(set(&fixture, "ambient").iter().all(|name| held.contains(name)));
    }
}
