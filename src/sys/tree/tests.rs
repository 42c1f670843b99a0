#![allow(clippy::expect_used, reason = "tests")]

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

/// Nested directories, deeper than any path may be.
const DEPTH: usize = 7000;

fn deep(dir: &Path) -> OwnedFd {
    let mut here = enter(File::open(dir).expect("open"), b".").expect("enter");
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).expect("mkdir");
        here = enter(&here, b"d").expect("enter");
    }
    here
}

fn walked(top: &Path) -> Vec<String> {
    let mut walk = Walk::new(File::open(top).expect("open").into()).expect("walk");
    let mut found = Vec::new();
    while let Some(entry) = walk.next_entry().expect("next") {
        let mut path = String::from_utf8(walk.below()).expect("text");
        path.push('/');
        path.push_str(entry.name.to_str().expect("text"));
        found.push(path.trim_start_matches('/').to_owned());
    }
    found.sort();
    found
}

#[test]
fn a_tree_goes_but_what_its_links_point_to_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let kept = dir.path().join("kept");
    fs::create_dir(&kept).expect("directory");
    fs::write(kept.join("file"), "x").expect("file");
    let tree = dir.path().join("tree");
    for branch in ["a/b/c", "a/d", "e"] {
        fs::create_dir_all(tree.join(branch)).expect("directory");
        fs::write(tree.join(branch).join("f"), "x").expect("file");
        symlink(&kept, tree.join(branch).join("l")).expect("link");
    }
    let all =
        ["a", "a/b", "a/b/c", "a/b/c/f", "a/b/c/l", "a/d", "a/d/f", "a/d/l", "e", "e/f", "e/l"];
    assert_eq!(walked(&tree), all);
    remove(&tree).expect("remove");
    assert!(!tree.exists());
    assert!(kept.join("file").exists());
    remove(&tree).expect("absence is no error");
    remove(&tree.join("below/nothing")).expect("absence is no error");
}

#[test]
fn depth_costs_neither_stack_nor_descriptors() {
    let dir = tempfile::tempdir().expect("temporary directory");
    deep(dir.path());
    let top = dir.path().to_owned();
    let small = std::thread::Builder::new().stack_size(128 << 10);
    let thread = small.spawn(move || {
        let mut walk = Walk::new(File::open(&top).expect("open").into()).expect("walk");
        let mut entries = 0;
        while walk.next_entry().expect("next").is_some() {
            entries += 1;
        }
        assert_eq!((entries, walk.depth()), (DEPTH, 0));
        remove(&top.join("d")).expect("remove");
    });
    thread.expect("thread").join().expect("no overflow");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn a_directory_that_is_skipped_is_not_entered() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::create_dir_all(dir.path().join("in/deeper")).expect("directory");
    fs::create_dir_all(dir.path().join("out/deeper")).expect("directory");
    let mut walk = Walk::new(File::open(dir.path()).expect("open").into()).expect("walk");
    let mut found = Vec::new();
    while let Some(entry) = walk.next_entry().expect("next") {
        if entry.name.as_c_str() == c"out" {
            walk.skip();
        }
        found.push(walk.below());
    }
    found.sort();
    assert_eq!(found, [b"".to_vec(), b"".to_vec(), b"in".to_vec()]);
}

#[test]
fn another_file_system_is_neither_walked_nor_emptied() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let target = dir.path().join("tree/mounted");
    fs::create_dir_all(&target).expect("directory");
    let options =
        crate::sys::tmpfs::Tmpfs { bytes: 1 << 20, inodes: None, mode: 0o700, owner: (0, 0) };
    crate::sys::tmpfs::mount(&target, "precious", &options).expect("mount");
    fs::write(target.join("precious"), "x").expect("file");
    let found = walked(&dir.path().join("tree"));
    let removed = remove(&dir.path().join("tree"));
    let stays = target.join("precious").exists();
    crate::sys::tmpfs::unmount(&target).expect("unmount");
    assert_eq!(found, ["mounted"]);
    removed.expect_err("something is mounted");
    assert!(stays);
    remove(&dir.path().join("tree")).expect("remove");
}

#[test]
fn the_way_back_of_who_was_moved_is_counted() {
    const LEVELS: usize = 50;
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = dir.path().join("tree");
    let way = |levels| (0..levels).fold(tree.clone(), |way, _| way.join("d"));
    fs::create_dir_all(way(LEVELS)).expect("directories");
    fs::write(tree.join("last"), "x").expect("file");
    let mut walk = Walk::new(File::open(&tree).expect("open").into()).expect("walk");
    while walk.depth() < LEVELS {
        assert!(!matches!(walk.step().expect("step"), Step::End), "not at the bottom yet");
    }
    // The bottom goes elsewhere: from there, `..` is not the way back.
    fs::rename(way(LEVELS), dir.path().join("elsewhere")).expect("rename");
    let mut steps = Vec::new();
    loop {
        match walk.step().expect("step") {
            Step::Way(opened) => steps.push(usize::try_from(opened).expect("small")),
            Step::End => break,
            Step::Entry(entry) => panic!("{entry:?} is new"),
        }
    }
    // All the way from the top, once; then up by one at a time, each a step of its own.
    assert_eq!(steps.len(), LEVELS, "{steps:?}");
    assert_eq!((steps[0], steps[1..].iter().max()), (LEVELS, Some(&1)), "{steps:?}");
}

/// What is outside is never touched while somebody moves what is removed and swaps it for links.
#[test]
fn who_moves_directories_leads_nobody_out() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    fs::create_dir_all(&out).expect("directory");
    for name in ["a", "b", "c"] {
        fs::create_dir(out.join(name)).expect("directory");
        fs::write(out.join(name).join("precious"), "x").expect("file");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(tree.join("a/b"), tree.join("moved")).ok();
                symlink(&out, tree.join("a/b")).ok();
                fs::remove_file(tree.join("a/b")).ok();
                fs::rename(tree.join("moved"), tree.join("a/b")).ok();
            }
        });
        for _ in 0..200 {
            fs::create_dir_all(tree.join("a/b/c/d")).ok();
            fs::write(tree.join("a/b/c/d/mine"), "x").ok();
            if let Ok(top) = File::open(&tree) {
                let mut walk = Walk::new(top.into()).expect("walk");
                while let Some(entry) = walk.next_entry().expect("next") {
                    assert_ne!(entry.name.as_c_str(), c"precious");
                }
            }
            remove(&tree).ok();
        }
        done.store(true, Ordering::Relaxed);
    });
    for name in ["a", "b", "c"] {
        assert!(out.join(name).join("precious").exists(), "{name}");
    }
}
