//! The runtime's part of a checkpoint: pause, checkpoint, resume and restore (runc-checkpoint(8),
//! runc-restore(8); crun takes the same options).

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::{Runtime, RuntimeError, Stdin};
use crate::ids::ContainerId;

/// What a checkpoint takes along besides memory: established connections, sockets that lead out, and
/// locks.
const OPTIONS: [&str; 3] = ["--tcp-established", "--ext-unix-sk", "--file-locks"];

/// The directories of one checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointDirs<'a> {
    /// CRIU's images of the processes.
    pub images: &'a Path,
    /// CRIU's logs.
    pub work: &'a Path,
}

impl Runtime {
    /// Freezes all processes of the container.
    pub async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.run("pause", None, &[id.to_string().into()]).await.map(drop)
    }

    /// Thaws them.
    pub async fn resume(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.run("resume", None, &[id.to_string().into()]).await.map(drop)
    }

    /// Writes the state of all processes of the container and leaves them as they are.
    pub async fn checkpoint(
        &self,
        id: &ContainerId,
        dirs: CheckpointDirs<'_>,
        within: Duration,
    ) -> Result<(), RuntimeError> {
        let mut arguments = dirs.arguments();
        arguments.extend(["--leave-running".into(), id.to_string().into()]);
        let never = std::future::pending();
        self.run_until("checkpoint", None, &arguments, within, never).await.map(drop)
    }

    /// The command line that restores a container from its bundle and `dirs`. Its processes run by
    /// the time the program ends.
    pub fn restore_argv(
        &self,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdin<'_>,
        dirs: CheckpointDirs<'_>,
    ) -> Vec<OsString> {
        let mut options = dirs.arguments();
        options.push("--detach".into());
        self.make_argv("restore", id, bundle, stdio, options)
    }
}

impl CheckpointDirs<'_> {
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = OPTIONS.map(OsString::from).to_vec();
        arguments.extend(["--image-path".into(), self.images.as_os_str().to_owned()]);
        arguments.extend(["--work-path".into(), self.work.as_os_str().to_owned()]);
        arguments
    }
}
