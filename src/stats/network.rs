//! Traffic of a pod's interfaces.

use std::fs::File;
use std::path::Path;

use crate::sys::kept::Kept;
use crate::sys::namespaces;

/// Of the thread that opens it: /proc/net would be of the whole process, proc_pid_net(5).
const FILE: &str = "/proc/thread-self/net/dev";

/// Counters of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What came in.
    pub received: Direction,
    /// What went out.
    pub sent: Direction,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The interfaces of one network namespace, through a descriptor that stays in it. It keeps the
/// namespace alive and is dropped as soon as the pod is not ready any more.
#[derive(Debug)]
pub(super) struct Network(Kept);

impl Network {
    /// None if the namespace cannot be entered. Blocks.
    pub(super) fn open(namespace: &Path) -> Option<Self> {
        let file = namespaces::run_in_netns(namespace, || File::open(FILE)).ok()?.ok()?;
        Some(Self(Kept::pinned(file)))
    }

    /// All interfaces but the loopback.
    pub(super) fn read(&self) -> Vec<Interface> {
        parse(&self.0.read().unwrap_or_default())
    }
}

/// proc_pid_net(5): two lines of heading, then `name:` and sixteen numbers or more.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let direction = |from: usize| {
            let [bytes, packets, errors, dropped] = numbers.get(from..from + 4)?.try_into().ok()?;
            Some(Direction { bytes, packets, errors, dropped })
        };
        let (received, sent) = (direction(0)?, direction(8)?);
        Some(Interface { name: name.trim().to_owned(), received, sent })
    };
    text.lines().skip(2).filter_map(interface).filter(|found| found.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::sys::namespaces::{Namespace, PinRequest, pin, unpin};

    const HEAD: &str = "Inter-|   Receive  |  Transmit\n face |bytes    packets\n";

    #[test]
    fn every_interface_but_lo_is_read_and_a_strange_line_is_skipped() {
        let text = format!(
            "{HEAD}    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n\
             eth0: 100 2 3 4 5 6 7 8 200 20 30 40 50 60 70 80 90\n\
             a:b: 1 1 1 1 1 1 1 1 18446744073709551615 2 2 2 2 2 2 2\n\
             short: 1 2 3\n wrong: x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        );
        let found = parse(&text);
        let names: Vec<_> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "a:b"]);
        let received = Direction { bytes: 100, packets: 2, errors: 3, dropped: 4 };
        let sent = Direction { bytes: 200, packets: 20, errors: 30, dropped: 40 };
        assert_eq!((found[0].received, found[0].sent), (received, sent));
        assert_eq!(found[1].sent.bytes, u64::MAX);
        assert_eq!(parse(""), []);
    }

    #[test]
    fn a_descriptor_stays_in_the_namespace_that_it_was_opened_in() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("ns");
        let sysctls = BTreeMap::new();
        let request = PinRequest {
            namespaces: &[Namespace::Network],
            hostname: None,
            sysctls: &sysctls,
            user: None,
        };
        pin(&pins, &request).unwrap();
        let network = Network::open(&pins.join("net")).unwrap();
        let text = network.0.read().unwrap();
        assert_eq!(text.lines().count(), 3, "more than lo: {text}");
        assert_eq!(network.0.read().unwrap(), text);
        unpin(&pins).unwrap();
        assert_eq!(network.0.read().unwrap(), text);
        assert!(Network::open(&pins.join("net")).is_none());
    }
}
