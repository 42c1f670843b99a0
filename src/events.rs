//! What happened to pods and containers, told to whoever listens, in the order in which it happened.
//!
//! Owners hand in every record that they publish; the board keeps the last one of each. So an event
//! carries the whole pod as the lists have it at that moment, and making one asks nobody. All of it
//! happens under one short lock: what an owner publishes first is told first, with an earlier time.
//!
//! A listener has a queue of its own that is never waited for. One that does not read loses its
//! stream and must list again; the others notice nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::error::{Classify, Kind};
use crate::ids::{ContainerId, PodId};
use crate::metrics::Metrics;

#[cfg(test)]
mod tests;

/// Events that wait for one listener: what a full node, 250 pods of two containers, makes when all of
/// these containers are created and started at once.
const QUEUE: usize = 1024;

/// Listeners at once. A node has one kubelet; the others are people.
const MAX_LISTENERS: usize = 128;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It exists.
    Created,
    /// It runs.
    Started,
    /// It does not run any more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// To what it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pod.
    Pod(PodId),
    /// A container.
    Container(ContainerId),
}

/// Something that happened, and the pod right after it.
#[derive(Debug)]
pub struct Event<P, C> {
    /// To what.
    pub subject: Subject,
    /// What.
    pub what: What,
    /// Nanoseconds since the Unix epoch; later events never have an earlier time.
    pub at_ns: i64,
    /// The pod; its last record if it was deleted.
    pub pod: Arc<P>,
    /// Its containers, with the last record of one that was deleted by this event.
    pub containers: Vec<Arc<C>>,
}

/// Why a listener hears nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It did not keep up.
    #[error("{QUEUE} events were not read; list again")]
    Overflow,
    /// The daemon goes down.
    #[error("the daemon is going down")]
    Closed,
    /// There are too many listeners.
    #[error("{MAX_LISTENERS} others listen to events already")]
    TooMany,
}

impl Classify for Ended {
    fn kind(&self) -> Kind {
        match self {
            Self::Overflow | Self::TooMany => Kind::Exhausted,
            Self::Closed => Kind::Unavailable,
        }
    }
}

/// The board and its listeners. A cheap clone.
pub struct Events<P, C>(Arc<Shared<P, C>>);

struct Shared<P, C> {
    board: Mutex<Board<P, C>>,
    metrics: Arc<Metrics>,
}

struct Board<P, C> {
    pods: BTreeMap<PodId, Entry<P, C>>,
    listeners: Vec<Listener<P, C>>,
    last_ns: i64,
    closed: bool,
}

/// What is published of one pod. Containers are found again before their pods.
struct Entry<P, C> {
    pod: Option<Arc<P>>,
    containers: BTreeMap<ContainerId, Arc<C>>,
}

struct Listener<P, C> {
    queue: mpsc::Sender<Arc<Event<P, C>>>,
    ended: Arc<OnceLock<Ended>>,
}

/// Where the owners of one kind of object hand in their records.
pub struct Publisher<Id, R>(Arc<Publish<Id, R>>);

type Publish<Id, R> = dyn Fn(Id, &Arc<R>, Option<What>) + Send + Sync;

impl<Id, R> Publisher<Id, R> {
    /// Takes over the record of `id`, and tells what happened if anything did.
    pub fn publish(&self, id: Id, record: &Arc<R>, what: Option<What>) {
        (self.0)(id, record, what);
    }
}

impl<P, C> Clone for Events<P, C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Send + Sync + 'static, C: Send + Sync + 'static> Events<P, C> {
    /// An empty board without listeners.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (pods, listeners) = (BTreeMap::new(), Vec::new());
        let board = Mutex::new(Board { pods, listeners, last_ns: 0, closed: false });
        Self(Arc::new(Shared { board, metrics }))
    }

    /// For the owners of pods.
    pub fn of_pods(&self) -> Publisher<PodId, P> {
        let events = self.clone();
        Publisher(Arc::new(move |id, record, what| events.pod(id, record, what)))
    }

    /// For the owners of containers, each named with its pod.
    pub fn of_containers(&self) -> Publisher<(PodId, ContainerId), C> {
        let events = self.clone();
        Publisher(Arc::new(move |(pod, id), record, what| events.container(pod, id, record, what)))
    }

    /// Everything that happens from now on.
    ///
    /// # Errors
    /// When the daemon goes down or too many listen already.
    pub fn listen(&self) -> Result<Heard<P, C>, Ended> {
        let mut board = self.lock();
        if board.closed {
            return Err(Ended::Closed);
        }
        board.listeners.retain(|listener| !listener.queue.is_closed());
        if board.listeners.len() >= MAX_LISTENERS {
            return Err(Ended::TooMany);
        }
        let (queue, events) = mpsc::channel(QUEUE);
        let ended = Arc::new(OnceLock::new());
        board.listeners.push(Listener { queue, ended: ended.clone() });
        Ok(Heard { events, ended, told: false })
    }

    /// Ends every stream and lets nobody listen any more.
    pub fn close(&self) {
        let mut board = self.lock();
        board.closed = true;
        for listener in board.listeners.drain(..) {
            listener.ended.set(Ended::Closed).ok();
        }
    }

    fn pod(&self, id: PodId, record: &Arc<P>, what: Option<What>) {
        let mut board = self.lock();
        let entry = board.pods.entry(id).or_default();
        entry.pod = Some(record.clone());
        let event = what.and_then(|what| Some((what, entry.snapshot()?)));
        if what == Some(What::Deleted) {
            entry.pod = None;
        }
        self.tell(board, id, Subject::Pod(id), event);
    }

    fn container(&self, pod: PodId, id: ContainerId, record: &Arc<C>, what: Option<What>) {
        let mut board = self.lock();
        let entry = board.pods.entry(pod).or_default();
        entry.containers.insert(id, record.clone());
        // Without its pod an event means nothing to anybody; nobody listens that early.
        let event = what.and_then(|what| Some((what, entry.snapshot()?)));
        if what == Some(What::Deleted) {
            entry.containers.remove(&id);
        }
        self.tell(board, pod, Subject::Container(id), event);
    }

    fn tell(
        &self,
        mut board: MutexGuard<'_, Board<P, C>>,
        pod: PodId,
        subject: Subject,
        event: Option<(What, Snapshot<P, C>)>,
    ) {
        if board.pods.get(&pod).is_some_and(Entry::is_empty) {
            board.pods.remove(&pod);
        }
        let Some((what, (pod, containers))) = event else { return };
        let at_ns = now_ns().max(board.last_ns);
        board.last_ns = at_ns;
        let event = Arc::new(Event { subject, what, at_ns, pod, containers });
        board.listeners.retain(|listener| match listener.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a listener does not read its events; it must list again");
                self.0.metrics.event_listener_dropped();
                listener.ended.set(Ended::Overflow).ok();
                false
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Board<P, C>> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Snapshot<P, C> = (Arc<P>, Vec<Arc<C>>);

impl<P, C> Entry<P, C> {
    fn snapshot(&self) -> Option<Snapshot<P, C>> {
        Some((self.pod.clone()?, self.containers.values().cloned().collect()))
    }

    fn is_empty(&self) -> bool {
        self.pod.is_none() && self.containers.is_empty()
    }
}

impl<P, C> Default for Entry<P, C> {
    fn default() -> Self {
        Self { pod: None, containers: BTreeMap::new() }
    }
}

/// What one listener hears: events, and last why there are no more.
pub struct Heard<P, C> {
    events: mpsc::Receiver<Arc<Event<P, C>>>,
    ended: Arc<OnceLock<Ended>>,
    told: bool,
}

impl<P, C> Stream for Heard<P, C> {
    type Item = Result<Arc<Event<P, C>>, Ended>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.told {
            return Poll::Ready(None);
        }
        // What is still queued is of no use to one who has missed what came after it.
        if self.ended.get().is_none()
            && let Some(event) = ready!(self.events.poll_recv(context))
        {
            return Poll::Ready(Some(Ok(event)));
        }
        self.told = true;
        self.events.close();
        Poll::Ready(Some(Err(self.ended.get().copied().unwrap_or(Ended::Closed))))
    }
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
