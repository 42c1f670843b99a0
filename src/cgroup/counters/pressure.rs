//! Time lost waiting for processors, memory and storage (accounting/psi).

use std::path::Path;

use crate::sys::kept::Kept;

/// Pressure of a group on three resources; absent where the kernel does not measure it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Waiting for a processor.
    pub cpu: Option<Psi>,
    /// Waiting for memory.
    pub memory: Option<Psi>,
    /// Waiting for storage.
    pub io: Option<Psi>,
}

/// Waiting for one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Psi {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited at once; not measured for processors before 5.13.
    pub full: Option<Stall>,
}

/// How long was waited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Microseconds in all.
    pub total_us: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    cpu: Option<Kept>,
    memory: Option<Kept>,
    io: Option<Kept>,
}

impl Files {
    /// Of a group of the unified hierarchy.
    pub(super) fn open(dir: &Path) -> Self {
        Self {
            cpu: Kept::open(dir, "cpu.pressure"),
            memory: Kept::open(dir, "memory.pressure"),
            io: Kept::open(dir, "io.pressure"),
        }
    }

    pub(super) fn read(&self) -> Pressure {
        let read = |file: &Option<Kept>| parse(&file.as_ref()?.read()?);
        Pressure { cpu: read(&self.cpu), memory: read(&self.memory), io: read(&self.io) }
    }
}

fn parse(text: &str) -> Option<Psi> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        Some(Stall {
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
            total_us: value("total")?.parse().ok()?,
        })
    };
    Some(Psi { some: line("some")?, full: line("full") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_only_the_first_is_needed() {
        let some = "some avg10=4.24 avg60=2.20 avg300=0.92 total=67045767\n";
        let full = "full avg10=0.00 avg60=0.10 avg300=0.00 total=18446744073709551615 new=1\n";
        let psi = parse(&format!("{some}{full}")).expect("two lines");
        let stall = Stall { avg10: 4.24, avg60: 2.2, avg300: 0.92, total_us: 67_045_767 };
        assert_eq!(psi.some, stall);
        assert_eq!(psi.full.map(|full| (full.avg60, full.total_us)), Some((0.1, u64::MAX)));
        assert_eq!(parse(some), Some(Psi { some: stall, full: None }));
        for broken in ["", "some avg10=1\n", full] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }
}
