//! Our slice of the control group tree: names for containers and pods, killing by group, removal.
//!
//! The runtime makes and limits a container's group; what is done here needs no runtime, so that a
//! container can be ended when its runtime cannot. Works on v1, v2 and the hybrid of both: a group
//! is one relative path below every hierarchy's mount point.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::CgroupPid;
use cgroups_rs::manager::{FsManager, Manager, SystemdManager};
use rustix::process::Pid;

use crate::error::{Classify, Kind};
use crate::ids::{ContainerId, PodId};
use crate::sys::pidfd::Process;

pub mod counters;
mod limits;

pub use limits::Limits;

/// The parent of pods whose request names none (cgroupfs).
const DEFAULT_PARENT: &str = "/crisol";

/// The same for systemd.
const DEFAULT_SLICE: &str = "crisol.slice";

/// Before the names of our groups, so that an operator sees whose they are.
const PREFIX: &str = "crisol";

/// How long a killed group may take to empty. A process in an uninterruptible wait outlasts any
/// bound; the caller tries again later.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Processes of a group that are killed at once: each costs a descriptor meanwhile.
const AT_ONCE: usize = 64;

/// Groups below one container's that are looked into, at most this deep.
const MAX_DEPTH: u32 = 16;

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The parent's name does not fit the driver.
    #[error("cgroup_parent {parent:?} {problem}")]
    Parent {
        /// As requested.
        parent: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A process could not be put into a group.
    #[error("put process {pid} into cgroup {path}")]
    Place {
        /// The process.
        pid: i32,
        /// The group.
        path: String,
        /// What the library said.
        source: Box<cgroups_rs::manager::Error>,
    },
    /// A group could not be read.
    #[error("read cgroup {path}")]
    Read {
        /// A directory of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("write {value:?} to {path}")]
    Write {
        /// Its file.
        path: PathBuf,
        /// The limit.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A group could not be removed.
    #[error("remove cgroup {path}")]
    Remove {
        /// A directory of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Killed processes are still there.
    #[error("{count} processes of cgroup {path} outlive SIGKILL")]
    Unkillable {
        /// The group.
        path: String,
        /// How many.
        count: usize,
    },
}

impl Classify for CgroupError {
    fn kind(&self) -> Kind {
        match self {
            Self::Parent { .. } => Kind::Invalid,
            Self::Unkillable { .. } => Kind::TimedOut,
            // The kernel knows no such limit, or the parent group does not allow it.
            Self::Write { .. } => Kind::Refused,
            _ => Kind::Internal,
        }
    }
}

/// Who makes groups, after `auto` has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// The control group tree of this node.
#[derive(Clone, Debug)]
pub struct Cgroups {
    driver: Driver,
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// A tree with the mount points of its hierarchies.
    pub fn new(driver: Driver, hierarchies: Vec<PathBuf>) -> Self {
        Self { driver, hierarchies }
    }

    /// Who makes groups.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Checks a requested parent against the driver.
    pub fn check_parent(&self, parent: &str) -> Result<(), CgroupError> {
        let slice = parent.ends_with(".slice");
        let problem = match self.driver {
            Driver::Systemd if !slice => "is not a slice, and the cgroup driver is systemd",
            Driver::Cgroupfs if slice => "is a slice, and the cgroup driver is cgroupfs",
            _ => return Ok(()),
        };
        Err(CgroupError::Parent { parent: parent.to_owned(), problem })
    }

    /// The container's group as its runtime takes it (OCI `cgroupsPath`).
    pub fn container(&self, parent: Option<&str>, id: &ContainerId) -> String {
        self.name(parent, &id.to_string())
    }

    /// The group of the pod's own processes, in the same form.
    pub fn pod(&self, parent: Option<&str>, id: &PodId) -> String {
        self.name(parent, &id.to_string())
    }

    fn name(&self, parent: Option<&str>, id: &str) -> String {
        match self.driver {
            Driver::Cgroupfs => {
                let parent = parent.unwrap_or(DEFAULT_PARENT).trim_matches('/');
                format!("/{parent}/{PREFIX}-{id}")
            }
            Driver::Systemd => {
                // The kubelet may give the slice's path; its last part names it.
                let parent = parent.unwrap_or(DEFAULT_SLICE);
                let slice = parent.trim_end_matches('/').rsplit('/').next().unwrap_or(parent);
                format!("{slice}:{PREFIX}:{id}")
            }
        }
    }

    /// Puts a process into a group, which is made if it is absent. Blocks.
    pub fn place(&self, name: &str, pid: i32) -> Result<(), CgroupError> {
        let failed = |source| {
            let source = Box::new(source);
            CgroupError::Place { pid, path: name.to_owned(), source }
        };
        let tgid = CgroupPid::from(u64::from(pid.unsigned_abs()));
        match self.driver {
            Driver::Cgroupfs => FsManager::new(name.trim_start_matches('/'))
                .and_then(|mut manager| manager.add_proc(tgid))
                .map_err(failed),
            Driver::Systemd => SystemdManager::new(name)
                .and_then(|mut manager| manager.add_proc(tgid))
                .map_err(failed),
        }
    }

    /// Kills everything in a group and below it, and waits until it is empty. Blocks, for at most
    /// `KILL_PATIENCE`. An absent group is empty.
    ///
    /// A frozen group is thawed: frozen processes of cgroup v1 do not die.
    pub fn kill(&self, name: &str) -> Result<(), CgroupError> {
        let dirs = self.directories(name);
        let began = Instant::now();
        loop {
            let mut count = 0;
            for dir in &dirs {
                // Absent on v1 and on old kernels; the loop below does the same work slower.
                fs::write(dir.join("cgroup.kill"), "1").ok();
                fs::write(dir.join("freezer.state"), "THAWED").ok();
                fs::write(dir.join("cgroup.freeze"), "0").ok();
                count += kill_once(dir)?;
            }
            if count == 0 {
                return Ok(());
            }
            if began.elapsed() > KILL_PATIENCE {
                return Err(CgroupError::Unkillable { path: name.to_owned(), count });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a group's processes are frozen, or about to be. An absent group is not. Blocks.
    pub fn is_frozen(&self, name: &str) -> bool {
        let says = |file: PathBuf, words: &[&str]| {
            fs::read_to_string(file).is_ok_and(|text| words.contains(&text.trim()))
        };
        self.directories(name).iter().any(|dir| {
            says(dir.join("freezer.state"), &["FROZEN", "FREEZING"])
                || says(dir.join("cgroup.freeze"), &["1"])
        })
    }

    /// Removes a group and those below it; it must be empty. Absent is fine. Blocks.
    pub fn remove(&self, name: &str) -> Result<(), CgroupError> {
        for dir in self.directories(name) {
            remove_tree(&dir, MAX_DEPTH)
                .map_err(|source| CgroupError::Remove { path: dir.clone(), source })?;
        }
        Ok(())
    }

    /// Makes the parent of pods whose request names none, so that it is there before it is needed
    /// by several at once. Blocks.
    pub fn make_default_parent(&self) {
        if self.driver == Driver::Cgroupfs {
            for root in &self.hierarchies {
                // A hierarchy that cannot have it (read-only, no controllers) is the runtime's to
                // complain about, with a container to name.
                fs::create_dir(root.join(DEFAULT_PARENT.trim_start_matches('/'))).ok();
            }
        }
    }

    /// Removes that parent if nothing is in it. Blocks.
    pub fn remove_default_parent(&self) {
        if self.driver == Driver::Cgroupfs {
            for root in &self.hierarchies {
                fs::remove_dir(root.join(DEFAULT_PARENT.trim_start_matches('/'))).ok();
            }
        }
    }

    /// The group's directory in every hierarchy that has it.
    pub fn directories(&self, name: &str) -> Vec<PathBuf> {
        let relative = relative_path(name);
        self.hierarchies
            .iter()
            .map(|root| root.join(&relative))
            .filter(|dir| dir.is_dir())
            .collect()
    }
}

/// The path of a group below each mount point, from its name as the runtime takes it. systemd nests slices by the dashes of their names
/// (systemd.slice(5)).
pub fn relative_path(name: &str) -> PathBuf {
    let parts: Vec<&str> = name.split(':').collect();
    let [slice, prefix, id] = parts.as_slice() else {
        return PathBuf::from(name.trim_start_matches('/'));
    };
    let mut path = PathBuf::new();
    let stem = slice.trim_end_matches(".slice");
    if !stem.is_empty() && stem != "-" {
        for (dash, _) in stem.match_indices('-') {
            path.push(format!("{}.slice", &stem[..dash]));
        }
        path.push(slice);
    }
    path.push(format!("{prefix}-{id}.scope"));
    path
}

/// Kills the processes of a group's directory and of those below it; returns how many there were.
fn kill_once(dir: &Path) -> Result<usize, CgroupError> {
    let failed = |source| CgroupError::Read { path: dir.to_owned(), source };
    let pids = processes(dir, MAX_DEPTH)?;
    let mut trouble = None;
    for some in pids.chunks(AT_ONCE) {
        let mut opened = Vec::new();
        for pid in some {
            match Process::open(*pid) {
                Ok(process) => opened.extend(process.map(|process| (*pid, process))),
                Err(error) => trouble = Some(error),
            }
        }
        // RACE: a number may have passed on to a stranger since it was read. One that is a member
        // after the descriptor was opened is the descriptor's, or that one has ended.
        let members: HashSet<Pid> = processes(dir, MAX_DEPTH)?.into_iter().collect();
        for (_, process) in opened.iter().filter(|(pid, _)| members.contains(pid)) {
            process.kill().map_err(failed)?;
        }
    }
    trouble.map_or(Ok(pids.len()), |error| Err(failed(error)))
}

/// The processes of a group's directory and of those below it.
fn processes(dir: &Path, depth: u32) -> Result<Vec<Pid>, CgroupError> {
    let read = |path: &Path, source| CgroupError::Read { path: path.to_owned(), source };
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
    };
    let file = dir.join("cgroup.procs");
    let mut found: Vec<Pid> = match fs::read_to_string(&file) {
        // A pid of 0 belongs to a process outside our process namespace.
        Ok(text) => text.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)).collect(),
        // A threaded group has no list of its own (cgroup-v2, "Threads"); its root has them.
        Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        Err(error) => return Err(read(&file, error)),
    };
    if depth > 0 {
        for child in subdirectories(dir).map_err(|source| read(dir, source))? {
            found.extend(processes(&child, depth - 1)?);
        }
    }
    Ok(found)
}

fn remove_tree(dir: &Path, depth: u32) -> io::Result<()> {
    if depth > 0 {
        for child in subdirectories(dir)? {
            remove_tree(&child, depth - 1)?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut children = Vec::new();
    for entry in listing {
        match entry {
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                children.push(entry.path());
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_nested_by_the_dashes_of_its_name() {
        let path = relative_path("kubepods-burstable-pod1.slice:crisol:ab");
        let expected =
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crisol-ab.scope";
        assert_eq!(path, Path::new(expected));
        assert_eq!(
            relative_path("crisol.slice:crisol:ab"),
            Path::new("crisol.slice/crisol-ab.scope")
        );
        assert_eq!(relative_path("-.slice:crisol:ab"), Path::new("crisol-ab.scope"));
        assert_eq!(relative_path("/kubepods/x/crisol-ab"), Path::new("kubepods/x/crisol-ab"));
    }

    #[test]
    fn a_parent_must_fit_the_driver() {
        let fs = Cgroups::new(Driver::Cgroupfs, Vec::new());
        let systemd = Cgroups::new(Driver::Systemd, Vec::new());
        assert!(fs.check_parent("/kubepods/pod1").is_ok());
        assert!(fs.check_parent("kubepods.slice").is_err());
        assert!(systemd.check_parent("/kubepods/pod1").is_err());
        assert!(systemd.check_parent("kubepods-pod1.slice").is_ok());
        let id = ContainerId::from_bytes([0; 32]);
        assert!(
            systemd.container(Some("/a.slice/a-b.slice"), &id).starts_with("a-b.slice:crisol:00")
        );
        assert!(fs.container(None, &id).starts_with("/crisol/crisol-00"));
    }
}
