//! What a plugin is given: environment and request, from configuration and attachment
//! (specification, section 3, "Deriving request configuration from plugin configuration").

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value};

use crate::conflist::{NetworkConfig, PluginConfig, is_plain_name};
use crate::error::Error;
use crate::{Attachment, AttachmentId};

/// IFNAMSIZ of <linux/if.h> without the final zero.
const MAX_IFNAME_BYTES: usize = 15;

/// Refuses what would reach a plugin as something else: an id that is a path, an argument that is
/// two.
pub(crate) fn check_attachment(attachment: &Attachment) -> Result<(), Error> {
    let wrong = |field, value: &str, problem| {
        Err(Error::Attachment { field, value: value.to_owned(), problem })
    };
    if !is_plain_name(&attachment.container_id) {
        let problem = "is not a letter or digit followed by letters, digits, . _ -";
        return wrong("container id", &attachment.container_id, problem);
    }
    let name = &attachment.ifname;
    // The kernel's own rules: dev_valid_name of net/core/dev.c.
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_IFNAME_BYTES {
        return wrong("interface", name, "does not have 1 to 15 bytes");
    }
    if matches!(name.as_str(), "." | "..") || name.contains(forbidden) {
        return wrong("interface", name, "is not a name for an interface");
    }
    for (key, value) in &attachment.args {
        let separates = |c: char| c == ';' || c == '=' || c.is_control();
        if key.is_empty() || key.contains(separates) {
            return wrong("argument", key, "is empty or holds ; = or a control character");
        }
        if value.contains(separates) {
            return wrong("argument value", value, "holds ; = or a control character");
        }
    }
    Ok(())
}

/// Does the path still lead to a namespace? After an unmount or a reboot there may be an ordinary
/// file in its place, at which plugins fail instead of cleaning up.
pub(crate) fn is_namespace(path: &Path) -> bool {
    // Links in /proc/PID/ns lead into nsfs as well (namespaces(7)).
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    #[expect(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as i64 == NSFS_MAGIC)
}

/// The environment of ADD, CHECK and DEL. A namespace that is gone is an empty one.
pub(crate) fn environment(attachment: &Attachment) -> Vec<(&'static str, OsString)> {
    let args: Vec<_> =
        attachment.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let netns = attachment.netns.as_ref();
    vec![
        ("CNI_CONTAINERID", attachment.container_id.as_str().into()),
        ("CNI_NETNS", netns.map(|path| path.as_os_str().to_owned()).unwrap_or_default()),
        ("CNI_IFNAME", attachment.ifname.as_str().into()),
        ("CNI_ARGS", args.join(";").into()),
    ]
}

/// The part of a request that every verb has.
///
/// COMPAT: `capabilities` stays in it. The specification says it must not be set, but libcni, with
/// which every plugin is tested, leaves it there, and plugins that run others read it.
pub(crate) fn base(network: &NetworkConfig, plugin: &PluginConfig) -> Map<String, Value> {
    let mut request = plugin.fields().clone();
    // Ours alone to set; a configuration has no business with them.
    request.retain(|key, _| key != "prevResult" && !key.starts_with("cni.dev/"));
    request.insert("name".to_owned(), network.name().into());
    request.insert("cniVersion".to_owned(), network.version().as_str().into());
    request
}

/// `runtimeConfig`: of what the caller offers, that which this plugin declares.
pub(crate) fn insert_runtime_config(
    request: &mut Map<String, Value>,
    plugin: &PluginConfig,
    offered: &Map<String, Value>,
) {
    let declared = |name: &str| plugin.capabilities().contains(name);
    let given: Map<_, _> = offered
        .iter()
        .filter(|(name, _)| declared(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        request.insert("runtimeConfig".to_owned(), given.into());
    }
}

/// The attachments that GC must spare.
pub(crate) fn insert_valid_attachments(request: &mut Map<String, Value>, valid: &[AttachmentId]) {
    let list: Value = valid
        .iter()
        .map(|id| serde_json::json!({"containerID": id.container_id, "ifname": id.ifname}))
        .collect();
    // COMPAT: plugins built before the name was settled read the second one.
    request.insert("cni.dev/attachments".to_owned(), list.clone());
    request.insert("cni.dev/valid-attachments".to_owned(), list);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        let (container_id, ifname) = ("abc".to_owned(), "eth0".to_owned());
        Attachment { container_id, ifname, ..Attachment::default() }
    }

    #[test]
    fn what_would_become_something_else_on_the_way_is_refused() {
        check_attachment(&attachment()).unwrap();
        let with = |change: &dyn Fn(&mut Attachment)| {
            let mut attachment = attachment();
            change(&mut attachment);
            check_attachment(&attachment)
        };
        for id in ["", "../x", "a/b", ".a", "-a", "a b", "a;b"] {
            assert!(with(&|a| a.container_id = id.to_owned()).is_err(), "{id:?}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx"] {
            assert!(with(&|a| a.ifname = name.to_owned()).is_err(), "{name:?}");
        }
        for (key, value) in [("", "v"), ("k=", "v"), ("k", "v;k2=v2"), ("k", "a=b"), ("k", "\n")] {
            let args = vec![(key.to_owned(), value.to_owned())];
            assert!(with(&|a| a.args.clone_from(&args)).is_err(), "{key:?}={value:?}");
        }
    }

    #[test]
    fn a_plugin_gets_what_it_declares_and_never_what_is_ours_to_set() {
        let text = br#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"p","x":1,
            "prevResult":{},"cni.dev/valid-attachments":[],"name":"other",
            "capabilities":{"mac":true,"bandwidth":false}}]}"#;
        let network = NetworkConfig::parse_list(text).unwrap();
        let plugin = &network.plugins()[0];
        let mut request = base(&network, plugin);
        let offered = serde_json::json!({"mac": "m", "bandwidth": {}, "dns": {}});
        insert_runtime_config(&mut request, plugin, offered.as_object().unwrap());
        assert_eq!(
            Value::Object(request),
            serde_json::json!({"cniVersion": "1.1.0", "name": "n", "type": "p", "x": 1,
                "capabilities": {"mac": true, "bandwidth": false}, "runtimeConfig": {"mac": "m"}})
        );
    }
}
