//! GetContainerEvents: what happens to pods and containers, for as long as the client listens.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::container::ContainerRecord;
use crate::cri::answer::part;
use crate::cri::convert::view;
use crate::cri::pb;
use crate::cri::status::status;
use crate::events::{Event, Events, Subject, What};
use crate::pod::PodRecord;

use super::Runtime;

/// What happens to the pods and containers of this node.
pub type NodeEvents = Events<PodRecord, ContainerRecord>;

/// Events as they go out.
pub(super) type EventStream =
    Pin<Box<dyn Stream<Item = Result<pb::ContainerEventResponse, Status>> + Send>>;

impl Runtime {
    pub(super) fn events(&self) -> Result<EventStream, Status> {
        let heard = self.events.listen().map_err(|ended| status(&ended))?;
        Ok(Box::pin(heard.map(|event| match event {
            Ok(event) => part(response(&event)),
            Err(ended) => Err(status(&ended)),
        })))
    }
}

fn response(event: &Arc<Event<PodRecord, ContainerRecord>>) -> pb::ContainerEventResponse {
    let container_id = match event.subject {
        Subject::Pod(id) => id.to_string(),
        Subject::Container(id) => id.to_string(),
    };
    let what = match event.what {
        What::Created => pb::ContainerEventType::ContainerCreatedEvent,
        What::Started => pb::ContainerEventType::ContainerStartedEvent,
        What::Stopped => pb::ContainerEventType::ContainerStoppedEvent,
        What::Deleted => pb::ContainerEventType::ContainerDeletedEvent,
    };
    pb::ContainerEventResponse {
        container_id,
        container_event_type: what.into(),
        created_at: event.at_ns,
        pod_sandbox_status: Some(view::pod_status(&event.pod)),
        containers_statuses: event.containers.iter().map(|c| view::container_status(c)).collect(),
    }
}
