//! What the owner does to end the pod: everything in it ends, what it held is given back, and when
//! somebody asked for it, nothing is left.

use std::sync::Arc;

use crate::pod::state::State;
use crate::pod::{PodError, remove, stop};

use super::{Actor, Command, Fact, answer};

impl Actor {
    /// Begins to end everything in the pod, or what is left of it.
    pub(super) fn stop(&mut self) {
        self.owed.begin();
        self.stop_in_flight = true;
        if self.record.state == State::NotReady {
            return self.give_back();
        }
        self.set_state(State::Stopping);
        let (parts, gate, record) = (self.parts.clone(), self.gate.clone(), self.record.clone());
        let told = self.told.clone();
        self.step("stop pod", Fact::Ended, async move {
            stop::end(&parts, &gate, &record, &told).await
        });
    }

    pub(super) async fn on_ended(&mut self, result: Result<(), PodError>) {
        match result {
            Ok(()) => self.give_back(),
            Err(error) => {
                // A restart goes on from here.
                if let Err(error) = self.parts.save(&self.record).await {
                    let error = crate::error::chain(&error);
                    tracing::error!(pod = %self.record.id, error, "save that it is being stopped");
                }
                self.owe("not stopped yet", error);
            }
        }
    }

    pub(super) fn give_back(&mut self) {
        let (parts, record) = (self.parts.clone(), self.record.clone());
        self.step(
            "give back pod",
            Fact::Stopped,
            async move { stop::give_back(&parts, &record).await },
        );
    }

    pub(super) async fn on_stopped(&mut self, result: Result<(), PodError>) {
        self.set_state(State::NotReady);
        self.tell_stopped();
        let saved = self.parts.save(&self.record).await;
        if let Err(error) = result.and(saved) {
            return self.owe("stopped, but something is left", error);
        }
        self.owed.done();
        self.stop_in_flight = false;
        tracing::info!(pod = %self.record.id, "stopped");
        answer(std::mem::take(&mut self.stopping), &Ok(()));
        if !self.removing.is_empty() {
            self.remove();
        }
        for command in std::mem::take(&mut self.deferred) {
            self.admit(command).await;
        }
    }

    /// The stop has failed: everybody is told, and it is tried again without being asked.
    pub(super) fn owe(&mut self, what: &str, error: PodError) {
        self.owed.failed();
        self.stop_in_flight = false;
        tracing::warn!(pod = %self.record.id, error = crate::error::chain(&error), "{what}");
        let error = Err(Arc::new(error));
        answer(std::mem::take(&mut self.stopping), &error);
        answer(std::mem::take(&mut self.removing), &error);
        let deferred = std::mem::take(&mut self.deferred).into_iter();
        answer(deferred.map(Command::into_reply).collect(), &error);
    }

    /// Begins the removal, or what has to come before it.
    pub(super) fn remove(&mut self) {
        if self.record.state != State::NotReady {
            return self.stop();
        }
        // What is left of a stop is left to the removal.
        self.owed.done();
        self.set_state(State::Removing);
        let (parts, record) = (self.parts.clone(), self.record.clone());
        let told = self.told.clone();
        self.step("remove pod", Fact::Removed, async move {
            remove::remove(&parts, &record, &told).await
        });
    }

    pub(super) fn on_not_removed(&mut self, error: PodError) {
        self.set_state(State::NotReady);
        answer(std::mem::take(&mut self.removing), &Err(Arc::new(error)));
    }
}
