//! The log on a file system of one mebibyte, on a file that is torn, and over a reopen.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use conmon::Launch;
use rustix::fs::{CWD, Mode};

use super::*;
use crate::fault::Fault;

/// The log at `path`, as the monitor is told it.
fn place(path: &Path, log_dir: Option<&Path>) -> Option<Place> {
    Place::of(&Launch {
        dir: "/".into(),
        id: String::new(),
        log: Some(path.to_owned()),
        log_dir: log_dir.map(Path::to_owned),
        terminal: false,
        stdin: false,
        stdin_once: false,
        restore: false,
        owner: None,
        create_timeout: std::time::Duration::from_secs(1),
        runtime: Vec::new(),
    })
}

/// The log at `path`, below the directory that it is in.
fn at(path: &Path) -> Option<Place> {
    place(path, path.parent())
}

/// A log as the monitor opens it.
fn open(place: Option<Place>) -> Result<Log, Fault> {
    Ok(Log::new(place.map(|place| place.open()).transpose()?))
}

/// Opens the place of a log anew, and goes on there if that works.
fn reopen(log: &mut Log, place: Option<Place>) -> Result<(), Fault> {
    log.move_to(place.unwrap().open()?);
    Ok(())
}

fn messages(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| line.get(line::PREFIX..).unwrap_or(line).to_owned()).collect()
}

#[test]
fn output_becomes_lines_and_the_unfinished_rest_is_handed_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = open(at(&path)).unwrap();
    assert_eq!(log.write(Source::Stdout, b"one\ntwo\nthr"), 3);
    log.write_last(Source::Stdout, b"three");
    log.write_last(Source::Stderr, b"");
    assert_eq!(messages(&path), ["one", "two", "three"]);
    assert!(fs::read_to_string(&path).unwrap().ends_with(" stdout P three\n"));
    assert_eq!(log.lost_bytes(), 0);
}

#[test]
fn a_batch_larger_than_the_buffer_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = open(at(&path)).unwrap();
    assert_eq!(log.write(Source::Stdout, &b"y\n".repeat(40_000)), 0);
    assert_eq!(messages(&path), vec!["y"; 40_000]);
    assert_eq!(log.batch.capacity(), BATCH);
}

#[test]
fn a_file_that_ends_within_a_line_is_continued_on_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    fs::write(&path, "torn").unwrap();
    let mut log = open(at(&path)).unwrap();
    log.write(Source::Stdout, b"one\n");
    assert_eq!(messages(&path), ["torn", "one"]);
}

#[test]
fn a_reopen_moves_on_to_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
    let mut log = open(at(&path)).unwrap();
    log.write(Source::Stdout, b"one\n");
    fs::rename(&path, &old).unwrap();
    log.write(Source::Stdout, b"two\n");
    reopen(&mut log, at(&path)).unwrap();
    log.write(Source::Stdout, b"three\n");
    assert_eq!(messages(&old), ["one", "two"]);
    assert_eq!(messages(&path), ["three"]);
}

#[test]
fn a_reopen_that_fails_keeps_the_old_file_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
    fs::create_dir(&logs).unwrap();
    let path = logs.join("0.log");
    let mut log = open(at(&path)).unwrap();
    fs::rename(&logs, &moved).unwrap();
    let fault = reopen(&mut log, at(&path)).unwrap_err();
    assert_eq!(fault.to_string(), format!("open log {}", path.display()));
    assert!(!logs.exists());
    fs::create_dir(&logs).unwrap();
    symlink("/dev/null", &path).unwrap();
    assert!(reopen(&mut log, at(&path)).is_err());
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR).unwrap();
    assert!(reopen(&mut log, at(&path)).is_err());
    log.write(Source::Stdout, b"still here\n");
    assert_eq!(messages(&moved.join("0.log")), ["still here"]);
}

#[test]
fn no_link_below_the_directory_of_logs_is_followed_at_the_start_or_at_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (real, base, outside) =
        (dir.path().join("real"), dir.path().join("base"), dir.path().join("outside"));
    for made in [&real, &outside] {
        fs::create_dir(made).unwrap();
    }
    // The way to the directory is the operator's.
    symlink(&real, &base).unwrap();
    let (app, path) = (real.join("app"), base.join("app/0.log"));
    let below = || place(&path, Some(&base));
    fs::create_dir(&app).unwrap();
    let mut log = open(below()).unwrap();
    log.write(Source::Stdout, b"one\n");
    fs::rename(&app, real.join("moved")).unwrap();
    let refused = format!("open log {}: a link below {}", path.display(), base.display());
    for target in [outside.as_path(), Path::new("moved"), Path::new("../outside")] {
        symlink(target, &app).unwrap();
        assert_eq!(reopen(&mut log, below()).unwrap_err().chain(), refused, "{}", target.display());
        assert_eq!(open(below()).err().unwrap().chain(), refused, "{}", target.display());
        fs::remove_file(&app).unwrap();
    }
    fs::create_dir(&app).unwrap();
    symlink(outside.join("0.log"), app.join("0.log")).unwrap();
    assert_eq!(reopen(&mut log, below()).unwrap_err().chain(), refused);
    log.write(Source::Stdout, b"two\n");
    assert_eq!(messages(&real.join("moved/0.log")), ["one", "two"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_file(app.join("0.log")).unwrap();
    reopen(&mut log, below()).unwrap();
    log.write(Source::Stdout, b"three\n");
    assert_eq!(messages(&app.join("0.log")), ["three"]);
}

#[test]
fn a_log_whose_directory_was_not_told_is_opened_as_by_an_older_monitor() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let path = dir.path().join("link/0.log");
    let mut log = open(place(&path, None)).unwrap();
    log.write(Source::Stdout, b"one\n");
    assert_eq!(messages(&path), ["one"]);
    symlink("real/0.log", dir.path().join("0.log")).unwrap();
    assert!(open(place(&dir.path().join("0.log"), None)).is_err());
}

/// A tmpfs of one mebibyte that is unmounted when dropped. Only root can make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, c"size=1m").unwrap();
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).ok();
    }
}

#[test]
fn what_does_not_fit_is_dropped_counted_and_told_of_once_there_is_room() {
    let disk = SmallDisk::mount();
    let (path, ballast) = (disk.0.path().join("0.log"), disk.0.path().join("ballast"));
    let mut log = open(at(&path)).unwrap();
    log.write(Source::Stdout, b"before\n");
    let room = 1024 * 1024 - 2 * 4096;
    fs::write(&ballast, vec![0; room]).unwrap();
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    for _ in 0..100 {
        assert_eq!(log.write(Source::Stdout, &line.repeat(10)), 0);
    }
    assert_eq!(log.lost_bytes(), 1_000_000);
    assert_eq!(messages(&path), ["before"], "no part of a batch stays behind");
    fs::remove_file(&ballast).unwrap();
    log.write(Source::Stdout, b"after\n");
    log.settle();
    let missing = "conmon: 1000000 bytes of output are missing here: write error";
    assert_eq!(messages(&path), ["before", missing, "after"]);
    assert_eq!(log.lost_bytes(), 1_000_000);
}

#[test]
fn a_loss_at_the_very_end_is_told_of_when_the_log_is_settled() {
    let disk = SmallDisk::mount();
    let path = disk.0.path().join("0.log");
    let mut log = open(at(&path)).unwrap();
    fs::write(disk.0.path().join("ballast"), vec![0; 2 * 1024 * 1024]).unwrap_err();
    log.write(Source::Stdout, b"lost\n");
    log.settle();
    assert_eq!(messages(&path), Vec::<String>::new());
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    log.settle();
    let missing = "conmon: 5 bytes of output are missing here: write error";
    assert_eq!(messages(&path), [missing]);
}

#[test]
fn without_a_path_everything_is_discarded() {
    let mut log = open(None).unwrap();
    assert_eq!(log.write(Source::Stdout, b"one\ntwo"), 0);
    log.settle();
    assert_eq!(log.lost_bytes(), 0);
}

#[test]
fn what_an_earlier_reader_took_along_is_told_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    fs::write(&path, "torn").unwrap();
    let mut log = open(at(&path)).unwrap();
    log.miss(7);
    log.write(Source::Stdout, b"one\n");
    log.write(Source::Stdout, b"two\n");
    log.settle();
    let missing = "conmon: 7 bytes of output are missing here: their reader was killed";
    assert_eq!(messages(&path), ["torn", missing, "one", "two"]);
    assert_eq!(log.lost_bytes(), 0);
    log.miss(9);
    log.settle();
    assert_eq!(messages(&path).len(), 5);
}
