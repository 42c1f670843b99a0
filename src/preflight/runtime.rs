//! Every handler's program and the monitor: there, answering, and of a version without known holes.

use super::{Area, Report};
use crate::config::Config;
use crate::runtime::handlers::{HandlerReport, Inventory};
use crate::runtime::probe::Version;

const AREA: Area = Area::Runtime;

pub(super) fn look(config: &Config, inventory: &Inventory, report: &mut Report) {
    for (name, handler) in &inventory.handlers {
        let default = *name == config.runtime.default_handler;
        match &handler.problem {
            None => usable(name, handler, report),
            Some(problem) if default => {
                let what = format!("default handler {name}: {}", problem.message);
                let remedy = format!("install {name}, or set runtime.default_handler to another");
                report.fail(AREA, what, remedy);
            }
            Some(problem) => {
                let what = format!("handler {name} is disabled: {}", problem.message);
                report.warn(AREA, what, format!("install it, if a RuntimeClass names {name}"));
            }
        }
    }
    match &inventory.criu {
        Ok(version) => report.ok(AREA, format!("criu {version}: checkpoints can be made")),
        Err(why) => {
            let remedy = "install a criu that knows this kernel, if checkpoints are wanted";
            report.warn(AREA, format!("no checkpoints: {why}"), remedy);
        }
    }
    match &inventory.monitor {
        None => report.ok(AREA, format!("monitor {}", config.runtime.monitor.display())),
        Some(problem) => {
            let remedy = "install it there, or set runtime.monitor";
            report.fail(AREA, problem.message.clone(), remedy);
        }
    }
}

fn usable(name: &str, handler: &HandlerReport, report: &mut Report) {
    let version = handler.version.as_ref();
    let text = version.map_or("?", |version| version.text.as_str());
    let features = &handler.features;
    let mut what = format!("handler {name}: {} {text}", handler.path.display());
    what += &format!(", OCI {}", features.oci_version);
    for (has, feature) in [
        (features.recursive_read_only, "recursive read-only mounts"),
        (features.idmapped_mounts, "id-mapped mounts"),
        (features.checkpoint, "checkpoints"),
    ] {
        what += &format!(", {}{feature}", if has { "" } else { "no " });
    }
    report.ok(AREA, what);
    if features.seccomp == Some(false) {
        let what = format!("handler {name} is built without seccomp: containers are not confined");
        report.warn(AREA, what, "install a build with seccomp");
    }
    if let Some((hole, fixed)) = version.and_then(known_hole) {
        let remedy =
            format!("update to {fixed}, unless your distribution has added the fixes to {text}");
        report.warn(AREA, format!("handler {name}: {text} {hole}"), remedy);
    }
}

/// What is known against a version, and the version that is without it.
fn known_hole(version: &Version) -> Option<(&'static str, &'static str)> {
    match (version.name.as_str(), version.numbers) {
        // CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, fixed in each branch that is kept.
        ("runc", numbers) if numbers < (1, 2, 8) || ((1, 3, 0)..(1, 3, 3)).contains(&numbers) => {
            Some(("lets a container write to files of the host (CVE-2025-31133)", "1.2.8 or 1.3.3"))
        }
        ("crun", numbers) if numbers < (1, 28, 0) => {
            Some(("is older than its latest security fixes", "1.28"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_holes_are_told_from_repaired_ones() {
        for (name, numbers, has_hole) in [
            ("runc", (1, 1, 5), true),
            ("runc", (1, 2, 7), true),
            ("runc", (1, 2, 8), false),
            ("runc", (1, 2, 9), false),
            ("runc", (1, 3, 0), true),
            ("runc", (1, 3, 2), true),
            ("runc", (1, 3, 3), false),
            ("runc", (1, 4, 0), false),
            ("crun", (1, 8, 1), true),
            ("crun", (1, 27, 0), true),
            ("crun", (1, 28, 0), false),
            ("runsc", (1, 0, 0), false),
        ] {
            let version = Version { name: name.to_owned(), text: String::new(), numbers };
            assert_eq!(known_hole(&version).is_some(), has_hole, "{name} {numbers:?}");
        }
    }
}
