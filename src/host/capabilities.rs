//! The capability sets of this process, capabilities(7).

use std::collections::BTreeSet;

/// Names in the order of their numbers, include/uapi/linux/capability.h.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Three of the sets of a process, as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    effective: u64,
    permitted: u64,
    bounding: u64,
}

impl Capabilities {
    /// From the text of /proc/PID/status. A missing line is an empty set.
    pub fn parse(status: &str) -> Self {
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
        };
        Self { effective: set("CapEff:"), permitted: set("CapPrm:"), bounding: set("CapBnd:") }
    }

    /// Whether the process has `name` (e.g. `CAP_SYS_ADMIN`) in force.
    pub fn effective(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.effective & bit != 0)
    }

    /// Whether `name` can be given to a child: a runtime cannot raise what it does not have, and
    /// what is outside of the bounding set is lost at the next execve(2).
    pub fn can_hand_on(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.bounding & self.permitted & bit != 0)
    }

    /// All that can be given to a child; a privileged container gets these.
    pub fn grantable(self) -> BTreeSet<&'static str> {
        NAMES.into_iter().filter(|name| self.can_hand_on(name)).collect()
    }

    /// Known capabilities that cannot be given to a child.
    pub fn missing(self) -> Vec<&'static str> {
        NAMES.into_iter().filter(|name| !self.can_hand_on(name)).collect()
    }

    /// Whether `name` is a capability that this daemon knows.
    pub fn is_known(name: &str) -> bool {
        bit(name).is_some()
    }
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NO_SYS_RESOURCE: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\n\
        CapEff:\t000001fffeffffff\nCapBnd:\t000001ffffffffff\n";

    #[test]
    fn a_cleared_bit_is_a_missing_capability() {
        let sets = Capabilities::parse(NO_SYS_RESOURCE);
        assert!(sets.effective("CAP_SYS_ADMIN"));
        assert!(!sets.effective("CAP_SYS_RESOURCE"));
        assert_eq!(sets.missing(), ["CAP_SYS_RESOURCE"]);
        assert_eq!(sets.grantable().len(), 40);
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (name, number) in [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)] {
            assert_eq!(bit(name), Some(1 << number), "{name}");
        }
        assert_eq!(bit("SYS_ADMIN"), None);
    }

    #[test]
    fn text_without_the_lines_is_no_capability() {
        assert_eq!(Capabilities::parse("CapEff:\tzz\n"), Capabilities::default());
    }
}
