//! What entries do to the directory: reliability.md, rows S40 to S45 and G25 to G27.

use super::*;
use rustix::fs::XattrFlags;

#[test]
fn a_directory_entry_replaces_a_link_and_never_follows_it() {
    let lab = Lab::new();
    let tar = Tar::default().symlink("d", &lab.canary()).dir("d", 0o777).file("d/x", "x");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    assert_eq!(lab.list(), ["d d", "f d/x"]);
    drop(unpacked);
}

#[test]
fn a_link_as_a_parent_is_followed_inside_or_refused() {
    let lab = Lab::new();
    let canary = lab.canary();
    let inside = Tar::default().dir("real", 0o755).symlink("l", "/real").file("l/x", "x");
    let unpacked = lab.unpack(&inside.end()).expect("unpack");
    assert_eq!(lab.list(), ["l l", "d real", "f real/x"]);
    drop(unpacked);
    let up = Tar::default().symlink("a", "../../../..").file("a/b/x", "x");
    let unpacked = lab.unpack(&up.end()).expect("unpack");
    assert_eq!(lab.list(), ["l a", "d b", "f b/x"]);
    drop(unpacked);
    for target in [canary.as_str(), "gone", "loop"] {
        let tar = Tar::default().symlink("loop", target).file("loop/x", "x");
        let error = lab.unpack(&tar.end()).expect_err(target);
        assert_eq!(error.kind(), Kind::Invalid, "{target}: {error}");
    }
}

#[test]
fn names_stay_below_the_root() {
    assert_eq!(outcome(Tar::default().file("/x", "")), Ok(vec!["f x".into()]));
    assert_eq!(outcome(Tar::default().file("./x", "")), Ok(vec!["f x".into()]));
    assert_eq!(outcome(Tar::default().file("a/./b//c", "")).expect("unpack").len(), 3);
    assert_eq!(outcome(Tar::default().dir("./", 0o700)), Ok(vec![]));
    for bad in ["../x", "a/../../x", "./../x", "..", "a/..", "/.."] {
        assert_eq!(outcome(Tar::default().file(bad, "")), Err(Kind::Invalid), "{bad}");
        assert_eq!(outcome(Tar::default().dir(bad, 0o755)), Err(Kind::Invalid), "{bad}");
    }
    assert_eq!(outcome(Tar::default().file(".", "")), Err(Kind::Invalid));
    assert_eq!(outcome(Tar::default().file("", "")), Err(Kind::Invalid));
}

#[test]
fn long_deep_and_odd_names_are_kept_or_refused() {
    let named = |name: Vec<u8>| outcome(Tar::default().pax(&[("path", &name)]).file("short", ""));
    assert_eq!(named(vec![b'a'; 255]).expect("unpack").len(), 1);
    assert_eq!(named(vec![b'a'; 256]), Err(Kind::Invalid));
    assert_eq!(named(b"a/".repeat(300)), Err(Kind::Invalid), "a file with a slash");
    assert_eq!(named([b"a/".repeat(300), b"x".to_vec()].concat()).expect("deep").len(), 301);
    assert_eq!(named([b"a/".repeat(2000), b"x".to_vec()].concat()), Err(Kind::Invalid));
    assert_eq!(named(vec![b'a'; 5000]), Err(Kind::Invalid));
    assert_eq!(named(b"a\0b".to_vec()), Err(Kind::DataLoss));
    let lab = Lab::new();
    let unpacked = lab.unpack(&Tar::default().pax(&[("path", b"\xff\xfe")]).file("x", "").end());
    let name = fs::read_dir(lab.root()).expect("list").next().expect("one").expect("entry");
    assert_eq!(name.file_name().as_encoded_bytes(), b"\xff\xfe");
    drop(unpacked);
}

#[test]
fn hard_links_lead_to_files_of_the_layer_only() {
    let lab = Lab::new();
    let secret = format!("{}/secret", lab.canary());
    let up = format!("../../../../../../../../../..{secret}");
    for target in [secret.as_str(), up.as_str(), "later", "link", "dir", "", "."] {
        let tar = Tar::default().dir("dir", 0o755).hard_link("link", target).file("later", "");
        let error = lab.unpack(&tar.end()).expect_err(target);
        assert_eq!(error.kind(), Kind::Invalid, "{target}: {error}");
    }
    let through = Tar::default().symlink("out", &lab.canary()).hard_link("h", "out/secret");
    assert_eq!(lab.unpack(&through.end()).expect_err("outside").kind(), Kind::Invalid);
    let whiteout = Tar::default().file(".wh.gone", "").hard_link("h", "gone");
    assert_eq!(lab.unpack(&whiteout.end()).expect_err("whiteout").kind(), Kind::Invalid);
    let itself = Tar::default().file("a", "x").hard_link("a", "a");
    assert_eq!(lab.unpack(&itself.end()).expect_err("itself").kind(), Kind::Invalid);
}

#[test]
fn hard_links_share_the_file_and_links_to_links_are_links() {
    let lab = Lab::new();
    let tar = Tar::default()
        .file("a/file", "x")
        .hard_link("b/hard", "/a/file")
        .hard_link("b/hard", "a/file")
        .symlink("soft", &lab.canary())
        .hard_link("soft2", "soft");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    assert_eq!(fs::metadata(lab.root().join("a/file")).expect("stat").nlink(), 2);
    assert_eq!(lab.read("b/hard"), "x");
    assert!(fs::symlink_metadata(lab.root().join("soft2")).expect("stat").is_symlink());
    drop(unpacked);
}

#[test]
fn whiteouts_hide_names_below_and_nothing_else() {
    let tar = Tar::default()
        .file("a/.wh.gone", "")
        .file("a/kept", "x")
        .file("a/.wh.kept", "")
        .file("b/.wh.later", "")
        .file("b/later", "x")
        .file(".wh..wh.plnk", "")
        .file(".wh..wh.aufs/x", "");
    assert_eq!(
        outcome(tar),
        Ok(["d a", "w a/gone", "f a/kept", "d b", "f b/later"].map(String::from).to_vec())
    );
    for bad in [".wh.", ".wh..", ".wh...", "a/.wh.", ".wh.a/b"] {
        assert_eq!(outcome(Tar::default().file(bad, "")), Err(Kind::Invalid), "{bad}");
    }
}

#[test]
fn a_directory_that_is_also_hidden_is_opaque_in_either_order() {
    let orders = [
        Tar::default().file(".wh.d", "").dir("d", 0o755).file("d/x", ""),
        Tar::default().dir("d", 0o755).file("d/x", "").file(".wh.d", ""),
        Tar::default().file(".wh.d", "").file("d/x", ""),
        Tar::default().file("d/x", "").file(".wh.d", ""),
    ];
    for tar in orders {
        let lab = Lab::new();
        let unpacked = lab.unpack(&tar.end()).expect("unpack");
        assert_eq!(lab.list(), ["d d", "f d/x"]);
        assert!(lab.is_opaque("d") && !unpacked.is_opaque());
    }
}

#[test]
fn opaque_directories_are_marked_and_an_opaque_root_is_reported() {
    let lab = Lab::new();
    let tar = Tar::default().file("d/.wh..wh..opq", "").file("d/x", "");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    assert!(lab.is_opaque("d") && !lab.is_opaque("") && !unpacked.is_opaque());
    drop(unpacked);
    let unpacked = lab.unpack(&Tar::default().file(".wh..wh..opq", "").end()).expect("unpack");
    assert!(unpacked.is_opaque());
    assert!(lab.list().is_empty());
}

#[test]
fn overlayfs_s_own_marks_are_not_taken_from_archives() {
    assert_eq!(outcome(Tar::default().node(b'3', "x", 0, 0)), Err(Kind::Invalid));
    let lab = Lab::new();
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
        ("SCHILY.xattr.user.kept", b"a\nb"),
    ];
    let tar = Tar::default().pax(attributes).dir("d", 0o755).pax(attributes).file("f", "");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    for name in ["d", "f"] {
        let mut list = [0; 1024];
        let path = lab.root().join(name);
        let length = rustix::fs::listxattr(&path, list.as_mut_slice()).expect("list");
        assert_eq!(&list[..length], b"user.kept\0", "{name}");
    }
    drop(unpacked);
}

#[test]
fn the_last_of_two_entries_wins() {
    for (tar, expected) in [
        (Tar::default().file("x", "1").file("x", "2"), "f x"),
        (Tar::default().file("x", "1").dir("x", 0o755), "d x"),
        (Tar::default().dir("x", 0o755).file("x/y", "").symlink("x", "z"), "l x"),
        (Tar::default().file("x/a/b/c", "").file("x", "2"), "f x"),
        (Tar::default().symlink("x", "/etc/passwd").file("x", "2"), "f x"),
        (Tar::default().symlink("x", "y").node(b'6', "x", 0, 0), "p x"),
    ] {
        assert_eq!(outcome(tar), Ok(vec![expected.to_owned()]));
    }
    let twice = Tar::default().file("x", "1").file("x", "22");
    let lab = Lab::new();
    let unpacked = lab.unpack(&twice.end()).expect("unpack");
    assert_eq!(lab.read("x"), "22");
    drop(unpacked);
    assert_eq!(outcome(Tar::default().file("x", "").file("x/y", "")), Err(Kind::Invalid));
}

#[test]
fn devices_modes_owners_capabilities_and_times_are_kept() {
    let lab = Lab::new();
    // VFS_CAP_REVISION_2 | effective, permitted = CAP_DAC_OVERRIDE and CAP_FOWNER: has a 0x0a.
    let capability: &[u8] = &[1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut setuid = Tar::header(b'0', b"setuid", 0);
    setuid.set_mode(0o6755);
    setuid.set_uid(1234);
    setuid.set_gid(4321);
    let tar = Tar::default()
        .raw(setuid, b"")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("mtime", b"12.000000345")])
        .file("cap", "")
        .node(b'3', "null", 1, 3)
        .node(b'4', "sda", 8, 0)
        .node(b'6', "fifo", 0, 0)
        .dir("d", 0o1777)
        .file("d/x", "");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    let stat = |name: &str| fs::symlink_metadata(lab.root().join(name)).expect(name);
    let setuid = stat("setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid()), (0o6755, 1234, 4321));
    assert_eq!((stat("cap").mtime(), stat("cap").mtime_nsec()), (12, 345));
    let mut value = [0; 64];
    let cap = lab.root().join("cap");
    let length = rustix::fs::getxattr(&cap, "security.capability", value.as_mut_slice());
    assert_eq!(&value[..length.expect("capability")], capability);
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(stat("sda").rdev(), rustix::fs::makedev(8, 0));
    assert!(stat("sda").file_type().is_block_device() && stat("fifo").file_type().is_fifo());
    // What is made in a directory does not change its time.
    assert_eq!((stat("d").mode() & 0o7777, stat("d").mtime()), (0o1777, 1_000_000_000));
    assert_eq!((unpacked.inodes(), unpacked.bytes()), (8, 8 * 4096));
}

#[test]
fn undescribed_directories_take_after_the_layers_below() {
    let lab = Lab::new();
    let tar = Tar::default().file("a/b/x", "").file("c/x", "").file("o/p/x", "").file("l/x", "");
    let unpacked = lab.unpack(&tar.end()).expect("unpack");
    let [top, bottom] = ["top", "bottom"].map(|name| lab.dir.path().join(name));
    for (layer, dirs) in [(&top, &["a", "o"][..]), (&bottom, &["a/b", "c", "o/p", "l"][..])] {
        for dir in dirs {
            fs::create_dir_all(layer.join(dir)).expect("directory");
        }
    }
    let set = |path: PathBuf, mode| {
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("chmod");
    };
    set(bottom.join("a/b"), 0o711);
    set(bottom.join("a"), 0o777);
    set(top.join("a"), 0o710);
    set(bottom.join("c"), 0o700);
    set(bottom.join("o/p"), 0o700);
    set(top.clone(), 0o511);
    node::make_opaque(fs::File::open(top.join("o")).expect("open")).expect("opaque");
    symlink("a", top.join("l")).expect("link");
    std::os::unix::fs::chown(bottom.join("a/b"), Some(5), Some(6)).expect("chown");
    rustix::fs::setxattr(bottom.join("c"), "user.k", b"v", XattrFlags::empty()).expect("attribute");
    unpacked.inherit(&[top, bottom]).expect("inherit");
    let stat = |name: &str| fs::metadata(lab.root().join(name)).expect(name);
    for (path, mode) in [
        ("", 0o511),
        ("a", 0o710),
        ("a/b", 0o711),
        ("c", 0o700),
        ("o/p", 0o755), // hidden by the opaque directory above it
        ("l", 0o755),   // hidden by a link
    ] {
        assert_eq!(stat(path).mode() & 0o7777, mode, "{path}");
    }
    assert_eq!((stat("a/b").uid(), stat("a/b").gid()), (5, 6));
    let mut value = [0; 8];
    let c = lab.root().join("c");
    assert_eq!(rustix::fs::getxattr(&c, "user.k", value.as_mut_slice()), Ok(1));
}
