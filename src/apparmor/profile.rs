//! The text of our default profile (apparmor.d(5)).
//!
//! It confines a container that is root inside: what it may do to its own files, network and
//! processes is left to capabilities and namespaces; what reaches the node through /proc, /sys and
//! mount(2) is refused. It needs no file of the host, so that it compiles on every distribution.

use super::DEFAULT;

/// Labels that the programs which send a container signals may have: our own and the runtimes',
/// for which some distributions have profiles of their own names.
const SENDERS: [&str; 4] = ["unconfined", "crisol", "runc", "crun"];

/// Places that show or switch something of the node; nothing is read or written there.
const CLOSED: [&str; 7] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmem",
    "/proc/mem",
    "/proc/sysrq-trigger",
    "/sys/firmware/**",
    "/sys/kernel/security/**",
];

/// Places that switch something of the node; nothing is written there. Kernel parameters of a
/// pod's own namespaces (`net`, `kernel/shm*`, `kernel/msg*`, `kernel/sem`) are not among them.
const READ_ONLY: [&str; 13] = [
    "/proc/{acpi,asound,bus,fs,irq,scsi}/**",
    "/proc/sys/{abi,debug,dev,fs,sunrpc,user,vm}/**",
    "/proc/sys/kernel/{core,modules_}*",
    "/proc/sys/kernel/{hotplug,modprobe,poweroff_cmd}",
    "/proc/sys/kernel/{panic,print,perf_,random,sched,unprivileged_}*",
    "/proc/sys/kernel/{acct,cad_pid,ctrl-alt-del,dmesg_restrict,kptr_restrict,sysrq}",
    "/proc/sys/kernel/{keys,random,seccomp,usermodehelper,yama}/**",
    "/sys/{block,bus,class,dev,devices}/**",
    "/sys/fs/{bpf,ext4,pstore,selinux,xfs}/**",
    "/sys/hypervisor/**",
    "/sys/kernel/**",
    "/sys/module/**",
    "/sys/power/**",
];

/// The profile.
pub(super) fn text() -> String {
    let mut text = format!("profile {DEFAULT} flags=(attach_disconnected, mediate_deleted) {{\n");
    for allowed in ["capability", "file", "network", "umount"] {
        text.push_str(&format!("  {allowed},\n"));
    }
    for sender in SENDERS {
        text.push_str(&format!("  signal (receive) peer={sender},\n"));
    }
    text.push_str(&format!("  signal (send, receive) peer={DEFAULT},\n"));
    text.push_str(&format!("  ptrace (trace, read, tracedby, readby) peer={DEFAULT},\n"));
    for refused in ["mount", "remount", "pivot_root"] {
        text.push_str(&format!("  deny {refused},\n"));
    }
    for place in CLOSED {
        text.push_str(&format!("  deny {place} rwklx,\n"));
    }
    for place in READ_ONLY {
        text.push_str(&format!("  deny {place} wkl,\n"));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_ends_in_a_comma_and_includes_nothing() {
        let text = text();
        let rules: Vec<&str> = text.lines().collect();
        assert!(rules.first().is_some_and(|head| head.starts_with("profile crisol-default ")));
        assert_eq!(rules.last(), Some(&"}"));
        for rule in &rules[1..rules.len() - 1] {
            assert!(rule.starts_with("  ") && rule.ends_with(','), "{rule}");
        }
        assert!(!text.contains("include") && !text.contains('@'), "compiles without other files");
    }

    #[test]
    fn every_place_is_refused_and_none_twice() {
        let text = text();
        let refused: Vec<&str> = text.lines().filter(|line| line.contains("deny /")).collect();
        assert_eq!(refused.len(), CLOSED.len() + READ_ONLY.len());
        let mut once = refused.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), refused.len());
    }
}
