//! Identity and confinement of pods and containers.

use std::path::PathBuf;

use super::{Field, Mistakes, namespaces, shown, text};
use crate::container::spec::{Capabilities, GroupsPolicy, Profile, Security, SelinuxOptions, User};
use crate::cri::pb;

/// Every capability there is (capabilities(7)). One the kernel does not have yet is accepted here
/// and clamped later.
const CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
/// Longest user name, as login programs have it.
const MAX_USER_NAME: usize = 256;
/// The kernel gives a process no more groups (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;
/// Paths to hide or protect; the default lists have some twenty.
const MAX_PATHS: usize = 1_024;
/// Longest name of an AppArmor profile.
const MAX_PROFILE_NAME: usize = 512;
/// Deprecated text forms of a profile.
const LOCALHOST: &str = "localhost/";

/// Checks a container's security context. An absent one asks for nothing.
pub(super) fn container(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    context: Option<pb::LinuxContainerSecurityContext>,
) -> Security {
    let Some(c) = context else { return Security::default() };
    let options = field.at("namespace_options");
    let asker = namespaces::Asker::Container;
    let spaces = namespaces::namespaces(mistakes, &options, c.namespace_options, asker);
    let user = user(mistakes, field, c.run_as_user.as_ref(), &c.run_as_username);
    let group = group(mistakes, field, c.run_as_group.as_ref(), user.is_some());
    let seccomp = (c.seccomp, c.seccomp_profile_path.as_str());
    let apparmor = (c.apparmor, c.apparmor_profile.as_str());
    Security {
        privileged: c.privileged,
        user,
        run_as_group: group,
        supplemental_groups: groups(mistakes, field, &c.supplemental_groups),
        supplemental_groups_policy: policy(mistakes, field, c.supplemental_groups_policy),
        readonly_rootfs: c.readonly_rootfs,
        capabilities: capabilities(mistakes, &field.at("capabilities"), c.capabilities),
        pid: spaces.pid,
        network: spaces.network,
        ipc: spaces.ipc,
        user_namespace: spaces.user,
        seccomp: profile(mistakes, field, Kind::Seccomp, seccomp),
        apparmor: profile(mistakes, field, Kind::AppArmor, apparmor),
        selinux: selinux(mistakes, &field.at("selinux_options"), c.selinux_options),
        no_new_privs: c.no_new_privs,
        masked_paths: paths(mistakes, &field.at("masked_paths"), &c.masked_paths),
        readonly_paths: paths(mistakes, &field.at("readonly_paths"), &c.readonly_paths),
    }
}

/// A user id. -1 means "no change" to the kernel, so it is nobody's.
pub(super) fn id(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    value: Option<&pb::Int64Value>,
) -> Option<u32> {
    let number = value?.value;
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Some(id),
        _ => {
            mistakes.add(field, format_args!("{number} is not an id between 0 and 4294967294"));
            None
        }
    }
}

/// The group of a process, which the interface allows only together with a user.
pub(super) fn group(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    value: Option<&pb::Int64Value>,
    has_user: bool,
) -> Option<u32> {
    let here = field.at("run_as_group");
    if value.is_some() && !has_user {
        mistakes.add(&here, "is given without a user");
    }
    id(mistakes, &here, value)
}

/// Supplementary groups.
pub(super) fn groups(mistakes: &mut Mistakes, field: &Field<'_>, groups: &[i64]) -> Vec<u32> {
    let here = field.at("supplemental_groups");
    text::at_most(mistakes, &here, groups, MAX_GROUPS);
    let mut checked = Vec::new();
    for (n, group) in groups.iter().take(MAX_GROUPS).enumerate() {
        checked.extend(id(mistakes, &here.index(n), Some(&pb::Int64Value { value: *group })));
    }
    checked
}

/// Which supplementary groups count.
pub(super) fn policy(mistakes: &mut Mistakes, field: &Field<'_>, number: i32) -> GroupsPolicy {
    match pb::SupplementalGroupsPolicy::try_from(number) {
        Ok(pb::SupplementalGroupsPolicy::Merge) => GroupsPolicy::Merge,
        Ok(pb::SupplementalGroupsPolicy::Strict) => GroupsPolicy::Strict,
        Err(_) => {
            let here = field.at("supplemental_groups_policy");
            mistakes.add(&here, format_args!("{number} is not a policy"));
            GroupsPolicy::Strict
        }
    }
}

fn user(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    uid: Option<&pb::Int64Value>,
    name: &str,
) -> Option<User> {
    let here = field.at("run_as_username");
    if uid.is_some() && !name.is_empty() {
        mistakes.add(&here, "is given together with run_as_user");
    }
    if uid.is_some() {
        // A wrong id still counts as a user, or the group would be reported as well.
        return Some(User::Id(id(mistakes, &field.at("run_as_user"), uid).unwrap_or(u32::MAX)));
    }
    if name.is_empty() {
        return None;
    }
    // A number here would be looked up as a name, and a name that looks like a number has been
    // used to become root (CVE-2016-3697, CVE-2026-46680).
    let first_ok = !name.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
    if !first_ok || name.contains([':', ',', '/']) || name.chars().any(char::is_whitespace) {
        mistakes.add(&here, format_args!("{} is not a user name", shown(name)));
    } else {
        text::plain(mistakes, &here, name, MAX_USER_NAME);
    }
    Some(User::Name(name.to_owned()))
}

fn capabilities(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: Option<pb::Capability>,
) -> Capabilities {
    let Some(c) = requested else { return Capabilities::default() };
    let mut list = |name: &str, names: &[String]| -> Vec<String> {
        let here = field.at(name);
        text::at_most(mistakes, &here, names, 4 * CAPABILITIES.len());
        let mut checked: Vec<String> = Vec::new();
        for (n, name) in names.iter().take(4 * CAPABILITIES.len()).enumerate() {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short != "ALL" && !CAPABILITIES.contains(&short) {
                let problem = format_args!("{} is not a capability", shown(name));
                mistakes.add(&here.index(n), problem);
            } else if !checked.iter().any(|known| known == short) {
                checked.push(short.to_owned());
            }
        }
        checked
    };
    Capabilities {
        add: list("add_capabilities", &c.add_capabilities),
        drop: list("drop_capabilities", &c.drop_capabilities),
        ambient: list("add_ambient_capabilities", &c.add_ambient_capabilities),
    }
}

/// Which kind of profile a field holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Seccomp,
    AppArmor,
}

/// Checks a profile, given in the field of today or in the deprecated one, which loses.
pub(super) fn profile(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    kind: Kind,
    (profile, deprecated): (Option<pb::SecurityProfile>, &str),
) -> Profile {
    let (name, old_name) = match kind {
        Kind::Seccomp => ("seccomp", "seccomp_profile_path"),
        Kind::AppArmor => ("apparmor", "apparmor_profile"),
    };
    let Some(profile) = profile else {
        return deprecated_profile(mistakes, &field.at(old_name), kind, deprecated);
    };
    let here = field.at(name);
    let chosen = match pb::security_profile::ProfileType::try_from(profile.profile_type) {
        Ok(pb::security_profile::ProfileType::RuntimeDefault) => Profile::RuntimeDefault,
        Ok(pb::security_profile::ProfileType::Unconfined) => Profile::Unconfined,
        Ok(pb::security_profile::ProfileType::Localhost) => {
            return localhost(mistakes, &here.at("localhost_ref"), kind, &profile.localhost_ref);
        }
        Err(_) => {
            let problem = format_args!("{} is not a profile type", profile.profile_type);
            mistakes.add(&here.at("profile_type"), problem);
            return Profile::RuntimeDefault;
        }
    };
    if !profile.localhost_ref.is_empty() {
        mistakes.add(&here.at("localhost_ref"), "is given, but the type is not Localhost");
    }
    chosen
}

fn deprecated_profile(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    kind: Kind,
    text: &str,
) -> Profile {
    match text {
        "" => Profile::Unset,
        "runtime/default" | "docker/default" => Profile::RuntimeDefault,
        "unconfined" => Profile::Unconfined,
        text if text.starts_with(LOCALHOST) => localhost(mistakes, field, kind, text),
        text => {
            mistakes.add(field, format_args!("{} is not a profile", shown(text)));
            Profile::RuntimeDefault
        }
    }
}

/// A profile of the operator's. COMPAT: clients write `localhost/` in front in both fields.
fn localhost(mistakes: &mut Mistakes, field: &Field<'_>, kind: Kind, text: &str) -> Profile {
    let name = text.strip_prefix(LOCALHOST).unwrap_or(text);
    match kind {
        Kind::Seccomp => {
            text::absolute_path(mistakes, field, name);
        }
        Kind::AppArmor if name.is_empty() => mistakes.add(field, "is missing"),
        Kind::AppArmor if name.split('/').any(|part| part == "..") => {
            mistakes.add(field, format_args!("{} has a .. in it", shown(name)));
        }
        Kind::AppArmor => text::plain(mistakes, field, name, MAX_PROFILE_NAME),
    }
    Profile::Localhost(name.to_owned())
}

/// Checks the form of SELinux label parts; whether the policy knows them, only the kernel can say.
pub(super) fn selinux(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    options: Option<pb::SeLinuxOption>,
) -> Option<SelinuxOptions> {
    let o = options?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    for (name, part) in [("user", &o.user), ("role", &o.role), ("type", &o.r#type)] {
        if part.len() > 255 || !part.bytes().all(word) {
            mistakes.add(&field.at(name), format_args!("{} is no part of a label", shown(part)));
        }
    }
    if !o.level.is_empty() && !is_level(&o.level) {
        mistakes.add(&field.at("level"), format_args!("{} is not a level", shown(&o.level)));
    }
    let ours = SelinuxOptions { user: o.user, role: o.role, type_: o.r#type, level: o.level };
    (ours != SelinuxOptions::default()).then_some(ours)
}

/// `s0`, `s0:c1,c2`, `s0-s15:c0.c1023`: sensitivities up to 15, categories up to 1023.
fn is_level(text: &str) -> bool {
    fn numbered(text: &str, letter: char, last: u16) -> bool {
        let digits = text.strip_prefix(letter).unwrap_or_default();
        digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse().is_ok_and(|n: u16| n <= last)
    }
    let categories = |text: &str| {
        text.split(',').all(|range| {
            let mut ends = range.split('.');
            ends.by_ref().take(2).all(|end| numbered(end, 'c', 1023)) && ends.next().is_none()
        })
    };
    let half = |text: &str| match text.split_once(':') {
        Some((sensitivity, list)) => numbered(sensitivity, 's', 15) && categories(list),
        None => numbered(text, 's', 15),
    };
    text.len() <= 1024
        && match text.split_once('-') {
            Some((low, high)) => half(low) && half(high),
            None => half(text),
        }
}

fn paths(mistakes: &mut Mistakes, field: &Field<'_>, paths: &[String]) -> Vec<PathBuf> {
    text::at_most(mistakes, field, paths, MAX_PATHS);
    let mut checked = Vec::new();
    for (n, path) in paths.iter().take(MAX_PATHS).enumerate() {
        let here = field.index(n);
        let path = text::absolute_path(mistakes, &here, path);
        if path.parent().is_none() && path.has_root() {
            mistakes.add(&here, "is the root");
        }
        checked.push(path);
    }
    checked
}

#[cfg(test)]
mod tests;
