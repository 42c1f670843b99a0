//! Features of the kernel: tried where trying is harmless, else known by the version.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::{Area, Report};
use crate::host::Host;

const AREA: Area = Area::Kernel;

/// The first version that is kept in repair by anybody and has openat2(2), 5.6, and pidfd_open(2).
const OLDEST: (u32, u32) = (5, 10);

/// mount_setattr(2): recursive read-only and id-mapped mounts.
const MOUNT_SETATTR_SINCE: (u32, u32) = (5, 12);

/// cgroup.kill, cgroups(7).
const CGROUP_KILL_SINCE: (u32, u32) = (5, 14);

pub(super) fn look(host: &Host, report: &mut Report) {
    let release = &host.kernel.release;
    if host.kernel.version < OLDEST {
        let (major, minor) = OLDEST;
        report.fail(
            AREA,
            format!("Linux {release}"),
            format!("run Linux {major}.{minor} or later"),
        );
    } else {
        report.ok(AREA, format!("Linux {release}"));
    }
    overlay(report);
    namespaces(report);
    system_calls(report);
    by_version(host, report);
    security(host, report);
}

fn overlay(report: &mut Report) {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        report.ok(AREA, "overlay file system");
    } else {
        // The trial mount in `storage` makes the kernel load the module if there is one.
        let remedy = "modprobe overlay, and name it in /etc/modules-load.d/crisol.conf";
        report.warn(AREA, "overlay file system is not loaded", remedy);
    }
}

fn namespaces(report: &mut Report) {
    let missing = |name: &&str| !Path::new("/proc/self/ns").join(name).exists();
    let needed = ["mnt", "net", "ipc", "uts", "pid"];
    let absent: Vec<_> = needed.into_iter().filter(missing).collect();
    if absent.is_empty() {
        report.ok(AREA, "namespaces: mnt net ipc uts pid");
    } else {
        let what = format!("no {} namespaces", absent.join(", "));
        report.fail(AREA, what, "run a kernel with CONFIG_NAMESPACES and all its kinds");
    }
    if missing(&"user") {
        report.warn(AREA, "no user namespaces", "run a kernel with CONFIG_USER_NS");
    } else if super::sysctl("user.max_user_namespaces") == Some(0) {
        let remedy = "sysctl user.max_user_namespaces=65536";
        report.warn(AREA, "user namespaces are switched off", remedy);
    } else {
        report.ok(AREA, "user namespaces");
    }
}

fn system_calls(report: &mut Report) {
    // They can be missing on a new kernel too: behind an old seccomp profile around the daemon.
    let remedy = "run Linux 5.10 or later, and no seccomp filter around crisol that refuses it";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => report.ok(AREA, "pidfd_open"),
        Err(error) => report.fail(AREA, format!("pidfd_open: {error}"), remedy),
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, "/proc", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Ok(_) => report.ok(AREA, "openat2"),
        Err(error) => report.fail(AREA, format!("openat2: {error}"), remedy),
    }
}

fn by_version(host: &Host, report: &mut Report) {
    if host.kernel.version >= MOUNT_SETATTR_SINCE {
        report.ok(AREA, "mount_setattr");
    } else {
        let what = "no mount_setattr: no recursive read-only and no id-mapped mounts";
        report.warn(AREA, what, "run Linux 5.12 or later");
    }
    if host.cgroups.unified.is_none() || host.kernel.version >= CGROUP_KILL_SINCE {
        return;
    }
    let what = "no cgroup.kill: containers are killed process by process";
    report.warn(AREA, what, "run Linux 5.14 or later");
}

fn security(host: &Host, report: &mut Report) {
    if host.security.seccomp {
        report.ok(AREA, "seccomp filters");
    } else {
        let remedy = "run a kernel with CONFIG_SECCOMP_FILTER";
        report.warn(AREA, "no seccomp filters: containers may make every system call", remedy);
    }
    if host.security.apparmor && crate::apparmor::find_parser().is_none() {
        let what = "AppArmor is on, but there is no apparmor_parser: containers that name no profile \
            run without one";
        report.warn(AREA, what, "install the package apparmor");
    }
    let modules = [("AppArmor", host.security.apparmor), ("SELinux", host.security.selinux)];
    let on: Vec<_> = modules.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    report
        .ok(AREA, if on.is_empty() { "no AppArmor, no SELinux".to_owned() } else { on.join(", ") });
}
