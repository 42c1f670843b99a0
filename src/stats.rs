//! What pods and containers use: sampled in the background, read from memory.
//!
//! One task looks at every running container and every pod that is ready, about once a second while
//! there are any, through descriptors that it keeps. A request reads what was sampled last: it walks
//! no directory, opens no file of a group and waits for no container. What vanishes between two
//! looks is left out. Each sample has a time of its own, taken right before its counters are read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::cgroup::{Cgroups, relative_path};
use crate::container::state::State as ContainerState;
use crate::container::{ContainerRecord, Containers};
use crate::host;
use crate::ids::{ContainerId, PodId};
use crate::path::Layout;
use crate::pod::state::State as PodState;
use crate::pod::{PodRecord, Pods};
use crate::steps::blocking;

mod container;
mod devices;
pub mod metrics;
pub mod network;
mod pod;
pub mod processes;
mod rate;
mod writable;

pub use container::ContainerSample;
pub use network::Interface;
pub use pod::PodSample;
pub use writable::{LayerUsage, Room, Usage, WritableLayers};

use container::ContainerSource;
use pod::PodSource;

/// Between two looks. Less than the second after which `crictl stats` looks again and takes a sample
/// with the same time for an error.
const PERIOD: Duration = Duration::from_millis(800);

/// Without pods the sampler waits to be told of one; this often it looks all the same.
const IDLE: Duration = Duration::from_secs(30);

/// What the sampler looks at.
pub struct Parts {
    /// Pods.
    pub pods: Pods,
    /// Containers.
    pub containers: Containers,
    /// Names of control groups.
    pub cgroups: Cgroups,
    /// Where control groups are mounted.
    pub mounted: host::Cgroups,
    /// Where namespaces are pinned.
    pub layout: Layout,
    /// Writable layers.
    pub layers: WritableLayers,
}

/// The last samples. A cheap clone.
#[derive(Clone)]
pub struct Stats(Arc<Shared>);

struct Shared {
    parts: Parts,
    table: Mutex<Table>,
    wake: Notify,
}

#[derive(Default)]
struct Table {
    containers: HashMap<ContainerId, Entry<ContainerSource, ContainerSample>>,
    pods: HashMap<PodId, Entry<PodSource, PodSample>>,
}

/// Where samples of one object come from, and the last one. The table's lock is never held while a
/// source is read.
struct Entry<Source, Sample> {
    source: Arc<Mutex<Source>>,
    sample: Option<Arc<Sample>>,
}

impl Stats {
    /// No samples yet.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared { parts, table: Mutex::default(), wake: Notify::new() }))
    }

    /// Samples again and again, for as long as the daemon lives.
    pub async fn sample(self) {
        loop {
            let shared = self.0.clone();
            let seen = blocking(move || shared.look_at_all()).await;
            match seen {
                0 => drop(tokio::time::timeout(IDLE, self.0.wake.notified()).await),
                _ => tokio::time::sleep(PERIOD).await,
            }
        }
    }

    /// Takes the first samples of a container that was started, so that there are some from the
    /// beginning.
    pub async fn container_started(&self, record: Arc<ContainerRecord>) {
        let shared = self.0.clone();
        blocking(move || {
            shared.look_at_container(&record);
            shared.parts.layers.measure_first(&record.id);
        })
        .await;
    }

    /// Takes the first sample of a pod that was made.
    pub async fn pod_started(&self, record: Arc<PodRecord>) {
        let shared = self.0.clone();
        blocking(move || {
            let group =
                shared.groups_of_their_own(std::slice::from_ref(&record)).remove(&record.id);
            shared.look_at_pod(&record, group);
        })
        .await;
        self.0.wake.notify_one();
    }

    /// The last sample of a running container.
    pub fn container(&self, id: &ContainerId) -> Option<Arc<ContainerSample>> {
        self.0.lock().containers.get(id)?.sample.clone()
    }

    /// The last sample of a pod.
    pub fn pod(&self, id: &PodId) -> Option<Arc<PodSample>> {
        self.0.lock().pods.get(id)?.sample.clone()
    }

    /// What a container's writable layer takes.
    pub fn layer(&self, id: &ContainerId) -> Option<LayerUsage> {
        self.0.parts.layers.layer(id)
    }

    /// The directory of all writable layers.
    pub fn layers_dir(&self) -> &Path {
        self.0.parts.layers.dir()
    }

    /// The file system of all writable layers.
    pub fn room(&self) -> Room {
        self.0.parts.layers.room()
    }
}

impl Shared {
    /// Returns how many objects there are. Blocks.
    fn look_at_all(&self) -> usize {
        let containers = self.running_containers();
        for record in &containers {
            self.look_at_container(record);
        }
        // A kept descriptor of its network keeps a pod's namespace alive, so this comes first.
        self.forget_what_ended();
        let pods = self.ready_pods();
        let mut groups = self.groups_of_their_own(&pods);
        for record in &pods {
            self.look_at_pod(record, groups.remove(&record.id));
        }
        containers.len() + pods.len()
    }

    /// RACE: what has started since the last look has its first sample already. It was published
    /// before, so whoever asks under the table's lock finds it.
    fn forget_what_ended(&self) {
        let mut table = self.lock();
        let running: HashSet<_> = self.running_containers().iter().map(|c| c.id).collect();
        let ready: HashSet<_> = self.ready_pods().iter().map(|pod| pod.id).collect();
        table.containers.retain(|id, _| running.contains(id));
        table.pods.retain(|id, _| ready.contains(id));
    }

    fn running_containers(&self) -> Vec<Arc<ContainerRecord>> {
        let containers = self.parts.containers.list().into_iter();
        containers.filter(|record| is_running(record)).collect()
    }

    fn ready_pods(&self) -> Vec<Arc<PodRecord>> {
        let pods = self.parts.pods.list().into_iter();
        pods.filter(|record| record.state == PodState::Ready).collect()
    }

    fn look_at_container(&self, record: &ContainerRecord) {
        let known = self.lock().containers.get(&record.id).map(|entry| entry.source.clone());
        let source = known.unwrap_or_else(|| {
            let group = relative_path(&record.cgroup);
            Arc::new(Mutex::new(ContainerSource::open(&self.parts.mounted, &group)))
        });
        let sample = lock(&source).sample(record).map(Arc::new);
        let mut table = self.lock();
        match sample {
            Some(_) => drop(table.containers.insert(record.id, Entry { source, sample })),
            // Its group is gone: it has just ended.
            None => drop(table.containers.remove(&record.id)),
        }
    }

    fn look_at_pod(&self, record: &PodRecord, group: Option<PathBuf>) {
        let known = self.lock().pods.get(&record.id).map(|entry| entry.source.clone());
        let source = known.unwrap_or_else(|| {
            let namespace = self.parts.layout.pod_namespaces(&record.id).join("net");
            Arc::new(Mutex::new(PodSource::new(record, namespace)))
        });
        let containers = self.samples_of(record.id);
        let sample = lock(&source).sample(&self.parts.mounted, group, &containers);
        self.lock().pods.insert(record.id, Entry { source, sample: Some(Arc::new(sample)) });
    }

    fn samples_of(&self, pod: PodId) -> Vec<Arc<ContainerSample>> {
        let table = self.lock();
        let samples = table.containers.values().filter_map(|entry| entry.sample.clone());
        samples.filter(|sample| sample.pod == pod).collect()
    }

    /// The parent groups that one pod alone names: Kubernetes makes one for every pod. Several pods
    /// of people who use crictl may share one, which then says nothing of any of them.
    fn groups_of_their_own(&self, pods: &[Arc<PodRecord>]) -> HashMap<PodId, PathBuf> {
        let parent = |record: &PodRecord| {
            let named = record.spec.cgroup_parent.as_deref()?;
            let name = self.parts.cgroups.pod(Some(named), &record.id);
            Some(relative_path(&name).parent()?.to_owned())
        };
        let mut named: HashMap<PathBuf, usize> = HashMap::new();
        for group in self.ready_pods().iter().filter_map(|record| parent(record)) {
            *named.entry(group).or_default() += 1;
        }
        let alone = |record: &Arc<PodRecord>| {
            let group = parent(record).filter(|group| named.get(group) == Some(&1))?;
            Some((record.id, group))
        };
        pods.iter().filter_map(alone).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

fn is_running(record: &ContainerRecord) -> bool {
    matches!(record.state, ContainerState::Running | ContainerState::Stopping)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
