//! Are a network's plugins there, and which versions do they speak?

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Problem, agreed, joined};
use crate::conflist::{NetworkConfig, PluginConfig};
use crate::invoke::{Call, InvokeError, Plugins, Verb};

/// Time for the answer to VERSION, which does nothing but print.
const DEADLINE: Duration = Duration::from_secs(2);

/// Programs whose answer is remembered.
const MAX_KNOWN: usize = 256;

/// What identifies a program's contents: device, inode, size, time of change.
type Identity = (u64, u64, u64, i64, i64);

/// The versions that a plugin says it speaks; none = its answer made no sense, which restricts
/// nothing.
type Spoken = Option<Vec<String>>;

/// Asks plugins once and again when their program has changed.
pub(super) struct Prober {
    plugins: Plugins,
    known: HashMap<PathBuf, (Identity, Spoken)>,
}

/// A network as its plugins can serve it.
pub(super) struct Probed {
    /// With the version that all of them speak.
    pub(super) network: Arc<NetworkConfig>,
    /// What stands in the way.
    pub(super) problems: Vec<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    supported_versions: Vec<String>,
}

impl Prober {
    pub(super) fn new(plugins: Plugins) -> Self {
        Self { plugins: plugins.with_deadline(DEADLINE), known: HashMap::new() }
    }

    /// The plugins whose program is not there.
    pub(super) fn missing(&self, network: &NetworkConfig) -> Vec<Problem> {
        let find = |plugin: &PluginConfig| self.plugins.find(plugin.kind()).err();
        network.plugins().iter().filter_map(find).map(|error| problem(network, error)).collect()
    }

    /// Chooses the version that all plugins speak.
    pub(super) async fn probe(&mut self, network: Arc<NetworkConfig>) -> Probed {
        let mut problems = Vec::new();
        let mut spoken = Vec::new();
        for plugin in network.plugins() {
            match self.spoken(&network, plugin).await {
                Ok(versions) => spoken.push(versions),
                Err(error) => problems.push(problem(&network, error)),
            }
            // The plugin runs it; whether it is there is the plugin's business.
            let ipam = plugin.fields().get("ipam").and_then(|ipam| ipam.get("type"));
            if let Some(ipam) = ipam.and_then(Value::as_str)
                && let Err(error @ InvokeError::NotTrusted { .. }) = self.plugins.find(ipam)
            {
                problems.push(problem(&network, error));
            }
        }
        if !problems.is_empty() {
            return Probed { network, problems };
        }
        if let Some(version) = agreed(&network, &spoken) {
            if version == network.version() {
                return Probed { network, problems };
            }
            let network = Arc::new(NetworkConfig::clone(&network).with_version(version));
            return Probed { network, problems };
        }
        // Named: the first plugin that alone rules out every version, else the last one, which
        // disagrees with those before it.
        let alone =
            spoken.iter().position(|one| agreed(&network, std::slice::from_ref(one)).is_none());
        let at = alone.unwrap_or(spoken.len() - 1);
        problems.push(Problem::Version {
            network: network.name().to_owned(),
            file: file_of(&network),
            plugin: network.plugins()[at].kind().to_owned(),
            wanted: joined(network.versions()),
            spoken: spoken[at].as_ref().map_or_else(String::new, joined),
        });
        Probed { network, problems }
    }

    async fn spoken(
        &mut self,
        network: &NetworkConfig,
        plugin: &PluginConfig,
    ) -> Result<Spoken, InvokeError> {
        let path = self.plugins.find(plugin.kind())?;
        let identity = identify(&path);
        if let (Some(identity), Some((known, spoken))) = (identity, self.known.get(&path))
            && identity == *known
        {
            return Ok(spoken.clone());
        }
        let request = format!(r#"{{"cniVersion":"{}"}}"#, network.version());
        let call = Call {
            plugin: plugin.kind(),
            verb: Verb::Version,
            environment: &[],
            input: request.as_bytes(),
        };
        let spoken = match self.plugins.run(call).await {
            Ok(answer) => serde_json::from_slice::<VersionAnswer>(&answer)
                .ok()
                .map(|answer| answer.supported_versions),
            // It is there but cannot be run: wrong architecture, no permission.
            Err(
                error @ (InvokeError::Spawn { .. }
                | InvokeError::NotFound { .. }
                | InvokeError::NotTrusted { .. }),
            ) => {
                return Err(error);
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::debug!(plugin = plugin.kind(), error, "no answer to VERSION");
                None
            }
        };
        if let Some(identity) = identity {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(path, (identity, spoken.clone()));
        }
        Ok(spoken)
    }
}

fn identify(path: &Path) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn problem(network: &NetworkConfig, error: InvokeError) -> Problem {
    Problem::Plugin {
        network: network.name().to_owned(),
        file: file_of(network),
        source: Arc::new(error),
    }
}

fn file_of(network: &NetworkConfig) -> PathBuf {
    network.file().unwrap_or(Path::new("")).to_owned()
}
