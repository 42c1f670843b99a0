//! The stream of events, read by blocking calls.

use std::sync::Arc;
use std::time::Duration;

use crisol::cri::pb;
use tokio::runtime::Runtime;
use tonic::{Request, Status, Streaming};

use super::{Answer, Cri};

/// What the daemon tells, from the moment it was asked.
#[derive(Debug)]
pub struct Events {
    tokio: Arc<Runtime>,
    stream: Streaming<pb::ContainerEventResponse>,
}

impl Cri {
    /// Listens to events from now on.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn events(&self) -> Answer<Events> {
        let mut client = self.pods.clone();
        let stream = self.tokio.block_on(async {
            client.get_container_events(Request::new(pb::GetEventsRequest {})).await
        })?;
        Ok(Events { tokio: self.tokio.clone(), stream: stream.into_inner() })
    }
}

impl Events {
    /// The next event; none when the daemon has ended the stream without an error.
    ///
    /// # Errors
    /// With the status that ended the stream, or `DeadlineExceeded` after `limit`.
    pub fn next(&mut self, limit: Duration) -> Answer<Option<pb::ContainerEventResponse>> {
        let next = self.stream.message();
        self.tokio
            .block_on(async { tokio::time::timeout(limit, next).await })
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no event came")))
    }
}
