//! Limits over limits: what is set replaces, what is not set stays.

use crate::nri::NriError;
use crate::nri::owners::{Claims, Field};
use crate::nri::wire::{LinuxCpu, LinuxMemory, LinuxResources};

/// Copies each named field that is set, claiming it first.
macro_rules! set {
    ($claims:ident, $from:ident, $into:ident: $($name:ident => $field:ident),* $(,)?) => {
        $(if let Some(value) = &$from.$name {
            claim(&mut $claims, Field::$field, "")?;
            $into.$name = Some(value.clone());
        })*
    };
}

/// Puts `from` over `into`; without claims, for a second copy of the same.
///
/// # Errors
/// A conflict; then `into` is half done.
pub(super) fn overlay(
    mut claims: Option<&mut Claims<'_>>,
    from: &LinuxResources,
    into: &mut LinuxResources,
) -> Result<(), NriError> {
    if let Some(from) = &from.memory {
        memory(claims.as_deref_mut(), from, into.memory.get_or_insert_default())?;
    }
    if let Some(from) = &from.cpu {
        cpu(claims.as_deref_mut(), from, into.cpu.get_or_insert_default())?;
    }
    for limit in &from.hugepage_limits {
        claim(&mut claims, Field::HugepageLimits, &limit.page_size)?;
        into.hugepage_limits.retain(|old| old.page_size != limit.page_size);
        into.hugepage_limits.push(limit.clone());
    }
    for (key, value) in &from.unified {
        claim(&mut claims, Field::Unified, key)?;
        into.unified.insert(key.clone(), value.clone());
    }
    into.devices.extend(from.devices.iter().cloned());
    set!(claims, from, into:
        blockio_class => BlockioClass, rdt_class => RdtClass, pids => PidsLimit);
    Ok(())
}

fn memory(
    mut claims: Option<&mut Claims<'_>>,
    from: &LinuxMemory,
    into: &mut LinuxMemory,
) -> Result<(), NriError> {
    set!(claims, from, into:
        limit => MemoryLimit, reservation => MemoryReservation, swap => MemorySwap,
        kernel => MemoryKernel, kernel_tcp => MemoryKernelTcp, swappiness => MemorySwappiness,
        disable_oom_killer => MemoryDisableOomKiller, use_hierarchy => MemoryUseHierarchy);
    Ok(())
}

fn cpu(
    mut claims: Option<&mut Claims<'_>>,
    from: &LinuxCpu,
    into: &mut LinuxCpu,
) -> Result<(), NriError> {
    set!(claims, from, into:
        shares => CpuShares, quota => CpuQuota, period => CpuPeriod,
        realtime_runtime => CpuRealtimeRuntime, realtime_period => CpuRealtimePeriod);
    if !from.cpus.is_empty() {
        claim(&mut claims, Field::CpusetCpus, "")?;
        into.cpus.clone_from(&from.cpus);
    }
    if !from.mems.is_empty() {
        claim(&mut claims, Field::CpusetMems, "")?;
        into.mems.clone_from(&from.mems);
    }
    Ok(())
}

fn claim(claims: &mut Option<&mut Claims<'_>>, field: Field, key: &str) -> Result<(), NriError> {
    match claims {
        Some(claims) => claims.claim(field, key),
        None => Ok(()),
    }
}
