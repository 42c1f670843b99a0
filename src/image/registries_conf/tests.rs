//! The rules of containers-registries.conf(5) by example.

use super::*;

fn conf(text: &str) -> RegistriesConf {
    let mut conf = RegistriesConf::default();
    conf.merge(Path::new("/x/registries.conf"), text).unwrap_or_else(|e| panic!("{e}: {text}"));
    conf
}

fn refused(text: &str) -> RegistriesError {
    RegistriesConf::default().merge(Path::new("/x/registries.conf"), text).expect_err(text)
}

fn reference(text: &str) -> Reference {
    text.parse::<Name>().expect("reference").qualify()
}

fn endpoints(conf: &RegistriesConf, name: &str) -> Vec<(String, Access)> {
    let endpoints = conf.endpoints(&reference(name)).expect("endpoints");
    endpoints.into_iter().map(|e| (e.reference.to_string(), e.access)).collect()
}

#[test]
fn without_a_file_every_registry_is_verified_and_short_names_are_docker_s() {
    let conf = RegistriesConf::load(Path::new("/nonexistent/registries.conf"), Trust::RootAlone)
        .expect("absent");
    let name: Name = "busybox".parse().expect("name");
    assert_eq!(conf.candidates(&name).expect("candidates"), [reference("docker.io/busybox")]);
    assert_eq!(endpoints(&conf, "quay.io/x"), [("quay.io/x:latest".to_owned(), Access::Verified)]);
}

#[test]
fn the_longest_prefix_decides() {
    let conf = conf(
        r#"
        [[registry]]
        location = "localhost:5000"
        insecure = true
        [[registry]]
        prefix = "localhost:5000/team"
        location = "registry.example/team"
        [[registry]]
        prefix = "localhost:5000/team/app:v1"
        location = "other.example/app:v1"
        [[registry]]
        prefix = "*.wild.example"
        insecure = true
        [[registry]]
        prefix = "*.deep.wild.example"
    "#,
    );
    use Access::{Insecure, Verified};
    for (name, expected, access) in [
        ("localhost:5000/x", "localhost:5000/x:latest", Insecure),
        ("localhost:5000/teams/x", "localhost:5000/teams/x:latest", Insecure),
        ("localhost:5000/team/x:1", "registry.example/team/x:1", Verified),
        ("localhost:5000/team/app:v1", "other.example/app:v1", Verified),
        ("localhost:5000/team/app:v11", "registry.example/team/app:v11", Verified),
        ("localhost:50001/x", "localhost:50001/x:latest", Verified),
        ("a.wild.example/x", "a.wild.example/x:latest", Insecure),
        ("a.b.wild.example/x", "a.b.wild.example/x:latest", Insecure),
        ("wild.example/x", "wild.example/x:latest", Verified),
        ("notwild.example/x", "notwild.example/x:latest", Verified),
        ("a.deep.wild.example/x", "a.deep.wild.example/x:latest", Verified),
    ] {
        assert_eq!(endpoints(&conf, name), [(expected.to_owned(), access)], "{name}");
    }
}

#[test]
fn mirrors_come_first_and_only_for_what_they_serve() {
    let conf = conf(
        r#"
        [[registry]]
        prefix = "docker.io"
        [[registry.mirror]]
        location = "m1.example:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "m2.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "m3.example"
        pull-from-mirror = "tag-only"
    "#,
    );
    let hosts = |name| {
        let hosts = endpoints(&conf, name)
            .into_iter()
            .map(|(name, _)| name.split('/').next().unwrap_or_default().to_owned());
        hosts.collect::<Vec<_>>()
    };
    assert_eq!(hosts("busybox:1"), ["m1.example:5000", "m3.example", "docker.io"]);
    let digest = format!("busybox@sha256:{}", "a".repeat(64));
    assert_eq!(hosts(&digest), ["m1.example:5000", "m2.example", "docker.io"]);
    assert_eq!(
        endpoints(&conf, "busybox:1")[0],
        ("m1.example:5000/hub/library/busybox:1".to_owned(), Access::Insecure)
    );
}

#[test]
fn digest_only_registries_have_no_mirror_for_tags() {
    let conf = conf(
        r#"
        [[registry]]
        prefix = "r.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example"
    "#,
    );
    assert_eq!(endpoints(&conf, "r.example/x:1").len(), 1);
    assert_eq!(endpoints(&conf, &format!("r.example/x@sha256:{}", "a".repeat(64))).len(), 2);
}

#[test]
fn blocked_registries_name_their_file() {
    let conf = conf("[[registry]]\nlocation = \"bad.example\"\nblocked = true");
    let error = conf.endpoints(&reference("bad.example/x")).expect_err("blocked");
    assert_eq!(error.to_string(), "registry \"bad.example\" is blocked by /x/registries.conf");
    assert_eq!(error.kind(), Kind::Denied);
}

#[test]
fn short_names_follow_aliases_then_the_search_list() {
    let conf = conf(
        r#"
        unqualified-search-registries = ["a.example", "b.example/ns"]
        short-name-mode = "permissive"
        [aliases]
        "tool" = "c.example/team/tool"
    "#,
    );
    let candidates = |name: &str| {
        let name: Name = name.parse().expect("name");
        let found = conf.candidates(&name).expect("candidates");
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(candidates("tool:1"), ["c.example/team/tool:1"]);
    assert_eq!(candidates("x/y:1"), ["a.example/x/y:1", "b.example/ns/x/y:1"]);
    assert_eq!(candidates("z.example/x:1"), ["z.example/x:1"]);
    let name: Name = "x".parse().expect("name");
    assert_eq!(conf.names(&name).last(), Some(&reference("docker.io/x")));
}

#[test]
fn several_search_registries_are_no_guess_when_enforcing() {
    let conf = conf(r#"unqualified-search-registries = ["a.example", "b.example"]"#);
    let error = conf.candidates(&"x".parse().expect("name")).expect_err("must refuse");
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn drop_ins_replace_by_prefix_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("registries.conf");
    let drop_ins = dir.path().join("registries.conf.d");
    std::fs::create_dir(&drop_ins).expect("directory");
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("write");
    write(&path, "[[registry]]\nlocation = \"r.example\"\ninsecure = true");
    write(&drop_ins.join("20.conf"), "unqualified-search-registries = [\"b.example\"]");
    write(&drop_ins.join("10.conf"), "unqualified-search-registries = [\"a.example\"]");
    write(&drop_ins.join("30.conf"), "[[registry]]\nlocation = \"r.example\"");
    write(&drop_ins.join("ignored.txt"), "not toml at all [");
    let conf = RegistriesConf::load(&path, Trust::RootAlone).expect("load");
    assert_eq!(conf.search, ["b.example"]);
    assert_eq!(endpoints(&conf, "r.example/x")[0].1, Access::Verified);
    write(&drop_ins.join("40.conf"), "[[registry");
    let error = RegistriesConf::load(&path, Trust::RootAlone).expect_err("broken drop-in");
    assert!(error.to_string().ends_with("40.conf"), "{error}");
}

#[test]
fn values_without_meaning_are_refused() {
    for bad in [
        "[registries.search]\nregistries = ['a']",
        "unqualified-search-registries = ['no registry']",
        "[[registry]]\ninsecure = true",
        "[[registry]]\nlocation = 'https://r.example'",
        "[[registry]]\nprefix = '*.r.example/x'",
        "[[registry]]\nlocation = 'r.example'\n[[registry]]\nlocation = 'r.example'",
        "[[registry]]\nlocation = 'r.example'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'r.example'\ninsecure = 'yes'",
        "short-name-mode = 'sometimes'",
        "[aliases]\na = 'short'",
    ] {
        assert!(refused(bad).to_string().contains("/x/registries.conf"), "{bad}");
    }
}
