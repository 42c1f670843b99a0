//! Kernel parameters of a pod: which ones, and what they may be set to.
//!
//! An allow-list: a parameter that is not known to belong to a namespace would change the node,
//! and one whose namespace the pod shares with the node would too (CVE-2022-0532). Values are
//! restricted to what the parameters take, because values have been used to smuggle further
//! parameters into helper programs (CVE-2022-0811).

use std::collections::BTreeMap;

use super::{Field, Mistakes, shown};
use crate::container::spec::NamespaceMode;

/// Parameters of the IPC namespace, besides those below `fs.mqueue.` (ipc_namespaces(7)).
const IPC: &[&str] = &[
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
/// Longest name: all parts of the longest real ones fit several times.
const MAX_NAME: usize = 256;
/// Longest value: a list of reserved ports is the longest in practice.
const MAX_VALUE: usize = 4096;
/// Most parameters of one pod.
const MAX_SYSCTLS: usize = 512;

/// The parameters under their dotted names.
pub(super) fn sysctls(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    requested: BTreeMap<String, String>,
    network: &NamespaceMode,
    ipc: &NamespaceMode,
) -> BTreeMap<String, String> {
    if requested.len() > MAX_SYSCTLS {
        mistakes.add(field, format_args!("has {} entries", requested.len()));
        return BTreeMap::new();
    }
    let mut checked = BTreeMap::new();
    for (name, value) in requested {
        let here = field.key(&name);
        let Some(dotted) = dotted(&name) else {
            mistakes.add(&here, "is not the name of a kernel parameter");
            continue;
        };
        match allowed(&dotted, network, ipc) {
            Ok(()) if !value_ok(&dotted, &value) => {
                mistakes.add(&here, format_args!("cannot be set to {}", shown(&value)));
            }
            Ok(()) => {
                if checked.insert(dotted, value).is_some() {
                    mistakes.add(&here, "is set twice, with dots and with slashes");
                }
            }
            Err(why) => mistakes.add(&here, why),
        }
    }
    checked
}

/// The name with dots between its parts; a dot inside a part (`eth0.100`) becomes a slash.
///
/// As sysctl(8) reads it: whichever of `.` and `/` comes first separates the parts.
fn dotted(name: &str) -> Option<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-./".contains(&b);
    if name.len() > MAX_NAME || !name.bytes().all(legal) {
        return None;
    }
    let name = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => swap(name),
        _ => name.to_owned(),
    };
    // What a part says on disk must be a name: neither empty nor a way up.
    let parts_ok = name.split('.').all(|part| !part.is_empty() && part.bytes().any(|b| b != b'/'));
    parts_ok.then_some(name)
}

fn swap(name: &str) -> String {
    let other = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    name.chars().map(other).collect()
}

fn allowed(name: &str, network: &NamespaceMode, ipc: &NamespaceMode) -> Result<(), &'static str> {
    if name.starts_with("net.") {
        match network {
            NamespaceMode::Node => {
                Err("belongs to the network, which the pod shares with the node")
            }
            _ => Ok(()),
        }
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        match ipc {
            NamespaceMode::Node => Err("belongs to IPC, which the pod shares with the node"),
            _ => Ok(()),
        }
    } else {
        Err("is not a parameter of a namespace")
    }
}

fn value_ok(name: &str, value: &str) -> bool {
    let word = |b: u8| b.is_ascii_digit() || b"- \t".contains(&b);
    // Names of algorithms, ranges and lists of ports; an empty value clears a list.
    let text = |b: u8| word(b) || b.is_ascii_alphabetic() || b"_.,:/".contains(&b);
    let legal = |b| if name.starts_with("net.") { text(b) } else { word(b) };
    let empty_ok = name.starts_with("net.");
    value.len() <= MAX_VALUE
        && value.bytes().all(legal)
        && (empty_ok || value.bytes().any(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        name: &str,
        value: &str,
        network: NamespaceMode,
        ipc: NamespaceMode,
    ) -> Result<BTreeMap<String, String>, super::super::Invalid> {
        let mut mistakes = Mistakes::default();
        let requested = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let field = Field::root("sysctls");
        let checked = sysctls(&mut mistakes, &field, requested, &network, &ipc);
        mistakes.finish(checked)
    }

    fn own(name: &str, value: &str) -> Result<String, String> {
        match check(name, value, NamespaceMode::Pod, NamespaceMode::Pod) {
            Ok(map) => Ok(map.into_keys().collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn dots_and_slashes_name_the_same_parameter() {
        assert_eq!(own("net.ipv4.ip_forward", "0").as_deref(), Ok("net.ipv4.ip_forward"));
        assert_eq!(own("net/ipv4/ip_forward", "0").as_deref(), Ok("net.ipv4.ip_forward"));
        let vlan = "net.ipv4.conf.eth0/100.rp_filter";
        assert_eq!(own("net/ipv4/conf/eth0.100/rp_filter", "1").as_deref(), Ok(vlan));
        assert_eq!(own(vlan, "1").as_deref(), Ok(vlan));
    }

    #[test]
    fn only_parameters_of_namespaces_are_allowed() {
        for good in ["kernel.shmmax", "kernel.msgmnb", "kernel.sem", "fs.mqueue.msg_max"] {
            assert!(own(good, "100").is_ok(), "{good}");
        }
        for bad in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.shm",
            "kernel.shmmax.x",
            "kernel.domainname",
            "vm.swappiness",
            "fs.file-max",
            "fs.mqueue",
            "net",
            "network.x",
        ] {
            assert!(own(bad, "1").is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_are_paths_or_that_carry_more_are_refused() {
        for bad in [
            "",
            ".",
            "net.",
            "net..x",
            ".net.x",
            "net.//.x",
            "net.ipv4././ip_forward",
            "net.ipv4.//.ip_forward",
            "net/../kernel/core_pattern",
            "net/ipv4/../../kernel/core_pattern",
            "/proc/sys/net/x",
            "net.x=1",
            "net.x\n",
            "net.x y",
            "net.x;",
            "net.x\0",
            "nét.x",
        ] {
            assert!(own(bad, "1").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_cannot_carry_more_than_one_setting() {
        for bad in [
            "1+kernel.core_pattern=|/x #",
            "1 kernel.core_pattern=x",
            "1\nkernel.core_pattern",
            "1;2",
            "1\0",
            "a",
            "",
            " ",
        ] {
            assert!(own("kernel.shm_rmid_forced", bad).is_err(), "{bad:?}");
        }
        assert!(own("kernel.sem", "250\t32000 100 128").is_ok());
        assert!(own("kernel.msg_next_id", "-1").is_ok());
        for good in ["bbr", "1024 65535", "8080,9000-9010", "", "4096\t131072 6291456"] {
            assert!(own("net.ipv4.x", good).is_ok(), "{good:?}");
        }
        for bad in ["1=2", "a;b", "a+b", "|x", "a\nb", "a#"] {
            assert!(own("net.ipv4.x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_shared_with_the_node_takes_no_parameters() {
        let refused = |name, network, ipc| check(name, "1", network, ipc).is_err();
        assert!(refused("net.ipv4.ip_forward", NamespaceMode::Node, NamespaceMode::Pod));
        assert!(refused("kernel.msgmax", NamespaceMode::Pod, NamespaceMode::Node));
        assert!(refused("fs.mqueue.msg_max", NamespaceMode::Pod, NamespaceMode::Node));
        assert!(!refused("net.ipv4.ip_forward", NamespaceMode::Pod, NamespaceMode::Node));
        assert!(!refused("kernel.msgmax", NamespaceMode::Node, NamespaceMode::Pod));
    }

    #[test]
    fn the_same_parameter_in_both_spellings_is_refused() {
        let mut mistakes = Mistakes::default();
        let requested = BTreeMap::from([
            ("net.ipv4.ip_forward".to_owned(), "0".to_owned()),
            ("net/ipv4/ip_forward".to_owned(), "1".to_owned()),
        ]);
        let field = Field::root("sysctls");
        let pod = NamespaceMode::Pod;
        let checked = sysctls(&mut mistakes, &field, requested, &pod, &pod);
        assert!(mistakes.finish(checked).is_err());
    }
}
