//! Telling plugins of an event: who comes next, and what an answer means.
//!
//! What precedes a fact (a creation, a start, an update) may be refused, and goes on to plugins that
//! join meanwhile; what follows one (an end, a removal, `Post…`) cannot be refused, and a plugin that
//! joins meanwhile has the fact in its picture.
//!
//! What is told comes as a future that is polled only when there is somebody to tell.

use std::sync::Arc;

use crate::error::chain;

use super::merge::{Creation, Updates};
use super::owners::Owners;
use super::plugin::{Kind, Plugin};
use super::wire::{
    Container, ContainerAdjustment, ContainerRequest, ContainerUpdate, CreateContainerResponse,
    Empty, Event, LinuxResources, PluginInstance, Pod, PodRequest, StateChange,
    StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse, UpdatePodRequest,
    ValidateRequest, ValidateResponse,
};
use super::{NriError, Plugins, Told};

const fn kind(event: Event, method: &'static str) -> Kind {
    Kind { event, method, has_state_change: false }
}

const fn old_kind(event: Event, method: &'static str) -> Kind {
    Kind { event, method, has_state_change: true }
}

const RUN_POD: Kind = old_kind(Event::RunPod, "RunPodSandbox");
const UPDATE_POD: Kind = kind(Event::UpdatePod, "UpdatePodSandbox");
const POST_UPDATE_POD: Kind = old_kind(Event::PostUpdatePod, "PostUpdatePodSandbox");
const STOP_POD: Kind = old_kind(Event::StopPod, "StopPodSandbox");
const REMOVE_POD: Kind = old_kind(Event::RemovePod, "RemovePodSandbox");
const CREATE: Kind = kind(Event::CreateContainer, "CreateContainer");
const POST_CREATE: Kind = old_kind(Event::PostCreateContainer, "PostCreateContainer");
const START: Kind = old_kind(Event::StartContainer, "StartContainer");
const POST_START: Kind = old_kind(Event::PostStartContainer, "PostStartContainer");
const UPDATE: Kind = kind(Event::UpdateContainer, "UpdateContainer");
const POST_UPDATE: Kind = old_kind(Event::PostUpdateContainer, "PostUpdateContainer");
const STOP: Kind = kind(Event::StopContainer, "StopContainer");
const REMOVE: Kind = old_kind(Event::RemoveContainer, "RemoveContainer");
const VALIDATE: Kind = kind(Event::ValidateContainerAdjustment, "ValidateContainerAdjustment");

/// Plugins that were asked already, by serial number.
type Asked = Vec<u64>;

impl Plugins {
    /// Whether there is anybody to tell. Without, nothing needs to be gathered.
    pub fn are_there(&self) -> bool {
        !self.lock().is_empty()
    }

    /// A pod is about to be ready.
    ///
    /// # Errors
    /// A plugin refuses; those that did not are told that the pod is gone.
    pub async fn run_pod(&self, told: &Told, pod: impl FnOnce() -> Pod) -> Result<(), NriError> {
        if self.settle(&Asked::new(), told) {
            return Ok(());
        }
        let request = PodRequest { pod: Some(pod()) };
        let (mut asked, mut accepted) = (Asked::new(), Vec::new());
        loop {
            while let Some(plugin) = self.next(&mut asked) {
                let answer = plugin.ask::<Empty>(RUN_POD, &request, || of_pod(&request)).await;
                if let Err(error) = answer {
                    self.post_pod(&accepted, STOP_POD, &request).await;
                    self.post_pod(&accepted, REMOVE_POD, &request).await;
                    return Err(error);
                }
                accepted.push(plugin);
            }
            if self.settle(&asked, told) {
                return Ok(());
            }
        }
    }

    /// A pod's containers have ended, and its network is about to go. Told once.
    pub async fn stop_pod(&self, told: &Told, pod: impl FnOnce() -> Pod) {
        let plugins = self.all_if(|| told.stops());
        if !plugins.is_empty() {
            self.post_pod(&plugins, STOP_POD, &PodRequest { pod: Some(pod()) }).await;
        }
    }

    /// A pod is about to be forgotten. Told once.
    pub async fn remove_pod(&self, told: &Told, pod: impl FnOnce() -> Pod) {
        let plugins = self.all_if(|| told.goes());
        if !plugins.is_empty() {
            self.post_pod(&plugins, REMOVE_POD, &PodRequest { pod: Some(pod()) }).await;
        }
    }

    /// A pod's resources are about to change: its overhead, and what its containers may use.
    ///
    /// # Errors
    /// A plugin refuses.
    pub async fn update_pod(
        &self,
        pod: impl FnOnce() -> Pod,
        limits: impl FnOnce() -> (LinuxResources, LinuxResources),
    ) -> Result<(), NriError> {
        if !self.are_there() {
            return Ok(());
        }
        let (overhead, resources) = limits();
        let request = UpdatePodRequest {
            pod: Some(pod()),
            overhead_linux_resources: Some(overhead),
            linux_resources: Some(resources),
        };
        let mut asked = Asked::new();
        while let Some(plugin) = self.next(&mut asked) {
            plugin.ask::<Empty>(UPDATE_POD, &request, StateChange::default).await?;
        }
        Ok(())
    }

    /// A pod's resources have changed.
    pub async fn post_update_pod(&self, pod: impl FnOnce() -> Pod) {
        let plugins = self.all_if(|| true);
        if !plugins.is_empty() {
            self.post_pod(&plugins, POST_UPDATE_POD, &PodRequest { pod: Some(pod()) }).await;
        }
    }

    /// A container is about to be created. Returns what plugins change of it; what they want of
    /// others is done already. None: nobody was asked.
    ///
    /// # Errors
    /// A plugin refuses, two want the same field, or another container could not be changed. When
    /// nothing was announced yet, those that accepted are told that the container is gone.
    pub async fn create_container(
        &self,
        told: &Told,
        container: impl Future<Output = Container>,
    ) -> Result<Option<ContainerAdjustment>, NriError> {
        if self.settle(&Asked::new(), told) {
            return Ok(None);
        }
        let original = container.await;
        let pod = self.pod_of(&original);
        let mut creation = Creation::of(original.clone());
        let mut accepted = Vec::new();
        let created =
            self.ask_creation(told, (&pod, &original), &mut creation, &mut accepted).await;
        if let Err(error) = created {
            let request = ContainerRequest { pod: Some(pod), container: Some(original) };
            self.stop_at(&accepted, &request).await;
            self.post(&accepted, REMOVE, &request).await;
            return Err(error);
        }
        self.apply_all(std::mem::take(&mut creation.updates.all)).await?;
        Ok(Some(creation.adjust))
    }

    async fn ask_creation(
        &self,
        told: &Told,
        (pod, original): (&Pod, &Container),
        creation: &mut Creation,
        accepted: &mut Vec<Arc<Plugin>>,
    ) -> Result<(), NriError> {
        let mut asked = Asked::new();
        loop {
            while let Some(plugin) = self.next(&mut asked) {
                let container = Some(creation.container.clone());
                let request = ContainerRequest { pod: Some(pod.clone()), container };
                let answer = plugin
                    .ask::<CreateContainerResponse>(CREATE, &request, StateChange::default)
                    .await?;
                accepted.push(plugin.clone());
                if let Some(answer) = answer {
                    creation.add(&plugin.full_name, answer)?;
                }
            }
            self.validate((pod, original), creation, accepted).await?;
            if self.settle(&asked, told) {
                return Ok(());
            }
        }
    }

    /// Asks those that watch over what others change. One that cannot be asked allows nothing.
    async fn validate(
        &self,
        (pod, original): (&Pod, &Container),
        creation: &Creation,
        accepted: &[Arc<Plugin>],
    ) -> Result<(), NriError> {
        let validators: Vec<_> =
            accepted.iter().filter(|p| p.wants(VALIDATE.event) && !p.link.is_closed()).collect();
        if validators.is_empty() {
            return Ok(());
        }
        let instance =
            |p: &Arc<Plugin>| PluginInstance { name: p.name.clone(), index: p.index.clone() };
        let request = ValidateRequest {
            pod: Some(pod.clone()),
            container: Some(original.clone()),
            adjust: Some(creation.adjust.clone()),
            update: creation.updates.all.clone(),
            owners: Some(creation.owners.to_wire()),
            plugins: accepted.iter().map(instance).collect(),
        };
        for validator in validators {
            let answer =
                validator.ask::<ValidateResponse>(VALIDATE, &request, StateChange::default).await?;
            let plugin = validator.full_name.clone();
            match answer {
                Some(ValidateResponse { reject: true, reason: message }) => {
                    let method = VALIDATE.method;
                    return Err(NriError::Refused { plugin, method, message });
                }
                None if validator.link.is_closed() => return Err(NriError::Unvalidated { plugin }),
                _ => {}
            }
        }
        Ok(())
    }

    /// A container was created.
    pub async fn post_create_container(&self, container: impl Future<Output = Container>) {
        self.after(POST_CREATE, container).await;
    }

    /// A container's process is about to be let go.
    ///
    /// # Errors
    /// A plugin refuses.
    pub async fn start_container(
        &self,
        container: impl Future<Output = Container>,
    ) -> Result<(), NriError> {
        if !self.are_there() {
            return Ok(());
        }
        let request = self.request(container.await);
        let mut asked = Asked::new();
        while let Some(plugin) = self.next(&mut asked) {
            plugin.ask::<Empty>(START, &request, || of_container(&request)).await?;
        }
        Ok(())
    }

    /// A container's process was let go.
    pub async fn post_start_container(&self, container: impl Future<Output = Container>) {
        self.after(POST_START, container).await;
    }

    /// A container's limits are about to change. Returns them as plugins want them; what they want
    /// of others is done already.
    ///
    /// # Errors
    /// A plugin refuses, two want the same field, or another container could not be changed.
    pub async fn update_container(
        &self,
        container: impl Future<Output = Container>,
        resources: LinuxResources,
    ) -> Result<LinuxResources, NriError> {
        if !self.are_there() {
            return Ok(resources);
        }
        let ContainerRequest { pod, container } = self.request(container.await);
        let id = container.as_ref().map(|container| container.id.clone()).unwrap_or_default();
        let (mut updates, mut owners) = (Updates::asked(&id, resources), Owners::default());
        let mut asked = Asked::new();
        while let Some(plugin) = self.next(&mut asked) {
            let linux_resources = own_resources(&updates);
            let (pod, container) = (pod.clone(), container.clone());
            let request = UpdateContainerRequest { pod, container, linux_resources };
            let answer = plugin
                .ask::<UpdateContainerResponse>(UPDATE, &request, StateChange::default)
                .await?;
            if let Some(UpdateContainerResponse { update, evict }) = answer {
                if let Some(eviction) = evict.first() {
                    let name = &plugin.full_name;
                    return Err(super::merge::no_eviction(name, &eviction.container_id));
                }
                updates.add(&mut owners, &plugin.full_name, update)?;
            }
        }
        let own = own_resources(&updates).unwrap_or_default();
        updates.all.remove(0);
        self.apply_all(updates.all).await?;
        Ok(own)
    }

    /// A container's limits have changed.
    pub async fn post_update_container(&self, container: impl Future<Output = Container>) {
        self.after(POST_UPDATE, container).await;
    }

    /// A container's process has ended. Told once.
    pub async fn stop_container(&self, told: &Told, container: impl Future<Output = Container>) {
        let plugins = self.all_if(|| told.stops());
        if !plugins.is_empty() {
            let request = self.request(container.await);
            self.stop_at(&plugins, &request).await;
        }
    }

    /// A container is about to be forgotten. Told once.
    pub async fn remove_container(&self, told: &Told, container: impl Future<Output = Container>) {
        let plugins = self.all_if(|| told.goes());
        if !plugins.is_empty() {
            let request = self.request(container.await);
            self.post(&plugins, REMOVE, &request).await;
        }
    }

    /// The end of a container is the time to give to others what it had.
    async fn stop_at(&self, plugins: &[Arc<Plugin>], request: &ContainerRequest) {
        let (mut updates, mut owners) = (Updates::default(), Owners::default());
        for plugin in plugins {
            let answer =
                plugin.ask::<StopContainerResponse>(STOP, request, StateChange::default).await;
            let added = answer.and_then(|answer| {
                let wanted = answer.unwrap_or_default().update;
                updates.add(&mut owners, &plugin.full_name, wanted)
            });
            log(added);
        }
        self.apply_and_log(updates.all).await;
    }

    /// Tells of a fact about a container.
    async fn after(&self, kind: Kind, container: impl Future<Output = Container>) {
        let plugins = self.all_if(|| true);
        if plugins.iter().any(|plugin| plugin.wants(kind.event)) {
            let request = self.request(container.await);
            self.post(&plugins, kind, &request).await;
        }
    }

    async fn post(&self, plugins: &[Arc<Plugin>], kind: Kind, request: &ContainerRequest) {
        for plugin in plugins {
            log(plugin.ask::<Empty>(kind, request, || of_container(request)).await);
        }
    }

    async fn post_pod(&self, plugins: &[Arc<Plugin>], kind: Kind, request: &PodRequest) {
        for plugin in plugins {
            log(plugin.ask::<Empty>(kind, request, || of_pod(request)).await);
        }
    }

    /// The next plugin in the order that has not been asked; it counts as asked from now on.
    fn next(&self, asked: &mut Asked) -> Option<Arc<Plugin>> {
        let list = self.lock();
        let plugin = list.iter().find(|plugin| !asked.contains(&plugin.serial))?;
        asked.push(plugin.serial);
        Some(plugin.clone())
    }

    /// Announced, if nobody is left to be asked.
    fn settle(&self, asked: &Asked, told: &Told) -> bool {
        let list = self.lock();
        let all = list.iter().all(|plugin| asked.contains(&plugin.serial));
        if all {
            told.announced();
        }
        all
    }

    /// All plugins of this moment, or none if it is not the moment to tell.
    fn all_if(&self, moment: impl FnOnce() -> bool) -> Vec<Arc<Plugin>> {
        let list = self.lock();
        if moment() { list.clone() } else { Vec::new() }
    }

    fn request(&self, container: Container) -> ContainerRequest {
        ContainerRequest { pod: Some(self.pod_of(&container)), container: Some(container) }
    }

    fn pod_of(&self, container: &Container) -> Pod {
        let pod = self.0.host.get().and_then(|host| host.pod(&container.pod_id));
        pod.unwrap_or_else(|| Pod { id: container.pod_id.clone(), ..Pod::default() })
    }

    /// Changes other containers; the first failure that counts ends it.
    async fn apply_all(&self, updates: Vec<ContainerUpdate>) -> Result<(), NriError> {
        for update in updates {
            match self.apply(&update).await {
                Err(error) if update.ignore_failure => {
                    tracing::debug!(error = chain(&error), "not done");
                }
                done => done?,
            }
        }
        Ok(())
    }
}

fn own_resources(updates: &Updates) -> Option<LinuxResources> {
    updates.all.first()?.linux.clone()?.resources
}

fn of_pod(request: &PodRequest) -> StateChange {
    StateChange { pod: request.pod.clone(), ..StateChange::default() }
}

fn of_container(request: &ContainerRequest) -> StateChange {
    let ContainerRequest { pod, container } = request.clone();
    StateChange { pod, container, ..StateChange::default() }
}

/// A refusal where there is nothing left to refuse.
fn log<T>(answer: Result<T, NriError>) {
    if let Err(error) = answer {
        tracing::warn!(error = chain(&error), "an NRI plugin");
    }
}
