//! What the owner does about an update of limits.

use std::sync::Arc;

use crate::container::handle::{Asker, Reply, answer};
use crate::container::spec::Resources;
use crate::container::state::{Request, State, Verdict, admit};
use crate::container::{ContainerError, update};

use super::{Actor, Fact};

impl Actor {
    /// What `request` means now. While the runtime changes limits it is asked nothing else that a
    /// caller can wait for; a stop needs no runtime.
    pub(super) fn verdict(&self, request: Request) -> Verdict {
        match (admit(self.record.state, request), request) {
            (Verdict::Run, Request::Start | Request::Update) if self.updating.is_some() => {
                Verdict::Defer
            }
            (verdict, _) => verdict,
        }
    }

    /// Begins the change.
    pub(super) fn update(&mut self, by: Asker, change: Resources, reply: Reply) {
        if self.record.waits_to_be_restored() {
            // There is no control group yet whose limits could be changed.
            let (id, state, request) = (self.record.id, self.record.state, Request::Update);
            let denied = ContainerError::WrongState { id, state, request };
            return answer(vec![reply], &Err(Arc::new(denied)));
        }
        self.updating = Some(reply);
        let (parts, record) = (self.parts.clone(), self.record.clone());
        self.step("update container", Fact::Updated, async move {
            update::update(&parts, &record, change, by).await
        });
    }

    /// The change has ended; what waited for it goes on.
    pub(super) async fn on_updated(&mut self, result: Result<Resources, ContainerError>) {
        let reply = self.updating.take();
        let result = match result {
            Ok(resources) => {
                self.record.updated = Some(resources);
                self.publish(None);
                tracing::info!(container = %self.record.id, "limits changed");
                self.save().await
            }
            Err(error) => Err(Arc::new(error)),
        };
        answer(reply.into_iter().collect(), &result);
        if self.record.state == State::Exited {
            self.clean();
        }
        self.admit_deferred();
    }
}
