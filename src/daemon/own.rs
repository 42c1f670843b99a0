//! What a daemon has for itself: the locks of its two directories, and the records in one of them.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;

use crate::container::ContainerRecord;
use crate::error::chain;
use crate::identity;
use crate::path::Layout;
use crate::pod::PodRecord;
use crate::record::{RecordError, Records};

/// How often a root that is locked is tried again, and after which pause.
const LOCK_TRIES: u32 = 10;
/// See `LOCK_TRIES`.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Takes `root` and `state`, which nobody else has and which belong together, and makes what is in
/// them. The locks go with the process.
pub(super) fn take(layout: &Layout) -> anyhow::Result<[File; 2]> {
    for dir in [layout.root(), layout.state()] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let locks = [lock(&layout.lock())?, lock(&layout.state_lock())?];
    if let Err(error) = identity::settle(layout) {
        bail!("{}; to repair this: {}", chain(&error), error.remedy());
    }
    super::directories(layout)?;
    Ok(locks)
}

/// Opens the records, before anything else is touched: those of a newer crisol are a reason not to
/// start.
pub(super) fn records(
    layout: &Layout,
) -> Result<(Records<PodRecord>, Records<ContainerRecord>), RecordError> {
    Ok((Records::open(layout.pod_records())?, Records::open(layout.container_records())?))
}

/// Two daemons never share a root or a state. The lock goes with the process.
fn lock(path: &Path) -> anyhow::Result<File> {
    // Whoever can open it can hold the lock.
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let open = options.open(path).and_then(|file| {
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        Ok(file)
    });
    let mut file = open.with_context(|| format!("open {}", path.display()))?;
    // RACE: a program that a killed daemon was just starting holds its lock up to its execve(2).
    let tries = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    let locked = (0..LOCK_TRIES).any(|_| {
        let locked = tries();
        if !locked {
            std::thread::sleep(LOCK_PAUSE);
        }
        locked
    });
    if !locked {
        let mut owner = String::new();
        file.read_to_string(&mut owner).ok();
        bail!(
            "{} is locked by another crisol, process {}; stop that one, or give this one a root and \
             a state of its own",
            path.display(),
            owner.trim()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}
