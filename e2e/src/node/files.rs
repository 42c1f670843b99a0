//! The files that a node is configured by: CNI, crisol.toml, registries and the image policy.

use std::fs;

use anyhow::Result;

use super::Node;
use crate::layout;

impl Node {
    pub(super) fn write_network(&self, number: u8) -> Result<()> {
        let name = self.network();
        let ipam = self.dir().join("ipam");
        let conf = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": name,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": name,
                    "isGateway": true,
                    "ipMasq": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": ipam,
                        "ranges": [[{ "subnet": format!("10.88.{number}.0/24") }]],
                        "routes": [{ "dst": "0.0.0.0/0" }],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        fs::write(self.network_file(), serde_json::to_vec_pretty(&conf)?)?;
        Ok(())
    }

    pub(super) fn write_config(&self) -> Result<()> {
        let dir = self.dir().display();
        let monitor = layout::monitor()?;
        let default = match self.options.default_handler.as_str() {
            "" => "runc",
            name => name,
        };
        let log = match self.options.log.as_str() {
            "" => "info,crisol=debug",
            filter => filter,
        };
        let sweep = self.options.sweep_interval;
        let sweep = sweep.map_or_else(String::new, |every| format!("sweep_interval = {every}\n"));
        let text = format!(
            r#"{sweep}root = "{dir}/root"
state = "{dir}/state"

[cri]
listen = "{dir}/state/crisol.sock"

[stream]
address = "127.0.0.1"
port = 0

[network]
conf_dir = "{dir}/net.d"
plugin_dirs = ["/usr/lib/cni"]

[cgroup]
driver = "cgroupfs"

[image]
registries_conf = "{dir}/registries.conf"
policy = "{dir}/policy.json"

[runtime]
default_handler = "{default}"
monitor = "{monitor}"
search_path = ["{criu}", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]

[runtime.handlers.runc]
type = "oci"
path = "/usr/sbin/runc"

[runtime.handlers.crun]
type = "oci"
path = "/usr/bin/crun"

[nri]
socket = "{dir}/state/nri.sock"
plugin_dir = "{dir}/nri/plugins"
plugin_config_dir = "{dir}/nri/conf.d"

[log]
level = "{log}"

{more}"#,
            monitor = monitor.display(),
            criu = layout::cache().join("criu").display(),
            more = self.options.config,
        );
        fs::write(self.config_file(), text)?;
        let insecure = self.options.insecure.iter().map(|address| (address, address));
        let redirects = self.options.redirects.iter().map(|(prefix, location)| (prefix, location));
        let registries: String = insecure
            .chain(redirects)
            .map(|(prefix, location)| {
                format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\ninsecure = true\n\n")
            })
            .collect();
        fs::write(self.dir().join("registries.conf"), registries)?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(self.dir().join("policy.json"), policy)?;
        Ok(())
    }
}
