//! A group's limits as the kernel has them: noted before a change, written back when it fails; and
//! the files that no runtime writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, Cgroups};

/// The files with limits that a request can change, of both versions (kernel documents "Control
/// Groups version 1" and "Control Group v2").
const LIMITS: [&str; 11] = [
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.max",
    "cpu.shares",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.limit_in_bytes",
    "memory.max",
    "memory.memsw.limit_in_bytes",
    "memory.swap.max",
];

/// Limits depend on each other (memory is at most memory and swap together), so that one may be
/// refused until another is back: as often as there are pairs, and once more.
const ROUNDS: usize = 3;

/// Values of files with limits.
#[derive(Debug, Default)]
pub struct Limits(Vec<(PathBuf, String)>);

impl Cgroups {
    /// Notes the limits of a group, those in the files `more` too. Blocks; what cannot be read is
    /// left out.
    pub fn limits(&self, name: &str, more: &[String]) -> Limits {
        let mut noted = Vec::new();
        for dir in self.directories(name) {
            let files = LIMITS.iter().copied().chain(more.iter().map(String::as_str));
            let mut paths: Vec<PathBuf> = files.map(|file| dir.join(file)).collect();
            paths.extend(page_limits(&dir));
            let values = paths.into_iter().filter_map(|path| {
                let value = fs::read_to_string(&path).ok()?;
                Some((path, value))
            });
            noted.extend(values);
        }
        Limits(noted)
    }

    /// Bytes that a group uses and that the kernel cannot take back at once: file pages not used
    /// lately are left out. None if nobody counts. Blocks.
    pub fn memory_in_use(&self, name: &str) -> Result<Option<u64>, CgroupError> {
        for dir in self.directories(name) {
            for (usage, idle) in [
                ("memory.current", "inactive_file "),
                ("memory.usage_in_bytes", "total_inactive_file "),
            ] {
                let Some(used) = read(&dir.join(usage))? else { continue };
                let stat = read(&dir.join("memory.stat"))?.unwrap_or_default();
                let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.parse().ok());
                let used: Option<u64> = used.trim().parse().ok();
                return Ok(used.map(|used| used.saturating_sub(idle.unwrap_or(0))));
            }
        }
        Ok(None)
    }

    /// Limits huge pages of a `size` such as `2MB`. Blocks.
    pub fn limit_pages(&self, name: &str, size: &str, bytes: u64) -> Result<(), CgroupError> {
        let files = [format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max")];
        let dirs = self.directories(name);
        let mut paths = dirs.iter().flat_map(|dir| files.iter().map(|file| dir.join(file)));
        match paths.find(|path| path.exists()) {
            Some(path) => write(&path, &bytes.to_string()),
            None => Err(no_file(name, &files[1])),
        }
    }

    /// Writes a value into a file of a group of the unified hierarchy. Blocks.
    pub fn set(&self, name: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let mut paths = self.directories(name).into_iter().map(|dir| dir.join(file));
        match paths.find(|path| path.exists()) {
            Some(path) => write(&path, value),
            None => Err(no_file(name, file)),
        }
    }
}

impl Limits {
    /// Writes back what is different now. Blocks.
    pub fn put_back(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for _ in 0..ROUNDS {
            result = Ok(());
            for (path, value) in &self.0 {
                match fs::read_to_string(path) {
                    // The group went meanwhile, and its limits with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Ok(now) if now == *value => {}
                    _ => result = result.and(write(path, value)),
                }
            }
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// The limits of huge pages, whose files are named by their sizes.
fn page_limits(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_limit = |name: &str| {
        name.starts_with("hugetlb.")
            && !name.contains(".rsvd.")
            && (name.ends_with(".max") || name.ends_with(".limit_in_bytes"))
    };
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_limit))
        .map(|entry| entry.path())
        .collect()
}

fn read(path: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CgroupError::Read { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // An empty value is written as an empty line: a write of nothing is none.
    let value = if value.is_empty() { "\n" } else { value };
    fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.to_owned(),
        value: value.trim_end().to_owned(),
        source,
    })
}

fn no_file(name: &str, file: &str) -> CgroupError {
    let path = Path::new(name).join(file);
    let (value, source) = (String::new(), io::ErrorKind::NotFound.into());
    CgroupError::Write { path, value, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Driver;

    /// A directory that looks like a group.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroups) {
        let top = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(top.path().join("g")).expect("directory");
        for (file, value) in files {
            fs::write(top.path().join("g").join(file), value).expect("file");
        }
        let cgroups = Cgroups::new(Driver::Cgroupfs, vec![top.path().to_owned()]);
        (top, cgroups)
    }

    #[test]
    fn noted_limits_are_put_back_and_nothing_else_is_touched() {
        let (top, cgroups) = group(&[
            ("memory.max", "max\n"),
            ("hugetlb.2MB.max", "0\n"),
            ("io.max", "a"),
            ("x.y", "1"),
        ]);
        let noted = cgroups.limits("/g", &["x.y".to_owned()]);
        let file = |name: &str| top.path().join("g").join(name);
        for name in ["memory.max", "hugetlb.2MB.max", "io.max", "x.y"] {
            fs::write(file(name), "7").expect("file");
        }
        noted.put_back().expect("put back");
        let now = |name: &str| fs::read_to_string(file(name)).expect("file");
        assert_eq!((now("memory.max"), now("hugetlb.2MB.max")), ("max\n".into(), "0\n".into()));
        assert_eq!((now("x.y"), now("io.max")), ("1".into(), "7".into()));
    }

    #[test]
    fn memory_in_use_leaves_out_what_the_kernel_can_take_back() {
        let stat = "anon 10\ninactive_file 300\n";
        let (_top, v2) = group(&[("memory.current", "1000\n"), ("memory.stat", stat)]);
        assert_eq!(v2.memory_in_use("/g").expect("readable"), Some(700));
        let stat = "inactive_file 1\ntotal_inactive_file 400\n";
        let (_top, v1) = group(&[("memory.usage_in_bytes", "1000\n"), ("memory.stat", stat)]);
        assert_eq!(v1.memory_in_use("/g").expect("readable"), Some(600));
        let (_top, none) = group(&[]);
        assert_eq!(none.memory_in_use("/g").expect("absent is fine"), None);
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made() {
        let (top, cgroups) = group(&[("memory.high", "max\n")]);
        cgroups.set("/g", "memory.high", "5").expect("there");
        assert!(cgroups.set("/g", "memory.nothing", "5").is_err());
        assert!(cgroups.limit_pages("/g", "2MB", 5).is_err());
        assert!(!top.path().join("g/memory.nothing").exists());
    }
}
