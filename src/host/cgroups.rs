//! Which control group hierarchies are mounted where, from /proc/self/mountinfo (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::mounts::unescape;

/// Where every distribution mounts them.
const ROOT: &str = "/sys/fs/cgroup";

/// Which of the three arrangements this host uses, cgroups(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// cgroup2 alone.
    V2,
    /// Controllers in v1 hierarchies, and a cgroup2 mount beside them without limits.
    Hybrid,
    /// v1 hierarchies alone.
    V1,
    /// Nothing is mounted.
    None,
}

impl CgroupVersion {
    /// The word for findings and `Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

/// The mounted hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// The arrangement.
    pub version: CgroupVersion,
    /// Mount point of cgroup2, also of the one of a hybrid host.
    pub unified: Option<PathBuf>,
    /// Mount point by v1 controller, e.g. `memory`; named hierarchies as `name=systemd`.
    pub v1: BTreeMap<String, PathBuf>,
    /// Controllers of the cgroup2 mount.
    pub unified_controllers: BTreeSet<String>,
}

impl Cgroups {
    /// From the text of /proc/self/mountinfo. Pure; [`with_controllers`](Self::with_controllers)
    /// then asks the kernel for the controllers of cgroup2.
    pub fn parse(mountinfo: &str) -> Self {
        let mut unified: Option<PathBuf> = None;
        let mut v1 = BTreeMap::new();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            match mount.kind {
                // The first mount counts, unless a later one is where everybody looks.
                "cgroup2" if unified.is_none() || mount.point == Path::new(ROOT) => {
                    unified = Some(mount.point);
                }
                "cgroup" => {
                    for controller in mount.controllers() {
                        v1.entry(controller.to_owned()).or_insert_with(|| mount.point.clone());
                    }
                }
                _ => {}
            }
        }
        let version = match (&unified, v1.keys().any(|name| !name.starts_with("name="))) {
            (Some(point), _) if point == Path::new(ROOT) => CgroupVersion::V2,
            (Some(_), true) => CgroupVersion::Hybrid,
            (Some(_), false) => CgroupVersion::V2,
            (None, true) => CgroupVersion::V1,
            (None, false) => CgroupVersion::None,
        };
        Self { version, unified, v1, unified_controllers: BTreeSet::new() }
    }

    /// Whether the memory controller counts swap. cgroup2 shows it in every group but the root.
    pub fn counts_swap(&self) -> bool {
        if let Some(memory) = self.v1.get("memory") {
            return memory.join("memory.memsw.limit_in_bytes").exists();
        }
        let Some(unified) = &self.unified else { return false };
        let groups = std::fs::read_dir(unified).into_iter().flatten().flatten();
        groups.into_iter().any(|group| group.path().join("memory.swap.max").exists())
    }

    /// Adds the controllers that the cgroup2 mount has; none if that cannot be read.
    #[must_use]
    pub fn with_controllers(mut self) -> Self {
        let file = self.unified.as_ref().map(|point| point.join("cgroup.controllers"));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        self.unified_controllers = text.split_whitespace().map(ToOwned::to_owned).collect();
        self
    }

    /// The mount that holds `controller` by its v2 name (`io`, not `blkio`), whichever version.
    pub fn controller(&self, controller: &str) -> Option<&Path> {
        if self.unified_controllers.contains(controller) {
            return self.unified.as_deref();
        }
        let v1_name = if controller == "io" { "blkio" } else { controller };
        self.v1.get(v1_name).map(PathBuf::as_path)
    }
}

/// One line of mountinfo.
struct Mount<'a> {
    point: PathBuf,
    kind: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /root /point options optional... - type source super-options`
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let super_options = after.nth(1).unwrap_or_default();
        Some(Self { point, kind, super_options })
    }

    /// A v1 mount names its controllers among its options.
    fn controllers(&self) -> impl Iterator<Item = &'a str> {
        let not_controllers =
            ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none", "all"];
        self.super_options.split(',').filter(move |option| {
            !option.is_empty()
                && !not_controllers.contains(option)
                && !option.starts_with("release_agent=")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const V2: &str =
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        38 31 0:33 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn cgroup2_where_everybody_looks_is_v2_even_beside_a_stray_v1_mount() {
        let stray = "50 24 0:40 / /mnt/huge rw - cgroup cgroup rw,hugetlb\n";
        let cgroups = Cgroups::parse(&format!("{V2}{stray}"));
        assert_eq!(cgroups.version, CgroupVersion::V2);
        assert_eq!(cgroups.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn a_hybrid_host_has_each_controller_at_its_mount() {
        let cgroups = Cgroups::parse(HYBRID);
        assert_eq!(cgroups.version, CgroupVersion::Hybrid);
        let at = |name| cgroups.controller(name).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(at("cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(at("io").as_deref(), Some("/sys/fs/cgroup/blkio"));
        assert_eq!(at("pids"), None);
        assert_eq!(cgroups.v1["name=systemd"], Path::new("/sys/fs/cgroup/systemd"));
        assert!(!cgroups.v1.contains_key("xattr"));
    }

    #[test]
    fn v1_alone_and_nothing_at_all_are_told_apart() {
        let v1: String = HYBRID
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(Cgroups::parse(&v1).version, CgroupVersion::V1);
        assert_eq!(
            Cgroups::parse("27 1 254:0 / / rw - ext4 /dev/vda rw\n").version,
            CgroupVersion::None
        );
    }

    #[test]
    fn mount_points_are_unescaped() {
        let cgroups = Cgroups::parse("1 2 0:3 / /a\\040b\\134c rw - cgroup2 none rw\n");
        assert_eq!(cgroups.unified.as_deref(), Some(Path::new("/a b\\c")));
    }
}
