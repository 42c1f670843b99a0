//! CNI: is there a configuration, and every plugin that it names? And the sysctls networks need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Area, Report, sysctl};
use crate::config::Config;
use crate::config::check::is_program;
use crate::config::raw::read_text;

const AREA: Area = Area::Network;

/// The network that pods would get.
struct Network {
    file: PathBuf,
    name: String,
    /// Programs: the plugins and their IPAM plugins.
    plugins: BTreeSet<String>,
}

pub(super) fn look(config: &Config, report: &mut Report) {
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
    let bridged = network.is_some_and(|network| network.plugins.contains("bridge"));
    if bridged && sysctl("net.bridge.bridge-nf-call-iptables") != Some(1) {
        let what = "net.bridge.bridge-nf-call-iptables is not 1: Services do not work between pods \
            of this node";
        let remedy = "modprobe br_netfilter && sysctl net.bridge.bridge-nf-call-iptables=1, if \
            kube-proxy runs here";
        report.warn(AREA, what, remedy);
    }
}

/// The first usable file in the order of names, as every CRI server chooses it.
fn choose(dir: &Path, report: &mut Report) -> Option<Network> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .collect();
    files.sort();
    for file in files {
        let parsed = match read_text(&file) {
            Ok(text) => parse(&file, &text.unwrap_or_default()),
            Err(what) => Err(what),
        };
        match parsed {
            Ok(network) => {
                let what = format!("network {} from {}", network.name, network.file.display());
                report.ok(AREA, what);
                return Some(network);
            }
            Err(what) => {
                let what = format!("{} is passed over: {what}", file.display());
                report.warn(AREA, what, "correct or remove it");
            }
        }
    }
    let what = format!("no CNI configuration in {}: NetworkReady will be false", dir.display());
    report.warn(AREA, what, "install a network provider; it puts its configuration there");
    None
}

fn parse(file: &Path, text: &str) -> Result<Network, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = value.get("name").and_then(Value::as_str).ok_or("no name")?.to_owned();
    // A .conf is one plugin, a .conflist has a list of them; what is inside decides.
    let single = std::slice::from_ref(&value);
    let list = value.get("plugins").and_then(Value::as_array).map_or(single, Vec::as_slice);
    let mut plugins = BTreeSet::new();
    for plugin in list {
        let kind = plugin.get("type").and_then(Value::as_str).ok_or("a plugin without a type")?;
        plugins.insert(kind.to_owned());
        let ipam = plugin.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
        plugins.extend(ipam.filter(|kind| !kind.is_empty()).map(ToOwned::to_owned));
    }
    if plugins.is_empty() {
        return Err("no plugins".to_owned());
    }
    Ok(Network { file: file.to_owned(), name, plugins })
}

fn plugins(network: &Network, dirs: &[PathBuf], report: &mut Report) {
    let missing: Vec<&str> = network
        .plugins
        .iter()
        .map(String::as_str)
        .filter(|plugin| !dirs.iter().any(|dir| is_program(&dir.join(plugin))))
        .collect();
    let list = |plugins: &[&str]| plugins.join(", ");
    if missing.is_empty() {
        let all: Vec<_> = network.plugins.iter().map(String::as_str).collect();
        report.ok(AREA, format!("plugins {}", list(&all)));
    } else {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let what = format!("no plugin {} in {}", list(&missing), dirs.join(", "));
        report.fail(AREA, what, "install containernetworking-plugins or the network provider");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lists_and_single_configurations_name_their_plugins() {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
        let network = parse(Path::new("/x"), list).unwrap();
        let plugins: Vec<_> = network.plugins.iter().map(String::as_str).collect();
        assert_eq!(
            (network.name.as_str(), plugins),
            ("n", vec!["bridge", "host-local", "portmap"])
        );

        let network = parse(Path::new("/x"), r#"{"name":"m","type":"ptp"}"#).unwrap();
        assert_eq!(network.plugins.into_iter().collect::<Vec<_>>(), ["ptp"]);
    }

    #[test]
    fn what_is_no_configuration_says_why() {
        for (text, why) in [
            ("{", "EOF"),
            ("{}", "no name"),
            (r#"{"name":"n"}"#, "a plugin without a type"),
            (r#"{"name":"n","plugins":[]}"#, "no plugins"),
        ] {
            let error = parse(Path::new("/x"), text).map(|n| n.name).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_usable_file_wins_and_a_missing_plugin_fails() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00-broken.conf"), "{").unwrap();
        std::fs::write(dir.path().join("10-a.conflist"), r#"{"name":"a","type":"nosuch"}"#)
            .unwrap();
        std::fs::write(dir.path().join("20-b.conf"), r#"{"name":"b","type":"ptp"}"#).unwrap();
        let mut report = Report::default();
        let network = choose(dir.path(), &mut report).unwrap();
        assert_eq!(network.name, "a");
        assert!(!report.failed());
        plugins(&network, &[dir.path().to_owned()], &mut report);
        assert!(report.failed(), "{report}");
        assert!(report.to_string().contains("no plugin nosuch in"), "{report}");
    }
}
