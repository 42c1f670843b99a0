//! Which plugin set which field of which container, so that two never set the same. Pure.

use std::collections::BTreeMap;

use super::NriError;
use super::wire::{CompoundFieldOwners, FieldOwners, OwningPlugins};

/// What can be set; the numbers are the protocol's. One field has one value, or one a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
#[allow(missing_docs)] // Each is named as the field of the message that it stands for.
pub enum Field {
    Annotations = 1,
    Mounts = 2,
    Hooks = 3,
    Devices = 4,
    CdiDevices = 5,
    Env = 6,
    Args = 7,
    MemoryLimit = 8,
    MemoryReservation = 9,
    MemorySwap = 10,
    MemoryKernel = 11,
    MemoryKernelTcp = 12,
    MemorySwappiness = 13,
    MemoryDisableOomKiller = 14,
    MemoryUseHierarchy = 15,
    CpuShares = 16,
    CpuQuota = 17,
    CpuPeriod = 18,
    CpuRealtimeRuntime = 19,
    CpuRealtimePeriod = 20,
    CpusetCpus = 21,
    CpusetMems = 22,
    PidsLimit = 23,
    HugepageLimits = 24,
    BlockioClass = 25,
    RdtClass = 26,
    Unified = 27,
    CgroupsPath = 28,
    OomScoreAdj = 29,
    Rlimits = 30,
    IoPriority = 31,
    SeccompPolicy = 32,
    Namespaces = 33,
    Sysctl = 34,
    NetDevices = 35,
    Scheduler = 36,
    RdtClosId = 37,
    RdtSchemata = 38,
    RdtEnableMonitoring = 39,
    MemoryPolicy = 40,
}

impl Field {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotations => "annotation",
            Self::Mounts => "mount",
            Self::Hooks => "hooks",
            Self::Devices => "device",
            Self::CdiDevices => "CDI device",
            Self::Env => "variable",
            Self::Args => "args",
            Self::MemoryLimit => "memory.limit",
            Self::MemoryReservation => "memory.reservation",
            Self::MemorySwap => "memory.swap",
            Self::MemoryKernel => "memory.kernel",
            Self::MemoryKernelTcp => "memory.kernel_tcp",
            Self::MemorySwappiness => "memory.swappiness",
            Self::MemoryDisableOomKiller => "memory.disable_oom_killer",
            Self::MemoryUseHierarchy => "memory.use_hierarchy",
            Self::CpuShares => "cpu.shares",
            Self::CpuQuota => "cpu.quota",
            Self::CpuPeriod => "cpu.period",
            Self::CpuRealtimeRuntime => "cpu.realtime_runtime",
            Self::CpuRealtimePeriod => "cpu.realtime_period",
            Self::CpusetCpus => "cpu.cpus",
            Self::CpusetMems => "cpu.mems",
            Self::PidsLimit => "pids.limit",
            Self::HugepageLimits => "huge page limit",
            Self::BlockioClass => "blockio_class",
            Self::RdtClass => "rdt_class",
            Self::Unified => "unified",
            Self::CgroupsPath => "cgroups_path",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Rlimits => "rlimit",
            Self::IoPriority => "io_priority",
            Self::SeccompPolicy => "seccomp_policy",
            Self::Namespaces => "namespace",
            Self::Sysctl => "sysctl",
            Self::NetDevices => "net device",
            Self::Scheduler => "scheduler",
            Self::RdtClosId => "rdt.clos_id",
            Self::RdtSchemata => "rdt.schemata",
            Self::RdtEnableMonitoring => "rdt.enable_monitoring",
            Self::MemoryPolicy => "memory_policy",
        }
    }

    fn has_keys(self) -> bool {
        matches!(
            self,
            Self::Annotations
                | Self::Mounts
                | Self::Devices
                | Self::CdiDevices
                | Self::Env
                | Self::HugepageLimits
                | Self::Unified
                | Self::Rlimits
                | Self::Namespaces
                | Self::Sysctl
                | Self::NetDevices
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Set(String),
    /// Removed what another had set; only who removed may set it anew.
    Removed(String),
}

/// All fields that were set while plugins were asked about one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    of: BTreeMap<(String, Field, String), Owner>,
}

/// The same, for one plugin and one container.
pub(super) struct Claims<'a> {
    pub(super) owners: &'a mut Owners,
    pub(super) container: &'a str,
    pub(super) plugin: &'a str,
}

impl Claims<'_> {
    /// The plugin sets a field, or one key of it.
    pub(super) fn claim(&mut self, field: Field, key: &str) -> Result<(), NriError> {
        let at = (self.container.to_owned(), field, key.to_owned());
        let other = match self.owners.of.get(&at) {
            Some(Owner::Removed(by)) if by != self.plugin => by,
            Some(Owner::Set(by)) => by,
            Some(Owner::Removed(_)) | None => {
                self.owners.of.insert(at, Owner::Set(self.plugin.to_owned()));
                return Ok(());
            }
        };
        Err(NriError::conflict(other, self.plugin, (field, key), self.container))
    }

    /// The plugin adds to what others set.
    pub(super) fn share(&mut self, field: Field) {
        let at = (self.container.to_owned(), field, String::new());
        let plugin = self.plugin;
        let all = match self.owners.of.get(&at) {
            Some(Owner::Set(others)) => format!("{others},{plugin}"),
            _ => plugin.to_owned(),
        };
        self.owners.of.insert(at, Owner::Set(all));
    }

    /// The plugin removes what was set.
    pub(super) fn remove(&mut self, field: Field, key: &str) {
        let at = (self.container.to_owned(), field, key.to_owned());
        self.owners.of.insert(at, Owner::Removed(self.plugin.to_owned()));
    }
}

impl Owners {
    /// As validators are told.
    pub(super) fn to_wire(&self) -> OwningPlugins {
        let mut wire = OwningPlugins::default();
        for ((container, field, key), owner) in &self.of {
            let owner = match owner {
                Owner::Set(plugin) => plugin.clone(),
                Owner::Removed(plugin) => format!("-{plugin}"),
            };
            let of: &mut FieldOwners = wire.owners.entry(container.clone()).or_default();
            if field.has_keys() {
                let compound: &mut CompoundFieldOwners =
                    of.compound.entry(*field as i32).or_default();
                compound.owners.insert(key.clone(), owner);
            } else {
                of.simple.insert(*field as i32, owner);
            }
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims<'a>(owners: &'a mut Owners, plugin: &'a str) -> Claims<'a> {
        Claims { owners, container: "c", plugin }
    }

    #[test]
    fn a_field_belongs_to_who_set_it_first_until_somebody_removes_it() {
        let mut owners = Owners::default();
        claims(&mut owners, "00-a").claim(Field::Env, "X").expect("free");
        claims(&mut owners, "10-b").claim(Field::Env, "Y").expect("another key");
        let error = claims(&mut owners, "10-b").claim(Field::Env, "X").expect_err("taken");
        let text = error.to_string();
        assert_eq!(text, "plugins 00-a and 10-b both set variable \"X\" of container c");
        claims(&mut owners, "10-b").remove(Field::Env, "X");
        claims(&mut owners, "10-b").claim(Field::Env, "X").expect("removed by itself");
        claims(&mut owners, "10-b").remove(Field::Args, "");
        claims(&mut owners, "20-c").claim(Field::Args, "").expect_err("removed by another");
    }

    #[test]
    fn validators_see_owners_by_container_field_and_key() {
        let mut owners = Owners::default();
        claims(&mut owners, "00-a").claim(Field::CpuShares, "").expect("free");
        claims(&mut owners, "00-a").claim(Field::Mounts, "/m").expect("free");
        claims(&mut owners, "00-a").share(Field::Hooks);
        claims(&mut owners, "10-b").share(Field::Hooks);
        let wire = owners.to_wire();
        let of = &wire.owners["c"];
        assert_eq!(of.simple[&16], "00-a");
        assert_eq!(of.simple[&3], "00-a,10-b");
        assert_eq!(of.compound[&2].owners["/m"], "00-a");
    }
}
