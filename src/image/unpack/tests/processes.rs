//! The processes that unpack, seen from outside: what they may do, and what becomes of a layer when
//! one of them ends or lies.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::packets;

/// Bits of `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_MKNOD` and
/// `CAP_SETFCAP`.
const KEPT: &str = "000000008800001b";

/// How long anything may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A layer that is being unpacked and whose second half has not come yet.
struct Halfway {
    lab: Lab,
    unpacker: Arc<Unpacker>,
    line: Arc<Line>,
    rest: Bytes,
    sender: mpsc::Sender<Bytes>,
    unpacking: JoinHandle<Result<Unpacked, UnpackError>>,
}

impl Halfway {
    fn start(unpacker: &Arc<Unpacker>) -> Self {
        let lab = Lab::new();
        let archive = Tar::default().file("first", "x").file("second", &"y".repeat(5000)).end();
        let blob = Descriptor { digest: Digest::of(&archive), size: archive.len() as u64 };
        let place = Temporary::create(lab.root(), Arc::clone(&lab.trash)).expect("place");
        let (sender, pieces) = mpsc::channel(2);
        let archive = Bytes::from(archive);
        sender.try_send(archive.slice(..3000)).expect("room");
        let line = Arc::new(Line::new().expect("a line"));
        let unpacking = {
            let (unpacker, line) = (Arc::clone(unpacker), Arc::clone(&line));
            let layer = Layer::new(blob, Digest::of(&archive), WINDOW);
            std::thread::spawn(move || unpack(&unpacker, &layer, place, pieces, &line))
        };
        let rest = archive.slice(3000..);
        let halfway = Self { lab, unpacker: Arc::clone(unpacker), line, rest, sender, unpacking };
        let second = halfway.lab.root().join("second");
        eventually("half of it is there", || fs::metadata(&second).is_ok_and(|m| m.len() > 0));
        halfway
    }

    fn pid(&self) -> u32 {
        self.unpacker.pid().expect("it was started")
    }

    /// The process of this layer; there is no other one.
    fn worker(&self) -> u32 {
        let children = children_of(self.pid());
        assert_eq!(children.len(), 1, "{children:?}");
        children[0]
    }

    /// How it ends when nothing more comes.
    fn end(self) -> UnpackError {
        let Self { lab, line, sender, unpacking, .. } = self;
        // As the one who fetches: further bytes change nothing.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(line.given_up());
        drop(sender);
        let error = unpacking.join().expect("no panic").expect_err("half a layer");
        assert!(!lab.root().exists(), "the failure leaves something");
        lab.check_canary();
        error
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn proc(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// A field of proc_pid_status(5).
fn status(pid: u32, field: &str) -> String {
    let status = proc(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_default().trim().to_owned()
}

/// Fields of proc_pid_stat(5) from the third, the state, on.
fn stat(pid: u32) -> Vec<String> {
    let stat = proc(pid, "stat");
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    fields.split_whitespace().map(str::to_owned).collect()
}

fn children_of(pid: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("list").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|child| stat(*child).get(1) == Some(&pid.to_string())).collect()
}

fn is_gone(pid: u32) -> bool {
    stat(pid).first().is_none_or(|state| state == "Z")
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

/// Soft and hard limit of a row of /proc/PID/limits.
fn limits(pid: u32, name: &str) -> [String; 2] {
    let limits = proc(pid, "limits");
    let row = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = row.split_whitespace().map(str::to_owned);
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

#[test]
fn nothing_of_the_confinement_is_missing_here() {
    assert_eq!(unpacker_gaps().expect("an unpacker"), Vec::<String>::new());
}

#[test]
fn the_unpacker_and_the_process_of_a_layer_have_next_to_nothing() {
    let halfway = Halfway::start(&Arc::default());
    let (unpacker, worker) = (halfway.pid(), halfway.worker());
    for pid in [unpacker, worker] {
        for (field, expected) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", KEPT),
            ("CapEff", KEPT),
            ("CapBnd", KEPT),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Threads", "1"),
        ] {
            assert_eq!(status(pid, field), expected, "{field}");
        }
        let root = fs::read_dir(format!("/proc/{pid}/root")).expect("its root");
        assert_eq!(root.count(), 0, "files in its root");
        assert_eq!(proc(pid, "mountinfo").lines().count(), 1, "{}", proc(pid, "mountinfo"));
        for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("ns");
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
        assert_eq!(proc(pid, "environ"), "");
        assert_eq!(proc(pid, "oom_score_adj").trim(), "500");
        assert_eq!(stat(pid)[3], unpacker.to_string(), "its session");
        assert_eq!(limits(pid, "Max core file size"), ["0", "0"]);
        assert_eq!(limits(pid, "Max open files"), ["4096", "4096"]);
    }
    let window = ((WINDOW + (96 << 20)).to_string(), MAX_BYTES.to_string());
    assert_eq!(limits(worker, "Max data size"), [window.0.clone(), window.0]);
    assert_eq!(limits(worker, "Max file size"), [window.1.clone(), window.1]);
    assert_eq!(limits(worker, "Max processes"), ["0", "0"]);
    let [addresses, hard] = limits(worker, "Max address space");
    assert!(addresses == hard && addresses.parse::<u64>().is_ok(), "{addresses} {hard}");
    let number = |pid| status(pid, "NSpid").split_whitespace().last().map(str::to_owned);
    assert_eq!(number(unpacker).as_deref(), Some("1"), "the first of its PID namespace");
    // Two filters on the process of a layer, one on the unpacker.
    let filters = |pid| status(pid, "Seccomp_filters");
    assert_eq!((filters(unpacker).as_str(), filters(worker).as_str()), ("1", "2"));
    // Its bytes, its line, the layer's directory, the file that is being written, and a pipe that nobody
    // reads; nothing else.
    let open = fs::read_dir(format!("/proc/{worker}/fd")).expect("descriptors").flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let kinds: BTreeSet<String> = open
        .map(|link| link.display().to_string())
        .map(|link| link.split(':').next().unwrap_or_default().to_owned())
        .collect();
    let expected = ["/", "/second", "pipe", "socket"].map(str::to_owned);
    assert_eq!(kinds, BTreeSet::from(expected));
    let Halfway { sender, rest, unpacking, lab, unpacker: of_the_pull, .. } = halfway;
    sender.blocking_send(rest).expect("it still reads");
    drop(sender);
    let unpacked = unpacking.join().expect("no panic").expect("all of it");
    assert_eq!(lab.list(), ["f first", "f second"]);
    eventually("the process of the layer is gone", || is_gone(worker));
    drop((unpacked, of_the_pull));
    eventually("the unpacker is gone with its pull", || is_gone(unpacker));
}

#[test]
fn a_killed_process_fails_its_layer_and_no_other() {
    let unpacker = Arc::default();
    let halfway = Halfway::start(&unpacker);
    let pid = halfway.pid();
    kill(halfway.worker());
    let error = halfway.end();
    assert_eq!(error.to_string(), "the unpacker was killed by signal 9 (SIGKILL)");
    assert_eq!(error.kind(), Kind::Unavailable);
    let next = Halfway::start(&unpacker);
    assert_eq!(next.pid(), pid, "one unpacker for the whole pull");
    next.sender.blocking_send(next.rest.clone()).expect("it reads");
    drop(next.sender);
    drop(next.unpacking.join().expect("no panic").expect("all of it"));
}

#[test]
fn a_killed_unpacker_takes_its_processes_along() {
    let unpacker = Arc::default();
    let (one, other) = (Halfway::start(&unpacker), Halfway::start(&unpacker));
    let workers = children_of(one.pid());
    assert_eq!(workers.len(), 2, "one process a layer");
    kill(one.pid());
    for halfway in [one, other] {
        let error = halfway.end();
        assert_eq!(error.to_string(), "the unpacker was killed by signal 9 (SIGKILL)");
    }
    eventually("both are gone", || workers.iter().all(|pid| is_gone(*pid)));
    let next = Halfway::start(&Arc::default());
    drop(next.sender);
    let error = next.unpacking.join().expect("no panic").expect_err("half a layer");
    assert!(matches!(error, UnpackError::Interrupted), "{error}");
}

#[test]
fn a_process_that_nobody_waits_for_is_killed() {
    let halfway = Halfway::start(&Arc::default());
    let worker = halfway.worker();
    // It hangs, whatever comes.
    let pid = rustix::process::Pid::from_raw(worker.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
    halfway.line.hang_up();
    let Halfway { sender, unpacking, .. } = halfway;
    drop(sender);
    let error = unpacking.join().expect("no panic").expect_err("half a layer");
    assert!(matches!(error, UnpackError::Interrupted), "{error}");
    eventually("it is gone", || is_gone(worker));
}

#[test]
fn an_unpacker_that_hangs_ends_with_its_pull() {
    let halfway = Halfway::start(&Arc::default());
    let (unpacker, worker) = (halfway.pid(), halfway.worker());
    let pid = rustix::process::Pid::from_raw(unpacker.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
    halfway.line.hang_up();
    let Halfway { sender, unpacking, unpacker: of_the_pull, .. } = halfway;
    drop(sender);
    let error = unpacking.join().expect("no panic").expect_err("half a layer");
    assert!(matches!(error, UnpackError::Interrupted), "{error}");
    drop(of_the_pull);
    eventually("both are gone", || is_gone(unpacker) && is_gone(worker));
}

#[test]
fn what_is_used_up_is_no_gap_of_the_host() {
    for (errno, given) in
        [(libc::ENOSYS, false), (libc::EPERM, false), (libc::EINVAL, false)].into_iter().chain(
            [libc::ENOSPC, libc::ENOMEM, libc::EAGAIN, libc::EMFILE, libc::EUSERS]
                .map(|e| (e, true)),
        )
    {
        let error = std::io::Error::from_raw_os_error(errno);
        assert_eq!(!is_not_given(&error), given, "{error}");
        let error = UnpackError::setup("mount namespace", error);
        assert!(!given || error.kind() == Kind::Exhausted, "{error:?}");
    }
}

/// What comes of what a process says that a layer has taken over.
fn liar(lie: impl FnOnce(&dyn Fn(&Said)) + Send) -> UnpackError {
    let lab = Lab::new();
    fs::create_dir(lab.root()).expect("directory");
    let dir = layer_dir(&lab.root()).expect("the directory");
    let line = Line::new().expect("a line");
    let theirs = line.other_end();
    thread::scope(|scope| {
        let lying = scope.spawn(|| {
            lie(&|said| packets::send(&theirs, &said.encode().expect("words"), &[]).expect("sent"));
            rustix::net::shutdown(&theirs, rustix::net::Shutdown::Write).expect("no more");
        });
        let windows = Windows::of_layer(WINDOW);
        let owing = Owing::new(PATIENCE);
        let unpacker = Unpacker::default();
        let heard = listen(&unpacker, &line, dir.as_fd(), windows, None, &owing);
        let error = heard.expect_err("a lie");
        lying.join().expect("no panic");
        error
    })
}

#[test]
fn what_a_process_says_is_not_believed() {
    let done = |inodes| {
        let (diff_id, bytes) = (Digest::of(b""), 4096);
        Said::Done(Done { diff_id, bytes, inodes, opaque: false })
    };
    let failed = || Said::Failed(UnpackError::damaged("a\nlie"));
    let cases: [(&str, &(dyn Fn() -> Vec<Said> + Sync)); 9] = [
        ("too many inodes", &|| vec![done(u64::MAX)]),
        ("done twice", &|| vec![done(1), done(1)]),
        ("done, and more behind an end that is none", &|| vec![done(1), Said::Ended(0), done(1)]),
        ("done, without an end", &|| vec![done(1)]),
        ("more behind the end", &|| vec![failed(), done(1)]),
        ("a way out", &|| vec![Said::Implied(b"a/../../etc\0".to_vec())]),
        ("all memory", &|| vec![Said::Memory(u64::MAX)]),
        ("memory for ever", &|| vec![Said::Memory(0), Said::Memory(0)]),
        ("nothing", &Vec::new),
    ];
    for (what, said) in cases {
        let error = liar(|say| said().iter().for_each(say));
        assert!(matches!(error, UnpackError::Nonsense(_)), "{what}: {error}");
    }
    let error = liar(|say| [failed(), Said::Ended(0)].iter().for_each(say));
    assert_eq!(error.to_string(), "archive is damaged: alie");
    // The unpacker has no process for it.
    let error = liar(|say| say(&failed()));
    assert_eq!(error.to_string(), "archive is damaged: alie");
    let error = liar(|say| say(&Said::Ended(libc::SIGSYS)));
    assert_eq!(error.to_string(), "the unpacker was killed by signal 31 (SIGSYS)");
    // Only the daemon itself says that bytes are not those that were asked for.
    assert!(Said::Failed(UnpackError::Interrupted).encode().is_err());
    assert!(Said::decode(b"f\"Interrupted\"").is_none());
}

#[test]
fn only_directories_of_the_layer_are_marked_for_a_process() {
    let lab = Lab::new();
    fs::create_dir_all(lab.root().join("in/deep")).expect("directories");
    fs::write(lab.root().join("file"), "x").expect("file");
    symlink(lab.canary(), lab.root().join("out")).expect("link");
    let dir = layer_dir(&lab.root()).expect("the directory");
    let mark = |path: &str| mark_opaque(path.as_bytes(), dir.as_fd());
    let canary = lab.canary();
    for (path, expected) in [
        ("in/deep", 0),
        ("file", libc::ENOTDIR),
        ("none", libc::ENOENT),
        ("out", libc::ENOENT),
        ("../canary", libc::ENOENT),
        (canary.as_str(), libc::ENOENT),
        ("in\0", libc::EINVAL),
    ] {
        assert_eq!(mark(path), expected, "{path}");
    }
    assert!(lab.is_opaque("in/deep") && !lab.is_opaque("in"));
    assert!(!node::is_opaque(fs::File::open(canary).expect("directory")).expect("read"));
}

#[test]
fn a_process_that_takes_nothing_is_not_waited_for() {
    let lab = Lab::new();
    fs::create_dir(lab.root()).expect("directory");
    let dir = layer_dir(&lab.root()).expect("the directory");
    let line = Line::new().expect("a line");
    let _silent = line.other_end();
    let (owing, windows) = (Owing::new(Duration::from_millis(10)), Windows::of_layer(WINDOW));
    let heard = listen(&Unpacker::default(), &line, dir.as_fd(), windows, None, &owing);
    let error = heard.expect_err("silence");
    assert!(matches!(error, UnpackError::Stuck), "{error}");
    // One that has nothing to take yet is.
    owing.begin(false);
    owing.check().expect("patience");
}
