//! The streams of a container for those who talk to it: whether that is possible now, the container's
//! own streams, and when it is over.

use crate::ids::{ContainerId, IdQuery};
use crate::monitor::attach::{self, Attached, Input};

use super::exec::{self, Process, Stdio};
use super::state::{Request, State};
use super::{ContainerError, Containers, Shared};

/// A container's own streams.
pub struct Streams {
    /// Whether they are a terminal's.
    pub tty: bool,
    /// The streams.
    pub streams: Attached,
}

impl Containers {
    /// The container that `query` means, if a command can be run in it now.
    pub fn to_exec(&self, query: &IdQuery) -> Result<ContainerId, Shared> {
        Ok(self.running(query, Request::Exec)?.id)
    }

    /// The container that `query` means, if it can be attached to now.
    pub fn to_attach(&self, query: &IdQuery) -> Result<ContainerId, Shared> {
        Ok(self.running(query, Request::Attach)?.id)
    }

    /// Runs a command for somebody who talks to it. The process is killed when it is dropped.
    ///
    /// # Errors
    /// [`ContainerError::TooManyCommands`] when too many others go on all the time.
    pub async fn exec(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        stdio: Stdio,
    ) -> Result<Process, Shared> {
        let room = self.handle(&id.into())?.rooms.take(*id, exec::Purpose::Talk).await?;
        let record = self.running(&id.into(), Request::Exec)?;
        let parts = self.parts.clone();
        // Detached: a client that goes away meanwhile leaves no half of a start behind.
        let work = async move { exec::start(&parts, &record, command, stdio, room).await };
        match crate::steps::spawn("exec", work).await {
            Ok(Some(started)) => started.map_err(Into::into),
            _ => Err(ContainerError::Panicked { verb: "exec" }.into()),
        }
    }

    /// Attaches to the container's own streams.
    pub async fn attach(&self, id: &ContainerId, input: Input) -> Result<Streams, Shared> {
        let record = self.running(&id.into(), Request::Attach)?;
        let attached = attach::attach(&self.parts.layout.monitor(&record.id), input).await;
        let streams = attached.map_err(|source| ContainerError::Monitor { id: *id, source })?;
        Ok(Streams { tty: record.spec.tty, streams })
    }

    /// Sets the size of the container's terminal, in characters.
    pub async fn resize(&self, id: &ContainerId, rows: u16, cols: u16) -> Result<(), Shared> {
        let resized = attach::resize(&self.parts.layout.monitor(id), rows, cols).await;
        resized.map_err(|source| ContainerError::Monitor { id: *id, source }.into())
    }

    /// Returns when the container has ended, or is not there any more.
    pub async fn ended(&self, id: &ContainerId) {
        let Ok(handle) = self.handle(&id.into()) else { return };
        let mut published = handle.published;
        let over = |state| matches!(state, State::Exited | State::Removing);
        // An error is the end of its owner.
        published.wait_for(|record| over(record.state)).await.ok();
    }
}
