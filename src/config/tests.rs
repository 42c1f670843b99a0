//! Every mistake an operator can make, and what a file with none of them means.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::check::Programs;
use super::raw::{MainFile, Raw};
use super::table::{BUILT_IN, Fallback, HANDLER_KEYS, KEYS};
use super::*;

fn everything_is_there(_: &Path) -> bool {
    true
}

fn nothing_is_there(_: &Path) -> bool {
    false
}

fn programs() -> Programs<'static> {
    Programs { own_dir: Some("/opt/crisol".into()), is_program: &everything_is_there }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    let mut raw = Raw::default();
    raw.add_text(Path::new("c.toml"), text);
    check::config(raw, &programs())
}

/// The mistakes as printed.
fn mistakes(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(ToOwned::to_owned).collect(),
    }
}

/// A directory with a main file and drop-ins, by name and text.
struct Files(tempfile::TempDir);

impl Files {
    fn new(main: Option<&str>, drop_ins: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = main {
            fs::write(dir.path().join("c.toml"), text).unwrap();
        }
        fs::create_dir(dir.path().join("c.d")).unwrap();
        for (name, text) in drop_ins {
            fs::write(dir.path().join("c.d").join(name), text).unwrap();
        }
        Self(dir)
    }

    fn main(&self) -> PathBuf {
        self.0.path().join("c.toml")
    }

    fn drop_in(&self, name: &str) -> PathBuf {
        self.0.path().join("c.d").join(name)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(Some(&self.main()))
    }

    /// The mistakes without the directory.
    fn mistakes(&self) -> Vec<String> {
        let error = self.load().unwrap_err();
        let dir = format!("{}/", self.0.path().display());
        error.mistakes.iter().map(|mistake| mistake.to_string().replace(&dir, "")).collect()
    }
}

/// Text, and what is said about it.
const MISTAKES: [(&str, &str); 53] = [
    // Syntax.
    ("root = ", "c.toml:1:8: string values must be quoted, expected literal string"),
    ("\n[cri\n", "c.toml:2:5: "),
    ("root = \"/a\"\nroot = \"/b\"", "c.toml:2:1: duplicate key"),
    ("root = \"\u{0}\"", "c.toml:1:9: "),
    // Names.
    ("rot = \"/a\"", "c.toml:1:1: rot: unknown key, did you mean root?"),
    ("colour = 1", "c.toml:1:1: colour: unknown key"),
    ("[cri]\nlisen = \"/a\"", "c.toml:2:1: cri.lisen: unknown key, did you mean cri.listen?"),
    ("[crio]", "c.toml:1:2: crio: unknown key"),
    ("listen = \"/a\"", "c.toml:1:1: listen: unknown key, did you mean cri.listen?"),
    ("[image]\nroot = \"/a\"", "c.toml:2:1: image.root: unknown key, did you mean root?"),
    (
        "[runtime.handlers.x]\npath = \"/x\"\nrot = 1",
        "c.toml:3:1: runtime.handlers.x.rot: unknown key, did you mean root?",
    ),
    // Types.
    ("root = 1", "c.toml:1:1: root: expected a string, found the integer 1"),
    ("cri = \"/a\"", "c.toml:1:1: cri: expected a table, found the string \"/a\""),
    ("[root]", "c.toml:1:2: root: expected a string, found a table"),
    (
        "stream.port = \"80\"",
        "c.toml:1:8: stream.port: expected an integer, found the string \"80\"",
    ),
    ("stream.port = 8.5", "c.toml:1:8: stream.port: expected an integer, found the float 8.5"),
    (
        "stream.port = 99999999999999999999",
        "c.toml:1:8: stream.port: 99999999999999999999 is too large for an integer",
    ),
    (
        "network.plugin_dirs = \"/a\"",
        "c.toml:1:9: network.plugin_dirs: expected an array of strings, found the string \"/a\"",
    ),
    (
        "network.plugin_dirs = [\"/a\", true]",
        "c.toml:1:9: network.plugin_dirs: expected an array of strings, found the boolean true",
    ),
    ("runtime.handlers = []", "c.toml:1:9: runtime.handlers: expected a table, found an array"),
    (
        "runtime.handlers.x = 1979-05-27",
        "c.toml:1:18: runtime.handlers.x: expected a table, found the date 1979-05-27",
    ),
    // Single values.
    ("root = \"var\"", "c.toml:1:1: root: \"var\" is not an absolute path"),
    ("root = \"\"", "c.toml:1:1: root: \"\" is not an absolute path"),
    ("root = \"/a/../b\"", "c.toml:1:1: root: \"/a/../b\" contains .."),
    ("root = \"/\"", "c.toml:1:1: root: the root directory cannot be ours alone"),
    (
        "root = \"/a:b\"",
        "c.toml:1:1: root: \"/a:b\" contains ':', which separates overlayfs' options",
    ),
    ("root = \"/a\\u0007\"", "c.toml:1:1: root: \"/a\\u{7}\" has a control character"),
    ("cri.listen = \"/\"", "c.toml:1:5: cri.listen: \"/\" names no file"),
    ("stream.port = -1", "c.toml:1:8: stream.port: -1 is not in the range 0 to 65535"),
    ("stream.port = 0x10000", "c.toml:1:8: stream.port: 65536 is not in the range 0 to 65535"),
    (
        "stream.address = \"localhost\"",
        "c.toml:1:8: stream.address: \"localhost\" is not an IP address",
    ),
    (
        "network.plugin_dirs = []",
        "c.toml:1:9: network.plugin_dirs: at least one directory is needed",
    ),
    (
        "runtime.search_path = [\"/bin:/usr/bin\"]",
        "c.toml:1:9: runtime.search_path: \"/bin:/usr/bin\" contains ':', which separates the directories of PATH",
    ),
    (
        "cgroup.driver = \"cgroup\"",
        "c.toml:1:8: cgroup.driver: \"cgroup\" is none of \"auto\", \"systemd\", \"cgroupfs\"",
    ),
    ("log.format = \"xml\"", "c.toml:1:5: log.format: \"xml\" is neither \"text\" nor \"json\""),
    ("log.level = \"\"", "c.toml:1:5: log.level: empty; the default is \"info\""),
    (
        "log.level = \"infoo\"",
        "c.toml:1:5: log.level: \"infoo\" names no level: error, warn, info, debug, trace or off",
    ),
    ("log.level = \"crisol=loud\"", "c.toml:1:5: log.level: \"crisol=loud\" is not a log filter: "),
    (
        "metrics.listen = \"9090\"",
        "c.toml:1:9: metrics.listen: \"9090\" is not ADDRESS:PORT with a numeric address",
    ),
    // Handlers.
    (
        "[runtime.handlers.\"a/b\"]\npath = \"/x\"",
        "c.toml:1:19: runtime.handlers.a/b: \"a/b\" is not a name of letters, digits, '.', '_' and '-'",
    ),
    (
        "[runtime.handlers.\"..\"]\npath = \"/x\"",
        "c.toml:1:19: runtime.handlers...: \"..\" is not a name of letters, digits, '.', '_' and '-'",
    ),
    (
        "[runtime.handlers.kata]",
        "c.toml:1:19: runtime.handlers.kata.path: missing: only runc and crun have a default path",
    ),
    (
        "[runtime.handlers.kata]\npath = \"kata\"",
        "c.toml:2:1: runtime.handlers.kata.path: \"kata\" is not an absolute path",
    ),
    (
        "[runtime.handlers.runc]\ntype = \"vm\"",
        "c.toml:2:1: runtime.handlers.runc.type: \"vm\" is neither \"oci\" nor \"shim\"",
    ),
    (
        "[runtime.handlers.runc]\noptions = [\"--root=/x\"]",
        "c.toml:2:1: runtime.handlers.runc.options: --root is given by crisol, set the key root",
    ),
    (
        "[runtime.handlers.runc]\noptions = [\"\"]",
        "c.toml:2:1: runtime.handlers.runc.options: \"\" is empty or has a control character",
    ),
    // Between keys.
    (
        "root = \"/a\"\nstate = \"/a\"",
        "c.toml:1:1: root: root /a and state /a must be apart: state is emptied at boot",
    ),
    (
        "state = \"/var/lib\"",
        "c.toml:1:1: state: root /var/lib/crisol and state /var/lib must be apart: state is emptied at boot",
    ),
    (
        "root = \"/run/crisol/data\"",
        "c.toml:1:1: root: root /run/crisol/data and state /run/crisol must be apart: state is emptied at boot",
    ),
    (
        "runtime.default_handler = \"kata\"",
        "c.toml:1:9: runtime.default_handler: no handler \"kata\", there are crun, runc",
    ),
    (
        "stream.port = 9000\nmetrics.listen = \"127.0.0.1:9000\"",
        "c.toml:2:9: metrics.listen: the same address and port as [stream]",
    ),
    (
        "stream.tls_cert = \"/c\"",
        "c.toml:1:8: stream.tls_cert: a certificate and its key go together",
    ),
    (
        "stream.tls_client_ca = \"/c\"",
        "c.toml:1:8: stream.tls_client_ca: clients have certificates only where the server has one",
    ),
];

#[test]
fn each_mistake_is_found_named_and_placed() {
    for (text, expected) in MISTAKES {
        let found = mistakes(text);
        assert_eq!(found.len(), 1, "{text:?} gives {found:#?}");
        // Where the words are the parser's or tracing's, the table has only their beginning.
        let same =
            found[0] == expected || expected.ends_with(": ") && found[0].starts_with(expected);
        assert!(same, "{text:?}\n gives    {}\n not      {expected}", found[0]);
    }
}

#[test]
fn a_socket_path_has_a_limit_in_bytes() {
    let path = |length: usize| format!("/{}", "s".repeat(length - 1));
    assert_eq!(mistakes(&format!("cri.listen = {:?}", path(107))), [""; 0]);
    assert_eq!(
        mistakes(&format!("cri.listen = {:?}", path(108))),
        ["c.toml:1:5: cri.listen: 108 bytes, a socket's path has at most 107"]
    );
}

#[test]
fn lists_and_names_have_limits() {
    let items = |count: usize| vec!["\"/x\""; count].join(",");
    assert!(mistakes(&format!("network.plugin_dirs = [{}]", items(16))).is_empty());
    assert_eq!(mistakes(&format!("network.plugin_dirs = [{}]", items(17))).len(), 1);
    let options = |count| format!("runtime.handlers.runc.options = [{}]", items(count));
    assert!(mistakes(&options(64)).is_empty());
    assert_eq!(mistakes(&options(65)).len(), 1);
    let handler = |length| format!("runtime.handlers.{}.path = \"/x\"", "h".repeat(length));
    assert!(mistakes(&handler(63)).is_empty());
    assert_eq!(mistakes(&handler(64)).len(), 1);
}

#[test]
fn all_mistakes_of_all_files_are_found_at_once() {
    let main = "root = 1\n[stream]\nport = 70000\n[colour]\n";
    let files = Files::new(
        Some(main),
        &[("10-a.toml", "[log]\nformat = \"xml\"\n"), ("20-b.toml", "state = \"run\"\nx = 1\n")],
    );
    assert_eq!(
        files.mistakes(),
        [
            "c.d/10-a.toml:2:1: log.format: \"xml\" is neither \"text\" nor \"json\"",
            "c.d/20-b.toml:1:1: state: \"run\" is not an absolute path",
            "c.d/20-b.toml:2:1: x: unknown key",
            "c.toml:1:1: root: expected a string, found the integer 1",
            "c.toml:3:1: stream.port: 70000 is not in the range 0 to 65535",
            "c.toml:4:2: colour: unknown key",
        ]
    );
}

#[test]
fn a_broken_file_hides_neither_other_files_nor_invents_mistakes() {
    // The handler is defined in the file that cannot be read.
    let files = Files::new(
        Some("runtime.default_handler = \"kata\"\nlog.format = \"xml\"\n"),
        &[("10-kata.toml", "[runtime.handlers.kata]\npath = /usr/bin/kata\n")],
    );
    let found = files.mistakes();
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("c.d/10-kata.toml:2:8: "), "{found:#?}");
    assert!(found[1].starts_with("c.toml:2:5: log.format: "), "{found:#?}");
}

#[test]
fn columns_count_characters_and_lines_count_from_one() {
    let found = mistakes("# ä\r\ncri = { \"ö\" = 1 }\n");
    assert_eq!(found, ["c.toml:2:9: cri.ö: unknown key"]);
}

#[test]
fn the_last_drop_in_wins_per_key_in_bytewise_order() {
    let files = Files::new(
        Some("root = \"/main\"\nstate = \"/state\"\n[network]\nplugin_dirs = [\"/a\", \"/b\"]\n"),
        &[
            ("9-late.toml", "root = \"/nine\"\n"),
            ("10-early.toml", "root = \"/ten\"\n[network]\nplugin_dirs = [\"/c\"]\n"),
            ("ignored.conf", "root = 1\n"),
            (".#9-late.toml", "root = 1\n"),
        ],
    );
    let config = files.load().unwrap();
    assert_eq!(config.root, Path::new("/nine"), "9 comes after 1");
    assert_eq!(config.state, Path::new("/state"));
    assert_eq!(config.network.plugin_dirs, [Path::new("/c")], "arrays replace");
}

#[test]
fn tables_of_handlers_merge_key_by_key() {
    let files = Files::new(
        Some("[runtime.handlers.kata]\npath = \"/usr/bin/kata\"\noptions = [\"--debug\"]\n"),
        &[
            ("10.toml", "[runtime.handlers.kata]\ntype = \"shim\"\noptions = [\"--quiet\"]\n"),
            ("20.toml", "[runtime.handlers.runc]\nroot = \"/run/runc\"\n"),
        ],
    );
    let handlers = files.load().unwrap().runtime.handlers;
    let kata = Handler {
        kind: HandlerKind::Shim,
        path: "/usr/bin/kata".into(),
        root: "/run/crisol/runtimes/kata".into(),
        options: vec!["--quiet".to_owned()],
    };
    assert_eq!(handlers["kata"], kata);
    assert_eq!(handlers["runc"].root, Path::new("/run/runc"));
    assert_eq!(handlers.keys().collect::<Vec<_>>(), ["crun", "kata", "runc"]);
}

#[test]
fn a_file_that_others_may_write_is_refused_and_cannot_accept_itself() {
    use std::os::unix::fs::PermissionsExt;
    let accepts = "accept_writable_files = true\n";
    let everybody = fs::Permissions::from_mode(0o666);
    let files = Files::new(Some("root = \"/a\"\n"), &[("10.toml", accepts)]);
    fs::set_permissions(files.drop_in("10.toml"), everybody.clone()).unwrap();
    let mistakes = files.mistakes();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].contains("can be written by others than root"), "{mistakes:?}");
    assert!(mistakes[0].contains("accept_writable_files"), "{mistakes:?}");

    let files = Files::new(Some(accepts), &[("10.toml", "root = \"/b\"\n")]);
    fs::set_permissions(files.drop_in("10.toml"), everybody).unwrap();
    assert_eq!(files.load().unwrap().root, Path::new("/b"));
}

#[test]
fn an_absent_file_is_fine_only_if_nobody_named_it() {
    let files = Files::new(None, &[]);
    assert_eq!(files.mistakes(), ["c.toml: no such file"]);
    let raw = raw::read(&files.main(), MainFile::Optional);
    assert!(raw.mistakes.is_empty());
    assert!(check::config(raw, &programs()).is_ok());
}

#[test]
fn only_bounded_regular_files_are_read() {
    let files = Files::new(Some(""), &[]);
    fs::create_dir(files.drop_in("10-dir.toml")).unwrap();
    let fifo = files.drop_in("20-fifo.toml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    symlink("30-loop.toml", files.drop_in("30-loop.toml")).unwrap();
    symlink("nowhere", files.drop_in("40-dangling.toml")).unwrap();
    fs::write(files.drop_in("50-utf16.toml"), b"\xff\xfer\0o\0o\0t\0").unwrap();
    fs::write(files.drop_in("60-latin1.toml"), b"# ok\n# \xe4\n").unwrap();
    let large = fs::File::create(files.drop_in("70-large.toml")).unwrap();
    large.set_len(100 * 1024 * 1024).unwrap();
    symlink(files.main(), files.drop_in("80-link.toml")).unwrap();
    assert_eq!(
        files.mistakes(),
        [
            "c.d/10-dir.toml: not a regular file",
            "c.d/20-fifo.toml: not a regular file",
            "c.d/30-loop.toml: Too many levels of symbolic links (os error 40)",
            "c.d/40-dangling.toml: no such file",
            "c.d/50-utf16.toml: line 1 is not UTF-8",
            "c.d/60-latin1.toml: line 2 is not UTF-8",
            "c.d/70-large.toml: larger than 1048576 bytes",
        ]
    );
}

#[test]
fn a_directory_of_something_else_is_not_read_file_by_file() {
    let files = Files::new(Some(""), &[]);
    for number in 0..257 {
        fs::write(files.drop_in(&format!("{number}.toml")), "x = 1").unwrap();
    }
    assert_eq!(files.mistakes(), ["c.d: 257 drop-ins, at most 256 are read"]);
}

#[test]
fn drop_ins_of_a_named_file_are_beside_it() {
    let files = Files::new(Some(""), &[("x.toml", "root = \"/elsewhere\"")]);
    assert_eq!(files.load().unwrap().root, Path::new("/elsewhere"));
}

#[test]
fn without_files_the_defaults_hold() {
    let config = parse("").unwrap();
    assert_eq!(config.root, Path::new("/var/lib/crisol"));
    assert_eq!(config.state, Path::new("/run/crisol"));
    assert_eq!(config.cri.listen, Path::new("/run/crisol/crisol.sock"));
    assert_eq!((config.stream.address.to_string().as_str(), config.stream.port), ("127.0.0.1", 0));
    assert_eq!(config.image.auth_file, None);
    assert_eq!(config.metrics.listen, None);
    assert_eq!(config.runtime.default_handler, "runc");
    assert_eq!(config.runtime.monitor, Path::new("/opt/crisol/conmon"));
    let runc = &config.runtime.handlers["runc"];
    assert_eq!(runc.path, Path::new("/usr/bin/runc"));
    assert_eq!(runc.root, Path::new("/run/crisol/runtimes/runc"));
}

#[test]
fn paths_are_cleaned_of_doubled_slashes_and_dots() {
    let config = parse("root = \"//var//lib/./x/\"").unwrap();
    assert_eq!(config.root.to_str(), Some("/var/lib/x"));
}

#[test]
fn programs_are_looked_for_only_where_nobody_chose_a_place() {
    let only_local = |path: &Path| path == Path::new("/usr/local/sbin/crun");
    let programs = Programs { own_dir: Some("/opt/crisol".into()), is_program: &only_local };
    let mut raw = Raw::default();
    let text = "runtime.handlers.runc.path = \"/opt/runc\"\nruntime.handlers.crun.path = \"/usr/bin/crun\"";
    raw.add_text(Path::new("c.toml"), text);
    let config = check::config(raw, &programs).unwrap();
    assert_eq!(config.runtime.handlers["runc"].path, Path::new("/opt/runc"));
    // Repeating the default is the same as leaving it out.
    assert_eq!(config.runtime.handlers["crun"].path, Path::new("/usr/local/sbin/crun"));
    assert_eq!(config.runtime.monitor, Path::new("/usr/libexec/crisol/conmon"));
}

#[test]
fn the_monitor_of_an_installed_crisol_is_never_another_projects_conmon() {
    for (own_dir, monitor) in [
        ("/usr/bin", "/usr/libexec/crisol/conmon"),
        ("/usr/local/bin", "/usr/local/libexec/crisol/conmon"),
        ("/src/target/release", "/src/target/release/conmon"),
    ] {
        let programs = Programs { own_dir: Some(own_dir.into()), is_program: &everything_is_there };
        let config = check::config(Raw::default(), &programs).unwrap();
        assert_eq!(config.runtime.monitor, Path::new(monitor));
    }
}

#[test]
fn without_any_program_the_default_paths_are_named() {
    let programs = Programs { own_dir: None, is_program: &nothing_is_there };
    let config = check::config(Raw::default(), &programs).unwrap();
    assert_eq!(config.runtime.handlers["runc"].path, Path::new("/usr/bin/runc"));
    assert_eq!(config.runtime.monitor, Path::new("/usr/libexec/crisol/conmon"));
}

/// A file that sets every key to something that is not its default.
const EVERYTHING: &str = r#"
root = "/srv/crisol"
accept_writable_files = true
sweep_interval = 45
state = "/run/other"
cri.listen = "/run/other.sock"
stream = { address = "::1", port = 10010, tls_cert = "/c", tls_key = "/k", tls_client_ca = "/ca" }
network = { conf_dir = "/etc/net", conf_template = "/etc/t", plugin_dirs = ["/a b", "/c\"d"] }
cgroup.driver = "cgroupfs"
log = { level = "warn,crisol::image=debug", format = "json" }
nri = { enable = false, socket = "/run/n.sock", disable_connections = true, plugin_dir = "/p", plugin_config_dir = "/c", registration_timeout = 7, request_timeout = 9 }
metrics.listen = "[::1]:9090"
[image]
registries_conf = "/etc/r.conf"
policy = "/etc/p.json"
auth_file = "/etc/a.json"
max_zstd_window = 128
[runtime]
default_handler = "my.runtime"
monitor = "/opt/monitor"
search_path = ["/opt/bin"]
[runtime.handlers."my.runtime"]
type = "shim"
path = "/opt/my"
root = "/run/my"
options = ["--systemd-cgroup", "it's \"quoted\""]
"#;

#[test]
fn what_is_printed_is_read_back_as_the_same_configuration() {
    for text in ["", EVERYTHING] {
        let config = parse(text).unwrap();
        assert_eq!(parse(&render::effective(&config)).unwrap(), config);
    }
    assert_eq!(parse(&render::default()).unwrap(), parse("").unwrap());
    assert_eq!(parse(&render::example()).unwrap(), parse("").unwrap());
}

#[test]
fn every_key_of_the_table_changes_the_configuration() {
    let (default, changed) = (parse("").unwrap(), parse(EVERYTHING).unwrap());
    for key in &KEYS {
        assert_ne!((key.get)(&default), (key.get)(&changed), "{} is not applied", key.name);
    }
    let (runc, mine) = (&default.runtime.handlers["runc"], &changed.runtime.handlers["my.runtime"]);
    for key in &HANDLER_KEYS {
        assert_ne!((key.get)(runc), (key.get)(mine), "{} is not applied", key.name);
    }
}

#[test]
fn the_table_is_well_formed() {
    let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len(), "a name twice");
    let reasons =
        KEYS.iter().map(|key| key.reason).chain(HANDLER_KEYS.iter().map(|key| key.reason));
    for reason in reasons {
        assert!(reason.ends_with('.') && !reason.contains('\n'), "{reason:?} is no line of prose");
    }
    // Tables in one piece, or TOML would have their header twice.
    let tables: Vec<_> = KEYS.iter().map(|key| key.name.rsplit_once('.').map(|(t, _)| t)).collect();
    let mut once = tables.clone();
    once.dedup();
    let all: BTreeSet<_> = tables.iter().collect();
    assert_eq!(once.len(), all.len(), "{once:?}");
    assert!(BUILT_IN.iter().any(|handler| {
        KEYS.iter().any(|key| matches!(key.default, Fallback::Text(name) if name == handler.name))
    }));
}

/// Compares a file of the repository with what the table says. With `UPDATE_FILES=1` in the
/// environment the file is written instead.
fn same_as_file(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE_FILES").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} is out of date: run the tests with UPDATE_FILES=1");
}

#[test]
fn the_installed_file_shows_every_key_with_its_default() {
    same_as_file("deploy/crisol.toml", &render::example());
}

#[test]
fn the_documentation_shows_every_key_with_its_default() {
    same_as_file("docs/configuration.md", &render::markdown());
}

#[test]
fn everybody_is_told_the_same_socket() {
    let endpoint = format!("unix://{}", parse("").unwrap().cri.listen.display());
    for name in ["crictl.yaml", "node/10-crisol.conf", "node/kubeadm.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
        let text = fs::read_to_string(path).unwrap();
        let endpoints: Vec<_> =
            text.split_whitespace().filter(|w| w.starts_with("unix:")).collect();
        assert!(!endpoints.is_empty(), "{name}");
        assert!(endpoints.iter().all(|found| *found == endpoint), "{name}: {endpoints:?}");
    }
}

/// Names of the direct dependencies of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let table: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let sections = sections.iter().filter_map(|name| table.get(*name)?.as_table());
    sections.flat_map(|section| section.keys().cloned()).collect()
}

#[test]
fn every_dependency_has_its_reason_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dependencies.md");
    let text = fs::read_to_string(path).unwrap();
    let words: BTreeSet<_> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')).collect();
    for manifest in ["Cargo.toml", "conmon/Cargo.toml", "cni/Cargo.toml"] {
        for name in dependencies(manifest) {
            assert!(words.contains(name.as_str()), "{name} of {manifest} has no line");
        }
    }
}
