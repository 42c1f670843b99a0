//! Is the network ready for pods? Asked in the background, answered from memory.
//!
//! What the configuration directory holds arrives by itself; from CNI 1.1.0 on the plugins are
//! also asked (STATUS), now and then and after every change.

use std::sync::Arc;
use std::time::Duration;

use cni::conflist::load::LoadError;
use cni::{InvokeError, Loaded, Network, Plugins, Problem, Version};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error;

/// Time between two STATUS; the kubelet asks us about as often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Time for one plugin's STATUS.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why pods cannot get a network now, as the condition `NetworkReady` of CRI's Status says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("network is not ready ({reason}): {message}")]
pub struct NotReady {
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// For people; names the file or the program.
    pub message: String,
}

/// What the plugins said last; none = nothing yet.
type Answer = Option<Result<(), NotReady>>;

/// The answers, kept up to date by a task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Status {
    loaded: watch::Receiver<Arc<Loaded>>,
    answer: watch::Receiver<Answer>,
    task: JoinHandle<()>,
}

impl Status {
    pub(super) fn watch(
        loaded: watch::Receiver<Arc<Loaded>>,
        plugins: &Plugins,
        cache: &cni::Cache,
    ) -> Self {
        let (publish, answer) = watch::channel(None);
        let asker = Asker {
            loaded: loaded.clone(),
            plugins: plugins.clone().with_deadline(DEADLINE),
            cache: cache.clone(),
        };
        let task = tokio::spawn(asker.run(publish));
        Self { loaded, answer, task }
    }

    /// What the configuration directory holds.
    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.loaded.borrow().clone()
    }

    /// Can pods get a network? Never waits.
    pub(super) fn readiness(&self) -> Result<(), NotReady> {
        let loaded = self.loaded();
        let Some(network) = loaded.usable() else {
            return Err(not_usable(&loaded));
        };
        if network.version() < Version::V1_1_0 {
            return Ok(());
        }
        self.answer.borrow().clone().unwrap_or_else(|| {
            let message = format!("plugins of network {} have not answered yet", network.name());
            Err(NotReady { reason: "NetworkStatusUnknown", message })
        })
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Asker {
    loaded: watch::Receiver<Arc<Loaded>>,
    plugins: Plugins,
    cache: cni::Cache,
}

impl Asker {
    async fn run(mut self, publish: watch::Sender<Answer>) {
        loop {
            let loaded = self.loaded.borrow_and_update().clone();
            let asked = loaded.usable().filter(|network| network.version() >= Version::V1_1_0);
            if let Some(network) = asked {
                let network =
                    Network::new(network.clone(), self.plugins.clone(), self.cache.clone());
                let answer = network.status().await.map_err(|error| NotReady {
                    reason: "NetworkPluginNotReady",
                    message: error::chain(&error),
                });
                publish.send_if_modified(|last| {
                    let news = last.as_ref() != Some(&answer);
                    if news && let Err(reason) = &answer {
                        tracing::warn!(reason = reason.message, "network plugins are not ready");
                    }
                    *last = Some(answer);
                    news
                });
            }
            // An error means that the directory is watched no more: nothing will change.
            if let Ok(Err(_)) = tokio::time::timeout(INTERVAL, self.loaded.changed()).await {
                return;
            }
        }
    }
}

/// Why there is no usable network, in the words of the first problem that stands in its way.
pub(super) fn not_usable(loaded: &Loaded) -> NotReady {
    let in_the_way = |problem: &&Problem| loaded.network.is_none() || problem.is_fatal();
    let mut problems = loaded.problems.iter().filter(in_the_way).peekable();
    let reason = match problems.peek() {
        Some(Problem::Nothing { .. }) | None => "NoNetworkConfig",
        Some(Problem::Broken(error)) if matches!(**error, LoadError::NotTrusted { .. }) => {
            "NetworkConfigNotTrusted"
        }
        Some(Problem::Plugin { source, .. })
            if matches!(**source, InvokeError::NotTrusted { .. }) =>
        {
            "NetworkPluginNotTrusted"
        }
        Some(Problem::Broken(_)) => "BrokenNetworkConfig",
        Some(Problem::Plugin { .. }) => "NetworkPluginMissing",
        Some(Problem::Version { .. }) => "NetworkVersionNotSpoken",
    };
    let messages: Vec<_> = problems.map(|problem| error::chain(problem)).collect();
    NotReady { reason, message: messages.join("; ") }
}
