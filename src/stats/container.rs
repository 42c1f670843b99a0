//! One container's samples.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cgroup::counters::{Counters, DeviceIo, Reading};
use crate::container::ContainerRecord;
use crate::container::record::now_ns;
use crate::host;
use crate::ids::PodId;

use super::devices::Devices;
use super::processes::Processes;
use super::rate::Rate;

/// Between two looks into /proc for every process: it costs much more than the counters, and only
/// the metrics show it.
const PROCESSES: Duration = Duration::from_secs(10);

/// What a container used at one moment.
#[derive(Clone, Debug)]
pub struct ContainerSample {
    /// Its pod.
    pub pod: PodId,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// The counters of its control group.
    pub reading: Reading,
    /// CPU time used per second, in nanoseconds; 0 until there are two samples.
    pub nano_cores: u64,
    /// Its traffic with devices, by their names.
    pub devices: Vec<(String, DeviceIo)>,
    /// What its processes have open.
    pub processes: Processes,
}

/// What one container's samples are made from.
#[derive(Debug)]
pub(super) struct ContainerSource {
    counters: Counters,
    rate: Rate,
    devices: Devices,
    processes: Processes,
    processes_due: Instant,
}

impl ContainerSource {
    /// Opens the files of its control group. Blocks.
    pub(super) fn open(mounted: &host::Cgroups, group: &Path) -> Self {
        Self {
            counters: Counters::open(mounted, group),
            rate: Rate::default(),
            devices: Devices::default(),
            processes: Processes::default(),
            processes_due: Instant::now(),
        }
    }

    /// None when its group is gone. Blocks.
    pub(super) fn sample(&mut self, record: &ContainerRecord) -> Option<ContainerSample> {
        let (now, at_ns) = (Instant::now(), now_ns());
        let reading = self.counters.read()?;
        if now >= self.processes_due {
            let first = record.process.map(|process| process.pid);
            self.processes = Processes::look(first, &self.counters.processes());
            self.processes_due = now + PROCESSES;
        }
        let nano_cores = self.rate.next(now, reading.cpu.usage_ns.unwrap_or(0));
        let named = reading.io.iter().map(|io| (self.devices.name(io.major, io.minor), io.clone()));
        let devices = named.collect();
        let processes = self.processes.clone();
        Some(ContainerSample { pod: record.pod, at_ns, reading, nano_cores, devices, processes })
    }
}
