//! What the daemon may do: capabilities, oom_score_adj, open files, inotify.

use super::{Area, Report};
use crate::host::Host;

const AREA: Area = Area::Privileges;

/// Without these no container can be set up.
const NEEDED: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
];

/// The daemon holds a handful of descriptors per container, and containers inherit the limit.
const MIN_OPEN_FILES: u64 = 65_536;

/// The kernel's default of 128 is used up by a few dozen pods whose programs watch files.
const MIN_INOTIFY_INSTANCES: i64 = 512;

/// A kubelet alone watches a few files per pod.
const MIN_INOTIFY_WATCHES: i64 = 65_536;

pub(super) fn look(host: &Host, report: &mut Report) {
    capabilities(host, report);
    open_files(report);
    inotify("fs.inotify.max_user_instances", MIN_INOTIFY_INSTANCES, report);
    inotify("fs.inotify.max_user_watches", MIN_INOTIFY_WATCHES, report);
}

fn capabilities(host: &Host, report: &mut Report) {
    let sets = host.capabilities;
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !sets.effective(name)).collect();
    if missing.is_empty() {
        report.ok(AREA, "all capabilities that setting up containers needs");
    } else {
        let what = format!("no {}", missing.join(", "));
        report.fail(
            AREA,
            what,
            "run crisol as root, and without CapabilityBoundingSet= in its unit",
        );
    }
    if !sets.effective("CAP_SYS_RESOURCE") {
        let what = format!(
            "no CAP_SYS_RESOURCE: no process gets an oom_score_adj below {}, and no rlimit is raised",
            host.oom_score_adj_min
        );
        report.warn(AREA, what, "run crisol outside of a container, or give it the capability");
    }
    let others: Vec<_> = sets
        .missing()
        .into_iter()
        .filter(|name| *name != "CAP_SYS_RESOURCE" && !NEEDED.contains(name))
        .collect();
    if !others.is_empty() {
        let what = format!("no container can have {}", others.join(", "));
        report.warn(AREA, what, "look at CapabilityBoundingSet= of the unit, if pods need them");
    }
}

fn open_files(report: &mut Report) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < MIN_OPEN_FILES => {
            let what = format!("at most {limit} open files in this shell");
            report.warn(
                AREA,
                what,
                "the unit sets LimitNOFILE=1048576; elsewhere, ulimit -n 1048576",
            );
        }
        Some(limit) => report.ok(AREA, format!("at most {limit} open files")),
        None => report.ok(AREA, "any number of open files"),
    }
}

fn inotify(name: &str, min: i64, report: &mut Report) {
    match super::sysctl(name) {
        Some(value) if value < min => {
            let what = format!("{name} is {value}: programs that watch files will fail");
            report.warn(AREA, what, format!("sysctl {name}={min}, and a file in /etc/sysctl.d"));
        }
        Some(value) => report.ok(AREA, format!("{name} is {value}")),
        None => report.warn(AREA, format!("no {name}"), "run a kernel with CONFIG_INOTIFY_USER"),
    }
}
