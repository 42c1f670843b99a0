//! These make real namespaces and need root.

use std::fs;

use super::*;

const ALL: [Namespace; 3] = [Namespace::Network, Namespace::Ipc, Namespace::Uts];

/// A directory whose pins are gone when it is dropped, however the test ends.
struct Pins(tempfile::TempDir);

impl Pins {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("ns")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        unpin(&self.dir()).ok();
    }
}

fn sysctls(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn request<'a>(
    namespaces: &'a [Namespace],
    sysctls: &'a BTreeMap<String, String>,
) -> PinRequest<'a> {
    PinRequest { namespaces, hostname: None, sysctls, user: None }
}

fn mounts_below(dir: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(dir.to_str().unwrap())).count()
}

/// What a file says to a thread inside the pinned namespaces.
fn seen_inside(dir: &Path, file: &'static str) -> String {
    on_own_thread(|| {
        for namespace in ALL {
            enter(&dir.join(namespace.file_name()), namespace)?;
        }
        Ok(fs::read_to_string(file).unwrap().trim().to_owned())
    })
    .unwrap()
}

#[test]
fn pinned_namespaces_have_what_was_asked_and_the_node_keeps_its_own() {
    let host = |file: &str| fs::read_to_string(file).unwrap();
    let files = [
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_default_ttl",
        "/proc/sys/kernel/shm_rmid_forced",
        "/proc/sys/fs/mqueue/msg_max",
    ];
    let before = files.map(host);
    let pins = Pins::new();
    let sysctls = sysctls(&[
        ("net.ipv4.ip_default_ttl", "77"),
        ("kernel/shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "13"),
    ]);
    let request = PinRequest { hostname: Some("pinned-host"), ..request(&ALL, &sysctls) };
    pin(&pins.dir(), &request).unwrap();

    let expected = ["pinned-host", "77", "1", "13"];
    assert_eq!(files.map(|file| seen_inside(&pins.dir(), file)), expected);
    assert_eq!(files.map(host), before);
    for namespace in ALL {
        let file = pins.dir().join(namespace.file_name());
        assert!(is_pinned(&file).unwrap());
        let ours = Path::new("/proc/thread-self/ns").join(namespace.file_name());
        use std::os::unix::fs::MetadataExt;
        assert_ne!(fs::metadata(file).unwrap().ino(), fs::metadata(ours).unwrap().ino());
    }
}

/// The user namespace that a pinned one belongs to, by its inode (ioctl_ns(2), NS_GET_USERNS).
fn owner_of(pin: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let file = File::open(pin).unwrap();
    // SAFETY: the call takes no argument and returns a descriptor that nobody else owns.
    let owner = unsafe {
        let fd = libc::ioctl(file.as_raw_fd(), NS_GET_USERNS);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    owner.metadata().unwrap().ino()
}

#[test]
fn namespaces_belong_to_the_user_namespace_and_are_set_up_all_the_same() {
    use crate::sys::user_namespace::Range;
    use std::os::unix::fs::MetadataExt;
    let host = |file: &str| fs::read_to_string(file).unwrap();
    let files = [
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_default_ttl",
        "/proc/sys/kernel/shm_rmid_forced",
        "/proc/sys/fs/mqueue/msg_max",
    ];
    let before = files.map(host);
    let pins = Pins::new();
    let sysctls = sysctls(&[
        ("net.ipv4.ip_default_ttl", "77"),
        ("kernel/shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "13"),
    ]);
    let range = [Range { inside: 0, outside: 200_000, length: 65_536 }];
    let request = PinRequest {
        hostname: Some("pinned-host"),
        user: Some(Mappings { uids: &range, gids: &range }),
        ..request(&ALL, &sysctls)
    };
    pin(&pins.dir(), &request).unwrap();
    assert_eq!(files.map(|file| seen_inside(&pins.dir(), file)), ["pinned-host", "77", "1", "13"]);
    assert_eq!(files.map(host), before);
    let user = fs::metadata(pins.dir().join("user")).unwrap().ino();
    for namespace in ALL {
        assert_eq!(owner_of(&pins.dir().join(namespace.file_name())), user, "{namespace:?}");
    }
    unpin(&pins.dir()).unwrap();
    assert_eq!(mounts_below(&pins.dir()), 0);
    assert!(!pins.dir().exists());
}

#[test]
fn a_mapping_that_the_kernel_refuses_leaves_nothing() {
    use crate::sys::user_namespace::Range;
    let pins = Pins::new();
    let none = BTreeMap::new();
    let range = [Range { inside: 0, outside: 1, length: 0 }];
    let user = Some(Mappings { uids: &range, gids: &range });
    let error = pin(&pins.dir(), &PinRequest { user, ..request(&ALL, &none) }).unwrap_err();
    assert!(matches!(error, NamespaceError::User { .. }), "{error}");
    assert!(!pins.dir().exists());
}

#[test]
fn the_loopback_interface_works() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&[Namespace::Network], &none)).unwrap();
    let heard = run_in_netns(&pins.dir().join("net"), || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).map(drop)
    });
    heard.unwrap().unwrap();
}

#[test]
fn only_the_namespaces_asked_for_are_made() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&[Namespace::Ipc], &none)).unwrap();
    let names: Vec<_> =
        fs::read_dir(pins.dir()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["ipc"]);
}

#[test]
fn unpinning_leaves_nothing_and_may_be_repeated() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&ALL, &none)).unwrap();
    pin_existing(Path::new("/proc/self/ns/pid"), &pins.dir().join("pid")).unwrap();
    assert_eq!(mounts_below(&pins.dir()), 4);
    unpin(&pins.dir()).unwrap();
    assert_eq!(mounts_below(&pins.dir()), 0);
    assert!(!pins.dir().exists());
    unpin(&pins.dir()).unwrap();
}

#[test]
fn what_a_crash_or_an_operator_left_is_removed_too() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&ALL, &none)).unwrap();
    umount2(&pins.dir().join("net"), MntFlags::MNT_DETACH).unwrap();
    fs::remove_file(pins.dir().join("net")).unwrap();
    umount2(&pins.dir().join("ipc"), MntFlags::MNT_DETACH).unwrap();
    assert!(!is_pinned(&pins.dir().join("net")).unwrap());
    assert!(!is_pinned(&pins.dir().join("ipc")).unwrap());
    unpin(&pins.dir()).unwrap();
    assert_eq!((mounts_below(&pins.dir()), pins.dir().exists()), (0, false));
}

#[test]
fn a_failure_names_the_parameter_and_undoes_everything() {
    let pins = Pins::new();
    for (key, value, message) in [
        ("net.ipv4.ip_default_ttl", "-5", "set kernel parameter net.ipv4.ip_default_ttl to \"-5\""),
        ("net.ipv4.absent", "1", "set kernel parameter net.ipv4.absent"),
        ("kernel.core_pattern", "x", "\"kernel.core_pattern\" does not belong"),
        ("net/../kernel/core_pattern", "x", "\"net/../kernel/core_pattern\" has no valid name"),
    ] {
        let sysctls = sysctls(&[(key, value)]);
        let error = pin(&pins.dir(), &request(&ALL, &sysctls)).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains(message), "{text}");
        assert!(!pins.dir().exists());
    }
    // The directory is somebody else's already: the pin fails, and only ours is undone.
    let none = BTreeMap::new();
    fs::create_dir_all(pins.dir().join("uts/full")).unwrap();
    pin(&pins.dir(), &request(&ALL, &none)).unwrap_err();
    assert_eq!(mounts_below(&pins.dir()), 0);
    assert!(pins.dir().join("uts/full").exists());
}

#[test]
fn nothing_reaches_the_node_without_a_namespace() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    let with_name = PinRequest { hostname: Some("x"), ..request(&[Namespace::Network], &none) };
    assert!(matches!(
        pin(&pins.dir(), &with_name),
        Err(NamespaceError::HostnameOfNode(name)) if name == "x"
    ));
    let sysctls = sysctls(&[("net.ipv4.ip_default_ttl", "78")]);
    pin(&pins.dir(), &request(&[Namespace::Uts], &sysctls)).unwrap_err();
    assert_ne!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap().trim(), "78");
}

#[test]
fn parameters_can_be_set_later() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&ALL, &none)).unwrap();
    let later = sysctls(&[("net.ipv4.conf.lo.arp_ignore", "2"), ("kernel.msgmax", "4242")]);
    write_sysctls(&pins.dir(), &later).unwrap();
    assert_eq!(seen_inside(&pins.dir(), "/proc/sys/net/ipv4/conf/lo/arp_ignore"), "2");
    assert_eq!(seen_inside(&pins.dir(), "/proc/sys/kernel/msgmax"), "4242");
    let host = sysctls(&[("vm.swappiness", "1")]);
    write_sysctls(&pins.dir(), &host).unwrap_err();
}

#[test]
fn only_a_network_namespace_is_entered() {
    let pins = Pins::new();
    let none = BTreeMap::new();
    pin(&pins.dir(), &request(&ALL, &none)).unwrap();
    let ran = |path: &Path| run_in_netns(path, || ()).is_ok();
    assert!(ran(&pins.dir().join("net")));
    assert!(!ran(&pins.dir().join("uts")));
    assert!(!ran(Path::new("/etc/hostname")));
    assert!(!ran(&pins.dir().join("absent")));
}
