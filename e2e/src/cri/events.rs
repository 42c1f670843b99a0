//! The stream of events, read by blocking calls.

use std::time::Duration;

use crisol::cri::pb;
use tonic::{Request, Status, Streaming};

use super::{Answer, Cri};
use crate::connection::Connection;

/// What the daemon tells, from the moment it was asked.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    stream: Streaming<pb::ContainerEventResponse>,
}

impl Cri {
    /// Listens to events from now on.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn events(&self) -> Answer<Events> {
        let mut client = self.pods.clone();
        let stream = self.connection.wait(async {
            client.get_container_events(Request::new(pb::GetEventsRequest {})).await
        })?;
        Ok(Events { connection: self.connection.clone(), stream: stream.into_inner() })
    }
}

impl Events {
    /// The next event; none when the daemon has ended the stream without an error.
    ///
    /// # Errors
    /// With the status that ended the stream, or `DeadlineExceeded` after `limit`.
    pub fn next(&mut self, limit: Duration) -> Answer<Option<pb::ContainerEventResponse>> {
        let next = self.stream.message();
        self.connection
            .wait(async { tokio::time::timeout(limit, next).await })
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no event came")))
    }
}
