//! The first process of a shared pid namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::waiting::{eventually, is_alive, processes_with, status_field, unique_seconds};

fn pause(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conmon")).arg("pause").args(args).output().unwrap()
}

/// A pinned namespace, unpinned and ended after the test.
struct Pause {
    dir: tempfile::TempDir,
    pid: i32,
    start_time: u64,
}

impl Pause {
    fn start(args: &[&str]) -> Pause {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("pid");
        let output = pause(&[&["--pin", pin.to_str().unwrap()], args].concat());
        assert!(output.status.success(), "{output:?}");
        let line = String::from_utf8(output.stdout).unwrap();
        let (pid, start_time) = line.trim_end().split_once(' ').unwrap();
        Pause { dir, pid: pid.parse().unwrap(), start_time: start_time.parse().unwrap() }
    }

    fn pin(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// Runs a shell script in the namespace.
    fn enter(&self, script: &str) -> Child {
        Command::new("nsenter")
            .arg(format!("--pid={}", self.pin().display()))
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        rustix::process::kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL).ok();
        rustix::mount::unmount(self.pin(), UnmountFlags::DETACH).ok();
    }
}

fn namespace(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn the_namespace_is_pinned_and_the_first_process_is_locked_in() {
    let pause = Pause::start(&[]);
    assert_eq!(namespace(&pause.pin()), namespace(&pause.proc("ns/pid")));
    assert_ne!(namespace(&pause.pin()), namespace(Path::new("/proc/self/ns/pid")));
    let stat = fs::read_to_string(pause.proc("stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    assert_eq!(fields.split(' ').nth(19), Some(pause.start_time.to_string().as_str()));

    let status = fs::read_to_string(pause.proc("status")).unwrap();
    let field = |name: &str| status_field(&status, name);
    assert_eq!(field("Name"), "pause");
    assert_eq!(field("Uid"), "65535\t65535\t65535\t65535");
    assert_eq!(field("Gid"), "65535\t65535\t65535\t65535");
    assert_eq!(field("Groups"), "");
    assert_eq!(field("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(fs::read_dir(pause.proc("fd")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(pause.proc("root/")).unwrap().count(), 0);
    let mounts = fs::read_to_string(pause.proc("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    assert_ne!(namespace(&pause.proc("ns/mnt")), namespace(Path::new("/proc/self/ns/mnt")));
    let program = rustix::fs::statvfs(pause.proc("exe")).unwrap();
    assert!(program.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

#[test]
fn the_end_of_the_first_process_is_the_end_of_all() {
    let pause = Pause::start(&[]);
    let mark = unique_seconds();
    let mut inside = pause.enter(&format!("sleep {mark} & sleep {mark}; true"));
    eventually("both run", || processes_with(&mark).len() == 2);
    pause.signal(Signal::KILL);
    assert!(!inside.wait().unwrap().success());
    eventually("all are gone", || !is_alive(pause.pid) && processes_with(&mark).is_empty());
}

#[test]
fn orphans_are_reaped() {
    let pause = Pause::start(&[]);
    let orphans = "i=0; while [ $i -lt 20 ]; do (sleep 0.05 &); i=$((i+1)); done";
    assert!(pause.enter(orphans).wait().unwrap().success());
    let children = pause.proc(&format!("task/{}/children", pause.pid));
    eventually("no child is left", || fs::read_to_string(&children).unwrap().is_empty());
}

#[test]
fn a_polite_signal_ends_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let pause = Pause::start(&[]);
        pause.signal(Signal::HUP);
        assert!(is_alive(pause.pid));
        pause.signal(signal);
        eventually("it is gone", || !is_alive(pause.pid));
    }
}

#[test]
fn it_joins_namespaces_and_is_the_user_that_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("uts");
    fs::write(&pin, "").unwrap();
    let status =
        Command::new("unshare").arg(format!("--uts={}", pin.display())).arg("true").status();
    assert!(status.unwrap().success());
    let pause = Pause::start(&["--join-uts", pin.to_str().unwrap(), "--user", "1234:5678"]);
    assert_eq!(namespace(&pause.proc("ns/uts")), namespace(&pin));
    assert_ne!(namespace(&pin), namespace(Path::new("/proc/self/ns/uts")));
    let status = fs::read_to_string(pause.proc("status")).unwrap();
    assert_eq!(status_field(&status, "Uid"), "1234\t1234\t1234\t1234");
    assert_eq!(status_field(&status, "Gid"), "5678\t5678\t5678\t5678");
    rustix::mount::unmount(&pin, UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_failure_says_why_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("none/pid");
    let output = pause(&["--pin", pin.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!("conmon: create {}: No such file or directory (os error 2)\n", pin.display())
    );
    // A directory cannot be bound over by a file: the child is there by then.
    let pin = dir.path().join("dir");
    fs::create_dir(&pin).unwrap();
    let output = pause(&["--pin", pin.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert_eq!(processes_with(pin.to_str().unwrap()), []);
    let output = pause(&["--pin", "relative"]);
    assert_eq!(output.status.code(), Some(2));
}

/// A process in a user namespace in which root alone is mapped; killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn start() -> Stranger {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--uts", "sleep", "1000"]);
        let stranger = Stranger(unshare.spawn().unwrap());
        eventually("it is in its namespace", || {
            namespace(Path::new(&stranger.namespace("user")))
                != namespace(Path::new("/proc/self/ns/user"))
        });
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", stranger.0.id()), "0 0 1").unwrap();
        }
        stranger
    }

    fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn it_belongs_to_the_user_namespace_that_it_joins() {
    let stranger = Stranger::start();
    let [user, uts] = ["user", "uts"].map(|name| stranger.namespace(name));
    let pause = Pause::start(&["--join-uts", &uts, "--join-user", &user, "--user", "0:0"]);
    assert_eq!(namespace(&pause.proc("ns/user")), namespace(Path::new(&user)));
    assert_eq!(namespace(&pause.proc("ns/uts")), namespace(Path::new(&uts)));
    assert_eq!(namespace(&pause.proc("ns/pid")), namespace(&pause.pin()));
    // Whoever is root of that namespace may mount the new one's procfs.
    let mounts = Command::new("nsenter")
        .arg(format!("--user={user}"))
        .arg(format!("--pid={}", pause.pin().display()))
        .args(["unshare", "--mount", "mount", "-t", "proc", "proc", "/proc"])
        .output()
        .unwrap();
    assert!(mounts.status.success(), "{}", String::from_utf8_lossy(&mounts.stderr));
}

#[test]
fn a_user_that_is_not_mapped_is_a_failure_that_leaves_nothing() {
    let stranger = Stranger::start();
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("pid");
    let output =
        pause(&["--pin", pin.to_str().unwrap(), "--join-user", &stranger.namespace("user")]);
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("drop privileges"), "{words}");
    assert!(!pin.exists());
}
