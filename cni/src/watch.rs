//! [`ConfigDir`]: the network configuration of a directory, always as it is now.
//!
//! A task of its own reads the directory when inotify reports a change and, because inotify may be
//! exhausted (EMFILE, ENOSPC) or blind (network file systems), every few seconds anyway. It also
//! looks for the plugins' programs and asks them which versions they speak. Readers get the last
//! answer from memory and never wait.
//!
//! Files are often replaced by programs that write them in pieces. So a change is read when the
//! directory has been quiet for a moment, and a configuration that became unreadable is given up
//! only if it is still unreadable a second later.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Guard;
use crate::conflist::NetworkConfig;
use crate::conflist::load::{self, LoadError};
use crate::invoke::{InvokeError, Plugins};
use crate::version::Version;

mod notify;
mod probe;

use notify::Notifier;
use probe::Prober;

/// Time between two readings when nothing is reported.
const POLL: Duration = Duration::from_secs(5);

/// Quiet time after a change before it is read.
const QUIET: Duration = Duration::from_millis(200);

/// Longest wait for quiet.
const RESTLESS: Duration = Duration::from_secs(1);

/// How long a configuration must have been unreadable before it is given up.
const CONFIRM: Duration = Duration::from_secs(1);

/// Why a directory gives no network, or not the one that somebody may expect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Problem {
    /// There is no directory, or no file in it.
    #[error("no network configuration in {directory}", directory = directory.display())]
    Nothing {
        /// The directory.
        directory: PathBuf,
    },
    /// A file, or the directory itself, is broken. Others are used if they are good.
    #[error("network configuration")]
    Broken(#[source] Arc<LoadError>),
    /// The program of a plugin cannot be found or run.
    #[error("network {network} of {file}", file = file.display())]
    Plugin {
        /// The network.
        network: String,
        /// The file that names the plugin.
        file: PathBuf,
        /// Why.
        source: Arc<InvokeError>,
    },
    /// A plugin speaks none of the network's versions.
    #[error(
        "network {network} of {file} wants version {wanted}, plugin {plugin} speaks {spoken}",
        file = file.display()
    )]
    Version {
        /// The network.
        network: String,
        /// The file that names the plugin.
        file: PathBuf,
        /// The plugin.
        plugin: String,
        /// The network's versions.
        wanted: String,
        /// The plugin's versions.
        spoken: String,
    },
}

impl Problem {
    /// Does this alone keep the chosen network from being used?
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Problem::Broken(_))
    }
}

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The chosen network. It may still be unusable: see [`usable`](Self::usable).
    pub network: Option<Arc<NetworkConfig>>,
    /// Everything that is wrong, in the order of the files.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// The network, if nothing stands in its way.
    pub fn usable(&self) -> Option<&Arc<NetworkConfig>> {
        self.network.as_ref().filter(|_| !self.problems.iter().any(Problem::is_fatal))
    }

    fn same_as(&self, other: &Self) -> bool {
        let texts = |loaded: &Self| -> Vec<String> {
            loaded.problems.iter().map(|problem| crate::error::chain(problem)).collect()
        };
        self.network == other.network && texts(self) == texts(other)
    }
}

/// A directory that is watched. Dropping it ends the watching; receivers keep the last value.
#[derive(Debug)]
pub struct ConfigDir {
    loaded: watch::Receiver<Arc<Loaded>>,
    task: JoinHandle<()>,
}

impl ConfigDir {
    /// Starts to watch. The directory is read once before this returns, so that the first question
    /// has an answer; which versions the plugins speak is known a moment later.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn watch(directory: PathBuf, plugins: Plugins) -> Self {
        let mut watcher =
            Watcher { prober: Prober::new(plugins.clone()), directory, plugins, suspect: None };
        let first = watcher.read_without_probing();
        let (publish, loaded) = watch::channel(Arc::new(first));
        let task = tokio::spawn(async move { watcher.run(publish).await });
        Self { loaded, task }
    }

    /// What the directory holds, now and from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Loaded>> {
        self.loaded.clone()
    }

    /// What the directory holds now.
    pub fn current(&self) -> Arc<Loaded> {
        self.loaded.borrow().clone()
    }
}

impl Drop for ConfigDir {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file and when it was last modified.
type FileState = (PathBuf, Option<SystemTime>);

/// The task.
struct Watcher {
    directory: PathBuf,
    plugins: Plugins,
    prober: Prober,
    /// Broken files instead of a configuration that there was: when first seen, and in what state.
    suspect: Option<(Instant, Vec<FileState>)>,
}

impl Watcher {
    async fn run(mut self, publish: watch::Sender<Arc<Loaded>>) {
        let mut notifier = Notifier::default();
        loop {
            // Before reading: what changes after this is reported, what changed before is read.
            let network = publish.borrow().network.clone();
            notifier.watch(&self.places(network.as_deref()));
            let loaded = self.read().await;
            let again = self.publish(loaded, &publish);
            let pause = again.unwrap_or(POLL);
            if tokio::time::timeout(pause, notifier.changed()).await.is_ok() {
                let restless = Instant::now() + RESTLESS;
                while Instant::now() < restless
                    && tokio::time::timeout(QUIET, notifier.changed()).await.is_ok()
                {
                }
            }
        }
    }

    /// The directories whose changes matter.
    fn places(&self, network: Option<&NetworkConfig>) -> Vec<PathBuf> {
        let mut places = vec![self.directory.clone()];
        // Of a directory that does not exist, its parent reports the making.
        if !self.directory.exists()
            && let Some(parent) = self.directory.parent()
        {
            places.push(parent.to_owned());
        }
        places.extend(network.map(|network| self.directory.join(network.name())));
        places.extend(self.plugins.directories().iter().cloned());
        places
    }

    /// Publishes what was read if it is news. Says when to read again, if that is soon.
    fn publish(
        &mut self,
        loaded: Loaded,
        publish: &watch::Sender<Arc<Loaded>>,
    ) -> Option<Duration> {
        let broken = broken_files(&loaded);
        if loaded.network.is_none() && !broken.is_empty() && publish.borrow().network.is_some() {
            // A file that is still being written is in another state each time.
            let since = match &self.suspect {
                Some((since, files)) if *files == broken => *since,
                _ => self.suspect.insert((Instant::now(), broken)).0,
            };
            if since.elapsed() < CONFIRM {
                return Some(CONFIRM);
            }
        }
        self.suspect = None;
        publish.send_if_modified(|current| {
            if current.same_as(&loaded) {
                return false;
            }
            report(&loaded);
            *current = Arc::new(loaded);
            true
        });
        None
    }

    async fn read(&mut self) -> Loaded {
        let directory = self.directory.clone();
        let guard = self.plugins.guard();
        let read = tokio::task::spawn_blocking(move || read(&directory, guard)).await;
        // The reading cannot panic, and a runtime that shuts down ends this task as well.
        let mut loaded = read.unwrap_or_default();
        if let Some(network) = loaded.network.take() {
            let probed = self.prober.probe(network).await;
            loaded.network = Some(probed.network);
            loaded.problems.extend(probed.problems);
        }
        loaded
    }

    fn read_without_probing(&mut self) -> Loaded {
        let mut loaded = read(&self.directory, self.plugins.guard());
        if let Some(network) = &loaded.network {
            loaded.problems.extend(self.prober.missing(network));
        }
        loaded
    }
}

fn read(directory: &Path, guard: Guard) -> Loaded {
    let choice = load::choose_guarded(directory, guard);
    let mut problems: Vec<_> =
        choice.errors.into_iter().map(|error| Problem::Broken(Arc::new(error))).collect();
    if choice.config.is_none() && problems.is_empty() {
        problems.push(Problem::Nothing { directory: directory.to_owned() });
    }
    Loaded { network: choice.config.map(Arc::new), problems }
}

fn broken_files(loaded: &Loaded) -> Vec<FileState> {
    let state = |problem: &Problem| match problem {
        Problem::Broken(error) => {
            let modified = std::fs::metadata(error.path()).and_then(|meta| meta.modified());
            Some((error.path().to_owned(), modified.ok()))
        }
        _ => None,
    };
    loaded.problems.iter().filter_map(state).collect()
}

fn report(loaded: &Loaded) {
    for problem in &loaded.problems {
        tracing::warn!(problem = crate::error::chain(problem), "network configuration");
    }
    if let Some(network) = loaded.usable() {
        tracing::info!(
            network = network.name(),
            file = network.file().map(|file| file.display().to_string()),
            version = %network.version(),
            "network configuration loaded"
        );
    }
}

fn joined<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

/// The newest of the network's versions that every plugin speaks.
fn agreed(network: &NetworkConfig, spoken: &[Option<Vec<String>>]) -> Option<Version> {
    let all_speak = |version: &Version| {
        let speaks = |of_one: &Option<Vec<String>>| match of_one {
            None => true,
            Some(versions) => versions.iter().any(|text| text == version.as_str()),
        };
        spoken.iter().all(speaks)
    };
    network.versions().iter().rev().copied().find(all_speak)
}
