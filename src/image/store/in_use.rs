//! [`InUse`]: layers that containers stand on, whatever the store's records say of them.
//!
//! Two witnesses, and either is enough: what containers recorded when they were made, and the
//! kernel's table of mounts. The table does not name layers whose owners are mapped. It has the mounts
//! of others too, who may have the same image in a store of theirs: only those in our own directory
//! count.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::host::mounts::unescape;

/// The names of the directories that are in use.
#[derive(Debug)]
pub(super) struct InUse(HashSet<String>);

impl InUse {
    /// `held` by containers, and whatever the kernel has mounted below `mounts`. Blocks.
    ///
    /// # Errors
    /// If the kernel could not tell; nothing may be discarded then.
    pub(super) fn look(held: HashSet<String>, mounts: &Path) -> io::Result<Self> {
        let real = fs::canonicalize(mounts)?;
        Ok(Self::of(held, &fs::read_to_string("/proc/self/mountinfo")?, &real))
    }

    /// Every word of the options of every overlay: their form depends on the kernel's version, and a
    /// word too many does no harm.
    fn of(mut names: HashSet<String>, mountinfo: &str, mounts: &Path) -> Self {
        let overlays = mountinfo.lines().filter_map(|line| line.split_once(" - overlay "));
        let ours = overlays.filter(|(line, _)| {
            let point = line.split(' ').nth(4).map(unescape);
            point.is_some_and(|point| point.starts_with(mounts))
        });
        let words = ours.flat_map(|(_, rest)| rest.split([' ', ',', ':', '=', '/', '\\', '+']));
        names.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
        Self(names)
    }

    /// Whether a layer's directory, or the one whose record this is, is in use.
    pub(super) fn has(&self, path: &Path) -> bool {
        let name = path.file_stem().and_then(|name| name.to_str());
        name.is_some_and(|name| self.0.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_the_options_of_every_kernel() {
        let table = "1 0 8:1 / /s rw - ext4 /dev/sda lowerdir=0000000000000000\n\
            9 1 0:9 / /other rw - overlay overlay rw,lowerdir=9999999999999999,upperdir=/u\n\
            2 1 0:2 / /s/a rw shared:5 - overlay overlay rw,lowerdir=aaaaaaaaaaaaaaaa:bbbbbbbbbbbbbbbb-1,upperdir=/u\n\
            3 1 0:3 / /s/b\\040c rw - overlay none rw,lowerdir+=cccccccccccccccc,lowerdir+=/l/dddddddddddddddd,workdir=/w\n";
        let held = HashSet::from(["eeeeeeeeeeeeeeee".to_owned()]);
        let in_use = InUse::of(held, table, Path::new("/s"));
        let has = |name: &str| in_use.has(&Path::new("/l").join(name));
        for name in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb-1", "cccccccccccccccc.json"] {
            assert!(has(name), "{name}");
        }
        assert!(has("dddddddddddddddd") && has("eeeeeeeeeeeeeeee.json"));
        assert!(!has("bbbbbbbbbbbbbbbb") && !has("0000000000000000") && !has("x"));
        assert!(!has("9999999999999999"), "another store's");
    }
}
