//! Control groups: mounted, with the controllers that limits need, and the driver usable.

use std::path::Path;

use super::{Area, Report};
use crate::config::{CgroupDriver, Config, table};
use crate::host::{CgroupVersion, Host};

const AREA: Area = Area::Cgroups;

/// systemd's bus for root; the system bus is the other way to it.
const SYSTEMD_SOCKETS: [&str; 2] = ["/run/systemd/private", "/run/dbus/system_bus_socket"];

/// Without these a pod's requests and limits mean nothing.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// What is given up without each of these.
const WANTED: [(&str, &str); 3] = [
    ("cpuset", "CPU pinning"),
    ("io", "weights and statistics of disks"),
    ("hugetlb", "huge pages"),
];

pub(super) fn look(config: &Config, host: &Host, report: &mut Report) {
    version(host, report);
    driver(config, host, report);
    if host.cgroups.version != CgroupVersion::None {
        controllers(host, report);
        writable(host, report);
    }
}

fn version(host: &Host, report: &mut Report) {
    match host.cgroups.version {
        CgroupVersion::V2 => report.ok(AREA, "v2"),
        CgroupVersion::Hybrid | CgroupVersion::V1 => report.warn(
            AREA,
            format!("{}: Kubernetes has v1 in maintenance only", host.cgroups.version.as_str()),
            "boot with systemd.unified_cgroup_hierarchy=1, or a distribution of 2022 or later",
        ),
        CgroupVersion::None => {
            report.fail(AREA, "not mounted", "mount -t cgroup2 none /sys/fs/cgroup");
        }
    }
}

fn driver(config: &Config, host: &Host, report: &mut Report) {
    let configured = config.cgroup.driver;
    let driver = host.cgroup_driver(configured);
    let text = format!("driver {}", table::driver(driver));
    if driver != CgroupDriver::Systemd {
        if host.systemd {
            let what = format!("{text}, but systemd is the init system and owns all groups");
            report.warn(AREA, what, "set cgroup.driver = \"auto\", and systemd for the kubelet");
        } else {
            report.ok(AREA, text);
        }
        return;
    }
    if !host.systemd {
        let what = format!("{text}, but systemd is not the init system");
        report.fail(AREA, what, "set cgroup.driver = \"auto\"");
    } else if SYSTEMD_SOCKETS.iter().any(|socket| Path::new(socket).exists()) {
        report.ok(AREA, text);
    } else {
        let what = format!("{text}, but neither {} is there", SYSTEMD_SOCKETS.join(" nor "));
        report.fail(AREA, what, "systemctl start dbus.socket");
    }
}

fn controllers(host: &Host, report: &mut Report) {
    let has = |name: &str| host.cgroups.controller(name).is_some();
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        report.ok(AREA, format!("controllers {}", NEEDED.join(" ")));
    } else {
        let what = format!("no controller {}", missing.join(", "));
        let remedy = "look for cgroup_disable= on the kernel's command line; on v1 mount it \
            below /sys/fs/cgroup";
        report.fail(AREA, what, remedy);
    }
    for (name, use_) in WANTED.into_iter().filter(|(name, _)| !has(name)) {
        let what = format!("no controller {name}: no {use_}");
        let remedy = if name == "hugetlb" && host.cgroups.version == CgroupVersion::Hybrid {
            "mkdir /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb"
        } else {
            "run a kernel that has it, if pods use it"
        };
        report.warn(AREA, what, remedy);
    }
}

/// Groups must be made where they are mounted: read-only in many containers.
fn writable(host: &Host, report: &mut Report) {
    let Some(mount) = host.cgroups.controller("memory").or(host.cgroups.unified.as_deref()) else {
        return;
    };
    let access = rustix::fs::Access::WRITE_OK;
    if let Err(error) = rustix::fs::access(mount, access) {
        let what = format!("{} cannot be written: {error}", mount.display());
        report.fail(AREA, what, "run crisol where /sys/fs/cgroup is mounted rw");
    }
    let Some(unified) = host.cgroups.unified.as_ref() else { return };
    if host.cgroups.version != CgroupVersion::V2 {
        return;
    }
    // Below the real root a group needs its parent's leave for each controller, cgroups(7).
    let enabled = std::fs::read_to_string(unified.join("cgroup.subtree_control"));
    let enabled = enabled.unwrap_or_default();
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|name| !enabled.split_whitespace().any(|on| on == *name))
        .collect();
    if missing.is_empty() {
        report.ok(AREA, "controllers are delegated to the top-level groups");
    } else {
        let list: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
        let what = format!("{} not delegated to the top-level groups", missing.join(", "));
        let file = unified.join("cgroup.subtree_control");
        let remedy = format!("echo {} > {}", list.join(" "), file.display());
        report.warn(AREA, what, remedy);
    }
}
