//! The report as people and programs read it.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_report_shows_each_finding_and_what_to_do() {
    let mut report = Report::default();
    report.ok(Area::Kernel, "Linux 6.1");
    report.warn(Area::Network, "no network", "install one");
    assert!(!report.failed());
    report.fail(Area::Runtime, "no runc", "install runc");
    assert!(report.failed());
    assert_eq!(
        report.to_string(),
        "ok    kernel         Linux 6.1\n\
         warn  network        no network\n                     do: install one\n\
         fail  runtime        no runc\n                     do: install runc\n\
         1 ok, 1 to know, 1 to repair"
    );
}

#[test]
fn json_has_the_same_findings() {
    let mut report = Report::default();
    report.ok(Area::Kernel, "Linux 6.1");
    report.fail(Area::Runtime, "no runc", "install runc");
    let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(value["failed"], true);
    assert_eq!(
        value["findings"][1],
        serde_json::json!({
            "area": "runtime", "level": "fail", "what": "no runc", "do": "install runc"
        })
    );
    assert!(value["findings"][0].get("do").is_none());
}

#[test]
fn mistakes_of_the_configuration_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(Some(&dir.path().join("absent.toml"))).unwrap_err();
    let report = Report::of_mistakes(&error);
    assert!(report.failed());
    assert!(report.findings[0].what.ends_with("absent.toml: no such file"), "{report}");
}

#[tokio::test]
async fn every_area_is_looked_at_and_every_problem_has_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("crisol.toml");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let text = format!(
        "root = {:?}\nstate = {:?}\n[cri]\nlisten = {:?}\n",
        at("root"),
        at("state"),
        at("crisol.sock")
    );
    std::fs::write(&file, text).unwrap();
    let report = check(&Config::load(Some(&file)).unwrap()).await;
    for area in [
        Area::Configuration,
        Area::Kernel,
        Area::Cgroups,
        Area::Privileges,
        Area::Runtime,
        Area::Network,
        Area::Storage,
        Area::Images,
        Area::Sockets,
    ] {
        assert!(report.findings.iter().any(|finding| finding.area == area), "{area:?}: {report}");
    }
    for finding in &report.findings {
        assert_eq!(finding.remedy.is_none(), finding.level == Level::Ok, "{finding:?}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the configuration: {left:?}");
}
