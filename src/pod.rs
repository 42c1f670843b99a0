//! Pods: the public face. Run, stop, remove, find, list; and creating a container in one.
//!
//! A pod is a group of pinned namespaces, a network attachment, and a few files; a process of its
//! own (the pause) exists only where its containers share a process namespace. Every pod is owned
//! by one task (`actor`).

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::claim::{TakeOver, Turn};
use crate::container::spec::{ContainerSpec, NamespaceMode};
use crate::container::{self, Containers, PodPlace};
use crate::ids::{ContainerId, IdQuery, PodId};
use crate::registry::{Registry, Reserved};
use crate::rootfs::Mapping;

pub mod actor;
pub mod checkpoint;
pub mod detach;
pub mod dial;
pub mod error;
pub mod etc;
pub mod gate;
pub mod parts;
pub mod pause;
pub mod record;
pub mod recover;
pub mod remove;
pub mod restore;
pub mod run;
pub mod spec;
pub mod state;
pub mod stop;
pub mod tell;
pub mod whole;

pub use error::PodError;
pub use parts::Parts;
pub use record::{PodRecord, PodResources};

use actor::{Command, Creation, Handle};
use spec::{PodKey, PodSpec};
use state::State;

/// An error that several callers wait for.
pub type Shared = Arc<PodError>;

/// Who made a pod that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// This call.
    Anew,
    /// Another one.
    Before,
}

/// All pods of the node.
#[derive(Clone)]
pub struct Pods {
    registry: Arc<Registry<PodKey, Handle>>,
    parts: Arc<Parts>,
}

impl Pods {
    /// No pods yet; they are made with `parts`.
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { registry: Arc::default(), parts }
    }

    /// Runs a pod, or joins the same one that is being run or runs already. While another one of this
    /// name is being made, that is given up first: the last to ask has the name.
    pub async fn run(&self, spec: PodSpec) -> Result<PodId, Shared> {
        self.run_or_join(spec).await.map(|(id, _)| id)
    }

    async fn run_or_join(&self, spec: PodSpec) -> Result<(PodId, Made), Shared> {
        let handler = self.check(&spec)?;
        let (spec, turn) = (Arc::new(spec), Turn::next());
        loop {
            let (handle, by) = self.reserve((&spec, turn), &handler);
            let existing = handle.record();
            if *existing.spec == *spec && !handle.claim.is_lost() {
                return match existing.state {
                    State::Creating | State::Ready => Ok((made(handle).await?, by)),
                    state => Err(Arc::new(PodError::NotReady { id: handle.id, state })),
                };
            }
            match handle.claim.take_over(turn) {
                // Its owner tells of the end, or is gone: the name is free then.
                TakeOver::Soon => drop(ended(&mut handle.creation.clone()).await),
                TakeOver::Newer => return Err(Arc::new(PodError::Superseded)),
                TakeOver::Settled => return Err(Arc::new(PodError::NameTaken { id: handle.id })),
            }
        }
    }

    /// The pod that has the name, or a new one whose making begins.
    fn reserve(&self, (spec, turn): (&Arc<PodSpec>, Turn), handler: &str) -> (Handle, Made) {
        let id = PodId::random();
        let mut born = None;
        let reserved = self.registry.reserve(&spec.key, &id, || {
            let of = (spec.clone(), turn);
            let (handle, actor) = actor::new(id, of, handler.to_owned(), self.parts.clone());
            born = Some(actor);
            handle
        });
        if let Some(actor) = born {
            let registry = self.registry.clone();
            drop(crate::steps::spawn("pod", actor.run(registry)));
        }
        match reserved {
            Reserved::New(handle) => (handle, Made::Anew),
            Reserved::Existing(handle) => (handle, Made::Before),
        }
    }

    /// Ends everything in a pod and gives its network back. Absent is fine.
    pub async fn stop(&self, query: &IdQuery) -> Result<(), Shared> {
        match self.find(query)? {
            Some(handle) => gone_is_fine(self.ask(handle, Command::Stop).await),
            None => Ok(()),
        }
    }

    /// Stops a pod and forgets it and its containers. Absent is fine.
    pub async fn remove(&self, query: &IdQuery) -> Result<(), Shared> {
        match self.find(query)? {
            Some(handle) => gone_is_fine(self.ask(handle, Command::Remove).await),
            None => Ok(()),
        }
    }

    /// Notes what the kubelet gives a pod now.
    pub async fn update(&self, query: &IdQuery, resources: PodResources) -> Result<(), Shared> {
        let (all, handle) = (self.clone(), self.handle(query)?);
        // Of its own: a client that goes away leaves nothing half told.
        let work = crate::steps::spawn("update pod", async move {
            all.tell_update(&handle.record(), &resources).await?;
            let resources = Box::new(resources);
            all.ask(handle.clone(), |reply| Command::Update(resources, reply)).await?;
            all.parts.plugins.post_update_pod(|| tell::pod(&handle.record())).await;
            Ok(())
        });
        let panicked = PodError::Panicked { verb: "update pod" };
        work.await.ok().flatten().unwrap_or_else(|| Err(Arc::new(panicked)))
    }

    async fn tell_update(&self, record: &PodRecord, new: &PodResources) -> Result<(), Shared> {
        let (overhead, sum) = (&new.overhead, &new.resources);
        let limits = || (container::tell::resources(overhead), container::tell::resources(sum));
        let told = self.parts.plugins.update_pod(|| tell::pod(record), limits).await;
        told.map_err(|source| Arc::new(PodError::Plugins(source)))
    }

    /// Creates a container in a pod that is ready.
    ///
    /// # Errors
    /// [`PodError::Container`] with the container's own error.
    pub async fn create_container(
        &self,
        query: &IdQuery,
        spec: ContainerSpec,
    ) -> Result<ContainerId, Shared> {
        let handle = self.handle(query)?;
        let record = handle.record();
        let not_ready = || Arc::new(PodError::NotReady { id: record.id, state: record.state });
        if record.state != State::Ready {
            return Err(not_ready());
        }
        let pass = handle.gate.enter().ok_or_else(not_ready)?;
        let created = self.containers().create(self.place(&record), spec, pass).await;
        created.map_err(|source| Arc::new(PodError::Container(source)))
    }

    /// Writes a checkpoint of running containers of a pod that is ready into the empty directory
    /// `output`; they go on.
    ///
    /// # Errors
    /// After one, nothing is in `output`.
    pub async fn checkpoint(
        &self,
        query: &IdQuery,
        output: PathBuf,
        containers: Vec<IdQuery>,
    ) -> Result<(), Shared> {
        let record = self.handle(query)?.record();
        if record.state != State::Ready {
            return Err(Arc::new(PodError::NotReady { id: record.id, state: record.state }));
        }
        let parts = self.parts.clone();
        let work = async move { checkpoint::checkpoint(&parts, &record, output, containers).await };
        match crate::steps::spawn("checkpoint pod", work).await {
            Ok(Some(done)) => done.map_err(Arc::new),
            _ => Err(Arc::new(PodError::Panicked { verb: "checkpoint pod" })),
        }
    }

    /// The pod's published record.
    pub fn record(&self, query: &IdQuery) -> Result<Arc<PodRecord>, Shared> {
        let record = self.handle(query)?.record();
        match record.state {
            State::Creating => {
                Err(Arc::new(PodError::NotFound { query: query.as_str().to_owned() }))
            }
            _ => Ok(record),
        }
    }

    /// The published record of the pod with exactly this id.
    pub fn get(&self, id: &PodId) -> Option<Arc<PodRecord>> {
        let record = self.registry.get(id)?.record();
        (record.state != State::Creating).then_some(record)
    }

    /// Everything published, in the order of ids; what is still being made is left out.
    pub fn list(&self) -> Vec<Arc<PodRecord>> {
        let records = self.registry.list().into_iter().map(|handle| handle.record());
        records.filter(|record| record.state != State::Creating).collect()
    }

    /// What plugins have been told of, also what is still being made.
    pub fn told(&self) -> Vec<Arc<PodRecord>> {
        let shown = self.registry.list().into_iter().filter(|handle| handle.told.is_shown());
        shown.map(|handle| handle.record()).collect()
    }

    /// The record of the pod with exactly this id, whatever its state.
    pub fn any_record(&self, id: &str) -> Option<Arc<PodRecord>> {
        self.registry.get(&id).map(|handle| handle.record())
    }

    /// Gives back network attachments that no pod accounts for; called again and again. Returns how
    /// many are still owed.
    pub async fn sweep_networks(&self) -> usize {
        let owed = match self.parts.networks.owed().await {
            Ok(owed) => owed,
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "list owed networks");
                return 0;
            }
        };
        let mut left = 0;
        for owed in owed {
            let Ok(id) = owed.parse::<PodId>() else { continue };
            let is_owed = match self.registry.get(&id).map(|handle| handle.record().state) {
                Some(state) => matches!(state, State::NotReady | State::Removing),
                None => self.has_no_owner(id).await.unwrap_or_else(|error| {
                    tracing::warn!(pod = %id, error, "whether its network is owed");
                    false
                }),
            };
            if is_owed && detach::detach(&self.parts, id).await == detach::Detached::Owed {
                left += 1;
            }
        }
        left
    }

    fn containers(&self) -> &Containers {
        &self.parts.containers
    }

    /// What of the request this host decides; returns the handler's name.
    fn check(&self, spec: &PodSpec) -> Result<String, Shared> {
        let handler = match spec.handler.as_str() {
            "" => self.parts.default_handler.clone(),
            named => named.to_owned(),
        };
        if !self.parts.handlers.contains(&handler) {
            let field = "runtime_handler".to_owned();
            let problem = format!("{handler:?} is not configured");
            return Err(Arc::new(PodError::Request { field, problem }));
        }
        if spec.user_namespace.is_some() {
            self.check_user_namespaces(&handler)?;
        }
        if let Some(parent) = &spec.cgroup_parent {
            self.parts.cgroups.check_parent(parent).map_err(|error| {
                let (field, problem) = ("config.linux.cgroup_parent".to_owned(), error.to_string());
                Arc::new(PodError::Request { field, problem })
            })?;
        }
        Ok(handler)
    }

    /// Whether pods of this handler can have a user namespace here.
    fn check_user_namespaces(&self, handler: &str) -> Result<(), Shared> {
        let refuse = |reason: String| {
            let handler = handler.to_owned();
            Err(Arc::new(PodError::NoUserNamespaces { handler, reason }))
        };
        if let Err(reason) = &self.parts.mapped_rootfs {
            return refuse(reason.clone());
        }
        if !self.containers().maps_mounts(handler) {
            return refuse("the runtime reports no idmapped mounts (its `features`)".to_owned());
        }
        Ok(())
    }

    /// What the pod's containers use of it.
    fn place(&self, record: &PodRecord) -> PodPlace {
        let layout = &self.parts.layout;
        let namespaces = layout.pod_namespaces(&record.id);
        let (resolv_conf, hostname_file) = etc::paths(layout, &record.id);
        let spec = &record.spec;
        let pinned = |own: bool, name: &str| own.then(|| namespaces.join(name));
        PodPlace {
            id: record.id,
            name: spec.key.name.clone(),
            namespace: spec.key.namespace.clone(),
            uid: spec.key.uid.clone(),
            hostname: record.hostname.clone(),
            net: pinned(spec.network != NamespaceMode::Node, "net"),
            ipc: pinned(spec.ipc != NamespaceMode::Node, "ipc"),
            uts: pinned(spec.network != NamespaceMode::Node, "uts"),
            pid: pinned(record.pause.is_some(), "pid"),
            user: spec
                .user_namespace
                .as_ref()
                .map(|ids| Mapping { namespace: namespaces.join("user"), ids: ids.clone() }),
            resolv_conf,
            hostname_file,
            shm: match spec.ipc {
                NamespaceMode::Node => PathBuf::from("/dev/shm"),
                _ => layout.pod_shm(&record.id),
            },
            cgroup_parent: spec.cgroup_parent.clone(),
            log_directory: spec.log_directory.clone(),
            handler: record.handler.clone(),
        }
    }

    async fn ask(
        &self,
        handle: Handle,
        command: impl FnOnce(oneshot::Sender<Result<(), Shared>>) -> Command,
    ) -> Result<(), Shared> {
        let id = handle.id;
        let (reply, replied) = oneshot::channel();
        handle.commands.try_send(command(reply)).map_err(|error| {
            Arc::new(match error {
                mpsc::error::TrySendError::Full(_) => PodError::Busy { id },
                mpsc::error::TrySendError::Closed(_) => PodError::Gone { id },
            })
        })?;
        replied.await.unwrap_or_else(|_| Err(Arc::new(PodError::Gone { id })))
    }

    fn handle(&self, query: &IdQuery) -> Result<Handle, Shared> {
        self.find(query)?
            .ok_or_else(|| Arc::new(PodError::NotFound { query: query.as_str().to_owned() }))
    }

    fn find(&self, query: &IdQuery) -> Result<Option<Handle>, Shared> {
        self.registry.find(query).map_err(|source| Arc::new(PodError::Ambiguous(source)))
    }
}

/// Waits until a pod is made, unless another request takes its place before.
async fn made(handle: Handle) -> Result<PodId, Shared> {
    let mut creation = handle.creation.clone();
    tokio::select! {
        biased;
        creation = ended(&mut creation) => match creation.as_deref() {
            Some(Creation::Failed(error)) => Err(error.clone()),
            Some(_) => Ok(handle.id),
            None => Err(Arc::new(PodError::Gone { id: handle.id })),
        },
        () = handle.claim.lost() => Err(Arc::new(PodError::Superseded)),
    }
}

/// How a making ended; none = its owner is gone.
async fn ended(creation: &mut watch::Receiver<Creation>) -> Option<watch::Ref<'_, Creation>> {
    creation.wait_for(|creation| !matches!(creation, Creation::Pending)).await.ok()
}

/// RACE: a removal in flight may end between the look for a pod and its answer. It is absent then,
/// which is what was asked for.
fn gone_is_fine(result: Result<(), Shared>) -> Result<(), Shared> {
    match result {
        Err(error) if matches!(*error, PodError::Gone { .. }) => Ok(()),
        result => result,
    }
}

impl From<container::Shared> for PodError {
    fn from(source: container::Shared) -> Self {
        Self::Container(source)
    }
}
