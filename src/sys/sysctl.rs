//! Names of kernel parameters: the file of each, and the namespace that it belongs to.
//!
//! A parameter is written by a thread that is in the right namespaces: what `/proc/sys` shows
//! depends on the thread that opens it (network_namespaces(7), ipc_namespaces(7)).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::namespaces::Namespace;

/// Why a kernel parameter was not set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The name leads nowhere below `/proc/sys`.
    #[error("kernel parameter {0:?} has no valid name")]
    Name(String),
    /// The parameter is the whole machine's, or belongs to a namespace that is not at hand.
    #[error("kernel parameter {0:?} does not belong to the namespaces that are set up")]
    NotNamespaced(String),
    /// The kernel refused.
    #[error("set kernel parameter {key} to {value:?}")]
    Write {
        /// Its name.
        key: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
}

/// Parameters of System V IPC (ipc_namespaces(7)); those of POSIX queues are below `fs/mqueue`.
const IPC: [&str; 12] = [
    "auto_msgmni",
    "msg_next_id",
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "sem_next_id",
    "shm_next_id",
    "shm_rmid_forced",
    "shmall",
    "shmmax",
    "shmmni",
];

/// Path below `/proc/sys`.
///
/// sysctl(8): the first separator decides. After a dot, dots separate and a slash stands for a dot
/// in a name (`net.ipv4.conf.eth0/100.mtu`); after a slash it is a path as it stands.
fn components(key: &str) -> Option<Vec<String>> {
    let dotted = key.find(['.', '/']).is_none_or(|at| key.as_bytes()[at] == b'.');
    let parts: Vec<String> = if dotted {
        key.split('.').map(|part| part.replace('/', ".")).collect()
    } else {
        key.split('/').map(str::to_owned).collect()
    };
    let sound = |part: &String| {
        !matches!(part.as_str(), "" | "." | "..") && !part.contains(|c: char| c.is_control())
    };
    parts.iter().all(sound).then_some(parts)
}

/// The namespace that a parameter belongs to; none = the whole machine, or not known to us.
pub fn namespace_of(key: &str) -> Option<Namespace> {
    let parts = components(key)?;
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["net", _, ..] => Some(Namespace::Network),
        ["kernel", name] if IPC.contains(name) => Some(Namespace::Ipc),
        ["fs", "mqueue", _] => Some(Namespace::Ipc),
        ["kernel", "hostname" | "domainname"] => Some(Namespace::Uts),
        _ => None,
    }
}

/// Does the parameter belong to one interface, which has to exist before it can be set?
pub fn is_of_interface(key: &str) -> bool {
    let Some(parts) = components(key) else { return false };
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", interface, ..] => {
            !matches!(*interface, "all" | "default" | "lo")
        }
        _ => false,
    }
}

/// Sets a parameter of one of the namespaces `at_hand`, which the calling thread must be in.
pub(super) fn write(key: &str, value: &str, at_hand: &[Namespace]) -> Result<(), SysctlError> {
    let parts = components(key).ok_or_else(|| SysctlError::Name(key.to_owned()))?;
    if !namespace_of(key).is_some_and(|namespace| at_hand.contains(&namespace)) {
        return Err(SysctlError::NotNamespaced(key.to_owned()));
    }
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts.iter().map(Path::new));
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        // One call to write(2): the kernel takes each as a whole value.
        .and_then(|mut file| file.write_all(value.as_bytes()));
    let (key, value) = (key.to_owned(), value.to_owned());
    written.map_err(|source| SysctlError::Write { key, value, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_lead_to_the_same_file() {
        let path = |key: &str| components(key).map(|parts| parts.join("/"));
        assert_eq!(path("net.ipv4.ip_forward").as_deref(), Some("net/ipv4/ip_forward"));
        assert_eq!(path("net/ipv4/ip_forward").as_deref(), Some("net/ipv4/ip_forward"));
        assert_eq!(
            path("net.ipv4.conf.eth0/100.mtu").as_deref(),
            Some("net/ipv4/conf/eth0.100/mtu")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.100/mtu").as_deref(),
            Some("net/ipv4/conf/eth0.100/mtu")
        );
    }

    #[test]
    fn a_name_never_leads_out_of_proc_sys() {
        for key in
            ["", ".", "net..x", "net/../kernel/shmmax", "/net/x", "net/./x", "net.//.x", "n\n"]
        {
            assert_eq!(components(key), None, "{key:?}");
            assert_eq!(namespace_of(key), None, "{key:?}");
        }
    }

    #[test]
    fn only_parameters_of_namespaces_have_one() {
        assert_eq!(namespace_of("net.core.somaxconn"), Some(Namespace::Network));
        assert_eq!(namespace_of("kernel.shm_rmid_forced"), Some(Namespace::Ipc));
        assert_eq!(namespace_of("fs.mqueue.msg_max"), Some(Namespace::Ipc));
        assert_eq!(namespace_of("kernel.domainname"), Some(Namespace::Uts));
        for key in ["kernel.core_pattern", "vm.swappiness", "fs.file-max", "net", "kernel.sem.x"] {
            assert_eq!(namespace_of(key), None, "{key}");
        }
    }

    #[test]
    fn parameters_of_an_interface_are_told_apart() {
        assert!(is_of_interface("net.ipv4.conf.eth0.arp_ignore"));
        assert!(is_of_interface("net/ipv6/neigh/eth0.5/gc_stale_time"));
        assert!(!is_of_interface("net.ipv4.conf.all.arp_ignore"));
        assert!(!is_of_interface("net.ipv6.conf.default.disable_ipv6"));
        assert!(!is_of_interface("net.ipv4.ip_forward"));
    }
}
