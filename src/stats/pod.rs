//! One pod's samples: its control group, or what its containers use together, and its network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::cgroup::counters::{Counters, Reading};
use crate::container::record::now_ns;
use crate::container::spec::NamespaceMode;
use crate::host;
use crate::pod::PodRecord;

use super::ContainerSample;
use super::network::{Interface, Network};
use super::rate::Rate;

/// What a pod used at one moment.
#[derive(Clone, Debug)]
pub struct PodSample {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Its control group, below the mount points; none if it has none of its own.
    pub group: Option<PathBuf>,
    /// The counters of that group; else the sum of its containers', as far as they can be added.
    pub reading: Reading,
    /// CPU time used per second, in nanoseconds; 0 until there are two samples.
    pub nano_cores: u64,
    /// Processes of all its containers.
    pub processes: u64,
    /// Its interfaces but the loopback; empty with the node's network.
    pub interfaces: Vec<Interface>,
}

/// What one pod's samples are made from.
#[derive(Debug)]
pub(super) struct PodSource {
    group: Option<(PathBuf, Counters)>,
    /// Where its own network namespace is pinned.
    namespace: Option<PathBuf>,
    network: Option<Network>,
    rate: Rate,
}

impl PodSource {
    /// Of a pod whose network namespace, if it has its own, is pinned at `namespace`.
    pub(super) fn new(record: &PodRecord, namespace: PathBuf) -> Self {
        let own = record.spec.network != NamespaceMode::Node;
        let namespace = own.then_some(namespace);
        Self { group: None, namespace, network: None, rate: Rate::default() }
    }

    /// Looks at `group`, if it is the pod's alone, and at the network, whose namespace it enters for
    /// a moment the first time. Blocks.
    pub(super) fn sample(
        &mut self,
        mounted: &host::Cgroups,
        group: Option<PathBuf>,
        containers: &[Arc<ContainerSample>],
    ) -> PodSample {
        let (now, at_ns) = (Instant::now(), now_ns());
        let of_group = self.read_group(mounted, group);
        let has_group = of_group.is_some();
        if self.network.is_none() {
            self.network = self.namespace.as_deref().and_then(Network::open);
        }
        let reading = of_group.unwrap_or_else(|| sum(containers));
        PodSample {
            at_ns,
            group: self.group.as_ref().filter(|_| has_group).map(|(path, _)| path.clone()),
            nano_cores: self.rate.next(now, reading.cpu.usage_ns.unwrap_or(0)),
            processes: containers.iter().filter_map(|c| c.reading.tasks.processes).sum(),
            interfaces: self.network.as_ref().map(Network::read).unwrap_or_default(),
            reading,
        }
    }

    fn read_group(&mut self, mounted: &host::Cgroups, group: Option<PathBuf>) -> Option<Reading> {
        if self.group.as_ref().map(|(path, _)| path) != group.as_ref() {
            self.rate = Rate::default();
            self.group = group.map(|path| {
                let counters = Counters::open(mounted, &path);
                (path, counters)
            });
        }
        let reading = self.group.as_mut().and_then(|(_, counters)| counters.read());
        if reading.is_none() {
            // Not there yet, or made anew: the next look opens it again.
            self.group = None;
        }
        reading
    }
}

/// Sums what can be added: limits, peaks and pressure cannot.
fn sum(containers: &[Arc<ContainerSample>]) -> Reading {
    let mut sum = Reading::default();
    for Reading { cpu, memory, swap, tasks, .. } in containers.iter().map(|c| &c.reading) {
        for (to, from) in [
            (&mut sum.cpu.usage_ns, cpu.usage_ns),
            (&mut sum.cpu.user_ns, cpu.user_ns),
            (&mut sum.cpu.system_ns, cpu.system_ns),
            (&mut sum.memory.usage_bytes, memory.usage_bytes),
            (&mut sum.memory.working_set_bytes, memory.working_set_bytes),
            (&mut sum.memory.rss_bytes, memory.rss_bytes),
            (&mut sum.memory.cache_bytes, memory.cache_bytes),
            (&mut sum.memory.page_faults, memory.page_faults),
            (&mut sum.memory.major_page_faults, memory.major_page_faults),
            (&mut sum.swap.usage_bytes, swap.usage_bytes),
            (&mut sum.tasks.processes, tasks.processes),
            (&mut sum.tasks.threads, tasks.threads),
        ] {
            if let Some(from) = from {
                *to = Some(to.unwrap_or(0).saturating_add(from));
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::counters::{Cpu, Memory};
    use crate::ids::PodId;

    #[test]
    fn what_is_absent_adds_nothing_and_what_is_absent_everywhere_stays_absent() {
        let sample = |usage_ns, usage_bytes| {
            let cpu = Cpu { usage_ns, ..Cpu::default() };
            let limit_bytes = Some(1000);
            let memory = Memory { usage_bytes, limit_bytes, ..Memory::default() };
            Arc::new(ContainerSample {
                pod: PodId::random(),
                at_ns: 0,
                reading: Reading { cpu, memory, ..Reading::default() },
                nano_cores: 0,
                devices: Vec::new(),
                processes: Default::default(),
            })
        };
        let sum = sum(&[sample(Some(5), None), sample(Some(u64::MAX), None), sample(None, None)]);
        assert_eq!(sum.cpu.usage_ns, Some(u64::MAX));
        assert_eq!((sum.memory.usage_bytes, sum.memory.limit_bytes), (None, None));
    }
}
