//! Tests of the rules about identity and confinement.

use super::*;
use crate::cri::convert::Invalid;
use crate::cri::pb::security_profile::ProfileType;

type Context = pb::LinuxContainerSecurityContext;

fn convert(change: impl FnOnce(&mut Context)) -> Result<Security, Invalid> {
    let mut context = Context::default();
    change(&mut context);
    let mut mistakes = Mistakes::default();
    let security = container(&mut mistakes, &Field::root("s"), Some(context));
    mistakes.finish(security)
}

/// The only field that is wrong.
fn wrong(change: impl FnOnce(&mut Context)) -> String {
    let error = convert(change).expect_err("accepted");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].field.clone()
}

fn int(value: i64) -> Option<pb::Int64Value> {
    Some(pb::Int64Value { value })
}

#[test]
fn ids_are_exactly_as_given_or_refused() {
    for good in [0, 1, 2_147_483_648, 4_294_967_294] {
        let security = convert(|c| c.run_as_user = int(good)).unwrap();
        assert_eq!(security.user, Some(User::Id(u32::try_from(good).unwrap())));
    }
    for bad in [-1, 4_294_967_295, 4_294_967_296, i64::MIN, i64::MAX] {
        assert_eq!(wrong(|c| c.run_as_user = int(bad)), "s.run_as_user");
        assert_eq!(wrong(|c| c.supplemental_groups = vec![0, bad]), "s.supplemental_groups[1]");
        let group = |c: &mut Context| (c.run_as_user, c.run_as_group) = (int(1), int(bad));
        assert_eq!(wrong(group), "s.run_as_group");
    }
}

#[test]
fn a_group_needs_a_user_and_a_user_is_named_once() {
    assert_eq!(wrong(|c| c.run_as_group = int(1)), "s.run_as_group");
    let by_name = convert(|c| {
        c.run_as_username = "nobody".to_owned();
        c.run_as_group = int(0);
    });
    assert_eq!(by_name.unwrap().run_as_group, Some(0));
    let both = |c: &mut Context| {
        c.run_as_user = int(1);
        c.run_as_username = "nobody".to_owned();
    };
    assert_eq!(wrong(both), "s.run_as_username");
}

#[test]
fn numbers_pairs_and_lines_are_no_user_names() {
    for bad in ["1000", "0", "0x0", "+0", "-1", " 0", "root:root", "a\nb", "a b", "a/b"] {
        assert_eq!(wrong(|c| c.run_as_username = bad.to_owned()), "s.run_as_username", "{bad:?}");
    }
    for good in ["root", "_apt", "www-data", "a.b", "Müller"] {
        assert!(convert(|c| c.run_as_username = good.to_owned()).is_ok(), "{good}");
    }
}

#[test]
fn capabilities_have_one_spelling_inside_and_unknown_ones_are_refused() {
    let capability = |add: &[&str]| {
        Some(pb::Capability {
            add_capabilities: add.iter().map(|s| (*s).to_owned()).collect(),
            drop_capabilities: vec!["all".to_owned()],
            ..pb::Capability::default()
        })
    };
    let security = convert(|c| c.capabilities = capability(&["CAP_KILL", "kill", "Net_Raw"]));
    let capabilities = security.unwrap().capabilities;
    assert_eq!(capabilities.add, ["KILL", "NET_RAW"]);
    assert_eq!(capabilities.drop, ["ALL"]);
    for bad in ["", "CAP_", "CAP_CAP_KILL", "FLY", "KILL "] {
        let field = wrong(|c| c.capabilities = capability(&[bad]));
        assert_eq!(field, "s.capabilities.add_capabilities[0]", "{bad:?}");
    }
}

#[test]
fn a_profile_of_today_wins_over_the_deprecated_form() {
    let profile = |kind: ProfileType, reference: &str| {
        Some(pb::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() })
    };
    let security = convert(|c| {
        c.seccomp = profile(ProfileType::Localhost, "/p/a.json");
        c.seccomp_profile_path = "not even a profile".to_owned();
        c.apparmor = profile(ProfileType::Localhost, "localhost/web");
        c.apparmor_profile = "unconfined".to_owned();
    });
    let security = security.unwrap();
    assert_eq!(security.seccomp, Profile::Localhost("/p/a.json".to_owned()));
    assert_eq!(security.apparmor, Profile::Localhost("web".to_owned()));
    assert_eq!(convert(|_| ()).unwrap().seccomp, Profile::Unset);

    for bad in ["", "a.json", "../../etc/passwd", "/p/../a", "/a\nb"] {
        let field = wrong(|c| c.seccomp = profile(ProfileType::Localhost, bad));
        assert_eq!(field, "s.seccomp.localhost_ref", "{bad:?}");
    }
    for bad in ["", "localhost/", "a/../b", "a\nb"] {
        let field = wrong(|c| c.apparmor = profile(ProfileType::Localhost, bad));
        assert_eq!(field, "s.apparmor.localhost_ref", "{bad:?}");
    }
    let default = |c: &mut Context| c.seccomp = profile(ProfileType::RuntimeDefault, "/p/a.json");
    assert_eq!(wrong(default), "s.seccomp.localhost_ref");
    let unknown = pb::SecurityProfile { profile_type: 9, ..pb::SecurityProfile::default() };
    assert_eq!(wrong(|c| c.seccomp = Some(unknown)), "s.seccomp.profile_type");
}

#[test]
fn deprecated_profiles_are_understood() {
    let seccomp = |text: &str| convert(|c| c.seccomp_profile_path = text.to_owned());
    for default in ["runtime/default", "docker/default"] {
        assert_eq!(seccomp(default).unwrap().seccomp, Profile::RuntimeDefault);
    }
    assert_eq!(seccomp("unconfined").unwrap().seccomp, Profile::Unconfined);
    let path = Profile::Localhost("/p/a.json".to_owned());
    assert_eq!(seccomp("localhost//p/a.json").unwrap().seccomp, path);
    for bad in ["localhost/a.json", "localhost/", "default", "/p/a.json"] {
        assert!(seccomp(bad).is_err(), "{bad}");
    }
    let security = convert(|c| c.apparmor_profile = "localhost/web".to_owned()).unwrap();
    assert_eq!(security.apparmor, Profile::Localhost("web".to_owned()));
}

#[test]
fn selinux_parts_have_the_form_of_a_label() {
    let with = |change: fn(&mut pb::SeLinuxOption)| {
        let mut options = pb::SeLinuxOption::default();
        change(&mut options);
        convert(|c| c.selinux_options = Some(options))
    };
    assert_eq!(with(|_| ()).unwrap().selinux, None);
    for good in ["s0", "s0:c1,c2", "s0-s15:c0.c1023", "s0:c0.c3,c7"] {
        assert!(is_level(good), "{good}");
    }
    for bad in ["s9:c9999", "s16", "c1", "s0:", "s0:c1,", "s0:c1.c2.c3", "s0\n", "s0-", "s"] {
        assert!(!is_level(bad), "{bad}");
    }
    assert!(with(|o| o.level = "s9:c9999".to_owned()).is_err());
    assert!(with(|o| o.r#type = "a:b".to_owned()).is_err());
    assert!(with(|o| o.role = "a b".to_owned()).is_err());
}

#[test]
fn paths_to_hide_are_absolute_and_not_everything() {
    for bad in ["", "proc", "/", "//", "/./", "/a/../b"] {
        assert_eq!(wrong(|c| c.masked_paths = vec![bad.to_owned()]), "s.masked_paths[0]", "{bad}");
    }
    let security = convert(|c| c.readonly_paths = vec!["/absent".to_owned()]).unwrap();
    assert_eq!(security.readonly_paths, [PathBuf::from("/absent")]);
}
