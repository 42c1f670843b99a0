//! Tests of the rules about volumes and devices.

use super::*;
use crate::cri::convert::Invalid;

fn volume(container_path: &str, host_path: &str) -> pb::Mount {
    pb::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_owned(),
        ..pb::Mount::default()
    }
}

fn check(mount: pb::Mount) -> Result<Vec<Mount>, Invalid> {
    let mut mistakes = Mistakes::default();
    let checked = mounts(&mut mistakes, &Field::root("mounts"), vec![mount]);
    mistakes.finish(checked)
}

/// The only field that is wrong with a volume.
fn wrong(change: impl FnOnce(&mut pb::Mount)) -> String {
    let mut mount = volume("/data", "/srv");
    change(&mut mount);
    let error = check(mount).expect_err("accepted");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].field.trim_start_matches("mounts[0]").to_owned()
}

#[test]
fn a_volume_comes_back_exactly_as_it_was_requested() {
    let mapping = pb::IdMapping { host_id: 7, container_id: 0, length: 9 };
    let host = pb::Mount {
        readonly: true,
        recursive_read_only: true,
        selinux_relabel: true,
        uid_mappings: vec![mapping],
        gid_mappings: vec![mapping],
        mount_options: vec!["noexec".to_owned()],
        ..volume("/data//./x/", "/srv/./y/")
    };
    let image = pb::Mount {
        host_path: String::new(),
        readonly: true,
        image: Some(pb::ImageSpec {
            image: "example.org/a:1".to_owned(),
            ..pb::ImageSpec::default()
        }),
        image_sub_path: "a/b".to_owned(),
        ..volume("/img", "")
    };
    let shared = pb::Mount { propagation: 2, ..volume("/shared", "/srv") };
    for wire in [host, image, shared] {
        assert_eq!(mounts_into_pb(&check(wire.clone()).unwrap()), [wire]);
    }
}

#[test]
fn paths_are_absolute_and_lead_nowhere_else() {
    for bad in ["", "data", "/a/../b", "/..", "/", "//", "/./", "/a\n", "/a\0"] {
        assert_eq!(wrong(|m| m.container_path = bad.to_owned()), ".container_path", "{bad:?}");
    }
    for bad in ["", "srv", "/a/../b", "/a\n"] {
        assert_eq!(wrong(|m| m.host_path = bad.to_owned()), ".host_path", "{bad:?}");
    }
    assert_eq!(wrong(|m| m.host_path = format!("/{}", "a/".repeat(4096))), ".host_path");
    assert_eq!(wrong(|m| m.host_path = format!("/{}", "a".repeat(256))), ".host_path");
}

#[test]
fn proc_is_covered_only_by_itself_and_by_known_files() {
    for bad in ["/proc", "/proc/", "/proc/self/attr", "/proc/sys", "/sys/fs/selinux"] {
        assert_eq!(wrong(|m| m.container_path = bad.to_owned()), ".container_path", "{bad}");
    }
    for (target, source) in [
        ("/proc", "/proc"),
        ("/proc/cpuinfo", "/var/lib/lxcfs/proc/cpuinfo"),
        ("/proc/net/dev", "/x"),
        ("/sys/fs/selinux", "/sys/fs/selinux"),
        ("/sys", "/sys"),
        ("/dev", "/dev"),
        ("/process", "/x"),
    ] {
        assert!(check(volume(target, source)).is_ok(), "{target}");
    }
}

#[test]
fn recursive_read_only_needs_a_private_read_only_volume() {
    let recursive = |readonly, propagation| {
        move |m: &mut pb::Mount| {
            (m.recursive_read_only, m.readonly, m.propagation) = (true, readonly, propagation);
        }
    };
    for (readonly, propagation) in [(false, 0), (true, 1), (true, 2)] {
        assert_eq!(wrong(recursive(readonly, propagation)), ".recursive_read_only");
    }
    assert_eq!(wrong(|m| m.propagation = 7), ".propagation");
}

#[test]
fn an_image_volume_is_read_only_and_stays_inside_the_image() {
    let image = |reference: &str| {
        Some(pb::ImageSpec { image: reference.to_owned(), ..pb::ImageSpec::default() })
    };
    let base = |m: &mut pb::Mount| {
        m.host_path.clear();
        m.image = image("a");
        m.readonly = true;
    };
    assert_eq!(
        wrong(|m| {
            base(m);
            m.readonly = false
        }),
        ".readonly"
    );
    assert_eq!(
        wrong(|m| {
            base(m);
            m.host_path = "/x".to_owned()
        }),
        ".host_path"
    );
    assert_eq!(
        wrong(|m| {
            base(m);
            m.image = image("")
        }),
        ".image.image"
    );
    for bad in ["../x", "a/../../b", "/etc"] {
        assert_eq!(
            wrong(|m| {
                base(m);
                m.image_sub_path = bad.to_owned()
            }),
            ".image_sub_path"
        );
    }
    assert_eq!(wrong(|m| m.image_sub_path = "a".to_owned()), ".image_sub_path");
    assert!(check(pb::Mount { image: image(""), ..volume("/data", "/srv") }).is_ok());
}

#[test]
fn options_are_a_short_list_and_mappings_come_in_pairs() {
    for bad in ["", "ro", "exec", "noexec,suid", "context=x", "idmap"] {
        assert_eq!(wrong(|m| m.mount_options = vec![bad.to_owned()]), ".mount_options[0]", "{bad}");
    }
    let range = pb::IdMapping { host_id: 1, container_id: 0, length: 1 };
    assert_eq!(wrong(|m| m.uid_mappings = vec![range]), "");
    let beyond = pb::IdMapping { host_id: u32::MAX, ..range };
    let both = |m: &mut pb::Mount| (m.uid_mappings, m.gid_mappings) = (vec![range], vec![beyond]);
    assert_eq!(wrong(both), ".gidMappings[0]");
}

#[test]
fn the_number_of_volumes_is_bounded() {
    let many = |n| {
        let mut mistakes = Mistakes::default();
        let list = (0..n).map(|n| volume(&format!("/v{n}"), "/srv")).collect();
        mounts(&mut mistakes, &Field::root("mounts"), list);
        mistakes.finish(())
    };
    assert!(many(MAX_MOUNTS).is_ok());
    assert!(many(5_000).is_err());
}

#[test]
fn devices_have_places_and_permissions() {
    let check = |container_path: &str, permissions: &str| {
        let device = pb::Device {
            container_path: container_path.to_owned(),
            host_path: "/dev/fuse".to_owned(),
            permissions: permissions.to_owned(),
        };
        let mut mistakes = Mistakes::default();
        let checked = devices(&mut mistakes, &Field::root("devices"), &[device]);
        mistakes.finish(checked)
    };
    assert_eq!(check("/dev/x", "mrw").unwrap()[0].permissions, "rwm");
    assert_eq!(check("/dev/x", "rr").unwrap()[0].permissions, "r");
    for bad in ["", "rwx", "R", "r w"] {
        assert!(check("/dev/x", bad).is_err(), "{bad}");
    }
    for bad in ["", "dev/x", "/", "/proc/x", "/sys/x", "/dev/../x"] {
        assert!(check(bad, "rwm").is_err(), "{bad}");
    }
}

#[test]
fn cdi_names_follow_the_grammar() {
    for good in ["vendor.com/class=dev", "v/c=0", "nvidia.com/gpu=0:1", "a-b.c/d_e=all"] {
        assert!(is_cdi_name(good), "{good}");
    }
    for bad in [
        "", "a", "a/b", "a=b", "/b=c", "a/=c", "a/b=", "1a/b=c", "a/b=c/d", "a./b=c", "../b=c",
        "a/b=c d",
    ] {
        assert!(!is_cdi_name(bad), "{bad}");
    }
}
