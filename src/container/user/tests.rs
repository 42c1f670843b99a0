//! Resolving users against honest and hostile images.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A look-up that has not ended after this hangs, or reads what it should not.
const HANGS: Duration = Duration::from_secs(30);

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # comment\n\
    \n\
    +nis::::::\n\
    app:x:1000:1001:App:/home/app:/bin/sh\n\
    1000:x:0:0:number as name:/root:/bin/sh\n\
    4294967296:x:0:0:overflow as name:/root:/bin/sh\n\
    0x0:x:0:0::/root:/bin/sh\n\
    huge:x:4294967296:0::/root:/bin/sh\n\
    sneaky:x:1002:1002::/home\u{85}/x:/bin/sh\n";
const GROUP: &str = "root:x:0:\n\
    app:x:1001:\n\
    video:x:44:other,app\n\
    audio:x:29: app , x\n\
    1001:x:0:\n\
    wheel:x:10:root\n";

fn image() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
    fs::write(dir.path().join("etc/group"), GROUP).unwrap();
    dir
}

fn from_image(user: &str) -> Result<Identity, UserError> {
    resolve(image().path(), &Security::default(), user)
}

fn identity(uid: u32, gid: u32, additional: &[u32], home: Option<&str>) -> Identity {
    Identity { uid, gid, additional_gids: additional.to_vec(), home: home.map(str::to_owned) }
}

#[test]
fn every_form_of_the_image_user_is_understood() {
    let cases = [
        ("", identity(0, 0, &[0, 10], Some("/root"))),
        ("app", identity(1000, 1001, &[29, 44, 1001], Some("/home/app"))),
        ("1000", identity(1000, 1001, &[29, 44, 1001], Some("/home/app"))),
        ("app:video", identity(1000, 44, &[29, 44], Some("/home/app"))),
        ("app:7", identity(1000, 7, &[7, 29, 44], Some("/home/app"))),
        ("4242", identity(4242, 0, &[0], None)),
        ("4242:1001", identity(4242, 1001, &[1001], None)),
        ("2147483647", identity(2_147_483_647, 0, &[0], None)),
        ("sneaky", identity(1002, 1002, &[1002], None)),
    ];
    for (user, expected) in cases {
        assert_eq!(from_image(user).unwrap(), expected, "USER {user:?}");
    }
}

#[test]
fn weird_numbers_are_refused_and_never_looked_up_as_names() {
    let refused = [
        "0x0",
        "0b0",
        "0o0",
        "+0",
        "-1",
        " 0",
        "0 ",
        "00",
        "01000",
        "1000 ",
        "1e3",
        "1_000",
        "0.0",
        "2147483648",
        "4294967295",
        "4294967296",
        "65536:65536999999",
        "99999999999999999999999",
        ":",
        "0:",
        ":0",
        "app:video:x",
        "app\n",
        "a b",
        "huge\0",
    ];
    for user in refused {
        let error = from_image(user).unwrap_err();
        assert!(matches!(error, UserError::Malformed(_)), "USER {user:?}: {error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
}

#[test]
fn unknown_names_are_refused() {
    assert!(matches!(from_image("nobody"), Err(UserError::NoSuchUser(name)) if name == "nobody"));
    assert!(matches!(from_image("app:none"), Err(UserError::NoSuchGroup(name)) if name == "none"));
    // Its id is out of range, so the line is no entry.
    assert!(matches!(from_image("huge"), Err(UserError::NoSuchUser(_))));
}

#[test]
fn the_request_replaces_the_whole_user_of_the_image() {
    let image = image();
    let security = Security { user: Some(User::Id(4242)), ..Security::default() };
    let found = resolve(image.path(), &security, "app:video").unwrap();
    assert_eq!(found, identity(4242, 0, &[0], None));

    let security = Security {
        user: Some(User::Name("app".into())),
        run_as_group: Some(9),
        supplemental_groups: vec![300, 44, 300],
        ..Security::default()
    };
    let found = resolve(image.path(), &security, "").unwrap();
    assert_eq!(found, identity(1000, 9, &[9, 29, 44, 300], Some("/home/app")));
}

#[test]
fn the_strict_policy_leaves_the_groups_of_the_image_out() {
    let security = Security {
        user: Some(User::Id(1000)),
        supplemental_groups: vec![300],
        supplemental_groups_policy: GroupsPolicy::Strict,
        ..Security::default()
    };
    let found = resolve(image().path(), &security, "").unwrap();
    assert_eq!(found, identity(1000, 1001, &[300, 1001], Some("/home/app")));
}

#[test]
fn requests_that_cannot_be_meant_are_refused() {
    let named =
        |name: &str| Security { user: Some(User::Name(name.into())), ..Security::default() };
    let id = |id| Security { user: Some(User::Id(id)), ..Security::default() };
    let group = |run_as_group| Security { run_as_group: Some(run_as_group), ..id(1) };
    let refused = [
        named("1000"),
        named("0"),
        named("root:root"),
        named("root\n"),
        named(""),
        named("absent"),
        id(2_147_483_648),
        id(u32::MAX),
        group(u32::MAX),
        Security { supplemental_groups: vec![u32::MAX], ..id(1) },
        Security { run_as_group: Some(1), ..Security::default() },
    ];
    let image = image();
    for security in refused {
        let error = resolve(image.path(), &security, "").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{security:?}");
    }
}

#[test]
fn an_image_without_databases_has_numbers_and_no_names() {
    let empty = tempfile::tempdir().unwrap();
    let security = Security::default();
    assert_eq!(resolve(empty.path(), &security, "5:6").unwrap(), identity(5, 6, &[6], None));
    assert_eq!(resolve(empty.path(), &security, "").unwrap(), identity(0, 0, &[0], None));
    assert!(matches!(resolve(empty.path(), &security, "root"), Err(UserError::NoSuchUser(_))));
    fs::write(empty.path().join("etc"), "a file").unwrap();
    assert_eq!(resolve(empty.path(), &security, "5").unwrap(), identity(5, 0, &[0], None));
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "evil:x:0:0::/:/bin/sh\n").unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(root.join("real")).unwrap();
    fs::write(root.join("real/passwd"), "app:x:7:8::/h:/bin/sh\n").unwrap();
    let passwd = root.join("etc/passwd");
    let lookup = |user: &str| resolve(&root, &Security::default(), user);

    for target in
        [PathBuf::from("/real/passwd"), "../real/passwd".into(), "../../../real/passwd".into()]
    {
        symlink(&target, &passwd).unwrap();
        assert_eq!(lookup("app").unwrap(), identity(7, 8, &[8], Some("/h")), "{target:?}");
        fs::remove_file(&passwd).unwrap();
    }
    for target in [outside.clone(), "../../outside".into()] {
        symlink(&target, &passwd).unwrap();
        assert!(matches!(lookup("evil"), Err(UserError::NoSuchUser(_))), "{target:?}");
        fs::remove_file(&passwd).unwrap();
    }
    symlink("passwd", &passwd).unwrap();
    assert!(matches!(lookup("0"), Err(UserError::Loop { .. })));
}

#[test]
fn what_is_no_regular_file_is_refused_without_blocking() {
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    fs::create_dir(&etc).unwrap();
    let refused = |name: &str| {
        let error = resolve(dir.path(), &Security::default(), "0").unwrap_err();
        assert!(matches!(error, UserError::NotAFile { .. }), "{name}: {error}");
    };
    for name in ["passwd", "group"] {
        let path = etc.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused(name);
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        refused(name);
        fs::remove_dir(&path).unwrap();

        symlink("/", &path).unwrap();
        refused(name);
        fs::remove_file(&path).unwrap();
    }
    assert!(started.elapsed() < HANGS);
}

#[test]
fn files_and_lines_are_bounded() {
    let image = image();
    let passwd = image.path().join("etc/passwd");
    let lookup = || resolve(image.path(), &Security::default(), "0");

    fs::File::create(&passwd).unwrap().set_len(8 << 30).unwrap();
    let started = Instant::now();
    assert!(matches!(lookup(), Err(UserError::TooLarge { .. })));
    assert!(started.elapsed() < HANGS);

    let mut text = String::from(PASSWD);
    text.push_str(&"x".repeat(64 << 10));
    fs::write(&passwd, &text).unwrap();
    assert!(lookup().is_ok());
    text.push('x');
    fs::write(&passwd, &text).unwrap();
    assert!(matches!(lookup(), Err(UserError::LineTooLong { line: 11, .. })));
}

proptest! {
    /// Whatever the image says, only a text that is plainly zero or plainly a name of user 0
    /// gives user 0.
    #[test]
    fn nothing_but_zero_or_a_name_becomes_root(user in "[ 0-9a-fx+_.:-]{1,12}") {
        let image = image();
        if let Ok(found) = resolve(image.path(), &Security::default(), &user) {
            let name = user.split(':').next().unwrap();
            prop_assert!(found.uid != 0 || name == "0");
        }
    }

    /// No bytes in the databases make resolving panic.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let image = image();
        fs::write(image.path().join("etc/passwd"), &bytes).unwrap();
        fs::write(image.path().join("etc/group"), &bytes).unwrap();
        prop_assert!(resolve(image.path(), &Security::default(), "1").is_ok());
    }
}
