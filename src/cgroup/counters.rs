//! What a control group has used: its counters, read again and again through kept descriptors.
//!
//! A descriptor is opened once and read from its beginning each time (pread), so a reading walks no
//! path and is not fooled by a new group of an old name: the files of a group that went answer
//! ENODEV. What the kernel does not offer, or says in a way that is no number, is absent; nothing
//! here is an error.

use std::path::{Path, PathBuf};

use crate::host::{self, CgroupVersion};

mod cpu;
mod hugepages;
mod io;
mod memory;
mod pressure;
mod tasks;
mod text;

pub use cpu::Cpu;
pub use hugepages::HugePages;
pub use io::DeviceIo;
pub use memory::{Memory, Swap};
pub use pressure::{Pressure, Psi, Stall};
pub use tasks::Tasks;

/// The open files of one group.
#[derive(Debug)]
pub struct Counters {
    cpu: Option<cpu::Files>,
    memory: Option<memory::Files>,
    io: Option<io::Files>,
    tasks: Option<tasks::Files>,
    hugepages: hugepages::Files,
    pressure: Option<pressure::Files>,
    /// What was used at most so far, for kernels that do not remember it.
    peak: Peak,
}

#[derive(Debug, Default)]
struct Peak {
    memory: u64,
    hugepages: Vec<u64>,
}

/// One look at a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// CPU time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Swap space.
    pub swap: Swap,
    /// Storage, by device.
    pub io: Vec<DeviceIo>,
    /// Processes and threads.
    pub tasks: Tasks,
    /// Huge pages, by size.
    pub hugepages: Vec<HugePages>,
    /// Time lost waiting.
    pub pressure: Pressure,
}

/// The directory of a group that has a controller's files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    V1(PathBuf),
    V2(PathBuf),
}

impl Counters {
    /// Opens the files of the group at `path` below every hierarchy's mount point. Blocks.
    pub fn open(mounted: &host::Cgroups, path: &Path) -> Self {
        let place = |v1: &str, v2: &str| place(mounted, path, v1, v2);
        let unified = mounted.unified.as_ref().map(|root| root.join(path));
        Self {
            cpu: cpu::Files::open(place("cpu", "cpu"), place("cpuacct", "cpu")),
            memory: place("memory", "memory").map(|place| memory::Files::open(&place)),
            io: place("blkio", "io").map(|place| io::Files::open(&place)),
            tasks: place("pids", "pids").map(|place| tasks::Files::open(&place)),
            hugepages: hugepages::Files::open(place("hugetlb", "hugetlb")),
            // Also beside v1: a hybrid host's unified hierarchy has no controller, but pressure.
            pressure: unified.map(|dir| pressure::Files::open(&dir)),
            peak: Peak::default(),
        }
    }

    /// Reads everything. None when the group is gone.
    pub fn read(&mut self) -> Option<Reading> {
        let (mut memory, swap) = self.memory.as_ref().map(memory::Files::read).unwrap_or_default();
        let mut reading = Reading {
            cpu: self.cpu.as_ref().map(cpu::Files::read).unwrap_or_default(),
            memory: Memory::default(),
            swap,
            io: self.io.as_ref().map(io::Files::read).unwrap_or_default(),
            tasks: self.tasks.as_ref().map(tasks::Files::read).unwrap_or_default(),
            hugepages: self.hugepages.read(),
            pressure: self.pressure.as_ref().map(pressure::Files::read).unwrap_or_default(),
        };
        self.peak.memory = self.peak.memory.max(memory.usage_bytes.unwrap_or(0));
        if memory.usage_bytes.is_some() {
            memory.max_usage_bytes = memory.max_usage_bytes.or(Some(self.peak.memory));
        }
        reading.memory = memory;
        self.peak.hugepages.resize(reading.hugepages.len(), 0);
        for (pages, peak) in reading.hugepages.iter_mut().zip(&mut self.peak.hugepages) {
            *peak = (*peak).max(pages.usage_bytes);
            pages.max_usage_bytes = pages.max_usage_bytes.or(Some(*peak));
        }
        (reading != Reading::default()).then_some(reading)
    }

    /// The ids of the processes in the group itself, as many as one look holds.
    pub fn processes(&self) -> Vec<i32> {
        self.tasks.as_ref().map(tasks::Files::processes).unwrap_or_default()
    }
}

/// Where the controller's files of the group are, which has one name in v1 and one in v2.
fn place(mounted: &host::Cgroups, path: &Path, v1: &str, v2: &str) -> Option<Place> {
    let unified = mounted.unified.as_ref().filter(|_| {
        mounted.version == CgroupVersion::V2 || mounted.unified_controllers.contains(v2)
    });
    match unified {
        Some(root) => Some(Place::V2(root.join(path))),
        None => mounted.v1.get(v1).map(|root| Place::V1(root.join(path))),
    }
}

#[cfg(test)]
mod tests;
