//! The one task that owns a container.
//!
//! Facts come first (the monitor's, then those of steps that finished), then the deadline of a
//! stop, then requests: `state::admit` decides what a request means now. Steps run as tasks of
//! their own and come back as facts, so a stop that takes a minute does not hold up anything, and
//! a request's caller may go away without anything stopping half-way.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::claim::{Claim, Turn};
use crate::events::What;
use crate::ids::ContainerId;
use crate::image::{ImageHold, ImagePin};
use crate::monitor;
use crate::nri::Told;
use crate::registry::Registry;
use crate::seldom::Seldom;
use crate::steps::{Again, again};
use crate::sys::pidfd;

use super::create::Made;
use super::handle::{Command, Creation, Handle, MAILBOX, Reply, answer};
use super::record::{ContainerRecord, Ended, now_ns};
use super::spec::{ContainerSpec, Resources};
use super::state::{State, Verdict};
use super::{ContainerError, Key, Parts, PodPlace, Shared, create, signal, stop};

mod end;
mod rewrite;
mod start;
mod update;

/// Requests that may wait for a step of one container to end.
const MAX_DEFERRED: usize = 64;

/// Finished steps that wait to be looked at; more steps never run at once.
const MAX_FACTS: usize = 8;

/// After this a monitor that could not be asked is asked again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// After this a kill that did not end the process is tried again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// What a finished step comes back with. Boxed in the channel, which keeps room for many.
enum Fact {
    Started(Result<Option<monitor::ProcessId>, ContainerError>),
    Updated(Result<Resources, ContainerError>),
    Cleaned(Result<(), ContainerError>),
    Removed(Result<(), ContainerError>),
}

/// A container's owner.
pub struct Actor {
    record: ContainerRecord,
    parts: Arc<Parts>,
    claim: Claim,
    told: Told,
    commands: mpsc::Receiver<Command>,
    rewrite: Arc<Notify>,
    creation: watch::Sender<Creation>,
    published: watch::Sender<Arc<ContainerRecord>>,
    facts: (mpsc::Sender<Box<Fact>>, mpsc::Receiver<Box<Fact>>),
    monitor: (mpsc::Sender<monitor::Event>, mpsc::Receiver<monitor::Event>),
    /// Images that cannot be removed while the container lives.
    pins: Vec<ImagePin>,
    /// The same of a container that was found again, and its layers.
    hold: Option<ImageHold>,
    /// When the process is to be killed (again).
    kill_at: Option<Instant>,
    cleaning: bool,
    /// The clean-up that failed.
    owed: Again,
    /// The runtime's start has not returned. It still works on the files that a clean-up removes,
    /// also when the process that it let go has ended already.
    start_in_flight: bool,
    /// The process has ended, but the runtime's start has not returned.
    ended_meanwhile: Option<Ended>,
    /// Who waits for the limits that are being changed; they are changed by the runtime, too.
    updating: Option<Reply>,
    deferred: VecDeque<Command>,
    starting: Vec<Reply>,
    stopping: Vec<Reply>,
    removing: Vec<Reply>,
}

/// Removes the container from the registry however its owner ends.
struct Listed {
    registry: Arc<Registry<Key, Handle>>,
    id: ContainerId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.remove(&self.id);
    }
}

/// A container that is about to be created, and its owner.
pub fn new(
    id: ContainerId,
    pod: &PodPlace,
    (spec, turn): (Arc<ContainerSpec>, Turn),
    parts: Arc<Parts>,
) -> (Handle, Box<Actor>) {
    let record = ContainerRecord {
        id,
        pod: pod.id,
        log: create::log_path(pod, &spec),
        log_directory: pod.log_directory.clone(),
        cgroup: parts.cgroups.container(pod.cgroup_parent.as_deref(), &id),
        spec,
        updated: None,
        state: State::Creating,
        boot_id: parts.host.boot_id.clone(),
        handler: pod.handler.clone(),
        created_at_ns: now_ns(),
        started_at_ns: 0,
        ended: None,
        image: None,
        image_volumes: Vec::new(),
        layers: Vec::new(),
        stop_signal: signal::TERM,
        user: None,
        process: None,
        cleaned: false,
    };
    owned(record, parts, Claim::new(turn))
}

/// The owner of a container that exists already.
pub fn owner_of(record: ContainerRecord, parts: Arc<Parts>) -> (Handle, Box<Actor>) {
    owned(record, parts, Claim::settled())
}

fn owned(record: ContainerRecord, parts: Arc<Parts>, claim: Claim) -> (Handle, Box<Actor>) {
    let (command_sender, commands) = mpsc::channel(MAILBOX);
    let (creation_sender, creation) = watch::channel(Creation::Pending);
    let (published_sender, published) = watch::channel(Arc::new(record.clone()));
    let told = match record.state {
        State::Creating => Told::default(),
        _ => Told::found(record.ended.is_some()),
    };
    let handle = Handle {
        id: record.id,
        commands: command_sender,
        creation,
        claim: claim.clone(),
        told: told.clone(),
        published,
        rooms: super::exec::Rooms::default(),
        rewrite: Arc::default(),
    };
    let actor = Actor {
        record,
        parts,
        claim,
        told,
        commands,
        rewrite: handle.rewrite.clone(),
        creation: creation_sender,
        published: published_sender,
        facts: mpsc::channel(MAX_FACTS),
        monitor: mpsc::channel(1),
        pins: Vec::new(),
        hold: None,
        kill_at: None,
        cleaning: false,
        owed: Again::default(),
        start_in_flight: false,
        ended_meanwhile: None,
        updating: None,
        deferred: VecDeque::new(),
        starting: Vec::new(),
        stopping: Vec::new(),
        removing: Vec::new(),
    };
    (handle, Box::new(actor))
}

impl Actor {
    /// Creates the container, then owns it to its end. `pass` is held during the creation.
    pub async fn create<P>(
        mut self: Box<Self>,
        pod: PodPlace,
        pass: P,
        registry: Arc<Registry<Key, Handle>>,
    ) {
        let listed = Listed { registry, id: self.record.id };
        let claim = (&self.claim, &self.told);
        // Apart, because a creation is large and the task that owns what it made lives on.
        let created = create::create(&self.parts, &pod, self.record.clone(), claim);
        match Box::pin(created).await {
            Ok(Made { record, pins }) => {
                self.record = record;
                self.pins = pins;
                self.publish(Some(What::Created));
                self.creation.send_replace(Creation::Done);
                drop((pass, pod));
                if self.record.process.is_some() {
                    self.watch_monitor();
                }
                self.own(listed).await;
            }
            Err(error) => {
                // The name is free before anybody hears of the failure, so a retry starts anew.
                drop(listed);
                self.creation.send_replace(Creation::Failed(Arc::new(error)));
                drop(pass);
                let gone = ContainerError::Gone { id: self.record.id };
                let gone = Arc::new(gone);
                self.commands.close();
                while let Some(command) = self.commands.recv().await {
                    answer(vec![command.into_reply()], &Err(gone.clone()));
                }
            }
        }
    }

    /// Owns a container that a former daemon left, with the images it uses pinned.
    pub async fn adopt(mut self: Box<Self>, hold: ImageHold, registry: Arc<Registry<Key, Handle>>) {
        let listed = Listed { registry, id: self.record.id };
        self.hold = Some(hold);
        self.publish(None);
        self.creation.send_replace(Creation::Done);
        match self.record.state {
            State::Exited if self.record.cleaned => {}
            State::Exited => self.clean(),
            _ if self.record.waits_to_be_restored() => {}
            _ => self.watch_monitor(),
        }
        self.own(listed).await;
    }

    async fn own(mut self: Box<Self>, listed: Listed) {
        loop {
            let (alarm, again) = (self.kill_at, self.owed.at());
            tokio::select! {
                biased;
                Some(event) = self.monitor.1.recv() => self.on_monitor(event).await,
                Some(fact) = self.facts.1.recv() => match *fact {
                    Fact::Started(result) => self.on_started(result).await,
                    Fact::Updated(result) => self.on_updated(result).await,
                    Fact::Cleaned(result) => self.on_cleaned(result).await,
                    Fact::Removed(Ok(())) => break,
                    Fact::Removed(Err(error)) => self.on_not_removed(error),
                },
                () = again::due(alarm) => self.kill(),
                () = again::due(again) => self.clean(),
                () = self.rewrite.notified() => self.write_again().await,
                command = self.commands.recv() => match command {
                    Some(command) => self.admit(command),
                    // The daemon is going down; the container stays.
                    None => return,
                },
            }
        }
        drop(listed);
        self.publish(Some(What::Deleted));
        self.pins.clear();
        self.hold = None;
        tracing::info!(container = %self.record.id, "removed");
        answer(std::mem::take(&mut self.removing), &Ok(()));
        answer(std::mem::take(&mut self.stopping), &Ok(()));
    }

    fn admit(&mut self, command: Command) {
        let verdict = self.verdict(command.request());
        if verdict == Verdict::Defer {
            if self.deferred.len() < MAX_DEFERRED {
                self.deferred.push_back(command);
            } else {
                let busy = Arc::new(ContainerError::Busy { id: self.record.id });
                answer(vec![command.into_reply()], &Err(busy));
            }
            return;
        }
        match (command, verdict) {
            (Command::Start(reply), Verdict::Run) => self.start(reply),
            (Command::Start(reply), Verdict::Join) => self.starting.push(reply),
            (Command::Stop { grace, reply }, Verdict::Run | Verdict::Join) => {
                self.stopping.push(reply);
                self.stop(grace);
            }
            (Command::Remove(reply), Verdict::Run) => {
                self.removing.push(reply);
                match self.record.state {
                    State::Exited => self.remove_when_clean(),
                    _ => self.stop(Duration::ZERO),
                }
            }
            (Command::Remove(reply), Verdict::Join) => self.removing.push(reply),
            (Command::Update { by, change, reply }, Verdict::Run) => {
                self.update(by, *change, reply)
            }
            (command, Verdict::Done) => answer(vec![command.into_reply()], &Ok(())),
            (Command::Start(reply), Verdict::Repeat) => answer(vec![reply], &self.how_it_started()),
            (command, _) => {
                let error = ContainerError::WrongState {
                    id: self.record.id,
                    state: self.record.state,
                    request: command.request(),
                };
                answer(vec![command.into_reply()], &Err(Arc::new(error)));
            }
        }
    }

    /// Asks the process to end, or brings the moment of its kill forward.
    fn stop(&mut self, grace: Duration) {
        let first = self.record.state != State::Stopping;
        if matches!(self.record.state, State::Created | State::Unknown) || grace.is_zero() {
            self.set_state(State::Stopping);
            self.kill_at = Some(Instant::now());
            if self.record.waits_to_be_restored() {
                // It has neither a process nor a monitor that could tell of its end.
                self.monitor.0.try_send(monitor::Event::Lost).ok();
            }
            return;
        }
        // A grace longer than the clock can count is as good as none at all, but never shorter.
        let deadline = Instant::now().checked_add(grace);
        self.kill_at = match (self.kill_at, deadline) {
            (Some(earlier), Some(deadline)) => Some(earlier.min(deadline)),
            (earlier, deadline) => earlier.or(deadline),
        };
        self.set_state(State::Stopping);
        if first {
            let (parts, record) = (self.parts.clone(), self.record.clone());
            drop(crate::steps::spawn("signal container", async move {
                stop::signal(&parts, &record).await;
            }));
        }
    }

    fn kill(&mut self) {
        self.kill_at = Some(Instant::now() + KILL_AGAIN);
        let (parts, record) = (self.parts.clone(), self.record.clone());
        drop(crate::steps::spawn("kill container", async move {
            stop::kill(&parts, &record).await;
        }));
    }

    async fn on_monitor(&mut self, event: monitor::Event) {
        match event {
            monitor::Event::Exited(exit) => self.on_exit(Ended::from_monitor(&exit)).await,
            monitor::Event::Unknown(error) => {
                // As often as every second, and of all containers, when the node is short of something.
                static SILENT: Seldom = Seldom::new();
                if let Some(times) = SILENT.again() {
                    let error = crate::error::chain(&error);
                    let id = &self.record.id;
                    tracing::error!(container = %id, error, times, "its monitor cannot be asked");
                }
                self.watch_again();
            }
            monitor::Event::Lost => match stop::find(&self.record) {
                // R18: only the kernel's word that it is gone makes it gone.
                Ok(None) if self.record.waits_to_be_restored() => {
                    self.on_exit(Ended::never_restored()).await;
                }
                Ok(None) => {
                    let message = "its monitor is gone; the exit status is unknown";
                    self.on_exit(Ended::unseen("MonitorLost", message)).await;
                }
                Ok(Some(_)) => {
                    tracing::error!(container = %self.record.id, "the monitor is gone");
                    self.is_unknown();
                    self.watch_process();
                }
                Err(error) => {
                    tracing::error!(container = %self.record.id, %error, "look for its process");
                    self.is_unknown();
                    self.watch_process();
                }
            },
        }
    }

    /// Nothing is known of it. Who waits for its end goes on waiting, and it goes on being killed.
    fn is_unknown(&mut self) {
        if self.record.state != State::Stopping {
            self.set_state(State::Unknown);
        }
    }

    /// Looks for the monitor and its exit record anew, a little later. Until then all is as it was.
    fn watch_again(&self) {
        let (dir, events) = (self.parts.layout.monitor(&self.record.id), self.monitor.0.clone());
        drop(crate::steps::spawn("watch monitor", async move {
            tokio::time::sleep(WATCH_AGAIN).await;
            monitor::watch(dir, events).await;
        }));
    }

    /// Asks for the exit again once the kernel says that the process is gone, however often that has to
    /// be asked: the monitor may live, and only have been out of reach.
    fn watch_process(&self) {
        let Some(process) = self.record.process else { return };
        let (dir, events) = (self.parts.layout.monitor(&self.record.id), self.monitor.0.clone());
        drop(crate::steps::spawn("watch process", async move {
            pidfd::gone(process.pid, process.start_time).await;
            monitor::watch(dir, events).await;
        }));
    }

    async fn on_exit(&mut self, mut ended: Ended) {
        if self.record.ended.is_some() {
            return;
        }
        if self.start_in_flight {
            // Whether it ran at all, only the start can tell.
            self.ended_meanwhile = Some(ended);
            return;
        }
        ended.at_ns = ended.at_ns.max(self.record.started_at_ns).max(self.record.created_at_ns);
        tracing::info!(
            container = %self.record.id, code = ended.code, reason = ended.reason, "ended"
        );
        if ended.by_oom() {
            self.parts.metrics.oom_killed();
        }
        self.record.ended = Some(ended);
        self.kill_at = None;
        self.enter(State::Exited, What::Stopped);
        if let Err(error) = self.save().await {
            // The monitor keeps the exit until it is taken: a restart asks it again.
            tracing::error!(container = %self.record.id, error = %crate::error::chain(&*error), "save the exit");
        } else {
            let dir = self.parts.layout.monitor(&self.record.id);
            drop(crate::steps::spawn("take exit", async move {
                monitor::dismiss(&dir).await;
            }));
        }
        if !self.parts.plugins.are_there() {
            answer(std::mem::take(&mut self.stopping), &Ok(()));
        }
        self.clean();
        self.admit_deferred();
    }

    fn admit_deferred(&mut self) {
        for command in std::mem::take(&mut self.deferred) {
            self.admit(command);
        }
    }

    fn watch_monitor(&self) {
        let dir = self.parts.layout.monitor(&self.record.id);
        drop(crate::steps::spawn("watch monitor", monitor::watch(dir, self.monitor.0.clone())));
    }

    /// Runs a step as a task of its own; it comes back as a fact also when it panics.
    fn step<T, F>(&self, verb: &'static str, fact: fn(Result<T, ContainerError>) -> Fact, work: F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ContainerError>> + Send + 'static,
    {
        let (back, done) = (self.facts.0.clone(), crate::steps::spawn(verb, work));
        drop(crate::steps::spawn(verb, async move {
            let done = done.await.ok().flatten();
            let fact = fact(done.unwrap_or(Err(ContainerError::Panicked { verb })));
            back.send(Box::new(fact)).await.ok();
        }));
    }

    fn set_state(&mut self, state: State) {
        self.record.state = state;
        self.publish(None);
    }

    /// As [`set_state`](Self::set_state), and tells what that means.
    fn enter(&mut self, state: State, what: What) {
        self.record.state = state;
        self.publish(Some(what));
    }

    fn publish(&self, what: Option<What>) {
        let record = Arc::new(self.record.clone());
        self.published.send_replace(record.clone());
        self.parts.events.publish((record.pod, record.id), &record, what);
    }

    async fn save(&self) -> Result<(), Shared> {
        self.parts.save(&self.record).await.map_err(Arc::new)
    }
}
