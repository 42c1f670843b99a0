//! A pod's network: attached and detached through CNI, never by hand.
//!
//! Owns which network pods get, the addresses they have, and what is still owed to plugins. Does
//! not own the namespace (`sys::namespaces` pins it) nor when to attach (the pod does).
//!
//! INVARIANT: an attachment is in the cache from before its first plugin runs until its DEL has
//! succeeded. So what [`Networks::owed`] does not name needs no DEL, and [`Networks::del`] of it
//! does nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cni::cache::Damaged;
use cni::{AddResult, AttachmentId, Cache, ConfigDir, Entry, Network, NetworkConfig, Plugins};
use tokio::sync::RwLock;

use crate::config;
use crate::sys::namespaces;
use crate::sys::stand_in::StandIn;
use crate::trust::Trust;

mod addresses;
mod attachment;
pub mod bandwidth;
mod error;
pub mod hostname;
pub mod left_running;
pub mod pod_ranges;
pub mod resolv_conf;
mod stand_in;
mod status;

pub use attachment::Attachment;
pub use bandwidth::Bandwidth;
pub use error::NetworkError;
pub use pod_ranges::PodRanges;
pub use status::NotReady;

pub use addresses::Addresses;
use addresses::Held;
use status::Status;

/// The interface that a pod gets. CRI knows one network per pod.
pub const INTERFACE: &str = "eth0";

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// One plugin.
    plugin: Duration,
    /// ADD of a whole chain. With a DEL after it this is well within the four minutes that the
    /// kubelet waits for RunPodSandbox.
    add: Duration,
    /// DEL of a whole chain.
    del: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { plugin: secs(60), add: secs(90), del: secs(90) }
    }
}

/// All pods' networks. A cheap clone.
#[derive(Clone, Debug)]
pub struct Networks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plugins: Plugins,
    cache: Cache,
    /// Keeps the watching alive.
    _directory: ConfigDir,
    status: Status,
    held: Held,
    deadlines: Deadlines,
    /// CNI: "The runtime must exclusively execute either gc or add and delete". ADD and DEL read,
    /// GC writes; GC never waits for it, and the others wait for GC's deadline at most.
    gc: RwLock<()>,
}

impl Networks {
    /// Starts to watch the configuration directory. `cache_dir` remembers what is attached; it
    /// must be as durable as the address plugin's own memory.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: &config::Network, cache_dir: PathBuf) -> Self {
        Self::with_deadlines(config, &cache_dir, Deadlines::default())
    }

    fn with_deadlines(config: &config::Network, cache_dir: &Path, deadlines: Deadlines) -> Self {
        let guard: cni::Guard = match config.trust {
            Trust::RootAlone => |path| Trust::RootAlone.check(path),
            Trust::Everybody => |_| Ok(()),
        };
        let plugins = Plugins::new(config.plugin_dirs.clone())
            .with_deadline(deadlines.plugin)
            .with_guard(guard);
        let cache = Cache::new(cache_dir);
        cache.drop_unfinished();
        let directory = ConfigDir::watch(config.conf_dir.clone(), plugins.clone());
        let status = Status::watch(directory.subscribe(), &plugins, &cache);
        let held = Held::load(&cache);
        let gc = RwLock::new(());
        let shared = Shared { plugins, cache, _directory: directory, status, held, deadlines, gc };
        Self { shared: Arc::new(shared) }
    }

    /// Can pods get a network now? Answered from memory; never waits.
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.shared.status.readiness()
    }

    /// Attaches a pod and says which addresses it has, the most important first.
    ///
    /// After a failure DEL has been tried once; if that failed as well, the pod is among
    /// [`owed`](Self::owed). The same holds if the future is dropped.
    pub async fn add(&self, attachment: &Attachment) -> Result<Addresses, NetworkError> {
        let config = self.usable()?;
        let asked = attachment.to_cni()?;
        attachment.warn_of_what_is_not_declared(&config);
        let network = self.network(config);
        let _no_gc = self.shared.gc.read().await;
        let deadline = self.shared.deadlines.add;
        let work = async {
            let result = network.add(&asked).await.map_err(|source| NetworkError::Add {
                pod: attachment.pod.clone(),
                source: Box::new(source),
            })?;
            self.verify(attachment, &result).await
        };
        let failed = match tokio::time::timeout(deadline, work).await {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => error,
            Err(_) => NetworkError::AddTimedOut { pod: attachment.pod.clone(), after: deadline },
        };
        if let Err(error) = self.del_now(&attachment.pod, Some(&attachment.netns)).await {
            tracing::warn!(
                pod = attachment.pod,
                error = crate::error::chain(&error),
                "network of a pod that failed is not cleaned up; owed"
            );
        }
        Err(failed)
    }

    /// Detaches a pod, with `netns` none if its namespace is gone; where plugins look into it for what
    /// to undo, they get one like it. A pod that is not attached
    /// needs nothing. After a failure the pod stays among [`owed`](Self::owed); repeat it.
    pub async fn del(&self, pod_id: &str, netns: Option<&Path>) -> Result<(), NetworkError> {
        let _no_gc = self.shared.gc.read().await;
        self.del_now(pod_id, netns).await
    }

    /// The ids of all pods that are attached, or were tried to be and not detached since. Those
    /// of them that do not live any more are owed a [`del`](Self::del).
    pub async fn owed(&self) -> Result<Vec<String>, NetworkError> {
        let (entries, damaged) = self.cached(|cache| cache.list()).await?;
        let mut ids: Vec<_> = entries.into_iter().map(|entry| entry.container_id).collect();
        ids.extend(damaged.iter().filter_map(|file| pod_of(&file.name)).map(str::to_owned));
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Detaches everything but the pods in `valid` and lets the plugins drop what belongs to
    /// nobody. `valid` must be complete: never call this with a list that failed to load.
    ///
    /// # Errors
    /// [`NetworkError::Busy`] while pods are being attached or detached; try again later.
    pub async fn gc(&self, valid: &[String]) -> Result<(), NetworkError> {
        let Some(config) = self.shared.status.loaded().network.clone() else {
            return Ok(());
        };
        let _alone = self.shared.gc.try_write().map_err(|_| NetworkError::Busy)?;
        let id =
            |pod: &String| AttachmentId { container_id: pod.clone(), ifname: INTERFACE.to_owned() };
        let valid: Vec<_> = valid.iter().map(id).collect();
        let after = self.shared.deadlines.del;
        match tokio::time::timeout(after, self.network(config).gc(&valid)).await {
            Ok(collected) => collected.map_err(NetworkError::Gc)?,
            Err(_) => return Err(NetworkError::GcTimedOut { after }),
        }
        self.shared.held.keep_only(|pod| valid.iter().any(|id| id.container_id == pod));
        Ok(())
    }

    fn usable(&self) -> Result<Arc<NetworkConfig>, NetworkError> {
        let loaded = self.shared.status.loaded();
        let not_ready = || NetworkError::NotReady(status::not_usable(&loaded));
        loaded.usable().cloned().ok_or_else(not_ready)
    }

    fn network(&self, config: Arc<NetworkConfig>) -> Network {
        Network::new(config, self.shared.plugins.clone(), self.shared.cache.clone())
    }

    /// Believes no plugin: the pod must have the interface, an address, and that for itself.
    async fn verify(
        &self,
        attachment: &Attachment,
        result: &AddResult,
    ) -> Result<Addresses, NetworkError> {
        let ips = result.addresses_in(&attachment.netns);
        if ips.is_empty() {
            return Err(NetworkError::NoAddress { pod: attachment.pod.clone() });
        }
        let netns = attachment.netns.clone();
        let found = tokio::task::spawn_blocking(move || {
            let index = || nix::net::if_::if_nametoindex(INTERFACE);
            namespaces::run_in_netns(&netns, index)
        });
        let found = found.await.map_err(|_| NetworkError::Interrupted)?;
        found
            .map_err(|source| NetworkError::Namespace { pod: attachment.pod.clone(), source })?
            .map_err(|errno| NetworkError::NoInterface {
                pod: attachment.pod.clone(),
                source: errno.into(),
            })?;
        self.shared.held.take(&attachment.pod, &attachment.netns, &ips)?;
        Ok(Addresses { ips })
    }

    async fn del_now(&self, pod_id: &str, netns: Option<&Path>) -> Result<(), NetworkError> {
        let after = self.shared.deadlines.del;
        let timed_out = |_| NetworkError::DelTimedOut { pod: pod_id.to_owned(), after };
        let work = self.del_all_of(pod_id, netns);
        tokio::time::timeout(after, work).await.map_err(timed_out)??;
        self.shared.held.release(pod_id);
        Ok(())
    }

    async fn del_all_of(&self, pod_id: &str, netns: Option<&Path>) -> Result<(), NetworkError> {
        let id = pod_id.to_owned();
        let (entries, damaged) = self.cached(move |cache| cache.of_container(&id)).await?;
        // What cannot be read now may be whole, and then says better what is to be undone.
        let (unread, damaged): (Vec<_>, Vec<_>) = damaged
            .into_iter()
            .partition(|file| matches!(file.error, cni::cache::CacheError::Read { .. }));
        if let Some(Damaged { error, .. }) = unread.into_iter().next() {
            return Err(NetworkError::Cache(Box::new(error)));
        }
        for entry in entries {
            let config = match entry.network() {
                Ok(config) => Arc::new(config),
                Err(_) => self.configured(pod_id, &entry.network_name)?,
            };
            let stand_in = match netns {
                Some(_) => None,
                None => stand_in::of(&config, &entry).await,
            };
            let instead = stand_in.as_ref().map(StandIn::path);
            let netns = netns.or(instead.as_deref());
            self.del_one(config, pod_id, netns, &entry.if_name).await?;
        }
        for file in damaged {
            let Some((network, ifname)) = file.name.split_once(&format!("-{pod_id}-")) else {
                continue;
            };
            let config = self.configured(pod_id, network)?;
            self.del_one(config, pod_id, netns, ifname).await?;
        }
        Ok(())
    }

    async fn del_one(
        &self,
        config: Arc<NetworkConfig>,
        pod_id: &str,
        netns: Option<&Path>,
        ifname: &str,
    ) -> Result<(), NetworkError> {
        let attachment = cni::Attachment {
            container_id: pod_id.to_owned(),
            netns: netns.map(Path::to_owned),
            ifname: ifname.to_owned(),
            ..cni::Attachment::default()
        };
        self.network(config).del(&attachment).await.map_err(|source| NetworkError::Del {
            pod: pod_id.to_owned(),
            source: Box::new(source),
        })
    }

    /// The network of that name as it is configured now, for want of what ADD used.
    fn configured(&self, pod_id: &str, name: &str) -> Result<Arc<NetworkConfig>, NetworkError> {
        let network = self.shared.status.loaded().network.clone();
        network.filter(|network| network.name() == name).ok_or_else(|| NetworkError::Forgotten {
            pod: pod_id.to_owned(),
            network: name.to_owned(),
        })
    }

    async fn cached(
        &self,
        list: impl FnOnce(&Cache) -> Result<(Vec<Entry>, Vec<Damaged>), cni::cache::CacheError>
        + Send
        + 'static,
    ) -> Result<(Vec<Entry>, Vec<Damaged>), NetworkError> {
        let cache = self.shared.cache.clone();
        let listed = tokio::task::spawn_blocking(move || list(&cache)).await;
        listed
            .map_err(|_| NetworkError::Interrupted)?
            .map_err(|source| NetworkError::Cache(Box::new(source)))
    }
}

/// The pod of a cache file that cannot be read, by the file's name; our ids have no hyphens.
fn pod_of(file_name: &str) -> Option<&str> {
    let rest = file_name.strip_suffix(INTERFACE)?.strip_suffix('-')?;
    rest.rsplit_once('-').map(|(_, pod)| pod)
}

#[cfg(test)]
mod tests;
