//! Files, directories and programs that others than root may change.

use super::{Area, Report};
use crate::config::Config;
use crate::trust;

const AREA: Area = Area::Configuration;

pub(super) fn look(config: &Config, report: &mut Report) {
    let mistrusted = trust::mistrusted(config);
    let left_out = trust::left_out(&config.runtime.search_path);
    if mistrusted.is_empty() && left_out.is_empty() {
        report.ok(AREA, "only root may change what is believed and run");
    }
    let remedy = "chown root it and chmod go-w it, or set accept_writable_files";
    for why in mistrusted {
        let what = why.to_string();
        match config.accept_writable_files {
            true => report.warn(AREA, what, "chown root it and chmod go-w it"),
            false => report.fail(AREA, what, remedy),
        }
    }
    for (_, why) in left_out {
        let used = if config.accept_writable_files { "used" } else { "left out" };
        report.warn(AREA, format!("runtime.search_path: {why}: {used}"), remedy);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::preflight::Level;

    #[test]
    fn a_policy_that_anybody_may_write_is_to_be_repaired_unless_accepted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut config = Config::defaults();
        config.image.policy = dir.path().join("policy.json");
        let mut level = |mode, accept| {
            std::fs::write(&config.image.policy, "{}").expect("file");
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&config.image.policy, permissions).expect("mode");
            config.accept_writable_files = accept;
            let mut report = Report::default();
            look(&config, &mut report);
            let ours = |f: &&super::super::Finding| f.what.contains("policy.json");
            report.findings.iter().find(ours).map(|finding| finding.level)
        };
        assert_eq!(level(0o644, false), None);
        assert_eq!(level(0o666, false), Some(Level::Fail));
        assert_eq!(level(0o666, true), Some(Level::Warn));
    }
}
