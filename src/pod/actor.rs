//! The one task that owns a pod.
//!
//! It decides by `state::admit` what a request means now; the work runs as a task of its own and
//! comes back as a fact, so the pod answers at any time and a client that goes away stops nothing.
//!
//! A stop that fails is owed: it is done again from its beginning by whoever asks next, and by the
//! owner itself from time to time. Until everything in the pod has ended it is not NotReady.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::claim::{Claim, Turn};
use crate::container::record::now_ns;
use crate::events::What;
use crate::ids::PodId;
use crate::nri::Told;
use crate::registry::Registry;
use crate::steps::{Again, again};
use crate::sys::pidfd;

use super::gate::Gate;
use super::record::{PodRecord, PodResources};
use super::spec::{PodKey, PodSpec};
use super::state::{Request, State, Verdict, admit};
use super::{Parts, PodError, Shared, run, whole};

mod end;

/// Requests that may wait for one pod.
const MAILBOX: usize = 64;

/// Requests that may wait for a step of one pod to end.
const MAX_DEFERRED: usize = 64;

/// How a request is answered.
pub type Reply = oneshot::Sender<Result<(), Shared>>;

/// What is asked of a pod.
pub enum Command {
    /// End everything in it.
    Stop(Reply),
    /// End and forget it.
    Remove(Reply),
    /// Note its resources.
    Update(Box<PodResources>, Reply),
}

/// How a pod's making stands.
#[derive(Debug)]
pub enum Creation {
    /// In flight.
    Pending,
    /// The pod is ready.
    Done,
    /// There is no pod, and everything was undone.
    Failed(Shared),
}

/// Where a pod is reached.
#[derive(Clone)]
pub struct Handle {
    /// Which.
    pub id: PodId,
    /// Its mailbox.
    pub commands: mpsc::Sender<Command>,
    /// How its making stands.
    pub creation: watch::Receiver<Creation>,
    /// Where container creations enter.
    pub gate: Gate,
    /// Whether the request that it is made for still counts.
    pub claim: Claim,
    /// What plugins know of it.
    pub told: Told,
    /// What its owner published last.
    pub published: watch::Receiver<Arc<PodRecord>>,
    /// Told when part of it seems to be gone.
    pub torn: Arc<Notify>,
    /// Told when its record went or was damaged under its owner, who writes it again.
    pub rewrite: Arc<Notify>,
}

impl Handle {
    /// What the owner published last.
    pub fn record(&self) -> Arc<PodRecord> {
        self.published.borrow().clone()
    }
}

/// What the owner hears of. Boxed in the channel, which keeps room for many.
enum Fact {
    /// Whether everything in it has ended.
    Ended(Result<(), PodError>),
    /// Whether what it held is given back, too.
    Stopped(Result<(), PodError>),
    Removed(Result<(), PodError>),
    PauseEnded,
}

/// A pod's owner.
pub struct Actor {
    record: PodRecord,
    parts: Arc<Parts>,
    gate: Gate,
    claim: Claim,
    told: Told,
    commands: mpsc::Receiver<Command>,
    torn: Arc<Notify>,
    rewrite: Arc<Notify>,
    creation: watch::Sender<Creation>,
    published: watch::Sender<Arc<PodRecord>>,
    facts: (mpsc::Sender<Box<Fact>>, mpsc::Receiver<Box<Fact>>),
    /// Its start was told, and its end is not yet.
    up: bool,
    /// The stop that failed.
    owed: Again,
    /// A stop is under way, or what comes after the end of everything.
    stop_in_flight: bool,
    deferred: VecDeque<Command>,
    stopping: Vec<Reply>,
    removing: Vec<Reply>,
}

/// Removes the pod from the registry however its owner ends.
struct Listed {
    registry: Arc<Registry<PodKey, Handle>>,
    id: PodId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.remove(&self.id);
    }
}

/// A pod that is about to be made, and its owner.
pub fn new(
    id: PodId,
    (spec, turn): (Arc<PodSpec>, Turn),
    handler: String,
    parts: Arc<Parts>,
) -> (Handle, Box<Actor>) {
    let record = PodRecord {
        id,
        hostname: run::hostname(&spec),
        spec,
        state: State::Creating,
        boot_id: parts.host.boot_id.clone(),
        handler,
        created_at_ns: now_ns(),
        pause: None,
        updated: None,
        addresses: Vec::new(),
    };
    owned(record, parts, Claim::new(turn))
}

/// The owner of a pod that exists already.
pub fn owner_of(record: PodRecord, parts: Arc<Parts>) -> (Handle, Box<Actor>) {
    owned(record, parts, Claim::settled())
}

fn owned(record: PodRecord, parts: Arc<Parts>, claim: Claim) -> (Handle, Box<Actor>) {
    let (command_sender, commands) = mpsc::channel(MAILBOX);
    let (creation_sender, creation) = watch::channel(Creation::Pending);
    let (published_sender, published) = watch::channel(Arc::new(record.clone()));
    let gate = Gate::default();
    let told = match record.state {
        State::Creating => Told::default(),
        state => Told::found(!matches!(state, State::Ready | State::Stopping)),
    };
    let handle = Handle {
        id: record.id,
        commands: command_sender,
        creation,
        gate: gate.clone(),
        claim: claim.clone(),
        told: told.clone(),
        published,
        torn: Arc::default(),
        rewrite: Arc::default(),
    };
    let actor = Actor {
        record,
        parts,
        gate,
        claim,
        told,
        commands,
        torn: handle.torn.clone(),
        rewrite: handle.rewrite.clone(),
        creation: creation_sender,
        published: published_sender,
        facts: mpsc::channel(4),
        up: false,
        owed: Again::default(),
        stop_in_flight: false,
        deferred: VecDeque::new(),
        stopping: Vec::new(),
        removing: Vec::new(),
    };
    (handle, Box::new(actor))
}

impl Actor {
    /// Makes the pod, then owns it to its end.
    pub async fn run(mut self: Box<Self>, registry: Arc<Registry<PodKey, Handle>>) {
        let listed = Listed { registry, id: self.record.id };
        // Apart, because the making is large and the task that owns what it made lives on.
        let made = run::run(&self.parts, self.record.clone(), (&self.claim, &self.told));
        match Box::pin(made).await {
            Ok(record) => {
                self.record = record;
                self.publish(Some(What::Created));
                self.publish(Some(What::Started));
                self.up = true;
                self.creation.send_replace(Creation::Done);
                self.own(listed).await;
            }
            Err(error) => {
                // The name is free before anybody hears of the failure, so a retry starts anew.
                drop(listed);
                self.creation.send_replace(Creation::Failed(Arc::new(error)));
                // Who asked for its end meanwhile has what he wanted.
                self.commands.close();
                while let Some(command) = self.commands.recv().await {
                    answer(vec![command.into_reply()], &Ok(()));
                }
            }
        }
    }

    /// Owns a pod that a former daemon left.
    pub async fn adopt(mut self: Box<Self>, registry: Arc<Registry<PodKey, Handle>>) {
        let listed = Listed { registry, id: self.record.id };
        self.publish(None);
        self.up = matches!(self.record.state, State::Ready | State::Stopping);
        self.creation.send_replace(Creation::Done);
        self.own(listed).await;
    }

    async fn own(mut self: Box<Self>, listed: Listed) {
        if self.record.state == State::Ready {
            self.watch_pause();
            self.look_at_parts();
        }
        if self.record.state == State::Stopping {
            tracing::info!(pod = %self.record.id, "a stop was left unfinished; it goes on");
            self.stop();
        }
        loop {
            let again = self.owed.at();
            tokio::select! {
                biased;
                Some(fact) = self.facts.1.recv() => match *fact {
                    Fact::Ended(result) => self.on_ended(result).await,
                    Fact::Stopped(result) => self.on_stopped(result).await,
                    Fact::Removed(Ok(())) => break,
                    Fact::Removed(Err(error)) => self.on_not_removed(error),
                    Fact::PauseEnded => self.on_pause_ended(),
                },
                () = again::due(again) => self.stop(),
                () = self.torn.notified() => self.look_at_parts(),
                () = self.rewrite.notified() => self.write_again().await,
                command = self.commands.recv() => match command {
                    Some(command) => self.admit(command).await,
                    // The daemon is going down; the pod stays.
                    None => return,
                },
            }
        }
        drop(listed);
        self.tell_stopped();
        self.publish(Some(What::Deleted));
        tracing::info!(pod = %self.record.id, "removed");
        answer(std::mem::take(&mut self.removing), &Ok(()));
        answer(std::mem::take(&mut self.stopping), &Ok(()));
    }

    async fn admit(&mut self, command: Command) {
        match (self.verdict(command.request()), command) {
            (Verdict::Run, Command::Stop(reply)) => {
                self.stopping.push(reply);
                self.stop();
            }
            (Verdict::Run, Command::Remove(reply)) => {
                self.removing.push(reply);
                self.remove();
            }
            (Verdict::Run, Command::Update(resources, reply)) => {
                self.update(*resources, reply).await;
            }
            (Verdict::Join, Command::Stop(reply)) => self.stopping.push(reply),
            (Verdict::Join, Command::Remove(reply)) => self.removing.push(reply),
            (Verdict::Done, command) => answer(vec![command.into_reply()], &Ok(())),
            (Verdict::Defer, command) => self.defer(command),
            (Verdict::Deny | Verdict::Join, command) => {
                let (id, state) = (self.record.id, self.record.state);
                let denied = Arc::new(PodError::NotReady { id, state });
                answer(vec![command.into_reply()], &Err(denied));
            }
        }
    }

    /// What `request` means now. A stop that is owed is done again for whoever asks for it.
    fn verdict(&self, request: Request) -> Verdict {
        match request {
            Request::Stop if self.stop_in_flight => Verdict::Join,
            Request::Remove if self.stop_in_flight => Verdict::Defer,
            Request::Stop | Request::Remove if self.owed.is_owed() => Verdict::Run,
            _ => admit(self.record.state, request),
        }
    }

    fn defer(&mut self, command: Command) {
        if self.deferred.len() < MAX_DEFERRED {
            self.deferred.push_back(command);
        } else {
            let busy = Arc::new(PodError::Busy { id: self.record.id });
            answer(vec![command.into_reply()], &Err(busy));
        }
    }

    /// The pod's group is the kubelet's, which changes it itself: what it tells is kept for those
    /// who look at the pod.
    async fn update(&mut self, resources: PodResources, reply: Reply) {
        self.record.updated = Some(resources);
        self.publish(None);
        let saved = self.parts.save(&self.record).await.map_err(Arc::new);
        answer(vec![reply], &saved);
    }

    /// Without its pause process nothing in a shared process namespace lives on.
    fn on_pause_ended(&mut self) {
        if self.record.state == State::Ready {
            tracing::warn!(pod = %self.record.id, "its pause process ended");
            self.stop();
        }
    }

    /// Without what its containers share it is of no use any more.
    fn look_at_parts(&mut self) {
        if self.record.state == State::Ready
            && let Some(what) = whole::lost(&self.parts.layout, &self.record)
        {
            tracing::warn!(pod = %self.record.id, what, "part of it is gone; stopping it");
            self.stop();
        }
    }

    fn watch_pause(&self) {
        let Some(pause) = self.record.pause else { return };
        let ended = self.facts.0.clone();
        drop(crate::steps::spawn("watch pause", async move {
            pidfd::gone(pause.pid, pause.start_time).await;
            ended.send(Box::new(Fact::PauseEnded)).await.ok();
        }));
    }

    /// Runs a step as a task of its own; it comes back as a fact also when it panics.
    fn step<F>(&self, verb: &'static str, fact: fn(Result<(), PodError>) -> Fact, work: F)
    where
        F: Future<Output = Result<(), PodError>> + Send + 'static,
    {
        let (back, done) = (self.facts.0.clone(), crate::steps::spawn(verb, work));
        drop(crate::steps::spawn(verb, async move {
            let done = done.await.ok().flatten();
            let fact = fact(done.unwrap_or(Err(PodError::Panicked { verb })));
            back.send(Box::new(fact)).await.ok();
        }));
    }

    /// Writes the record that was lost. Its removal is another one's work already.
    async fn write_again(&self) {
        let id = self.record.id;
        let state = match self.record.state {
            State::Creating | State::Removing => return,
            // A restart would find nobody who stops it.
            State::Stopping => State::Ready,
            state => state,
        };
        match self.parts.save(&PodRecord { state, ..self.record.clone() }).await {
            Ok(()) => tracing::warn!(pod = %id, "its record was lost and is written again"),
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(pod = %id, error, "its record is lost; tried again later");
            }
        }
    }

    fn set_state(&mut self, state: State) {
        self.record.state = state;
        self.publish(None);
    }

    /// Tells once that the pod does not run any more.
    fn tell_stopped(&mut self) {
        if std::mem::take(&mut self.up) {
            self.publish(Some(What::Stopped));
        }
    }

    fn publish(&self, what: Option<What>) {
        let record = Arc::new(self.record.clone());
        self.published.send_replace(record.clone());
        self.parts.events.publish(record.id, &record, what);
    }
}

impl Command {
    fn request(&self) -> Request {
        match self {
            Self::Stop(_) => Request::Stop,
            Self::Remove(_) => Request::Remove,
            Self::Update(..) => Request::Update,
        }
    }

    fn into_reply(self) -> Reply {
        match self {
            Self::Stop(reply) | Self::Remove(reply) | Self::Update(_, reply) => reply,
        }
    }
}

/// Answers everybody; one that no longer waits is skipped.
fn answer(waiting: Vec<Reply>, result: &Result<(), Shared>) {
    for reply in waiting {
        reply.send(result.clone()).ok();
    }
}
