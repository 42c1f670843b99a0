//! What the owner does about a start: asks the runtime once, and tells everybody who ever asks how
//! that went.
//!
//! An end that comes before the runtime's start has returned waits for it: a program that could not
//! be run is an error of the start (StartError), not a program that ended.

use std::sync::Arc;

use crate::container::handle::{Reply, answer};
use crate::container::record::{Ended, now_ns};
use crate::container::state::{Request, State};
use crate::container::{ContainerError, Shared, start};
use crate::error::Classify;
use crate::events::What;
use crate::monitor;

use super::{Actor, Fact};

impl Actor {
    pub(super) fn start(&mut self, reply: Reply) {
        self.starting.push(reply);
        self.start_in_flight = true;
        self.set_state(State::Starting);
        let (parts, record) = (self.parts.clone(), self.record.clone());
        self.step(
            "start container",
            Fact::Started,
            async move { start::start(&parts, &record).await },
        );
    }

    pub(super) async fn on_started(
        &mut self,
        result: Result<Option<monitor::ProcessId>, ContainerError>,
    ) {
        self.start_in_flight = false;
        let ended = self.ended_meanwhile.take();
        let answered = match result {
            Ok(restored) => {
                if restored.is_some() {
                    self.record.process = restored;
                    self.watch_monitor();
                }
                // It may have run for less time than its start took to return.
                let ended_at_ns = ended.as_ref().map_or(i64::MAX, |ended| ended.at_ns);
                self.record.started_at_ns = now_ns().min(ended_at_ns);
                // A monitor that was lost meanwhile has made it unknown.
                let state = match self.record.state {
                    State::Starting => State::Running,
                    other => other,
                };
                self.enter(state, What::Started);
                let saved = self.save().await;
                tracing::info!(container = %self.record.id, "started");
                if let Some(ended) = ended {
                    self.on_exit(ended).await;
                }
                saved
            }
            Err(error) => {
                self.record.started_at_ns = now_ns();
                self.record.ended =
                    Some(Ended::start_failed(crate::error::chain(&error), error.kind()));
                self.enter(State::Exited, What::Stopped);
                self.save().await.ok();
                self.clean();
                self.how_it_started()
            }
        };
        answer(std::mem::take(&mut self.starting), &answered);
        self.admit_deferred();
    }

    /// What every request to start is told once there is an answer, at once or a day later: a client
    /// that lost the first answer needs that one.
    pub(super) fn how_it_started(&self) -> Result<(), Shared> {
        let (id, state) = (self.record.id, self.record.state);
        let refused = self.record.ended.as_ref().and_then(|ended| {
            let (kind, problem) = (ended.start_failure?, ended.message.clone());
            Some(ContainerError::NotStarted { id, kind, problem })
        });
        match refused {
            Some(error) => Err(Arc::new(error)),
            None if self.record.started_at_ns > 0 => Ok(()),
            None => {
                Err(Arc::new(ContainerError::WrongState { id, state, request: Request::Start }))
            }
        }
    }
}
