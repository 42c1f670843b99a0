//! What is asked of a container, and where it is reached.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::claim::Claim;
use crate::ids::ContainerId;
use crate::nri::Told;

use super::Shared;
use super::exec::Rooms;
use super::record::ContainerRecord;
use super::spec::Resources;
use super::state::Request;

/// Requests that may wait for one container. The kubelet has one worker a pod; people add a few.
pub const MAILBOX: usize = 64;

/// How a request is answered.
pub type Reply = oneshot::Sender<Result<(), Shared>>;

/// What is asked of a container.
pub enum Command {
    /// Let the process go.
    Start(Reply),
    /// End the process.
    Stop {
        /// How long it may take to end by itself.
        grace: Duration,
        /// Answered when it has ended.
        reply: Reply,
    },
    /// Give everything back.
    Remove(Reply),
    /// Change its limits.
    Update {
        /// Who asks.
        by: Asker,
        /// The new ones; zero or empty = as they are.
        change: Box<Resources>,
        /// Answered when they are in force.
        reply: Reply,
    },
}

/// Who asks for a change of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client; plugins are asked as well.
    Client,
    /// A plugin; no plugin is asked.
    Plugin,
}

/// How a creation stands.
#[derive(Debug)]
pub enum Creation {
    /// In flight.
    Pending,
    /// The container exists.
    Done,
    /// It does not, and everything was undone.
    Failed(Shared),
}

/// Where a container is reached.
#[derive(Clone)]
pub struct Handle {
    /// Which.
    pub id: ContainerId,
    /// Its mailbox.
    pub commands: mpsc::Sender<Command>,
    /// How its creation stands.
    pub creation: watch::Receiver<Creation>,
    /// Whether the request that it was created for still counts.
    pub claim: Claim,
    /// What plugins know of it.
    pub told: Told,
    /// What its owner published last.
    pub published: watch::Receiver<Arc<ContainerRecord>>,
    /// Room for commands in it.
    pub rooms: Rooms,
    /// Told when its record went or was damaged under its owner, who writes it again.
    pub rewrite: Arc<Notify>,
}

impl Handle {
    /// What the owner published last.
    pub fn record(&self) -> Arc<ContainerRecord> {
        self.published.borrow().clone()
    }
}

impl Command {
    /// The request, as the admission table knows it.
    pub fn request(&self) -> Request {
        match self {
            Self::Start(_) => Request::Start,
            Self::Stop { .. } => Request::Stop,
            Self::Remove(_) => Request::Remove,
            Self::Update { .. } => Request::Update,
        }
    }

    /// Where its answer is waited for.
    pub fn into_reply(self) -> Reply {
        match self {
            Self::Start(reply)
            | Self::Remove(reply)
            | Self::Stop { reply, .. }
            | Self::Update { reply, .. } => reply,
        }
    }
}

/// Answers everybody; one that no longer waits is skipped.
pub fn answer(waiting: Vec<Reply>, result: &Result<(), Shared>) {
    for reply in waiting {
        reply.send(result.clone()).ok();
    }
}
