//! The pod's pause process, where its containers share a process namespace.
//!
//! It is the monitor's program in another role (`conmon pause`): it sees an empty read-only root,
//! has no capability, reaps what is orphaned, and its end ends everything in the namespace. The
//! namespace is pinned as a file, by which the process is found again even when a crash came
//! between its start and its record.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use conmon::Owner;
use rustix::process::Pid;
use tokio::process::Command;

use crate::container::spec::{IdMapping, NamespaceMode};
use crate::monitor::ProcessId;
use crate::steps::blocking;
use crate::sys::pidfd::Process;

use super::record::PodRecord;
use super::spec::PodSpec;
use super::{Parts, PodError};

/// How long the program may take to make the namespace.
const DEADLINE: Duration = Duration::from_secs(10);

/// Starts the pause process of the pod and pins its process namespace.
pub async fn start(parts: &Arc<Parts>, record: &PodRecord) -> Result<ProcessId, PodError> {
    let id = record.id;
    let failed = |problem: String| PodError::Pause { id, problem };
    let pins = parts.layout.pod_namespaces(&id);
    blocking({
        let pins = pins.clone();
        move || fs::create_dir_all(pins)
    })
    .await
    .map_err(|source| PodError::File {
        action: "make directory",
        path: pins.clone(),
        source,
    })?;
    let start = |error| failed(format!("start {}: {error}", parts.monitor.path().display()));
    let mut call = Command::new(parts.monitor.to_run().map_err(start)?);
    call.arg("pause").arg("--pin").arg(pins.join("pid")).current_dir("/").process_group(0);
    if record.spec.network != NamespaceMode::Node {
        call.arg("--join-net").arg(pins.join("net")).arg("--join-uts").arg(pins.join("uts"));
    }
    if record.spec.ipc != NamespaceMode::Node {
        call.arg("--join-ipc").arg(pins.join("ipc"));
    }
    if record.spec.user_namespace.is_some() {
        call.arg("--join-user").arg(pins.join("user"));
    }
    if let Some(Owner { uid, gid }) = user(&record.spec) {
        call.arg("--user").arg(format!("{uid}:{gid}"));
    }
    call.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, call.output())
        .await
        .map_err(|_| failed(format!("it took longer than {DEADLINE:?} to start")))?
        .map_err(start)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let process = match said.split_ascii_whitespace().collect::<Vec<_>>().as_slice() {
        [pid, start_time] if output.status.success() => {
            pid.parse().ok().zip(start_time.parse().ok())
        }
        _ => None,
    };
    let Some((pid, start_time)) = process else {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    };
    let group = parts.cgroups.pod(record.spec.cgroup_parent.as_deref(), &id);
    let cgroups = parts.cgroups.clone();
    blocking(move || cgroups.place(&group, pid))
        .await
        .map_err(|source| PodError::Cgroup { id, source })?;
    Ok(ProcessId { pid, start_time })
}

/// Who the process is, in the pod's user namespace; none = a user of the program's own choice.
fn user(spec: &PodSpec) -> Option<Owner> {
    if let Some(uid) = spec.run_as_user {
        return Some(Owner { uid, gid: spec.run_as_group.unwrap_or(uid) });
    }
    // The program's choice is among the first 65536 ids. A namespace may have fewer; its last one
    // is the least likely to own anything.
    let last = |ranges: &[IdMapping]| Some(ranges.first()?.length.min(1 << 16) - 1);
    let ids = spec.user_namespace.as_ref()?;
    Some(Owner { uid: last(&ids.uids)?, gid: last(&ids.gids)? })
}

/// Kills the pod's pause process, and with it everything in its namespace, and waits for its end.
/// None is fine.
pub async fn kill(parts: &Arc<Parts>, record: &PodRecord) -> Result<(), PodError> {
    if record.spec.pid != NamespaceMode::Pod || record.boot_id != parts.host.boot_id {
        return Ok(());
    }
    let id = record.id;
    let failed = |error: io::Error| PodError::Pause { id, problem: format!("kill it: {error}") };
    if let Some(pause) = record.pause
        && let Some(process) = Process::find(pause.pid, pause.start_time).map_err(failed)?
    {
        process.kill().map_err(failed)?;
        process.ended().await.map_err(failed)?;
    }
    let pin = parts.layout.pod_namespaces(&id).join("pid");
    blocking(move || kill_all_in(&pin)).await.map_err(failed)?;
    let group = parts.cgroups.pod(record.spec.cgroup_parent.as_deref(), &id);
    let cgroups = parts.cgroups.clone();
    blocking(move || cgroups.kill(&group).and_then(|()| cgroups.remove(&group)))
        .await
        .map_err(|source| PodError::Cgroup { id, source })
}

/// Kills every process whose process namespace is the one pinned at `pin`. Blocks; absent is fine.
///
/// # Errors
/// When it could not be told of a process that exists, after all others were killed.
pub fn kill_all_in(pin: &Path) -> io::Result<()> {
    let namespace = match fs::metadata(pin) {
        Ok(namespace) => (namespace.dev(), namespace.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut result = Ok(());
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let killed = kill_if_in(pid, &entry.path(), namespace);
        result = result.and(killed);
    }
    result
}

/// Kills a process if its process namespace is this one.
fn kill_if_in(pid: Pid, dir: &Path, namespace: (u64, u64)) -> io::Result<()> {
    let of = |dir: &Path| match fs::metadata(dir.join("ns/pid")) {
        Ok(of) => Ok((of.dev(), of.ino()) == namespace),
        // A process that ends meanwhile has no namespace; that is no error.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(false)
        }
        // One that may do what the daemon may not: the kernel keeps it to itself. If it is in no
        // namespace below the daemon's own, it is none of a pod's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_at_the_top(dir) => {
            Ok(false)
        }
        Err(error) => Err(error),
    };
    // RACE: the number may pass on at any time. What it has after the descriptor was opened is what
    // the descriptor's process has, or that one has ended and cannot be killed.
    if of(dir)?
        && let Some(process) = Process::open(pid)?
        && of(dir)?
    {
        process.kill()?;
    }
    Ok(())
}

/// Whether a process has one number only (proc_pid_status(5), NSpid): it is in this namespace, and not
/// in one below.
fn is_at_the_top(dir: &Path) -> bool {
    let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() == 1)
}
