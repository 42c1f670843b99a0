//! A configuration directory as it changes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::{ConfigDir, Loaded, Plugins, Problem, Version};
use tokio::sync::watch::Receiver;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("conf")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let fixture = Self { dir };
        fixture.plugin("p", "");
        fixture
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.dir.path().join("conf").join(name)
    }

    /// A plugin that answers VERSION with these versions.
    fn plugin(&self, name: &str, versions: &str) {
        let path = self.dir.path().join("bin").join(name);
        // Replaced as an installer would do it, never written while it may be running.
        let new = path.with_extension("new");
        let text = format!("#!/bin/sh\necho '{{\"supportedVersions\":[{versions}]}}'\n");
        let text = if versions.is_empty() { "#!/bin/sh\necho garbage\n".to_owned() } else { text };
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn watch(&self) -> ConfigDir {
        let plugins = Plugins::new(vec![self.dir.path().join("bin")]);
        ConfigDir::watch(self.dir.path().join("conf"), plugins)
    }
}

fn config(name: &str, kind: &str, versions: &str) -> String {
    format!(r#"{{"cniVersions":[{versions}],"name":"{name}","plugins":[{{"type":"{kind}"}}]}}"#)
}

fn simple(name: &str) -> String {
    config(name, "p", r#""1.0.0""#)
}

/// Waits until what is loaded satisfies `wanted`; returns it and how long that took.
async fn until(
    loaded: &mut Receiver<Arc<Loaded>>,
    wanted: impl Fn(&Loaded) -> bool,
) -> (Arc<Loaded>, Duration) {
    let started = Instant::now();
    let found = tokio::time::timeout(Duration::from_secs(15), loaded.wait_for(|now| wanted(now)));
    let found = found.await.expect("what is wanted appears in time").unwrap().clone();
    (found, started.elapsed())
}

fn name(loaded: &Loaded) -> Option<&str> {
    loaded.usable().map(|network| network.name())
}

#[tokio::test]
async fn the_first_answer_is_there_at_once() {
    let f = Fixture::new();
    assert!(matches!(f.watch().current().problems[..], [Problem::Nothing { .. }]));
    fs::write(f.conf("10.conflist"), simple("here")).unwrap();
    assert_eq!(name(&f.watch().current()), Some("here"));
}

#[tokio::test]
async fn a_file_that_appears_changes_or_goes_is_seen_before_the_next_poll() {
    let f = Fixture::new();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    let mut all = Duration::ZERO;
    fs::write(f.conf("20.conflist"), simple("first")).unwrap();
    all += until(&mut loaded, |now| name(now) == Some("first")).await.1;
    fs::write(f.conf("20.conflist"), simple("changed")).unwrap();
    all += until(&mut loaded, |now| name(now) == Some("changed")).await.1;
    fs::write(f.conf("10.conflist"), simple("earlier")).unwrap();
    all += until(&mut loaded, |now| name(now) == Some("earlier")).await.1;
    fs::remove_file(f.conf("10.conflist")).unwrap();
    all += until(&mut loaded, |now| name(now) == Some("changed")).await.1;
    fs::remove_file(f.conf("20.conflist")).unwrap();
    let (gone, took) = until(&mut loaded, |now| now.network.is_none()).await;
    assert!(matches!(gone.problems[..], [Problem::Nothing { .. }]));
    // Polls alone would take five times five seconds.
    assert!(all + took < Duration::from_secs(15), "{all:?} and {took:?}");
}

#[tokio::test]
async fn a_directory_that_appears_later_is_watched() {
    let f = Fixture::new();
    fs::remove_dir(f.dir.path().join("conf")).unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    fs::create_dir(f.dir.path().join("conf")).unwrap();
    fs::write(f.conf("10.conflist"), simple("late")).unwrap();
    until(&mut loaded, |now| name(now) == Some("late")).await;
    fs::remove_dir_all(f.dir.path().join("conf")).unwrap();
    until(&mut loaded, |now| now.network.is_none()).await;
}

#[tokio::test]
async fn a_broken_file_is_a_named_problem_and_the_next_file_is_used() {
    let f = Fixture::new();
    fs::write(f.conf("10.conflist"), "{").unwrap();
    fs::write(f.conf("20.conflist"), simple("good")).unwrap();
    let loaded = f.watch().current();
    assert_eq!(name(&loaded), Some("good"));
    let [Problem::Broken(error)] = &loaded.problems[..] else { panic!("{loaded:?}") };
    assert_eq!(error.path(), f.conf("10.conflist"));
}

#[tokio::test]
async fn a_file_written_in_pieces_never_loses_the_network() {
    let f = Fixture::new();
    fs::write(f.conf("10.conflist"), simple("n")).unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    let writer = {
        let path = f.conf("10.conflist");
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for n in 0..15 {
                let text = simple(&format!("n{n}"));
                let begun = Instant::now();
                fs::write(&path, &text[..20]).unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
                fs::write(&path, &text).unwrap();
                longest = longest.max(begun.elapsed());
            }
            longest
        })
    };
    let watching = async {
        let mut lost = false;
        loop {
            loaded.changed().await.unwrap();
            let now = loaded.borrow_and_update().clone();
            lost |= now.usable().is_none();
            if name(&now) == Some("n14") {
                return lost;
            }
        }
    };
    let lost = tokio::time::timeout(Duration::from_secs(60), watching).await.unwrap();
    // A file that stays broken for a second is given up, as it is on a machine so busy.
    let longest = writer.await.unwrap();
    assert!(!lost || longest >= Duration::from_secs(1), "lost within {longest:?}");
}

#[tokio::test]
async fn a_file_that_stays_broken_is_given_up_with_its_name() {
    let f = Fixture::new();
    fs::write(f.conf("10.conflist"), simple("n")).unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    fs::write(f.conf("10.conflist"), "{").unwrap();
    let (now, took) = until(&mut loaded, |now| now.network.is_none()).await;
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(matches!(now.problems[..], [Problem::Broken(_)]));
    assert!(watched.current().usable().is_none());
}

#[tokio::test]
async fn a_missing_plugin_is_a_problem_until_it_is_installed() {
    let f = Fixture::new();
    fs::write(f.conf("10.conflist"), config("n", "late", r#""1.0.0""#)).unwrap();
    let watched = f.watch();
    let now = watched.current();
    assert!(now.network.is_some() && now.usable().is_none());
    let [Problem::Plugin { source, .. }] = &now.problems[..] else { panic!("{now:?}") };
    assert!(source.to_string().contains("plugin late is not an executable file"));
    let mut loaded = watched.subscribe();
    f.plugin("late", r#""1.0.0""#);
    until(&mut loaded, |now| name(now) == Some("n")).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_a_problem() {
    let f = Fixture::new();
    let path = f.dir.path().join("bin/elf");
    // An ELF header for a machine that this is not.
    fs::write(&path, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff\x01\0\0\0").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(f.conf("10.conflist"), config("n", "elf", r#""1.0.0""#)).unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    let (now, _) = until(&mut loaded, |now| now.usable().is_none()).await;
    let [Problem::Plugin { source, .. }] = &now.problems[..] else { panic!("{now:?}") };
    assert!(source.to_string().contains("bin/elf"), "{source}");
}

#[tokio::test]
async fn the_version_is_the_newest_that_all_plugins_speak() {
    let f = Fixture::new();
    f.plugin("old", r#""0.4.0","1.0.0""#);
    let all = r#""0.3.1","0.4.0","1.0.0","1.1.0""#;
    fs::write(f.conf("10.conflist"), config("n", "old", all)).unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    let version = |now: &Loaded| now.usable().map(|network| network.version());
    until(&mut loaded, |now| version(now) == Some(Version::V1_0_0)).await;
    // The same program, replaced by a newer one.
    f.plugin("old", r#""1.0.0","1.1.0""#);
    until(&mut loaded, |now| version(now) == Some(Version::V1_1_0)).await;
    f.plugin("old", r#""0.1.0","9.9.9""#);
    let (now, _) = until(&mut loaded, |now| now.usable().is_none()).await;
    let text = now.problems[0].to_string();
    assert!(text.contains("plugin old speaks 0.1.0, 9.9.9"), "{text}");
    assert!(text.contains("wants version 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{text}");
}

#[tokio::test]
async fn an_answer_to_version_that_makes_no_sense_restricts_nothing() {
    let f = Fixture::new();
    fs::write(f.conf("10.conflist"), config("n", "p", r#""1.0.0","1.1.0""#)).unwrap();
    fs::write(f.conf("20.conflist"), "{").unwrap();
    let watched = f.watch();
    let mut loaded = watched.subscribe();
    // The broken second file is fixed only to see that a reading has happened.
    fs::remove_file(f.conf("20.conflist")).unwrap();
    let (now, _) = until(&mut loaded, |now| now.problems.is_empty()).await;
    assert_eq!(now.usable().unwrap().version(), Version::V1_1_0);
}

/// The part of the next test that runs as a user whose inotify instances are used up.
async fn watch_without_inotify(dir: &Path) {
    let mut instances = Vec::new();
    while let Ok(instance) = inotify::Inotify::init() {
        instances.push(instance);
    }
    let watched = ConfigDir::watch(dir.join("conf"), Plugins::new(vec![dir.join("bin")]));
    let mut loaded = watched.subscribe();
    // Only the task knows the plugin's versions: from then on nothing but a poll can see a change.
    let version = |now: &Loaded| now.usable().map(|network| network.version());
    until(&mut loaded, |now| version(now) == Some(Version::V1_0_0)).await;
    fs::rename(dir.join("ready"), dir.join("conf/05.conflist")).unwrap();
    let found = loaded.wait_for(|now| name(now) == Some("polled"));
    tokio::time::timeout(Duration::from_secs(15), found).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_inotify_changes_are_seen_by_polling() {
    const CHILD: &str = "CNI_TEST_WITHOUT_INOTIFY";
    if let Some(dir) = std::env::var_os(CHILD) {
        return watch_without_inotify(Path::new(&dir)).await;
    }
    // inotify instances are counted per user, so another user's can be used up without harm.
    let user = 64_000 + std::process::id() % 1000;
    let f = Fixture::new();
    fs::write(f.dir.path().join("ready"), simple("polled")).unwrap();
    f.plugin("old", r#""1.0.0""#);
    fs::write(f.conf("10.conflist"), config("n", "old", r#""1.0.0","1.1.0""#)).unwrap();
    for path in [f.dir.path().to_owned(), f.conf(""), f.dir.path().join("ready")] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    // A copy, because that user may not be able to reach the build directory.
    let program = f.dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new(&program)
        .args(["--exact", "without_inotify_changes_are_seen_by_polling", "--nocapture"])
        .env(CHILD, f.dir.path())
        .uid(user)
        .gid(user)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
