//! CNI: is there a configuration, and every plugin that it names? And the sysctls networks need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cni::conflist::{NetworkConfig, load};
use cni::invoke::Plugins;
use serde_json::Value;

use super::{Area, Report, sysctl};
use crate::config::Config;
use crate::error::chain;
use crate::network::pod_ranges;
use crate::trust::Trust;

const AREA: Area = Area::Network;

pub(super) fn look(config: &Config, report: &mut Report) {
    if let Some(path) = &config.network.conf_template {
        template(path, config.network.trust, report);
    }
    let network = choose(&config.network.conf_dir, report);
    if let Some(network) = &network {
        plugins(network, &config.network.plugin_dirs, report);
    }
    if sysctl("net.ipv4.ip_forward") == Some(1) {
        report.ok(AREA, "net.ipv4.ip_forward is 1");
    } else {
        let what = "net.ipv4.ip_forward is not 1: pods reach nothing outside of this node";
        report.warn(AREA, what, "sysctl net.ipv4.ip_forward=1, and a file in /etc/sysctl.d");
    }
    let bridged = network.is_some_and(|network| programs(&network).contains("bridge"));
    if bridged && sysctl("net.bridge.bridge-nf-call-iptables") != Some(1) {
        let what = "net.bridge.bridge-nf-call-iptables is not 1: Services do not work between pods \
            of this node";
        let remedy = "modprobe br_netfilter && sysctl net.bridge.bridge-nf-call-iptables=1, if \
            kube-proxy runs here";
        report.warn(AREA, what, remedy);
    }
}

/// Whether the template can be rendered; what it becomes depends on the kubelet.
fn template(path: &Path, trust: Trust, report: &mut Report) {
    match pod_ranges::load(path, trust) {
        Ok(_) => report.ok(AREA, format!("template {}", path.display())),
        Err(error) => report.fail(AREA, chain(&error), "correct it, or network.conf_template"),
    }
}

/// The network that pods would get, chosen as the daemon chooses it.
fn choose(dir: &Path, report: &mut Report) -> Option<NetworkConfig> {
    let choice = load::choose(dir);
    for error in &choice.errors {
        report.warn(AREA, format!("passed over: {}", chain(error)), "correct or remove it");
    }
    if let Some(network) = &choice.config {
        let file = network.file().unwrap_or(dir).display();
        report.ok(AREA, format!("network {} from {file}", network.name()));
    } else {
        let what = format!("no CNI configuration in {}: NetworkReady will be false", dir.display());
        report.warn(AREA, what, "install a network provider; it puts its configuration there");
    }
    choice.config
}

/// The plugins and the IPAM plugins that they call.
fn programs(network: &NetworkConfig) -> BTreeSet<&str> {
    let mut programs = BTreeSet::new();
    for plugin in network.plugins() {
        programs.insert(plugin.kind());
        let ipam = plugin.fields().get("ipam").and_then(|ipam| ipam.get("type"));
        programs.extend(ipam.and_then(Value::as_str).filter(|kind| !kind.is_empty()));
    }
    programs
}

fn plugins(network: &NetworkConfig, dirs: &[PathBuf], report: &mut Report) {
    let found = Plugins::new(dirs.to_vec());
    let programs = programs(network);
    let mut all = true;
    for error in programs.iter().filter_map(|program| found.find(program).err()) {
        all = false;
        let remedy = "install containernetworking-plugins or the network provider";
        report.fail(AREA, chain(&error), remedy);
    }
    if all {
        let programs: Vec<_> = programs.into_iter().collect();
        report.ok(AREA, format!("plugins {}", programs.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::preflight::Level;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[
        {"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;

    fn levels(report: &Report) -> Vec<Level> {
        report.findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn the_first_usable_file_wins_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00-broken.conf"), "{").unwrap();
        std::fs::write(dir.path().join("10-a.conflist"), LIST).unwrap();
        let mut report = Report::default();
        let network = choose(dir.path(), &mut report).unwrap();
        assert_eq!(
            programs(&network).into_iter().collect::<Vec<_>>(),
            ["bridge", "host-local", "portmap"]
        );
        assert_eq!(levels(&report), [Level::Warn, Level::Ok]);
        assert!(report.to_string().contains("00-broken.conf"), "{report}");
    }

    #[test]
    fn an_empty_directory_leaves_the_node_without_network_and_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::default();
        assert!(choose(&dir.path().join("absent"), &mut report).is_none());
        assert_eq!(levels(&report), [Level::Warn]);
    }

    #[test]
    fn each_missing_plugin_fails_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("10-a.conflist");
        std::fs::write(&file, LIST).unwrap();
        let network = load::read(&file).unwrap();
        let portmap = dir.path().join("portmap");
        std::fs::write(&portmap, "#!/bin/sh").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&portmap, mode).unwrap();
        let mut report = Report::default();
        plugins(&network, &[dir.path().to_owned()], &mut report);
        assert_eq!(levels(&report), [Level::Fail, Level::Fail]);
        let text = report.to_string();
        assert!(text.contains("bridge") && text.contains("host-local"), "{text}");
        assert!(!text.contains("portmap"), "{text}");
    }
}
