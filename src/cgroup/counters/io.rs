//! Bytes and operations of storage devices.

use std::collections::BTreeMap;

use super::Place;
use super::text::{assigned, text_of};
use crate::sys::kept::Kept;

/// Traffic of a group with one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's numbers.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations that read.
    pub reads: u64,
    /// Operations that wrote.
    pub writes: u64,
}

/// The files.
#[derive(Debug)]
pub(super) enum Files {
    V1 { bytes: Option<Kept>, operations: Option<Kept> },
    V2 { stat: Option<Kept> },
}

impl Files {
    pub(super) fn open(place: &Place) -> Self {
        match place {
            // With all groups below; kernels before 4.19 have only the group's own.
            Place::V1(dir) => {
                let open = |name: &str| {
                    let recursive = Kept::open(dir, &format!("blkio.throttle.{name}_recursive"));
                    recursive.or_else(|| Kept::open(dir, &format!("blkio.throttle.{name}")))
                };
                Self::V1 { bytes: open("io_service_bytes"), operations: open("io_serviced") }
            }
            Place::V2(dir) => Self::V2 { stat: Kept::open(dir, "io.stat") },
        }
    }

    pub(super) fn read(&self) -> Vec<DeviceIo> {
        match self {
            Self::V1 { bytes, operations } => v1(&text_of(bytes), &text_of(operations)),
            Self::V2 { stat } => v2(&text_of(stat)),
        }
    }
}

/// cgroup-v1/blkio-controller: `8:0 Read 4096`, and a last line with a total.
fn v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    let mut add = |text: &str, field: for<'a> fn(&'a mut DeviceIo, &str) -> Option<&'a mut u64>| {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some((major, minor)) = words.next().and_then(numbers) else { continue };
            let (Some(kind), Some(value)) = (words.next(), words.next()) else { continue };
            let Ok(value) = value.parse() else { continue };
            let new = DeviceIo { major, minor, ..DeviceIo::default() };
            if let Some(to) = field(devices.entry((major, minor)).or_insert(new), kind) {
                *to = value;
            }
        }
    };
    add(bytes, |device, kind| match kind {
        "Read" => Some(&mut device.read_bytes),
        "Write" => Some(&mut device.written_bytes),
        _ => None,
    });
    add(operations, |device, kind| match kind {
        "Read" => Some(&mut device.reads),
        "Write" => Some(&mut device.writes),
        _ => None,
    });
    devices.into_values().collect()
}

/// cgroup-v2, `io.stat`: `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2(stat: &str) -> Vec<DeviceIo> {
    let device = |line: &str| {
        let (major, minor) = line.split_whitespace().next().and_then(numbers)?;
        let value = |key| assigned(line, key);
        Some(DeviceIo {
            major,
            minor,
            // A device without traffic has no values.
            read_bytes: value("rbytes")?,
            written_bytes: value("wbytes").unwrap_or(0),
            reads: value("rios").unwrap_or(0),
            writes: value("wios").unwrap_or(0),
        })
    };
    stat.lines().filter_map(device).collect()
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_joins_bytes_and_operations_by_device() {
        let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\n\
                     254:1 Read 1\nTotal 12289\n";
        let operations = "8:0 Read 1\n8:0 Write 2\nbroken\n8:0 Write\nTotal 3\n";
        let expected = [
            DeviceIo {
                major: 8,
                minor: 0,
                read_bytes: 4096,
                written_bytes: 8192,
                reads: 1,
                writes: 2,
            },
            DeviceIo { major: 254, minor: 1, read_bytes: 1, ..DeviceIo::default() },
        ];
        assert_eq!(v1(bytes, operations), expected);
        assert_eq!(v1("Total 0\n", "Total 0\n"), []);
    }

    #[test]
    fn v2_skips_devices_without_values_and_takes_what_is_new() {
        let stat = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.usage=3\n\
                    7:3 \n253:0 rbytes=5\n";
        let devices = v2(stat);
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[0].written_bytes, devices[0].writes), (8192, 2));
        assert_eq!((devices[1].major, devices[1].read_bytes, devices[1].reads), (253, 5, 0));
        assert_eq!(v2(""), []);
    }
}
