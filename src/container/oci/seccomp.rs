//! The system call filter: our default profile, or the operator's.
//!
//! The default lets ordinary programs run and refuses what reaches the kernel beyond the
//! container: new namespaces, mounts, modules, tracing of the kernel. A refused call fails with
//! EPERM and the process lives on. What a capability is for is allowed with that capability, so
//! that granting it does what it says.

mod file;
mod table;

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::security::CapabilitySet;
use super::{Inputs, SpecError};
use crate::container::spec::Profile;

/// `CLONE_NEW*` of clone(2) that needs no argument of its own: mount, cgroup, uts, ipc, user, pid
/// and network.
const NEW_NAMESPACE: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// Execution domains that personality(2) may set: Linux, 32 bits, the version as 2.6, both; and
/// the value that only asks.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Sockets of this family (`AF_VSOCK`) talk to the hypervisor and know no network namespace.
const AF_VSOCK: u64 = 40;

/// `linux.seccomp`; none leaves the process unfiltered.
pub(super) fn seccomp(
    inputs: &Inputs<'_>,
    capabilities: &CapabilitySet,
    warnings: &mut Vec<String>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    if inputs.spec.security.privileged {
        return Ok(None);
    }
    match &inputs.spec.security.seccomp {
        Profile::Unset | Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault if inputs.host.seccomp => Ok(Some(default_profile(capabilities))),
        Profile::RuntimeDefault => {
            warnings.push("seccomp is not available, running without the default profile".into());
            Ok(None)
        }
        Profile::Localhost(path) if inputs.host.seccomp => {
            let text = inputs
                .localhost_seccomp
                .ok_or_else(|| SpecError::SeccompProfileMissing(path.clone()))?;
            file::parse(text, capabilities, inputs.host.kernel)
                .map(Some)
                .map_err(|source| SpecError::SeccompProfile { path: path.clone(), source })
        }
        Profile::Localhost(name) => {
            Err(SpecError::ProfileUnsupported { field: "seccomp", name: name.clone() })
        }
    }
}

fn default_profile(capabilities: &CapabilitySet) -> LinuxSeccomp {
    let groups = table::WITH_CAPABILITY
        .iter()
        .filter(|(capability, _)| capabilities.has(capability))
        .map(|(_, names)| *names);
    // A set, because some calls are allowed by more than one capability.
    let allowed: BTreeSet<&str> =
        table::ALWAYS.iter().copied().chain(groups).flatten().copied().collect();

    let mut rules = vec![rule(&allowed.iter().copied().collect::<Vec<_>>(), None)];
    for value in PERSONALITIES {
        let domain = LinuxSeccompArgBuilder::default().index(0usize).value(value);
        let domain = domain.op(LinuxSeccompOperator::ScmpCmpEq);
        rules.push(rule(&["personality"], Some(domain)));
    }
    let family = LinuxSeccompArgBuilder::default().index(0usize).value(AF_VSOCK);
    rules.push(rule(&["socket"], Some(family.op(LinuxSeccompOperator::ScmpCmpNe))));
    if !allowed.contains("clone") {
        let flags = LinuxSeccompArgBuilder::default()
            .index(clone_flags())
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .value(NEW_NAMESPACE)
            .value_two(0u64);
        rules.push(rule(&["clone"], Some(flags)));
        // Its flags are in memory, where a filter cannot see them. C libraries take ENOSYS as
        // the hint to use clone(2) instead; EPERM would be taken as final.
        let mut clone3 = rule(&["clone3"], None);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
        rules.push(clone3);
    }

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM.unsigned_abs()));
    profile.set_architectures(Some(architectures()));
    profile.set_syscalls(Some(rules));
    profile
}

/// Position of the flags among clone(2)'s arguments ("C library/kernel differences").
const fn clone_flags() -> usize {
    if cfg!(target_arch = "s390x") { 1 } else { 0 }
}

/// This architecture and those whose programs it runs as well: without a filter of their own,
/// their calls would all be refused.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else if cfg!(target_arch = "s390x") {
        vec![Arch::ScmpArchS390x, Arch::ScmpArchS390]
    } else if cfg!(target_arch = "riscv64") {
        vec![Arch::ScmpArchRiscv64]
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        vec![Arch::ScmpArchPpc64le]
    } else {
        vec![Arch::ScmpArchNative]
    }
}

/// Allows calls, if their argument is as given.
fn rule(names: &[&str], arg: Option<LinuxSeccompArgBuilder>) -> LinuxSyscall {
    let arg = arg.map(|arg| arg.build().expect("no field of an argument is required"));
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args(arg.map(|arg| vec![arg]));
    rule
}
