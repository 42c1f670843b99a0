//! A command line says what its `Launch` says, and a wrong one is refused by name.

#![allow(clippy::unwrap_used)]

use std::os::unix::ffi::OsStringExt;

use super::*;

fn sample() -> Launch {
    Launch {
        dir: "/run/crisol/monitor/ab12".into(),
        id: "ab12".into(),
        log: Some("/var/log/pods/x/0.log".into()),
        log_dir: Some("/var/log/pods".into()),
        terminal: true,
        stdin: true,
        stdin_once: true,
        restore: true,
        owner: Some(Owner { uid: 65_536, gid: 0 }),
        create_timeout: Duration::from_millis(1500),
        runtime: ["/usr/bin/runc", "create", "--", "--dir", "ab12"].map(OsString::from).to_vec(),
    }
}

fn parse(line: &str) -> Result<Launch, LaunchError> {
    Launch::parse(line.split(' ').map(OsString::from))
}

#[test]
fn every_launch_is_read_back_from_its_own_arguments() {
    for bits in 0..128u8 {
        let launch = Launch {
            terminal: bits & 1 != 0,
            stdin: bits & 2 != 0,
            stdin_once: bits & 4 != 0,
            restore: bits & 32 != 0,
            log: (bits & 8 != 0)
                .then(|| PathBuf::from(OsString::from_vec(b"/l/\xff -- x".to_vec()))),
            log_dir: (bits & 8 != 0 && bits & 64 != 0).then(|| "/l/".into()),
            owner: sample().owner.filter(|_| bits & 16 != 0),
            ..sample()
        };
        assert_eq!(Launch::parse(launch.args()), Ok(launch));
    }
}

#[test]
fn the_runtime_keeps_arguments_that_look_like_ours() {
    let launch = Launch::parse(sample().args()).unwrap();
    assert_eq!(launch.runtime, sample().runtime);
}

#[test]
fn a_wrong_command_line_is_refused_by_the_name_of_what_is_wrong() {
    use LaunchError::{Command, Missing, Option, Twice, Value};
    let cases = [
        ("walk --dir /d", Command("walk".into())),
        ("run --dir d --id a -- r", Value("--dir")),
        ("run --dir", Value("--dir")),
        ("run --id  --dir /d -- r", Value("--id")),
        ("run --dir /d --dir /d -- r", Twice("--dir")),
        ("run --stdin --stdin -- r", Twice("--stdin")),
        ("run --owner 1 -- r", Value("--owner")),
        ("run --owner -1:4294967295 -- r", Value("--owner")),
        ("run --log /l/0.log --log-dir l --dir /d -- r", Value("--log-dir")),
        ("run --log-dir /l -- r", Value("--log-dir")),
        ("run --log /l/0.log --log-dir /l/0.log -- r", Value("--log-dir")),
        ("run --log /l/0.log --log-dir /l/0 -- r", Value("--log-dir")),
        ("run --log /l/../0.log --log-dir /l -- r", Value("--log-dir")),
        ("run --colour -- r", Option("--colour".into())),
        ("run --dir /d --id a", Missing("--")),
        ("run --id a --create-timeout-ms 1 -- r", Missing("--dir")),
        ("run --dir /d --create-timeout-ms 1 -- r", Missing("--id")),
        ("run --dir /d --id a -- r", Missing("--create-timeout-ms")),
        ("run --dir /d --id a --create-timeout-ms 0 -- r", Value("--create-timeout-ms")),
        ("run --dir /d --id a --create-timeout-ms -1 -- r", Value("--create-timeout-ms")),
        ("run --create-timeout-ms 86400001 -- r", Value("--create-timeout-ms")),
        ("run --dir /d --id a --create-timeout-ms 1 --", Missing("the runtime's command line")),
    ];
    for (line, error) in cases {
        assert_eq!(parse(line), Err(error), "{line}");
    }
    assert_eq!(Launch::parse([]), Err(Command(OsString::new())));
}
