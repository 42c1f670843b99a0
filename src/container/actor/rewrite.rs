//! What the owner does when the record of its container is gone: it knows all that was in it.

use crate::container::ContainerRecord;
use crate::container::state::State;

use super::Actor;

impl Actor {
    /// Writes the record that was lost. Its removal is another one's work already.
    pub(super) async fn write_again(&self) {
        let id = self.record.id;
        let state = match self.record.state {
            State::Creating | State::Removing => return,
            // A restart would find it started.
            State::Starting => State::Created,
            state => state,
        };
        match self.parts.save(&ContainerRecord { state, ..self.record.clone() }).await {
            Ok(()) => tracing::warn!(container = %id, "its record was lost and is written again"),
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(container = %id, error, "its record is lost; tried again later");
            }
        }
    }
}
