use super::load::{LoadError, choose, read};
use super::*;
use crate::error_chain;

const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
    {"type":"bridge","ipam":{"type":"host-local"},"mtu":1400},
    {"type":"portmap","capabilities":{"portMappings":true,"mac":false}}]}"#;

fn parse(text: &str) -> Result<NetworkConfig, String> {
    NetworkConfig::parse_list(text.as_bytes()).map_err(|error| error_chain(&error))
}

#[test]
fn a_list_keeps_order_unknown_fields_and_declared_capabilities() {
    let config = parse(BRIDGE).unwrap();
    assert_eq!(config.name(), "n");
    assert_eq!(config.version(), Version::V1_0_0);
    let kinds: Vec<_> = config.plugins().iter().map(PluginConfig::kind).collect();
    assert_eq!(kinds, ["bridge", "portmap"]);
    assert_eq!(config.plugins()[0].fields()["mtu"], 1400);
    assert!(config.has_capability("portMappings"));
    assert!(!config.has_capability("mac"), "declared false");
}

#[test]
fn the_newest_version_that_we_speak_is_chosen() {
    let with = |versions: &str| {
        parse(&format!(r#"{{{versions},"name":"n","plugins":[{{"type":"p"}}]}}"#))
            .map(|config| config.version())
    };
    assert_eq!(with(r#""cniVersion":"0.3.1""#), Ok(Version::V0_3_1));
    assert_eq!(
        with(r#""cniVersion":"0.4.0","cniVersions":["1.1.0","9.9.9","1.0.0"]"#),
        Ok(Version::V1_1_0)
    );
    assert_eq!(with(r#""cniVersions":["1.0.0"]"#), Ok(Version::V1_0_0));
    for old_or_odd in [r#""cniVersion":"0.1.0""#, r#""cniVersion":"9.9.9""#] {
        assert!(with(old_or_odd).unwrap_err().contains("is not spoken here"));
    }
    assert_eq!(with(r#""disableGC":true"#), Err("cniVersion is missing".to_owned()));
    assert_eq!(
        with(r#""cniVersions":[1]"#),
        Err("cniVersions is not a list of strings".to_owned())
    );
}

#[test]
fn each_mistake_is_named() {
    let list = |rest: &str| parse(&format!(r#"{{"cniVersion":"1.0.0",{rest}}}"#)).unwrap_err();
    for (rest, message) in [
        (r#""plugins":[{"type":"p"}]"#, "name is missing"),
        (r#""name":7,"plugins":[]"#, "name is not a string"),
        (r#""name":"a/b","plugins":[{"type":"p"}]"#, "name \"a/b\" is not a letter"),
        (r#""name":"..","plugins":[{"type":"p"}]"#, "name \"..\" is not a letter"),
        (r#""name":"","plugins":[{"type":"p"}]"#, "name \"\" is not a letter"),
        (r#""name":"n""#, "there are no plugins"),
        (r#""name":"n","plugins":[]"#, "there are no plugins"),
        (r#""name":"n","plugins":{}"#, "plugins is not a list"),
        (r#""name":"n","loadOnlyInlinedPlugins":true"#, "plugins is missing"),
        (r#""name":"n","plugins":[7]"#, "plugins[0] is not an object"),
        (r#""name":"n","plugins":[{"type":"p"},{}]"#, "plugins[1].type is missing"),
        (r#""name":"n","plugins":[{"type":7}]"#, "plugins[0].type is not a string"),
        (r#""name":"n","plugins":[{"type":""}]"#, "plugins[0].type \"\" is not the plain"),
        (r#""name":"n","plugins":[{"type":".."}]"#, "is not the plain name"),
        (r#""name":"n","plugins":[{"type":"/bin/sh"}]"#, "is not the plain name"),
        (r#""name":"n","plugins":[{"type":"../../../usr/bin/id"}]"#, "is not the plain name"),
        (r#""name":"n","plugins":[{"type":"p","ipam":{"type":"a/b"}}]"#, "plugins[0].ipam.type"),
        (r#""name":"n","plugins":[{"type":"p","capabilities":[]}]"#, "capabilities is not an"),
        (r#""name":"n","disableCheck":"maybe","plugins":[{"type":"p"}]"#, "disableCheck is not"),
    ] {
        let error = list(rest);
        assert!(error.contains(message), "{rest}: {error}");
    }
    assert!(parse("[]").unwrap_err().contains("is not an object"));
    assert!(parse("{\"name\":").unwrap_err().starts_with("parse JSON: EOF"));
    let many = vec![r#"{"type":"p"}"#; MAX_PLUGINS + 1].join(",");
    assert!(list(&format!(r#""name":"n","plugins":[{many}]"#)).contains("more than 64"));
}

#[test]
fn flags_may_be_booleans_or_words() {
    let config = parse(
        r#"{"cniVersion":"1.1.0","name":"n","disableCheck":"True","disableGC":true,
            "plugins":[{"type":"p"}]}"#,
    )
    .unwrap();
    assert_eq!((config.check(), config.gc()), (Allowed::No, Allowed::No));
}

#[test]
fn what_the_cache_keeps_reads_back_as_the_same_network() {
    let config = parse(BRIDGE).unwrap();
    let again = NetworkConfig::parse_list(&config.to_json()).unwrap();
    assert_eq!(again.plugins(), config.plugins());
    assert_eq!(again.version(), config.version());

    let both = r#"{"cniVersions":["1.0.0","1.1.0"],"name":"n","plugins":[{"type":"p"}]}"#;
    let chosen = parse(both).unwrap().with_version(Version::V1_0_0);
    let again = NetworkConfig::parse_list(&chosen.to_json()).unwrap();
    assert_eq!(again.version(), Version::V1_0_0, "the version that ADD used stays");
}

#[test]
fn the_first_valid_file_by_name_is_chosen_and_every_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put("00-broken.conflist", "{");
    std::fs::create_dir(dir.path().join("01-directory.conf")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("02-dangling.json")).unwrap();
    put("03-large.conf", &" ".repeat(load::MAX_FILE_BYTES as usize + 1));
    put("10-good.conflist", &BRIDGE.replace("\"n\"", "\"good\""));
    put("05-ignored.bak", "{");
    put("06-ignored~", "{");
    put("20-later.conf", r#"{"cniVersion":"1.0.0","name":"later","type":"p"}"#);
    put("30-broken.json", r#"{"cniVersion":"1.0.0","type":"p"}"#);
    let choice = choose(dir.path());
    assert_eq!(choice.config.unwrap().name(), "good");
    let errors: Vec<_> = choice.errors.iter().map(|error| error_chain(error)).collect();
    let of = |n: usize, name: &str, text: &str| {
        assert!(errors[n].contains(name) && errors[n].contains(text), "{}", errors[n]);
    };
    of(0, "00-broken.conflist", "EOF");
    of(1, "01-directory.conf", "is not a regular file");
    of(2, "02-dangling.json", "No such file");
    of(3, "03-large.conf", "larger than");
    of(4, "30-broken.json", "name is missing");
    assert_eq!(errors.len(), 5);
}

#[test]
fn an_absent_directory_is_an_empty_one_but_a_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let none = choose(&dir.path().join("absent"));
    assert!(none.config.is_none() && none.errors.is_empty());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let wrong = choose(&dir.path().join("file"));
    assert!(matches!(wrong.errors[..], [LoadError::List { .. }]));
}

#[test]
fn a_pipe_with_a_configuration_name_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let status =
        std::process::Command::new("mkfifo").arg(dir.path().join("x.conf")).status().unwrap();
    assert!(status.success());
    assert!(matches!(choose(dir.path()).errors[..], [LoadError::NotAFile { .. }]));
}

#[test]
fn plugins_of_the_sibling_directory_are_appended_unless_forbidden() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("n")).unwrap();
    std::fs::write(dir.path().join("n/10-tuning.conf"), r#"{"type":"tuning"}"#).unwrap();
    let file = dir.path().join("a.conflist");
    let kinds = |file: &Path| -> Vec<String> {
        read(file).unwrap().plugins().iter().map(|plugin| plugin.kind().to_owned()).collect()
    };
    std::fs::write(&file, BRIDGE).unwrap();
    assert_eq!(kinds(&file), ["bridge", "portmap", "tuning"]);
    std::fs::write(&file, r#"{"cniVersion":"1.1.0","name":"n"}"#).unwrap();
    assert_eq!(kinds(&file), ["tuning"]);
    std::fs::write(&file, BRIDGE.replacen('{', r#"{"loadOnlyInlinedPlugins":true,"#, 1)).unwrap();
    assert_eq!(kinds(&file), ["bridge", "portmap"]);
}
