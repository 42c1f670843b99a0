//! Containers: the public face. Create, start, stop, remove, find, list.
//!
//! Every container is owned by one task (`actor`); what is asked of it is a message, and what is
//! read of it is the last record the task published. Nothing here waits for a container except the
//! call that asked something of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::claim::{TakeOver, Turn};
use crate::error::{Classify, Kind};
use crate::ids::{ContainerId, IdQuery, PodId};
use crate::registry::{Ambiguous, Registry, Reserved};
use crate::rootfs::Mapping;
use crate::runtime::handlers::Inventory;

pub mod actor;
pub mod attach;
pub mod bundle;
pub mod checkpoint;
pub mod cleanup;
pub mod confine;
pub mod create;
pub mod error;
pub mod exec;
pub mod handle;
mod known;
pub mod launch;
pub mod oci;
pub mod parts;
pub mod record;
pub mod recover;
pub mod remove;
pub mod restore;
pub mod signal;
pub mod spec;
pub mod start;
pub mod state;
pub mod stop;
pub mod targets;
pub mod tell;
pub mod update;
pub mod user;
pub mod volumes;

pub use error::ContainerError;
pub use exec::ExecOutput;
pub use parts::Parts;
pub use record::ContainerRecord;

use handle::{Asker, Command, Creation, Handle};
use spec::{ContainerSpec, Resources};
use state::{Request, State, Verdict};

/// An error that several callers wait for.
pub type Shared = Arc<ContainerError>;

/// What makes a container the one that was asked for before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its pod.
    pub pod: PodId,
    /// Its name there.
    pub name: String,
    /// Number of the try.
    pub attempt: u32,
}

/// What a container uses of its pod.
#[derive(Clone, Debug)]
pub struct PodPlace {
    /// The pod.
    pub id: PodId,
    /// Kubernetes name, namespace and uid, for runtimes that ask (kata, gVisor).
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// See `name`.
    pub uid: String,
    /// Host name inside.
    pub hostname: String,
    /// Pinned namespaces; none = the node's.
    pub net: Option<PathBuf>,
    /// See `net`.
    pub ipc: Option<PathBuf>,
    /// See `net`.
    pub uts: Option<PathBuf>,
    /// The shared process namespace, where there is one.
    pub pid: Option<PathBuf>,
    /// The user namespace that they belong to, where it is the pod's own.
    pub user: Option<Mapping>,
    /// The file for /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// The file for /etc/hostname.
    pub hostname_file: PathBuf,
    /// The directory for /dev/shm.
    pub shm: PathBuf,
    /// Parent control group as requested.
    pub cgroup_parent: Option<String>,
    /// Directory of logs.
    pub log_directory: Option<PathBuf>,
    /// Name of the runtime handler.
    pub handler: String,
}

/// All containers of the node.
#[derive(Clone)]
pub struct Containers {
    registry: Arc<Registry<Key, Handle>>,
    parts: Arc<Parts>,
}

impl Containers {
    /// No containers yet; they are made with `parts`.
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { registry: Arc::default(), parts }
    }

    /// Creates a container in `pod`, or joins the creation of the same one. While another one of this
    /// name is being created, that is given up first: the last to ask has the name.
    ///
    /// `pass` is held until the creation has ended, so that its pod does not stop around it.
    pub async fn create<P: Send + 'static>(
        &self,
        pod: PodPlace,
        spec: ContainerSpec,
        pass: P,
    ) -> Result<ContainerId, Shared> {
        let key = Key { pod: pod.id, name: spec.name.clone(), attempt: spec.attempt };
        let (spec, turn) = (Arc::new(spec), Turn::next());
        let mut pass = Some(pass);
        loop {
            let handle = self.reserve(&key, &pod, (&spec, turn), &mut pass);
            if *handle.record().spec == *spec && !handle.claim.is_lost() {
                return created(handle).await;
            }
            match handle.claim.take_over(turn) {
                // Its owner tells of the end, or is gone: the name is free then.
                TakeOver::Soon => drop(ended(&mut handle.creation.clone()).await),
                TakeOver::Newer => {
                    return Err(Arc::new(ContainerError::Superseded { name: key.name }));
                }
                TakeOver::Settled => {
                    let id = handle.id;
                    return Err(Arc::new(ContainerError::NameTaken { id, name: key.name }));
                }
            }
        }
    }

    /// The container that has the name, or a new one whose creation begins with `pass`.
    fn reserve<P: Send + 'static>(
        &self,
        key: &Key,
        pod: &PodPlace,
        (spec, turn): (&Arc<ContainerSpec>, Turn),
        pass: &mut Option<P>,
    ) -> Handle {
        let id = ContainerId::random();
        let mut born = None;
        let reserved = self.registry.reserve(key, &id, || {
            let (handle, actor) = actor::new(id, pod, (spec.clone(), turn), self.parts.clone());
            born = Some(actor);
            handle
        });
        if let Some(actor) = born {
            let (pod, pass, registry) = (pod.clone(), pass.take(), self.registry.clone());
            drop(crate::steps::spawn("container", actor.create(pod, pass, registry)));
        }
        match reserved {
            Reserved::New(handle) | Reserved::Existing(handle) => handle,
        }
    }

    /// Lets a created container's process go.
    pub async fn start(&self, query: &IdQuery) -> Result<(), Shared> {
        self.ask(self.handle(query)?, Command::Start).await
    }

    /// Ends a container's process: its stop signal, then after `grace` a kill. Absent is fine.
    pub async fn stop(&self, query: &IdQuery, grace: Duration) -> Result<(), Shared> {
        match self.find(query)? {
            Some(handle) => gone_is_fine(self.stop_one(handle, grace).await),
            None => Ok(()),
        }
    }

    /// Removes a container, killing it if it runs. Absent is fine.
    pub async fn remove(&self, query: &IdQuery) -> Result<(), Shared> {
        match self.find(query)? {
            Some(handle) => gone_is_fine(self.remove_one(handle).await),
            None => Ok(()),
        }
    }

    /// Changes a container's limits; zero or empty leaves one as it is.
    pub async fn update(
        &self,
        query: &IdQuery,
        change: Resources,
        by: Asker,
    ) -> Result<(), Shared> {
        let change = Box::new(change);
        self.ask(self.handle(query)?, |reply| Command::Update { by, change, reply }).await
    }

    /// Stops every container of a pod at once.
    pub async fn stop_pod(&self, pod: PodId) -> Result<(), Shared> {
        let stops = self.handles_of(pod).into_iter().map(|handle| {
            let all = self.clone();
            tokio::spawn(async move { all.stop_one(handle, Duration::ZERO).await })
        });
        first_error(stops).await?;
        self.end_unrecorded_of(pod).await.map_err(Arc::new)
    }

    /// Removes every container of a pod.
    pub async fn remove_pod(&self, pod: PodId) -> Result<(), Shared> {
        let removals = self.handles_of(pod).into_iter().map(|handle| {
            let all = self.clone();
            tokio::spawn(async move { all.remove_one(handle).await })
        });
        first_error(removals).await
    }

    /// Runs a command to its end, or until `timeout` (zero = none), and returns what it wrote.
    ///
    /// # Errors
    /// [`ContainerError::TooManyCommands`] when too many others go on all the time.
    pub async fn exec_sync(
        &self,
        query: &IdQuery,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, Shared> {
        let handle = self.handle(query)?;
        let room = handle.rooms.take(handle.id, exec::Purpose::Sync(timeout)).await?;
        let record = self.running(query, Request::Exec)?;
        let parts = self.parts.clone();
        // Detached: a client that hangs up leaves no process behind, because the work goes on to
        // its own deadline or until the command ends.
        let work = async move { exec::exec_sync(&parts, &record, command, timeout, room).await };
        match crate::steps::spawn("exec", work).await {
            Ok(Some(output)) => output.map_err(Arc::new),
            _ => Err(Arc::new(ContainerError::Panicked { verb: "exec" })),
        }
    }

    /// Writes a checkpoint of a running container into the new file `location`; it goes on.
    pub async fn checkpoint(
        &self,
        query: &IdQuery,
        location: PathBuf,
        limit: Duration,
    ) -> Result<(), Shared> {
        let record = self.running(query, Request::Checkpoint)?;
        let parts = self.parts.clone();
        // Detached: what was frozen is thawed, whoever hangs up.
        let work = async move { checkpoint::checkpoint(&parts, &record, &location, limit).await };
        match crate::steps::spawn("checkpoint container", work).await {
            Ok(Some(done)) => done.map_err(Arc::new),
            _ => Err(Arc::new(ContainerError::Panicked { verb: "checkpoint container" })),
        }
    }

    /// Writes checkpoints of several running containers of a pod, all frozen at the same moment, into
    /// directories below `output` that have their names; they go on.
    pub async fn checkpoint_together(
        &self,
        pod: PodId,
        queries: &[IdQuery],
        output: PathBuf,
        limit: Duration,
    ) -> Result<(), Shared> {
        let mut records: Vec<Arc<ContainerRecord>> = Vec::new();
        for (index, query) in queries.iter().enumerate() {
            let record = self.running(query, Request::Checkpoint)?;
            let problem = if record.pod != pod {
                "is not of this pod"
            } else if records.iter().any(|other| other.id == record.id) {
                "is there twice"
            } else {
                records.push(record);
                continue;
            };
            let problem = format!("container {:?} {problem}", query.as_str());
            let field = format!("container_ids[{index}]");
            return Err(Arc::new(ContainerError::Request { field, problem }));
        }
        let parts = self.parts.clone();
        let work = async move { checkpoint::together(&parts, &records, &output, limit).await };
        match crate::steps::spawn("checkpoint pod", work).await {
            Ok(Some(done)) => done.map_err(Arc::new),
            _ => Err(Arc::new(ContainerError::Panicked { verb: "checkpoint pod" })),
        }
    }

    /// Whether containers of this handler can be checkpointed and restored here.
    ///
    /// # Errors
    /// [`ContainerError::NoCheckpoints`] with the reason.
    pub fn check_checkpoints(&self, handler: &str) -> Result<(), Shared> {
        checkpoint::check_able(&self.parts, handler).map_err(Arc::new)
    }

    /// Opens the log anew, after the kubelet renamed it.
    pub async fn reopen_log(&self, query: &IdQuery) -> Result<(), Shared> {
        let record = self.running(query, Request::ReopenLog)?;
        if record.log.is_none() {
            return Ok(());
        }
        crate::monitor::reopen_log(&self.parts.layout.monitor(&record.id))
            .await
            .map_err(|source| Arc::new(ContainerError::Monitor { id: record.id, source }))
    }

    /// Whether the handler's runtime says that it can map the ids of mounts.
    pub fn maps_mounts(&self, handler: &str) -> bool {
        let runtime = self.parts.runtimes.get(handler);
        runtime.is_some_and(|runtime| runtime.features().idmapped_mounts)
    }

    /// Takes what the runtimes say of themselves now.
    pub fn learn(&self, inventory: &Inventory) {
        self.parts.criu.store(Arc::new(inventory.criu.clone()));
        for (name, runtime) in &self.parts.runtimes {
            if let Ok(report) = inventory.usable(name) {
                runtime.learn(report.features.clone());
            }
        }
    }

    /// The container's published record.
    pub fn record(&self, query: &IdQuery) -> Result<Arc<ContainerRecord>, Shared> {
        Ok(self.handle(query)?.record())
    }

    /// Everything published, in the order of ids; what is still being created is left out.
    pub fn list(&self) -> Vec<Arc<ContainerRecord>> {
        let records = self.registry.list().into_iter().map(|handle| handle.record());
        records.filter(|record| record.state != State::Creating).collect()
    }

    /// What plugins have been told of, also what is still being created.
    pub fn told(&self) -> Vec<Arc<ContainerRecord>> {
        let shown = self.registry.list().into_iter().filter(|handle| handle.told.is_shown());
        shown.map(|handle| handle.record()).collect()
    }

    /// As plugins are shown it.
    pub async fn shown(&self, record: &ContainerRecord) -> crate::nri::wire::Container {
        tell::container(&self.parts, record).await
    }

    /// The ids of a pod's containers.
    pub fn ids_of(&self, pod: PodId) -> Vec<ContainerId> {
        self.handles_of(pod).into_iter().map(|handle| handle.id).collect()
    }

    fn handles_of(&self, pod: PodId) -> Vec<Handle> {
        self.registry.list().into_iter().filter(|handle| handle.record().pod == pod).collect()
    }

    /// The record of a container in which `request` can be done now.
    fn running(&self, query: &IdQuery, request: Request) -> Result<Arc<ContainerRecord>, Shared> {
        let record = self.handle(query)?.record();
        match state::admit(record.state, request) {
            Verdict::Run => Ok(record),
            _ => Err(Arc::new(ContainerError::WrongState {
                id: record.id,
                state: record.state,
                request,
            })),
        }
    }

    async fn stop_one(&self, handle: Handle, grace: Duration) -> Result<(), Shared> {
        self.ask(handle, |reply| Command::Stop { grace, reply }).await
    }

    async fn remove_one(&self, handle: Handle) -> Result<(), Shared> {
        self.ask(handle, Command::Remove).await
    }

    /// Sends a command and waits for its reply. Only the waiting ends when the caller goes away.
    async fn ask(
        &self,
        handle: Handle,
        command: impl FnOnce(oneshot::Sender<Result<(), Shared>>) -> Command,
    ) -> Result<(), Shared> {
        let id = handle.id;
        let (reply, replied) = oneshot::channel();
        handle.commands.try_send(command(reply)).map_err(|error| {
            Arc::new(match error {
                tokio::sync::mpsc::error::TrySendError::Full(_) => ContainerError::Busy { id },
                tokio::sync::mpsc::error::TrySendError::Closed(_) => ContainerError::Gone { id },
            })
        })?;
        replied.await.unwrap_or_else(|_| Err(Arc::new(ContainerError::Gone { id })))
    }

    fn handle(&self, query: &IdQuery) -> Result<Handle, Shared> {
        self.find(query)?
            .ok_or_else(|| Arc::new(ContainerError::NotFound { query: query.as_str().to_owned() }))
    }

    fn find(&self, query: &IdQuery) -> Result<Option<Handle>, Shared> {
        self.registry
            .find(query)
            .map_err(|source: Ambiguous| Arc::new(ContainerError::Ambiguous(source)))
    }
}

/// Waits for the end of a creation, unless another request takes its place before.
async fn created(handle: Handle) -> Result<ContainerId, Shared> {
    let mut creation = handle.creation.clone();
    tokio::select! {
        biased;
        creation = ended(&mut creation) => match creation.as_deref() {
            Some(Creation::Failed(error)) => Err(error.clone()),
            Some(_) => Ok(handle.id),
            None => Err(Arc::new(ContainerError::Gone { id: handle.id })),
        },
        () = handle.claim.lost() => {
            let name = handle.record().spec.name.clone();
            Err(Arc::new(ContainerError::Superseded { name }))
        }
    }
}

/// How a creation ended; none = its owner is gone.
async fn ended(creation: &mut watch::Receiver<Creation>) -> Option<watch::Ref<'_, Creation>> {
    creation.wait_for(|creation| !matches!(creation, Creation::Pending)).await.ok()
}

/// RACE: a removal in flight may end between the look for a container and its answer. It is absent
/// then, which is what was asked for.
fn gone_is_fine(result: Result<(), Shared>) -> Result<(), Shared> {
    match result {
        Err(error) if matches!(*error, ContainerError::Gone { .. }) => Ok(()),
        result => result,
    }
}

/// Waits for all of them; the first error, if any. One that went away meanwhile is no error.
async fn first_error(
    tasks: impl Iterator<Item = tokio::task::JoinHandle<Result<(), Shared>>>,
) -> Result<(), Shared> {
    let mut result = Ok(());
    for task in tasks.collect::<Vec<_>>() {
        let one = task.await.unwrap_or(Err(Arc::new(ContainerError::Panicked { verb: "stop" })));
        if let Err(error) = one
            && error.kind() != Kind::NotFound
            && result.is_ok()
        {
            result = Err(error);
        }
    }
    result
}
