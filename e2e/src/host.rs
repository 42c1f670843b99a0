//! What the kernel says about this machine: processes, mounts, control groups, memory.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the control group hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the id it is unique until the next boot.
    pub started: u64,
    /// Its arguments, joined by spaces; empty for a zombie.
    pub command: String,
}

/// The process with this id; none when there is none or it is a zombie.
pub fn process(pid: u32) -> Option<Process> {
    // proc_pid_stat(5): the name in parentheses may hold anything, fields are counted after it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
    Some(Process { pid, started: fields.get(19)?.parse().ok()?, command })
}

/// Every process that belongs to `dir` (by arguments, program or working directory) or is in a
/// control group below `cgroup`.
pub fn processes_of(dir: &Path, cgroup: Option<&str>) -> Vec<Process> {
    let dir_text = dir.display().to_string();
    let group = cgroup.map(|cgroup| format!(":{cgroup}/"));
    let inside = |link: String| fs::read_link(link).is_ok_and(|path| path.starts_with(dir));
    pids()
        .into_iter()
        .filter_map(process)
        .filter(|process| {
            let pid = process.pid;
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            process.command.contains(&dir_text)
                || inside(format!("/proc/{pid}/exe"))
                || inside(format!("/proc/{pid}/cwd"))
                || group.as_ref().is_some_and(|group| groups.contains(group))
        })
        .collect()
}

/// The zombies whose parent is `pid`.
pub fn zombies_of(pid: u32) -> usize {
    pids().iter().filter(|child| state_and_parent(**child) == Some(('Z', pid))).count()
}

/// The processes whose parent is `pid`; no zombies.
pub fn children_of(pid: u32) -> Vec<Process> {
    let is_ours = |child: &u32| {
        state_and_parent(*child).is_some_and(|(state, parent)| state != 'Z' && parent == pid)
    };
    pids().into_iter().filter(is_ours).filter_map(process).collect()
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// A field of /proc/PID/status; empty if the process or the field is gone.
pub fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

fn pids() -> Vec<u32> {
    entries(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

/// Kills a process; one that is gone is fine.
pub fn kill_process(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
}

/// Mount points at or below `dir`, deepest last as the kernel lists them.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect()
}

/// The directories of the control group `cgroup` (an absolute path) in every hierarchy, with all
/// groups below them, parents first.
pub fn cgroup_dirs(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    assert!(!relative.is_empty(), "the root control group belongs to everybody");
    let top = Path::new(CGROUPS);
    let mut tops = vec![top.join(relative)];
    tops.extend(entries(top).iter().map(|controller| top.join(controller).join(relative)));
    let mut found = Vec::new();
    for dir in tops.iter().filter(|dir| dir.join("cgroup.procs").exists()) {
        walk(dir, &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    found.push(dir.to_owned());
    for name in entries(dir) {
        let below = dir.join(name);
        if below.is_dir() {
            walk(&below, found);
        }
    }
}

/// Every file and directory below `dir`, relative to it, sorted. Mounts are not entered.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = mounts_below(dir);
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for name in entries(&next) {
            let path = next.join(name);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
            if is_dir && !mounts.contains(&path) {
                todo.push(path.clone());
            }
            found.extend(path.strip_prefix(dir).map(Path::to_owned));
        }
    }
    found.sort();
    found
}

/// Names in a directory; none when it does not exist.
pub fn entries(dir: &Path) -> Vec<String> {
    let Ok(list) = fs::read_dir(dir) else { return Vec::new() };
    list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A number of kibibytes from a `Name:   123 kB` line of a file below /proc/PID.
///
/// # Errors
/// If the process or the line is gone.
pub fn kibibytes(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.context(path)?.parse().context("not a number")
}

/// Proportional set size in KiB: what the process costs, shared pages divided by their users.
///
/// # Errors
/// If the process is gone.
pub fn pss_kib(pid: u32) -> Result<u64> {
    kibibytes(pid, "smaps_rollup", "Pss")
}

/// Largest resident size in KiB since the start or the last [`reset_peak`].
///
/// # Errors
/// If the process is gone.
pub fn peak_kib(pid: u32) -> Result<u64> {
    kibibytes(pid, "status", "VmHWM")
}

/// Makes [`peak_kib`] start again (proc(5), clear_refs 5).
///
/// # Errors
/// If the process is gone.
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("reset the peak")
}

/// What the descriptors of a process lead to, sorted.
pub fn descriptors(pid: u32) -> Vec<String> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut targets: Vec<String> = entries(&dir)
        .iter()
        .filter_map(|name| fs::read_link(dir.join(name)).ok())
        .map(|target| target.display().to_string())
        .collect();
    targets.sort();
    targets
}

/// Number of threads of a process.
pub fn threads(pid: u32) -> usize {
    entries(Path::new(&format!("/proc/{pid}/task"))).len()
}

/// Removes a directory tree, mounts below it first; absent is fine.
///
/// # Errors
/// If something in it cannot be removed.
pub fn remove_tree(dir: &Path) -> Result<()> {
    for mount in mounts_below(dir).iter().rev() {
        // Lazy: what still holds it was killed a moment ago.
        nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).ok();
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
