//! Files that pulls read: registries.conf, policy.json, the credentials. Readable and well-formed? And
//! what layers are unpacked by: can it be confined?

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Area, Report};
use crate::config::Config;
use crate::config::raw::read_text;
use crate::error::chain;
use crate::image;

const AREA: Area = Area::Images;

pub(super) fn look(config: &Config, report: &mut Report) {
    registries(&config.image.registries_conf, report);
    policy(&config.image.policy, report);
    if let Some(file) = &config.image.auth_file {
        credentials(file, report);
    }
    unpacker(report);
}

fn unpacker(report: &mut Report) {
    let gaps = match image::unpacker_gaps() {
        Ok(gaps) => gaps,
        Err(error) => {
            let remedy =
                "make it possible to start crisol from crisol: no image is pulled until then";
            report.fail(AREA, chain(&error), remedy);
            return;
        }
    };
    if gaps.is_empty() {
        report.ok(AREA, "layers are unpacked by processes that are confined in every way");
    }
    for gap in gaps {
        let what = format!("layers are unpacked with less confinement than there should be: {gap}");
        let remedy =
            "run crisol outside of a container, on Linux 5.12 or later with seccomp filters";
        report.warn(AREA, what, remedy);
    }
}

fn registries(file: &Path, report: &mut Report) {
    let mut read = 0;
    for file in std::iter::once(file.to_owned()).chain(drop_ins(file)) {
        match read_text(&file).and_then(|text| text.map(|text| registries_text(&text)).transpose())
        {
            Ok(None) => {}
            Ok(Some(())) => read += 1,
            Err(what) => {
                let what = format!("{}: {what}", file.display());
                let remedy =
                    "correct it, containers-registries.conf(5): pulls are refused until then";
                report.fail(AREA, what, remedy);
            }
        }
    }
    match read {
        0 => report.ok(AREA, format!("no {}: every registry by https, no mirrors", file.display())),
        _ => report.ok(AREA, format!("{read} files of registries at {}", file.display())),
    }
}

/// Drop-ins are in the directory with `.d` appended, containers-registries.conf.d(5).
fn drop_ins(file: &Path) -> Vec<PathBuf> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    files
}

fn registries_text(text: &str) -> Result<(), String> {
    let table = toml::from_str::<toml::Table>(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        format!("line {}: {}", line.unwrap_or(1), error.message())
    })?;
    match table.get("registries") {
        Some(_) => {
            Err("[registries.*] is the first version of the format, which is not read".into())
        }
        None => Ok(()),
    }
}

fn policy(file: &Path, report: &mut Report) {
    let remedy = "write one, containers-policy.json(5); {\"default\":[{\"type\":\
        \"insecureAcceptAnything\"}]} allows every image";
    let what = |what: &str| format!("{}: {what}", file.display());
    match json(file) {
        Ok(None) => report.warn(AREA, what("not there"), remedy),
        Ok(Some(value)) if value.get("default").is_some_and(Value::is_array) => {
            report.ok(AREA, what("well-formed"));
        }
        Ok(Some(_)) => {
            report.fail(AREA, what("no list \"default\": every pull is refused"), remedy)
        }
        Err(error) => report.fail(AREA, what(&format!("{error}: every pull is refused")), remedy),
    }
}

fn credentials(file: &Path, report: &mut Report) {
    let what = |what: &str| format!("{}: {what}", file.display());
    match json(file) {
        Ok(None) => report.fail(AREA, what("not there"), "create it, or empty image.auth_file"),
        Ok(Some(value)) if value.is_object() => {
            report.ok(AREA, what("well-formed"));
            let mode = std::fs::metadata(file).map_or(0, |meta| meta.permissions().mode() & 0o777);
            if mode & 0o044 != 0 {
                let what = what(&format!("passwords that others may read (mode {mode:o})"));
                report.warn(AREA, what, format!("chmod 600 {}", file.display()));
            }
        }
        Ok(Some(_)) => report.fail(AREA, what("not a JSON object"), "containers-auth.json(5)"),
        Err(error) => report.fail(AREA, what(&error), "correct it, containers-auth.json(5)"),
    }
}

fn json(file: &Path) -> Result<Option<Value>, String> {
    let Some(text) = read_text(file)? else { return Ok(None) };
    // The position, but not the text: it may be a password.
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| format!("line {} column {}: not JSON", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::preflight::Level;

    #[test]
    fn registries_of_the_first_version_and_broken_ones_are_refused() {
        assert_eq!(registries_text("[[registry]]\nprefix = \"a\"\nlocation = \"b\"\n"), Ok(()));
        let old = registries_text("[registries.search]\nregistries = []\n").unwrap_err();
        assert!(old.contains("first version"), "{old}");
        let broken = registries_text("a = 1\nb = \n").unwrap_err();
        assert!(broken.starts_with("line 2: "), "{broken}");
    }

    #[test]
    fn a_broken_drop_in_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.conf");
        let drop_ins = dir.path().join("registries.conf.d");
        std::fs::create_dir(&drop_ins).unwrap();
        std::fs::write(drop_ins.join("10-a.conf"), "x = [").unwrap();
        std::fs::write(drop_ins.join("README"), "x = [").unwrap();
        let mut report = Report::default();
        registries(&file, &mut report);
        let failed: Vec<_> = report.findings.iter().filter(|f| f.level == Level::Fail).collect();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].what.contains("10-a.conf: line 1: "), "{}", failed[0].what);
    }

    #[test]
    fn a_policy_is_well_formed_or_every_pull_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.json");
        for (text, level) in [
            (None, Level::Warn),
            (Some(r#"{"default":[{"type":"reject"}]}"#), Level::Ok),
            (Some("{}"), Level::Fail),
            (Some(""), Level::Fail),
        ] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let mut report = Report::default();
            policy(&file, &mut report);
            assert_eq!(report.findings[0].level, level, "{text:?}");
        }
    }

    #[test]
    fn readable_credentials_are_warned_about_and_broken_ones_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        std::fs::write(&file, "{}").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut report = Report::default();
        credentials(&file, &mut report);
        assert!(report.to_string().contains("chmod 600"), "{report}");

        std::fs::write(&file, "{\"auths\": secret}").unwrap();
        let mut report = Report::default();
        credentials(&file, &mut report);
        assert!(report.failed());
        assert!(!report.to_string().contains("secret"), "{report}");
    }
}
