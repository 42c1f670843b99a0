//! Names of storage devices.

use std::collections::HashMap;
use std::path::Path;

/// Names that were looked up already. A device keeps its name while somebody uses it.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<(u32, u32), String>);

impl Devices {
    /// `/dev/sda` for 8:0; the numbers where the kernel has no name for them. Blocks the first time.
    pub(super) fn name(&mut self, major: u32, minor: u32) -> String {
        self.0.entry((major, minor)).or_insert_with(|| name(major, minor)).clone()
    }
}

/// sysfs(5): /sys/dev/block/8:0 leads to the device's own directory.
pub(super) fn name(major: u32, minor: u32) -> String {
    let numbers = format!("{major}:{minor}");
    let target = std::fs::read_link(Path::new("/sys/dev/block").join(&numbers));
    let name = target.ok().and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    name.map_or(numbers, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_name_is_shown_by_its_numbers() {
        let mut devices = Devices::default();
        assert_eq!(devices.name(4095, 77), "4095:77");
        assert_eq!(devices.name(4095, 77), "4095:77");
    }
}
