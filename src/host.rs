//! Facts about this host, gathered once at start and passed around as plain data.
//!
//! Owns reading /proc and /sys for what does not change while the daemon runs. Does not decide
//! whether a fact is good or bad: `preflight` does.

use std::io;
use std::path::Path;

use crate::config::CgroupDriver;
use crate::error::{Classify, Kind};

pub mod capabilities;
pub mod cgroups;
pub mod mounts;

pub use capabilities::Capabilities;
pub use cgroups::{CgroupVersion, Cgroups};

/// The lowest oom_score_adj there is, proc_pid_oom_score_adj(5).
const OOM_SCORE_ADJ_MIN: i32 = -1000;

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {path}")]
pub struct HostError {
    /// The file.
    pub path: String,
    /// Why not.
    pub source: io::Error,
}

impl Classify for HostError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// What this host is.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Where control groups are.
    pub cgroups: Cgroups,
    /// Whether systemd is the init system, sd_booted(3).
    pub systemd: bool,
    /// What the daemon may do, and may hand on to containers.
    pub capabilities: Capabilities,
    /// The lowest oom_score_adj that the daemon can give to a process.
    pub oom_score_adj_min: i32,
    /// Security modules.
    pub security: Security,
    /// The kernel.
    pub kernel: Kernel,
    /// /proc/sys/kernel/random/boot_id; another one means that all PIDs, mounts and namespaces of
    /// our records are void.
    pub boot_id: String,
    /// Processors that are online.
    pub cpus: usize,
}

/// Which security mechanisms the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    /// Filters of system calls.
    pub seccomp: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled (its file system is mounted).
    pub selinux: bool,
}

/// The kernel's release, as `uname -r` and as a number that compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// E.g. `6.1.0-18-amd64`.
    pub release: String,
    /// E.g. `(6, 1)`.
    pub version: (u32, u32),
}

impl Kernel {
    /// Whether there is mount_setattr(2), which recursive read-only and id-mapped mounts need.
    pub fn has_mount_setattr(&self) -> bool {
        self.version >= (5, 12)
    }

    /// From `uname -r`. What does not start with two numbers counts as version 0.0.
    pub fn parse(release: &str) -> Self {
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
        let mut number = || numbers.next().flatten().unwrap_or(0);
        Self { version: (number(), number()), release: release.to_owned() }
    }
}

impl Host {
    /// Looks at this host.
    ///
    /// # Errors
    ///
    /// If /proc is not what it is on every Linux.
    pub fn gather() -> Result<Self, HostError> {
        let capabilities = Capabilities::parse(&read("/proc/self/status")?);
        let own_adj = read("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
        Ok(Self {
            cgroups: Cgroups::parse(&read("/proc/self/mountinfo")?).with_controllers(),
            systemd: Path::new("/run/systemd/system").is_dir(),
            oom_score_adj_min: oom_score_adj_min(capabilities, own_adj),
            capabilities,
            security: security(),
            kernel: Kernel::parse(&rustix::system::uname().release().to_string_lossy()),
            boot_id: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
        })
    }

    /// What `Auto` means here: systemd if it is the init system, as the kubelet decides too.
    pub fn cgroup_driver(&self, configured: CgroupDriver) -> CgroupDriver {
        match configured {
            CgroupDriver::Auto if self.systemd => CgroupDriver::Systemd,
            CgroupDriver::Auto => CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd | CgroupDriver::Cgroupfs => configured,
        }
    }

    /// `wanted`, or the nearest value that the kernel will accept from this daemon.
    pub fn clamp_oom_score_adj(&self, wanted: i32) -> i32 {
        wanted.max(self.oom_score_adj_min)
    }
}

/// Without CAP_SYS_RESOURCE nobody goes below the value that one with the capability last set; our
/// own value is never below that one, proc_pid_oom_score_adj(5).
fn oom_score_adj_min(capabilities: Capabilities, own: i32) -> i32 {
    if capabilities.effective("CAP_SYS_RESOURCE") { OOM_SCORE_ADJ_MIN } else { own }
}

fn security() -> Security {
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    Security {
        // Exists exactly if filters are compiled in, seccomp(2).
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor: apparmor.is_ok_and(|enabled| enabled.trim() == "Y"),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

fn read(path: &str) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn kernel_releases_compare_by_their_first_two_numbers() {
        for (release, version) in [
            ("6.18.44-fc-v669", (6, 18)),
            ("5.4", (5, 4)),
            ("6.1.0-18-amd64", (6, 1)),
            ("4-custom.9", (4, 0)),
            ("next", (0, 0)),
        ] {
            assert_eq!(Kernel::parse(release).version, version, "{release}");
        }
    }

    #[test]
    fn without_sys_resource_the_own_oom_score_adj_is_the_floor() {
        let none = Capabilities::parse("CapPrm:\t0\nCapEff:\t0000000000000000\nCapBnd:\t0\n");
        let all = Capabilities::parse("CapEff:\t000001ffffffffff\n");
        assert_eq!(oom_score_adj_min(none, -5), -5);
        assert_eq!(oom_score_adj_min(all, -5), -1000);
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::gather().expect("every Linux has these files");
        assert_eq!(host.boot_id.len(), 36);
        assert!(host.kernel.version > (3, 0));
        assert!(host.cpus >= 1);
        let low = host.clamp_oom_score_adj(-2000);
        assert_eq!(low, host.oom_score_adj_min);
        assert_eq!(host.clamp_oom_score_adj(500), 500);
        assert_ne!(host.cgroup_driver(CgroupDriver::Auto), CgroupDriver::Auto);
    }
}
