//! What DEL is given when the pod's network namespace is gone.
//!
//! The reference plugins' `bridge` and `ptp` take the masquerading rules of a pod back by the addresses
//! that they find on its interface, and without a namespace they leave the rules. They get one that
//! looks like the pod's. Other plugins might take it for the pod's own and move what is not there back
//! to the node, so a chain with any of those gets none, as CNI allows.

use std::net::IpAddr;

use cni::{AddResult, Entry, NetworkConfig, Version};

use crate::sys::stand_in::StandIn;

/// Plugins that find by addresses what to undo.
const BY_ADDRESS: [&str; 2] = ["bridge", "ptp"];

/// Plugins that find it by the container's id, or do nothing with a bare interface.
const BESIDE: [&str; 4] = ["portmap", "bandwidth", "firewall", "tuning"];

/// A namespace with the interface and addresses that ADD gave; none where that helps nobody, or cannot
/// be made.
pub(super) async fn of(config: &NetworkConfig, entry: &Entry) -> Option<StandIn> {
    let addresses = wanted(config, entry)?;
    let interface = entry.if_name.clone();
    let made = tokio::task::spawn_blocking(move || StandIn::make(&interface, &addresses)).await;
    match made.ok()? {
        Ok(stand_in) => Some(stand_in),
        Err(error) => {
            let (pod, error) = (&entry.container_id, crate::error::chain(&error));
            tracing::warn!(pod, error, "DEL without the namespace; rules of its network may stay");
            None
        }
    }
}

fn wanted(config: &NetworkConfig, entry: &Entry) -> Option<Vec<(IpAddr, u8)>> {
    let mut kinds = config.plugins().iter().map(cni::PluginConfig::kind);
    let known = |kind: &str| BY_ADDRESS.contains(&kind) || BESIDE.contains(&kind);
    if !kinds.clone().any(|kind| BY_ADDRESS.contains(&kind)) || !kinds.all(known) {
        return None;
    }
    let result = AddResult::from_value(entry.result.clone()?, Version::V1_1_0).ok()?;
    let ips = result.ips.iter().map(|ip| (ip.address.ip, ip.address.prefix));
    Some(ips.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(kinds: &[&str], result: &str) -> Option<Vec<(IpAddr, u8)>> {
        let plugins: Vec<_> =
            kinds.iter().map(|kind| serde_json::json!({ "type": kind })).collect();
        let text = serde_json::json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins });
        let config = NetworkConfig::parse_list(text.to_string().as_bytes()).expect("a network");
        let text = format!(
            r#"{{"kind":"cniCacheV1","containerId":"p","config":"","ifName":"eth0",
                "networkName":"n"{result}}}"#
        );
        wanted(&config, &serde_json::from_str(&text).expect("an entry"))
    }

    #[test]
    fn only_plugins_that_look_for_addresses_get_them() {
        let result = r#","result":{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/16"},{"address":"fd00::5/64"}]}"#;
        let addresses = ["10.9.0.5", "fd00::5"].map(|ip| ip.parse().expect("an address"));
        let addresses = Some(vec![(addresses[0], 16), (addresses[1], 64)]);
        assert_eq!(wanted_of(&["bridge"], result), addresses);
        assert_eq!(
            wanted_of(&["ptp", "portmap", "bandwidth", "firewall", "tuning"], result),
            addresses
        );
        for kinds in
            [&["host-device"][..], &["macvlan"], &["bridge", "sbr"], &["calico", "portmap"]]
        {
            assert_eq!(wanted_of(kinds, result), None, "{kinds:?}");
        }
        assert_eq!(wanted_of(&["bridge"], ""), None, "an ADD that never succeeded");
    }
}
