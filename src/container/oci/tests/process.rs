//! Arguments, environment, directory, identity.

use proptest::prelude::*;

use super::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A fixture with a command line in four parts.
fn command(entrypoint: &[&str], cmd: &[&str], command: &[&str], args: &[&str]) -> Fixture {
    Fixture::with(|f| {
        (f.entrypoint, f.cmd) = (strings(entrypoint), strings(cmd));
        (f.spec.command, f.spec.args) = (strings(command), strings(args));
    })
}

fn env(fixture: &Fixture) -> Vec<String> {
    let config = fixture.json();
    texts(&config["process"]["env"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn command_and_args_replace_the_image_as_kubernetes_says() {
    let cases: [(Fixture, &[&str]); 6] = [
        (command(&["e"], &["c"], &[], &[]), &["e", "c"]),
        (command(&["e"], &["c"], &[], &["a"]), &["e", "a"]),
        (command(&["e"], &["c"], &["x"], &[]), &["x"]),
        (command(&["e"], &["c"], &["x"], &["a", ""]), &["x", "a", ""]),
        (command(&[], &["c", "d"], &[], &[]), &["c", "d"]),
        (command(&[], &["c"], &[], &["a"]), &["a"]),
    ];
    for (fixture, expected) in cases {
        assert_eq!(texts(&fixture.json()["process"]["args"]), expected);
    }
}

#[test]
fn a_command_line_that_cannot_be_run_is_refused() {
    for fixture in [command(&[], &[], &[], &[]), command(&["e"], &[], &[""], &["a"])] {
        assert!(fixture.refusal().starts_with("no command specified"));
    }
    command(&[], &[], &["a\0b"], &[]).refusal();
    command(&[], &[], &["a", &"x".repeat(128 << 10)], &[]).refusal();
    assert!(command(&[], &[], &["a", &"x".repeat((128 << 10) - 1)], &[]).build().is_ok());
    let many = vec!["x".repeat(1 << 10); 6 << 10];
    Fixture::with(|f| f.spec.args = many).refusal();
}

#[test]
fn later_variables_win_and_defaults_fill_in() {
    let fixture = Fixture::with(|f| {
        f.spec.tty = true;
        f.image_env = strings(&["LANG=C", "TERM=dumb", "A=image", "EMPTY="]);
        f.spec.envs = vec![
            ("A".into(), b"one".to_vec()),
            ("B".into(), b"x=y\nz".to_vec()),
            ("A".into(), b"two".to_vec()),
        ];
    });
    assert_eq!(
        env(&fixture),
        [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=dumb",
            "HOSTNAME=web-0",
            "LANG=C",
            "A=two",
            "EMPTY=",
            "B=x=y\nz",
            "HOME=/root",
        ]
    );
}

#[test]
fn home_comes_from_the_request_the_image_the_user_or_the_id() {
    let home = |change: fn(&mut Fixture)| env(&Fixture::with(change)).pop().unwrap();
    assert_eq!(home(|_| {}), "HOME=/root");
    assert_eq!(home(|f| f.identity.uid = 7), "HOME=/");
    assert_eq!(home(|f| f.identity.home = Some("/home/app".into())), "HOME=/home/app");
    assert_eq!(home(|f| f.image_env = strings(&["HOME=/img"])), "HOME=/img");
    assert_eq!(home(|f| f.spec.envs = vec![("HOME".into(), b"/req".to_vec())]), "HOME=/req");
}

#[test]
fn variables_that_cannot_be_passed_are_refused() {
    let set = |name: &str, value: &[u8]| {
        Fixture::with(|f| f.spec.envs = vec![(name.to_owned(), value.to_vec())])
    };
    for (name, value) in [
        ("", b"x".as_slice()),
        ("a=b", b"x"),
        ("a\0", b"x"),
        ("a\nb", b"x"),
        ("A", b"\0"),
        ("A", b"\xff"),
        ("HOME", b"/root:/sbin/nologin\ntest::0:0::/:/bin/sh"),
        ("HOME", "/x\u{85}y".as_bytes()),
        ("HOME", "/x\u{2028}y".as_bytes()),
    ] {
        set(name, value).refusal();
    }
    assert!(set("SECRET_KEY", b"\xff").refusal().contains("SECRET_KEY"));
    let literal = set("HOME", br"/root\n");
    assert_eq!(env(&literal).pop().unwrap(), r"HOME=/root\n");
    Fixture::with(|f| f.image_env = strings(&["HOME=/a\nb"])).refusal();
}

#[test]
fn image_variables_without_a_value_are_left_out_with_a_warning() {
    let fixture = Fixture::with(|f| f.image_env = strings(&["NOVALUE", "=x"]));
    assert_eq!(fixture.warnings().len(), 2);
    assert!(!env(&fixture).iter().any(|entry| entry.contains("NOVALUE") || entry == "=x"));
}

#[test]
fn the_working_directory_is_clean_or_refused() {
    let dir = |request: Option<&str>, image: &str| {
        Fixture::with(|f| {
            f.spec.working_dir = request.map(str::to_owned);
            f.image_dir = image.to_owned();
        })
    };
    for (request, image, expected) in [
        (None, "", "/"),
        (None, "/img", "/img"),
        (Some(""), "/img", "/img"),
        (Some("/req//./x/"), "/img", "/req/x"),
        (Some("/proc"), "", "/proc"),
        (Some("/proc/sys/kernel"), "", "/proc/sys/kernel"),
        (Some("/process/self"), "", "/process/self"),
        (Some("/proc/self."), "", "/proc/self."),
        (Some("/proc/1x"), "", "/proc/1x"),
    ] {
        assert_eq!(dir(request, image).json()["process"]["cwd"], expected);
    }
    for bad in [
        "app",
        "../x",
        "/a/../b",
        "/proc/self/fd/7/../../..",
        "/proc/self/fd/7",
        "//proc/./self/cwd",
        "/proc/thread-self/cwd",
        "/proc/1/root",
        "/a\nb",
    ] {
        dir(Some(bad), "").refusal();
        dir(None, bad).refusal();
    }
    dir(Some(&"/x".repeat(2048)), "").refusal();
}

#[test]
fn identity_terminal_and_privileges_are_passed_on() {
    let config = Fixture::with(|f| {
        f.identity = Identity { uid: 1000, gid: 1001, additional_gids: vec![44, 1001], home: None };
        f.spec.tty = true;
        f.spec.security.no_new_privs = true;
        f.spec.security.readonly_rootfs = true;
    })
    .json();
    let process = &config["process"];
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [44, 1001]});
    assert_eq!(process["user"], user);
    assert_eq!(process["terminal"], true);
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(config["root"]["readonly"], true);
}

#[test]
fn the_oom_score_is_always_set_and_not_below_what_is_allowed() {
    let score = |wanted, lowest| {
        let fixture = Fixture::with(|f| {
            f.spec.resources.oom_score_adj = wanted;
            f.host.oom_score_adj_min = lowest;
        });
        (fixture.json()["process"]["oomScoreAdj"].as_i64().unwrap(), fixture.warnings().len())
    };
    assert_eq!(score(0, -1000), (0, 0));
    assert_eq!(score(-997, -1000), (-997, 0));
    assert_eq!(score(-997, 0), (0, 1));
    assert_eq!(score(1000, 0), (1000, 0));
    for wanted in [-1001, 1001] {
        Fixture::with(|f| f.spec.resources.oom_score_adj = wanted).refusal();
    }
}

#[test]
fn another_process_differs_in_arguments_and_terminal_only() {
    let mut created = Fixture::new().json()["process"].clone();
    created["consoleSize"] = json!({"height": 24, "width": 80});
    let command = strings(&["ls", "-l"]);

    let plain = exec_process(created.clone(), &command, false);
    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("consoleSize");
    expected["args"] = json!(["ls", "-l"]);
    assert_eq!(plain, expected);

    let terminal = exec_process(created, &command, true);
    assert_eq!(terminal["terminal"], true);
    assert_eq!(texts(&terminal["env"]).last(), Some(&"TERM=xterm"));
    let again = exec_process(terminal.clone(), &command, true);
    assert_eq!(again, terminal, "TERM is not set twice");
}

proptest! {
    /// Every name is in the environment once, with the last value given.
    #[test]
    fn every_variable_is_there_once(names in proptest::collection::vec("[A-C]{1,2}|PATH|HOME", 0..12)) {
        let envs: Vec<(String, Vec<u8>)> = names
            .iter()
            .enumerate()
            .map(|(index, name)| (name.clone(), index.to_string().into_bytes()))
            .collect();
        let entries = env(&Fixture::with(|f| f.spec.envs = envs.clone()));
        for (name, _) in &envs {
            let prefix = format!("{name}=");
            let found: Vec<&String> = entries.iter().filter(|e| e.starts_with(&prefix)).collect();
            let last = &envs.iter().rev().find(|(other, _)| other == name).unwrap().1;
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].as_bytes(), [prefix.as_bytes(), last.as_slice()].concat());
        }
    }

    /// No working directory that is let through leads out of its own text.
    #[test]
    fn no_directory_escapes(dir in "(/|\\.|\\.\\.|proc|self|1|x){1,8}") {
        let fixture = Fixture::with(|f| f.spec.working_dir = Some(dir));
        if let Ok(built) = fixture.build() {
            let process = built.spec.process().clone().unwrap();
            let cwd = process.cwd().to_str().unwrap().to_owned();
            prop_assert!(cwd.starts_with('/'));
            prop_assert!(!cwd.split('/').any(|part| part == ".." || part == "."));
            let parts: Vec<&str> = cwd.split('/').skip(1).collect();
            let of_a_process = match parts[..] {
                ["proc", first, ..] => first == "self" || first.bytes().all(|byte| byte == b'1'),
                _ => false,
            };
            prop_assert!(!of_a_process, "{}", cwd);
        }
    }
}
