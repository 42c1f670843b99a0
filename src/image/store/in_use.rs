//! [`InUse`]: layers that containers stand on, whatever the store's records say of them.
//!
//! Two witnesses, and either is enough: what containers recorded when they were made, and the
//! kernel's table of mounts. The table does not name layers whose owners are mapped.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

/// The names of the directories that are in use.
#[derive(Debug)]
pub(super) struct InUse(HashSet<String>);

impl InUse {
    /// `held` by containers, and whatever the kernel has mounted. Blocks.
    ///
    /// # Errors
    /// If the kernel could not tell; nothing may be discarded then.
    pub(super) fn look(held: HashSet<String>) -> io::Result<Self> {
        Ok(Self::of(held, &fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// Every word of the options of every overlay: their form depends on the kernel's version, and a
    /// word too many does no harm.
    fn of(mut names: HashSet<String>, mountinfo: &str) -> Self {
        let options = mountinfo.lines().filter_map(|line| line.split_once(" - overlay "));
        let words = options.flat_map(|(_, rest)| rest.split([' ', ',', ':', '=', '/', '\\', '+']));
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
        let table = "1 0 8:1 / / rw - ext4 /dev/sda lowerdir=0000000000000000\n\
            2 1 0:2 / /a rw shared:5 - overlay overlay rw,lowerdir=aaaaaaaaaaaaaaaa:bbbbbbbbbbbbbbbb-1,upperdir=/u\n\
            3 1 0:3 / /b rw - overlay none rw,lowerdir+=cccccccccccccccc,lowerdir+=/l/dddddddddddddddd,workdir=/w\n";
        let in_use = InUse::of(HashSet::from(["eeeeeeeeeeeeeeee".to_owned()]), table);
        let has = |name: &str| in_use.has(&Path::new("/l").join(name));
        for name in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb-1", "cccccccccccccccc.json"] {
            assert!(has(name), "{name}");
        }
        assert!(has("dddddddddddddddd") && has("eeeeeeeeeeeeeeee.json"));
        assert!(!has("bbbbbbbbbbbbbbbb") && !has("0000000000000000") && !has("x"));
    }
}
