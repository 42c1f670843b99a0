//! The runtime side of the Node Resource Interface: programs of the node's operator that are told of
//! pods and containers, and may change a container before it is created or its limits later.
//!
//! ```text
//!  socket ─► listen ─┐
//!                    ├─► join ─► plugin ─► link ─► ttrpc ─► mux ─► the plugin
//!  plugin_dir ─► launch ┘  │
//!                          ▼
//!                        the list ◄─ tell: which plugin next? ◄─ core, at its verbs
//!                                     └─► merge, owners: what they want, who set what
//! ```
//!
//! Plugins are asked in the order of their index. No lock is held around a call: two objects are
//! told of side by side, and a plugin that is stuck with one holds up that one, for
//! `request_timeout`. Core speaks to this module in messages and knows no plugin; what this module
//! needs of core it gets through [`Host`].

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config;

mod error;
mod join;
mod launch;
mod link;
mod listen;
mod merge;
mod mux;
mod owners;
mod plugin;
mod tell;
mod told;
mod ttrpc;
pub mod wire;

#[cfg(test)]
mod tests;

pub use error::NriError;
pub use owners::Field;
pub use told::Told;

use plugin::Plugin;
use wire::{Container, ContainerUpdate, Pod};

/// The service that plugins offer.
const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The service that we offer them.
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// Plugins at a time, with those that have not registered yet. A node has a handful; each may cost
/// every request its timeout.
const MAX_PLUGINS: usize = 64;

/// How long a plugin may take to say goodbye when the daemon goes down.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long plugins that were started by us may take to be gone.
const REAPED: Duration = Duration::from_secs(3);

/// How long a change of another container may be waited for. Two containers may wait for each other
/// when plugins answer the update of each with one of the other.
const APPLIED: Duration = Duration::from_secs(10);

/// Work of the host, as a trait object can return it.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What plugins may learn of core and ask of it.
pub trait Host: Send + Sync {
    /// A pod, also one that is still being made.
    fn pod(&self, id: &str) -> Option<Pod>;

    /// All that plugins have been told of, and nothing else: objects whose [`Told::is_shown`].
    fn picture(&self) -> Work<'_, Picture>;

    /// Changes the limits of a container; an error is in words.
    fn update<'a>(&'a self, update: &'a ContainerUpdate) -> Work<'a, Result<(), String>>;
}

/// What there is when a plugin joins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Pods.
    pub pods: Vec<Pod>,
    /// Containers.
    pub containers: Vec<Container>,
}

/// All plugins. Cheap to clone.
#[derive(Clone)]
pub struct Plugins(Arc<Shared>);

struct Shared {
    /// In the order in which they are asked.
    list: Mutex<Vec<Arc<Plugin>>>,
    serial: AtomicU64,
    host: OnceLock<Arc<dyn Host>>,
    /// Places for connections.
    places: Arc<Semaphore>,
    registration_timeout: Duration,
    request_timeout: Duration,
    /// Name and version that plugins are told.
    runtime: (&'static str, &'static str),
}

/// Who a plugin is.
#[derive(Clone, Debug)]
struct Identity {
    index: String,
    name: String,
    config: String,
}

impl Plugins {
    /// No plugins yet. `runtime` is the name and version that plugins are told.
    pub fn new(config: &config::Nri, runtime: (&'static str, &'static str)) -> Self {
        Self(Arc::new(Shared {
            list: Mutex::default(),
            serial: AtomicU64::new(0),
            host: OnceLock::new(),
            places: Arc::new(Semaphore::new(MAX_PLUGINS)),
            registration_timeout: config.registration_timeout,
            request_timeout: config.request_timeout,
            runtime,
        }))
    }

    /// Starts the plugins of the configuration and listens for others. Plugins that are started here
    /// have their picture, or are gone, when this returns.
    ///
    /// A socket that cannot be had is logged: the node works without.
    pub async fn serve(&self, config: &config::Nri, host: Arc<dyn Host>) {
        self.0.host.set(host).ok();
        if !config.enable {
            return;
        }
        launch::launch_all(self, config).await;
        if config.disable_connections {
            return;
        }
        match listen::bind(&config.socket) {
            Ok(listener) => {
                tracing::info!(socket = %config.socket.display(), "listening for NRI plugins");
                drop(crate::steps::spawn("plugins", listen::accept(self.clone(), listener)));
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(error, "no NRI plugin can connect");
            }
        }
    }

    /// Says goodbye to all plugins and ends those that were started by us.
    pub async fn shut_down(&self) {
        let plugins = self.lock().clone();
        let goodbyes = plugins.into_iter().map(|plugin| {
            tokio::spawn(async move {
                plugin.link.call("Shutdown", Vec::new(), GOODBYE).await.ok();
                plugin.link.close();
            })
        });
        for goodbye in goodbyes.collect::<Vec<_>>() {
            goodbye.await.ok();
        }
        let all = u32::try_from(MAX_PLUGINS).unwrap_or(u32::MAX);
        tokio::time::timeout(REAPED, self.0.places.acquire_many(all)).await.ok();
        self.0.places.close();
    }

    /// Changes another container's limits, as a plugin wants.
    async fn apply(&self, update: &ContainerUpdate) -> Result<(), NriError> {
        let applied = match self.0.host.get() {
            Some(host) => match tokio::time::timeout(APPLIED, host.update(update)).await {
                Ok(applied) => applied,
                Err(_) => Err(format!("is not done after {APPLIED:?}")),
            },
            None => Err("the daemon is still starting".to_owned()),
        };
        let container = || update.container_id.clone();
        applied.map_err(|problem| NriError::Update { container: container(), problem })
    }

    /// The same for several, where nobody can be told of a failure.
    async fn apply_and_log(&self, updates: Vec<ContainerUpdate>) {
        for update in updates {
            if let Err(error) = self.apply(&update).await {
                tracing::warn!(error = crate::error::chain(&error), "not done");
            }
        }
    }

    async fn picture(&self) -> Picture {
        match self.0.host.get() {
            Some(host) => host.picture().await,
            None => Picture::default(),
        }
    }

    /// Enters a plugin at its place in the order.
    fn enter(&self, make: impl FnOnce(u64) -> Plugin) -> Arc<Plugin> {
        let plugin = Arc::new(make(self.0.serial.fetch_add(1, Ordering::Relaxed)));
        let mut list = self.lock();
        list.push(plugin.clone());
        list.sort_by(|a, b| (&a.index, a.serial).cmp(&(&b.index, b.serial)));
        plugin
    }

    fn leave(&self, plugin: &Plugin) {
        self.lock().retain(|other| other.serial != plugin.serial);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Plugin>>> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
