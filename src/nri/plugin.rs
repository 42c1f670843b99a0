//! One plugin that is configured: what it wants to hear of, and how its silence is dealt with.
//!
//! A plugin that does not answer in time, whose connection breaks, or who answers nonsense is closed
//! and the event goes on without it, as every runtime does: an optional plugin fails nothing. A
//! plugin that answers with an error refuses, and that counts.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::{Semaphore, watch};

use crate::error::chain;

use super::NriError;
use super::error::CallError;
use super::link::Link;
use super::ttrpc::code;
use super::wire::{Event, StateChange};

/// Calls of one plugin in flight. Each object has one at most; the other side's queue for one
/// connection is 256 frames long and a message has one or two.
const CALLS: usize = 64;

/// What one event is called and what older plugins are sent for it instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) event: Event,
    pub(super) method: &'static str,
    /// Plugins of before the single requests get it as a change of state.
    pub(super) has_state_change: bool,
}

/// A plugin.
pub(super) struct Plugin {
    /// Tells plugins apart that come and go under one name.
    pub(super) serial: u64,
    /// `NN-name`, also its place in the order.
    pub(super) full_name: String,
    /// Two digits.
    pub(super) index: String,
    /// Without the index.
    pub(super) name: String,
    /// Bit n-1 stands for event n.
    pub(super) events: i32,
    pub(super) link: Link,
    pub(super) request_timeout: Duration,
    /// Becomes true when it has its picture; its sender goes when it never will.
    pub(super) synchronized: watch::Receiver<bool>,
    calls: Semaphore,
}

impl Plugin {
    pub(super) fn new(
        serial: u64,
        (index, name): (String, String),
        events: i32,
        (link, request_timeout): (Link, Duration),
        synchronized: watch::Receiver<bool>,
    ) -> Self {
        let (full_name, calls) = (format!("{index}-{name}"), Semaphore::new(CALLS));
        Self { serial, full_name, index, name, events, link, request_timeout, synchronized, calls }
    }

    /// Whether it wants to hear of this.
    pub(super) fn wants(&self, event: Event) -> bool {
        self.events & (1 << (event as i32 - 1)) != 0
    }

    /// Asks the plugin; none when it does not care, cannot, or is gone.
    ///
    /// # Errors
    /// [`NriError::Refused`] in its own words.
    pub(super) async fn ask<R: Message + Default>(
        self: &Arc<Self>,
        kind: Kind,
        request: &impl Message,
        legacy: impl FnOnce() -> StateChange,
    ) -> Result<Option<R>, NriError> {
        if !self.wants(kind.event) {
            return Ok(None);
        }
        let mut called = self.call(kind.method, request.encode_to_vec()).await;
        if kind.has_state_change
            && matches!(called, Err(CallError::Status { code: code::UNIMPLEMENTED, .. }))
        {
            let change = StateChange { event: kind.event.into(), ..legacy() };
            called = self.call("StateChange", change.encode_to_vec()).await.map(|_| Vec::new());
        }
        let answer = called.and_then(|payload| Ok(R::decode(payload.as_slice())?));
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(CallError::Status { code: code::UNIMPLEMENTED, .. }) => Ok(None),
            Err(CallError::Status { message, .. }) => {
                let (plugin, method) = (self.full_name.clone(), kind.method);
                Err(NriError::Refused { plugin, method, message })
            }
            // The other plugins' share may be too much as well, but it is no fault of this one.
            Err(error @ CallError::TooLong) => {
                tracing::warn!(plugin = self.full_name, method = kind.method, %error, "not told");
                Ok(None)
            }
            Err(error) => {
                if !self.link.is_closed() {
                    let error = chain(&error);
                    tracing::warn!(
                        plugin = self.full_name,
                        method = kind.method,
                        error,
                        "closing the connection to a plugin; it goes on without it"
                    );
                }
                self.link.close();
                Ok(None)
            }
        }
    }

    /// Waits for the plugin's picture to be there, then calls.
    async fn call(&self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let mut synchronized = self.synchronized.clone();
        synchronized.wait_for(|there| *there).await.map_err(|_| CallError::Closed)?;
        let calling = async {
            let _place = self.calls.acquire().await.map_err(|_| CallError::Closed)?;
            self.link.call(method, payload, self.request_timeout).await
        };
        let within = self.request_timeout;
        tokio::time::timeout(within, calling).await.map_err(|_| CallError::TimedOut(within))?
    }
}
