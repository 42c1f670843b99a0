//! What the owner does when the process has ended: plugins are told, what the container held is given
//! back, and when somebody asked for it, nothing is left.

use std::sync::Arc;

use crate::container::handle::answer;
use crate::container::state::State;
use crate::container::{ContainerError, cleanup, remove, tell};

use super::{Actor, Fact};

impl Actor {
    /// Begins the clean-up, unless it runs or the runtime's start or update does.
    pub(super) fn clean(&mut self) {
        self.owed.begin();
        if self.cleaning || self.start_in_flight || self.updating.is_some() {
            return;
        }
        self.cleaning = true;
        let (parts, record) = (self.parts.clone(), self.record.clone());
        let (told, stopping) = (self.told.clone(), std::mem::take(&mut self.stopping));
        self.step("clean up container", Fact::Cleaned, async move {
            // Plugins hear of the end before whoever asked for it does.
            parts.plugins.stop_container(&told, tell::container(&parts, &record)).await;
            answer(stopping, &Ok(()));
            cleanup::cleanup(&parts, &record).await
        });
    }

    /// What is left is removed, if somebody waits for that. A clean-up that failed is tried again, asked
    /// for or not.
    pub(super) async fn on_cleaned(&mut self, result: Result<(), ContainerError>) {
        self.cleaning = false;
        match result {
            Ok(()) => {
                self.owed.done();
                self.record.cleaned = true;
                self.publish(None);
                self.save().await.ok();
                if !self.removing.is_empty() {
                    self.remove();
                }
            }
            Err(error) => {
                self.owed.failed();
                let error = Arc::new(error);
                tracing::warn!(container = %self.record.id, error = %crate::error::chain(&*error), "clean-up is owed");
                answer(std::mem::take(&mut self.removing), &Err(error));
            }
        }
    }

    /// Begins the removal, or what has to come before it.
    pub(super) fn remove_when_clean(&mut self) {
        if self.record.cleaned {
            self.remove();
        } else {
            self.clean();
        }
    }

    fn remove(&mut self) {
        self.set_state(State::Removing);
        let (parts, record) = (self.parts.clone(), self.record.clone());
        let told = self.told.clone();
        self.step("remove container", Fact::Removed, async move {
            parts.plugins.remove_container(&told, tell::container(&parts, &record)).await;
            remove::remove(&parts, &record).await
        });
    }

    /// It stays, and may be removed again.
    pub(super) fn on_not_removed(&mut self, error: ContainerError) {
        self.set_state(State::Exited);
        answer(std::mem::take(&mut self.removing), &Err(Arc::new(error)));
    }
}
