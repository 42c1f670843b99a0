//! A client of the Container Network Interface (CNI), versions 0.3.1 to 1.1.0.
//!
//! It reads network configurations ([`conflist`], [`watch`]), runs their plugins ([`invoke`]),
//! understands their answers ([`result`]) and remembers what was attached ([`cache`]). It knows
//! nothing of who attaches what, and why.
//!
//! ```text
//!   watch ──► conflist ──► Network { add, check, del, status, gc } ──► invoke ──► plugin
//!                                 │            └──► result
//!                                 └──► cache: <dir>/results/<network>-<container>-<interface>
//! ```
//!
//! What callers are promised:
//!
//! - An ADD is in the cache before its first plugin runs. Whatever happens then, a later DEL of
//!   the same attachment finds the configuration, arguments and namespace that ADD used, even if
//!   the configuration file has changed or gone meanwhile.
//! - Every plugin has a deadline and is killed with its process group when that passes or when the
//!   future is dropped. A future that is dropped may leave an attachment half made: call DEL.
//! - Nothing is run in parallel for one attachment, and GC beside nothing, only if the caller sees
//!   to it, as the specification demands of runtimes ("Lifecycle & Ordering").

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub mod cache;
pub mod conflist;
mod error;
pub mod invoke;
mod request;
pub mod result;
mod version;
pub mod watch;

pub use cache::{Cache, Entry};
pub use conflist::{Allowed, NetworkConfig, PluginConfig};
pub use error::{Error, GcErrors};
pub use invoke::{InvokeError, PluginError, Plugins, Verb};
pub use result::AddResult;
pub use version::Version;
pub use watch::{ConfigDir, Loaded, Problem};

use invoke::Call;

#[cfg(test)]
pub(crate) use error::chain as error_chain;

/// Says whether what is at a path may be read or run; an error that it may not, and why.
pub type Guard = fn(&Path) -> io::Result<()>;

/// One container on one network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`: a letter or digit followed by letters, digits, `.`, `_`, `-`.
    pub container_id: String,
    /// `CNI_NETNS`: the container's network namespace. Needed except by DEL, where none means
    /// that it is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`: the interface inside the container, 1 to 15 bytes.
    pub ifname: String,
    /// `CNI_ARGS`. Neither keys nor values may hold `;` or `=`.
    pub args: Vec<(String, String)>,
    /// What there is for `runtimeConfig`, by capability (`portMappings`, `bandwidth`, `dns`,
    /// `ipRanges`, `mac`, …). A plugin gets those that its configuration declares.
    pub capability_args: Map<String, Value>,
}

/// An attachment by name, as GC needs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// A network that containers can be attached to. A cheap value: make one per operation.
#[derive(Clone, Debug)]
pub struct Network {
    config: Arc<NetworkConfig>,
    plugins: Plugins,
    cache: Cache,
}

impl Network {
    /// A network with its plugins and with the cache that remembers its attachments.
    pub fn new(config: Arc<NetworkConfig>, plugins: Plugins, cache: Cache) -> Self {
        Self { config, plugins, cache }
    }

    /// Its configuration.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Attaches a container: ADD of every plugin in order, each with the result of the one before.
    ///
    /// After a failure the caller has to [`del`](Self::del), as the specification demands.
    pub async fn add(&self, attachment: &Attachment) -> Result<AddResult, Error> {
        request::check_attachment(attachment)?;
        if attachment.netns.is_none() {
            return Err(Error::NoNamespace { container: attachment.container_id.clone() });
        }
        let mut entry = Entry::started(&self.config, attachment);
        let (cache, started) = (self.cache.clone(), entry.clone());
        blocking(move || cache.save(&started)).await?;

        let environment = request::environment(attachment);
        let mut previous: Option<Value> = None;
        let mut result = AddResult::default();
        for plugin in self.config.plugins() {
            let mut request = request::base(&self.config, plugin);
            request::insert_runtime_config(&mut request, plugin, &attachment.capability_args);
            if let Some(previous) = previous.take() {
                request.insert("prevResult".to_owned(), previous);
            }
            let output = self.run(plugin, Verb::Add, &environment, request).await?;
            result = AddResult::parse(&output, self.config.version()).map_err(|source| {
                Error::Result { plugin: plugin.kind().to_owned(), source: Box::new(source) }
            })?;
            previous = Some(result.to_value(self.config.version()));
        }
        entry.result = previous;
        self.remember(entry).await?;
        Ok(result)
    }

    /// Asks every plugin whether the attachment is still as ADD made it.
    ///
    /// # Errors
    /// [`Error::NotSpoken`] before version 0.4.0, [`Error::NotAttached`] without a remembered
    /// result, else what the first plugin finds wrong. With `disableCheck` nothing is asked.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        request::check_attachment(attachment)?;
        let remembered = self.find(attachment).await?;
        let network = self.as_added(remembered.as_ref())?;
        network.speaks(Verb::Check, Version::V0_4_0)?;
        if network.config.check() == Allowed::No {
            return Ok(());
        }
        let attached = remembered.and_then(|entry| Some((entry.result.clone()?, entry)));
        let Some((result, entry)) = attached else {
            return Err(Error::NotAttached { container: attachment.container_id.clone() });
        };
        let attachment = Attachment { netns: attachment.netns.clone(), ..as_remembered(&entry) };
        let environment = request::environment(&attachment);
        let result = network.converted(result)?;
        for plugin in network.config.plugins() {
            let mut request = request::base(&network.config, plugin);
            request::insert_runtime_config(&mut request, plugin, &attachment.capability_args);
            request.insert("prevResult".to_owned(), result.clone());
            network.run(plugin, Verb::Check, &environment, request).await?;
        }
        Ok(())
    }

    /// Detaches a container: DEL of every plugin in reverse order, each with the result of ADD.
    ///
    /// Configuration, arguments and result are those that the cache remembers; only without a
    /// usable entry are they the caller's. Stops at the first failure and keeps the entry, so that it can
    /// be repeated; after success the attachment is forgotten. Repeating a DEL is always right.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        request::check_attachment(attachment)?;
        let remembered = match self.find(attachment).await {
            Ok(remembered) => remembered,
            Err(error) => {
                self.warn_of_memory(attachment, &error);
                None
            }
        };
        let network = self.as_added(remembered.as_ref()).unwrap_or_else(|error| {
            self.warn_of_memory(attachment, &error);
            self.clone()
        });
        let (attachment, result) = match remembered {
            None => (attachment.clone(), None),
            Some(entry) => {
                let netns = attachment.netns.clone();
                (Attachment { netns, ..as_remembered(&entry) }, entry.result)
            }
        };
        // A result that cannot be read must not keep the address taken for ever; plugins have to
        // manage without one.
        let result = result
            .filter(|_| network.config.version() >= Version::V0_4_0)
            .and_then(|result| network.converted(result).ok());
        let netns = attachment.netns.filter(|path| request::is_namespace(path));
        let attachment = Attachment { netns, ..attachment };
        let environment = request::environment(&attachment);
        for plugin in network.config.plugins().iter().rev() {
            let mut request = request::base(&network.config, plugin);
            request::insert_runtime_config(&mut request, plugin, &attachment.capability_args);
            if let Some(result) = &result {
                request.insert("prevResult".to_owned(), result.clone());
            }
            network.run(plugin, Verb::Del, &environment, request).await?;
        }
        let cache = self.cache.clone();
        let name = self.config.name().to_owned();
        let Attachment { container_id, ifname, .. } = attachment;
        blocking(move || cache.remove(&name, &container_id, &ifname)).await
    }

    /// Asks every plugin whether containers can be attached now. Before version 1.1.0 there is no
    /// such question and the answer is yes.
    pub async fn status(&self) -> Result<(), Error> {
        if self.config.version() < Version::V1_1_0 {
            return Ok(());
        }
        for plugin in self.config.plugins() {
            let request = request::base(&self.config, plugin);
            self.run(plugin, Verb::Status, &[], request).await?;
        }
        Ok(())
    }

    /// Cleans up: DEL for every remembered attachment to this network that is not in `valid`, then
    /// (from version 1.1.0) GC of every plugin, so that it drops what belongs to no attachment.
    ///
    /// `valid` must be complete: what it does not name loses its network. With `disableGC` nothing
    /// happens. No ADD or DEL may run meanwhile.
    pub async fn gc(&self, valid: &[AttachmentId]) -> Result<(), GcErrors> {
        if self.config.gc() == Allowed::No {
            return Ok(());
        }
        let mut errors = Vec::new();
        let cache = self.cache.clone();
        match blocking(move || cache.list()).await {
            Ok((entries, _)) => {
                let ours = entries.iter().filter(|entry| entry.network_name == self.config.name());
                for entry in ours {
                    let attachment = as_remembered(entry);
                    if !valid.contains(&attachment.id()) {
                        errors.extend(self.del(&attachment).await.err());
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        if self.config.version() >= Version::V1_1_0 {
            for plugin in self.config.plugins() {
                let mut request = request::base(&self.config, plugin);
                request::insert_valid_attachments(&mut request, valid);
                errors.extend(self.run(plugin, Verb::Gc, &[], request).await.err());
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(GcErrors(errors)) }
    }

    /// The same network with the configuration that an ADD used.
    fn as_added(&self, remembered: Option<&Entry>) -> Result<Network, Error> {
        let mut network = self.clone();
        if let Some(entry) = remembered {
            let config = entry.network().map_err(|source| Error::RememberedConfig {
                container: entry.container_id.clone(),
                source: Box::new(source),
            })?;
            network.config = config.into();
        }
        Ok(network)
    }

    fn warn_of_memory(&self, attachment: &Attachment, error: &Error) {
        tracing::warn!(
            container = attachment.container_id,
            network = self.config.name(),
            error = error::chain(error),
            "what is remembered of the attachment is unusable; DEL uses the given configuration"
        );
    }

    fn converted(&self, result: Value) -> Result<Value, Error> {
        let version = self.config.version();
        let result = AddResult::from_value(result, version).map_err(|source| Error::Result {
            plugin: "of the cache".to_owned(),
            source: Box::new(source),
        })?;
        Ok(result.to_value(version))
    }

    fn speaks(&self, verb: Verb, since: Version) -> Result<(), Error> {
        let version = self.config.version();
        if version >= since { Ok(()) } else { Err(Error::NotSpoken { verb, version }) }
    }

    async fn find(&self, attachment: &Attachment) -> Result<Option<Entry>, Error> {
        let (cache, name) = (self.cache.clone(), self.config.name().to_owned());
        let Attachment { container_id, ifname, .. } = attachment.clone();
        blocking(move || cache.find(&name, &container_id, &ifname)).await
    }

    /// Remembers a result: at once for every process, soon on disk.
    async fn remember(&self, entry: Entry) -> Result<(), Error> {
        let (cache, container) = (self.cache.clone(), entry.container_id.clone());
        let file = blocking(move || cache.save_soon(&entry)).await?;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file.sync_all() {
                tracing::warn!(container, %error, "sync the remembered attachment");
            }
        });
        Ok(())
    }

    async fn run(
        &self,
        plugin: &PluginConfig,
        verb: Verb,
        environment: &[(&'static str, OsString)],
        request: Map<String, Value>,
    ) -> Result<Vec<u8>, Error> {
        let input = Value::Object(request).to_string();
        let call = Call { plugin: plugin.kind(), verb, environment, input: input.as_bytes() };
        self.plugins.run(call).await.map_err(|source| Error::Plugin {
            network: self.config.name().to_owned(),
            source: Box::new(source),
        })
    }
}

impl Attachment {
    /// Its name.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }
}

/// The attachment that an entry of the cache remembers.
fn as_remembered(entry: &Entry) -> Attachment {
    Attachment {
        container_id: entry.container_id.clone(),
        netns: Some(PathBuf::from(&entry.netns)),
        ifname: entry.if_name.clone(),
        args: entry.cni_args.clone(),
        capability_args: entry.capability_args.clone(),
    }
}

/// Runs what blocks on the disk on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, cache::CacheError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?;
    done.map_err(|source| Error::Cache(Box::new(source)))
}
