#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory of root's below the sticky /tmp, with a file in a directory.
fn lab() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let lab = tempfile::tempdir().unwrap();
    let dir = lab.path().join("dir");
    fs::create_dir(&dir).unwrap();
    set(&dir, 0o755);
    let file = dir.join("file");
    fs::write(&file, "x").unwrap();
    set(&file, 0o644);
    (lab, dir, file)
}

#[test]
fn what_root_alone_may_write_is_trusted_also_below_a_sticky_directory() {
    let (_lab, dir, file) = lab();
    for path in [&file, &dir, &dir.join("absent"), &dir.join("absent/too")] {
        assert_eq!(check(path), Ok(()), "{}", path.display());
    }
    set(&file, 0o664);
    assert_eq!(check(&file), Ok(()), "root's own group");
}

#[test]
fn a_file_or_a_directory_that_others_may_write_is_not() {
    let (_lab, dir, file) = lab();
    set(&file, 0o646);
    let refused = check(&file).unwrap_err();
    let mode = Untrusted::Mode { path: file.clone(), mode: 0o646, gid: refused_gid(&refused) };
    assert_eq!(refused, mode);
    set(&file, 0o644);
    set(&dir, 0o777);
    assert!(check(&file).unwrap_err().to_string().contains("dir can be written by others"));
    assert!(check(&dir.join("absent")).is_err(), "others could make it");
    // Nobody can replace root's file there, but anybody can add another one.
    set(&dir, 0o1777);
    assert_eq!(check(&file), Ok(()));
    assert!(check(&dir).is_err());
}

fn refused_gid(refused: &Untrusted) -> u32 {
    match refused {
        Untrusted::Mode { gid, .. } => *gid,
        other => panic!("{other}"),
    }
}

#[test]
fn a_stranger_s_file_or_link_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (lab, dir, file) = lab();
    let link = lab.path().join("link");
    symlink("dir/file", &link).unwrap();
    assert_eq!(check(&link), Ok(()));
    std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
    assert_eq!(check(&link), Err(Untrusted::Owner { path: link.clone(), uid: 4711 }));
    std::os::unix::fs::chown(&file, Some(4711), None).unwrap();
    assert_eq!(check(&file), Err(Untrusted::Owner { path: file.clone(), uid: 4711 }));
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    std::os::unix::fs::chown(&dir, Some(4711), None).unwrap();
    assert!(check(&file).is_err());
    // A link of root's leads there as well.
    std::os::unix::fs::lchown(&link, Some(0), None).unwrap();
    assert!(check(&link).is_err());
}

#[test]
fn links_are_followed_upwards_and_in_circles_for_a_while() {
    let (lab, dir, _file) = lab();
    symlink("../dir/file", dir.join("up")).unwrap();
    assert_eq!(check(&dir.join("up")), Ok(()));
    symlink("circle", lab.path().join("circle")).unwrap();
    assert_eq!(check(&lab.path().join("circle")), Ok(()), "nobody can open it");
}

#[test]
fn a_group_counts_as_root_s_when_nobody_else_is_in_it() {
    let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n";
    let groups = "root:x:0:\nstaff:x:50:\nadm:x:4:ann\nwheel:x:10:root\nann:x:1000:\n";
    for (gid, alone) in [(50, true), (10, true), (4, false), (1000, false), (77, false)] {
        assert_eq!(has_no_members(gid, groups, users), alone, "{gid}");
    }
}

#[test]
fn what_is_opened_is_judged_as_it_is_then() {
    let (_lab, dir, file) = lab();
    let program = Program::new(&file, Trust::RootAlone);
    assert!(Trust::RootAlone.open(&file).is_ok() && program.to_run().is_ok());
    for (path, good, bad) in [(&file, 0o644, 0o646), (&dir, 0o755, 0o757)] {
        set(path, bad);
        let refused = Trust::RootAlone.open(&file).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let why = format!("{} can be written by others", path.display());
        assert!(refused.to_string().contains(&why), "{refused}");
        assert!(program.to_run().unwrap_err().to_string().contains(&why));
        assert!(Trust::Everybody.open(&file).is_ok());
        set(path, good);
    }
    assert!(program.to_run().is_ok());
    let absent = Trust::RootAlone.open(&dir.join("absent")).unwrap_err();
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_daemon_does_not_start_with_a_plugin_that_anybody_may_replace() {
    let (lab, dir, file) = lab();
    let mut config = Config::defaults();
    config.network.plugin_dirs = vec![dir.clone()];
    config.runtime.search_path = vec![lab.path().to_owned(), dir.clone()];
    let refused = |config: &Config| {
        let all = mistrusted(config);
        all.iter().any(|why| why.to_string().contains(&*dir.to_string_lossy()))
    };
    assert!(!refused(&config));
    set(&file, 0o777);
    assert!(refused(&config));
    let error = only_trusted(config.clone()).unwrap_err().to_string();
    assert!(error.contains("file can be written by others"), "{error}");
    assert!(error.contains("accept_writable_files"), "{error}");
    config.accept_writable_files = true;
    assert!(only_trusted(config.clone()).is_ok());
    set(&dir, 0o1777);
    let left_out = left_out(&config.runtime.search_path);
    assert_eq!(left_out.iter().map(|(dir, _)| dir).collect::<Vec<_>>(), [&dir]);
}
