//! Room for commands: how many there are at one time in one container, how many of them are being
//! started, and how much of the output of all is kept.
//!
//! A command has a connection to the container's monitor for as long as it lives, and a monitor holds
//! a bounded number of connections. Commands of both kinds have room of their own, so that people
//! never keep a probe out.

use std::sync::Arc;
use std::time::Duration;

use conmon::MAX_CONNECTIONS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::super::ContainerError;
use crate::ids::ContainerId;

/// Commands of one container that somebody talks to at one time.
const MAX_TALKS: usize = 32;

/// Commands of one container that are run to their end at one time: probes and hooks.
const MAX_SYNCS: usize = 24;

/// What else connects to a monitor: who waits for the exit, and short requests such as the log's.
const OTHERS: usize = 8;

const _: () = assert!(MAX_TALKS + MAX_SYNCS + OTHERS <= MAX_CONNECTIONS);

/// Commands of one container that are being started at one time. A start that hangs (a runtime that
/// waits for a frozen container, a mount that does not answer) keeps one of the node's slots for
/// runtimes for a while; a node with one processor has four. See `runtime/turns.rs`.
const MAX_STARTS: usize = 2;

/// How long one more waits for another to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is counted of output at once.
const PAGE: usize = 64 << 10;

/// Output that is kept at one time on the whole node beyond the first page of each stream, in pages:
/// sixteen times what one command may have (R33). What commands write is up to their containers.
const MAX_PAGES: usize = (256 << 20) / PAGE;

/// Room for the output of all commands of the node.
#[derive(Clone, Debug)]
pub struct Outputs(Arc<Semaphore>);

impl Default for Outputs {
    fn default() -> Self {
        Self::of(MAX_PAGES)
    }
}

impl Outputs {
    pub(super) fn of(pages: usize) -> Self {
        Self(Arc::new(Semaphore::new(pages)))
    }

    /// Room for what one stream writes.
    pub fn share(&self) -> Share {
        Share { all: self.0.clone(), taken: Vec::new() }
    }
}

/// The part of the room that one stream has taken; given back when dropped.
///
/// Its first page is always there, whatever others have taken: it costs no more than the buffer that
/// the stream is read with, and it is all that a probe ever writes.
#[derive(Debug)]
pub struct Share {
    all: Arc<Semaphore>,
    taken: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// How many of `more` bytes still can be kept after `kept` have been.
    pub fn room(&mut self, kept: usize, more: usize) -> usize {
        while kept + more > self.pages() {
            match self.all.clone().try_acquire_owned() {
                Ok(page) => self.taken.push(page),
                Err(_) => return self.pages() - kept,
            }
        }
        more
    }

    /// Bytes of the pages that it has.
    fn pages(&self) -> usize {
        (1 + self.taken.len()) * PAGE
    }
}

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody talks to it.
    Talk,
    /// It is run to its end, within this time; zero = however long that takes.
    Sync(Duration),
}

/// The room of one container.
#[derive(Clone, Debug)]
pub struct Rooms {
    talks: Arc<Semaphore>,
    syncs: Arc<Semaphore>,
    starts: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        let [talks, syncs, starts] =
            [MAX_TALKS, MAX_SYNCS, MAX_STARTS].map(|room| Arc::new(Semaphore::new(room)));
        Self { talks, syncs, starts }
    }
}

/// The place of one command among its container's; given back when dropped.
#[derive(Debug)]
pub struct Room {
    _place: OwnedSemaphorePermit,
    starts: Arc<Semaphore>,
}

impl Rooms {
    /// A place for a command in the container `id`; waits a while for another to end.
    ///
    /// # Errors
    /// [`ContainerError::TooManyCommands`] when none does.
    pub async fn take(&self, id: ContainerId, purpose: Purpose) -> Result<Room, ContainerError> {
        let (places, limit, patience) = match purpose {
            Purpose::Talk => (&self.talks, MAX_TALKS, PATIENCE),
            Purpose::Sync(Duration::ZERO) => (&self.syncs, MAX_SYNCS, PATIENCE),
            // Who gives the command little time does not want to wait for longer.
            Purpose::Sync(timeout) => (&self.syncs, MAX_SYNCS, PATIENCE.min(timeout)),
        };
        match tokio::time::timeout(patience, places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Room { _place: place, starts: self.starts.clone() }),
            _ => Err(ContainerError::TooManyCommands { id, limit }),
        }
    }
}

impl Room {
    /// Waits until the command's turn to be started has come.
    pub async fn start(&self) -> SemaphorePermit<'_> {
        self.starts.acquire().await.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_container_says_which_it_is_and_how_many_it_has() {
        let (rooms, id) = (Rooms::default(), ContainerId::random());
        let hasty = Purpose::Sync(Duration::from_millis(1));
        let mut taken = Vec::new();
        for _ in 0..MAX_SYNCS {
            taken.push(rooms.take(id, hasty).await.expect("room"));
        }
        let words = rooms.take(id, hasty).await.expect_err("full").to_string();
        assert!(words.contains(&id.to_string()) && words.contains("24"), "{words}");
        rooms.take(id, Purpose::Talk).await.expect("people have room of their own");
        let (waiting, _) = tokio::join!(rooms.take(id, Purpose::Sync(Duration::ZERO)), async {
            drop(taken.pop());
        });
        waiting.expect("one has ended");
    }

    #[test]
    fn output_of_all_is_kept_as_far_as_there_is_room() {
        let outputs = Outputs::of(3);
        let (mut one, mut other) = (outputs.share(), outputs.share());
        assert_eq!(one.room(0, PAGE + 10), PAGE + 10);
        assert_eq!(one.room(PAGE + 10, PAGE), PAGE);
        assert_eq!(other.room(0, 2 * PAGE + 1), 2 * PAGE);
        assert_eq!(other.room(2 * PAGE, 1), 0);
        drop(one);
        assert_eq!(other.room(2 * PAGE, 1), 1);
        drop(other);
        assert_eq!(outputs.0.available_permits(), 3);
    }

    #[test]
    fn a_little_output_is_kept_whatever_others_write() {
        let outputs = Outputs::of(2);
        let mut greedy = outputs.share();
        assert_eq!(greedy.room(0, 100 * PAGE), 3 * PAGE);
        let mut probe = outputs.share();
        assert_eq!(probe.room(0, 7), 7);
        assert_eq!(probe.room(7, PAGE), PAGE - 7);
    }

    #[tokio::test]
    async fn few_are_started_at_one_time() {
        let (rooms, id) = (Rooms::default(), ContainerId::random());
        let room = rooms.take(id, Purpose::Talk).await.expect("room");
        let starts = (room.start().await, room.start().await);
        let third = tokio::time::timeout(Duration::from_millis(10), room.start()).await;
        assert!(third.is_err(), "a third one");
        drop(starts);
        drop(room.start().await);
    }
}
