//! Pulls images: whom to ask, what for, and for whom.
//!
//! One pull of one name with one set of credentials is a task of its own that everybody who asks
//! for the same joins. Nobody who goes away stops it; when all have gone it goes on for a grace
//! period, because the kubelet's next try is on its way (R3, R21).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, interval_at, sleep};
use tracing::{info, warn};

mod resolve;

use super::auth_file;
use super::config;
use super::credentials::Credentials;
use super::digest::chain_ids;
use super::error::ImageError;
use super::layer::{Fetcher, Pulling, Wanted};
use super::policy::Policy;
use super::reference::{Name, Reference};
use super::registries_conf::{Endpoint, RegistriesConf, Role};
use super::registry::{Network, Registry};
use super::store::{NewImage, Store, Unused, lock};
use super::{Image, PullRequest};
use crate::error::{Classify, Kind, chain};
use crate::metrics::Metrics;
use resolve::{Resolved, resolve};

/// How long a pull goes on that nobody waits for.
const GRACE: Duration = Duration::from_secs(30);

/// Time between two lines in the log about a pull that takes long.
const PROGRESS: Duration = Duration::from_secs(30);

/// How a pull ended, for everybody who waits.
type Outcome = Result<Arc<Image>, Arc<ImageError>>;

/// Pulls under way, and what they need.
#[derive(Clone, Debug)]
pub(super) struct Pulls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    settings: crate::config::Image,
    network: Arc<Network>,
    fetcher: Arc<Fetcher>,
    grace: Duration,
    flights: Mutex<HashMap<Key, Flight>>,
    /// registries.conf as it was last read: where a short name may have come from.
    registries: ArcSwap<RegistriesConf>,
    metrics: Arc<Metrics>,
}

/// Requests with the same key are one pull. Credentials are part of it: who has none, or others,
/// has to be told so by the registry himself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    credentials: Option<Credentials>,
}

#[derive(Clone, Debug)]
struct Flight {
    outcome: Arc<watch::Sender<Option<Outcome>>>,
    /// All that the name can mean.
    names: Vec<Reference>,
}

impl Pulls {
    /// Pulls into `store`. Reads registries.conf for the first time.
    pub(super) fn new(
        store: Arc<Store>,
        settings: crate::config::Image,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::with(store, settings, Network::default(), GRACE, metrics)
    }

    pub(super) fn with(
        store: Arc<Store>,
        settings: crate::config::Image,
        network: Network,
        grace: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let registries = RegistriesConf::load(&settings.registries_conf, settings.trust).unwrap_or_else(|error| {
            warn!(error = %chain(&error), "registries.conf is not usable: no image can be pulled");
            RegistriesConf::default()
        });
        let fetcher = Arc::new(Fetcher::new(Arc::clone(&store), settings.max_zstd_window));
        Self(Arc::new(Shared {
            store,
            settings,
            network: Arc::new(network),
            fetcher,
            grace,
            flights: Mutex::default(),
            registries: ArcSwap::from_pointee(registries),
            metrics,
        }))
    }

    /// The full names a stored image may have that is asked for by `name`.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Reference> {
        self.0.registries.load().names(name)
    }

    /// Whether a pull is under way that may give an image this name.
    pub(super) fn is_pulling(&self, reference: &Reference) -> bool {
        lock(&self.0.flights).values().any(|flight| flight.names.contains(reference))
    }

    /// Pulls, or joins the pull that does.
    pub(super) async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, ImageError> {
        let name: Name = request.reference.parse()?;
        let credentials = request.credentials.filter(|credentials| !credentials.is_empty());
        if let Some(credentials) = &credentials {
            credentials.check()?;
        }
        let mut outcome = self.join_or_start(Key { name, credentials });
        // The sender goes without a word only if its task panicked.
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| ImageError::Panicked)?;
        match outcome.as_ref() {
            Some(Ok(image)) => Ok(Arc::clone(image)),
            Some(Err(error)) => Err(ImageError::Shared(Arc::clone(error))),
            None => Err(ImageError::Panicked),
        }
    }

    fn join_or_start(&self, key: Key) -> watch::Receiver<Option<Outcome>> {
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get(&key) {
            return flight.outcome.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let names = self.0.registries.load().names(&key.name);
        let flight = Flight { outcome: Arc::new(sender), names };
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        let entry = Entry { shared: Arc::clone(&self.0), key, flight };
        tokio::spawn(entry.fly());
        receiver
    }
}

/// A pull's place in the table, given up when dropped, also by a panic.
struct Entry {
    shared: Arc<Shared>,
    key: Key,
    flight: Flight,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut flights = lock(&self.shared.flights);
        let ours = |other: &Flight| Arc::ptr_eq(&other.outcome, &self.flight.outcome);
        if flights.get(&self.key).is_some_and(ours) {
            flights.remove(&self.key);
        }
    }
}

impl Entry {
    async fn fly(self) {
        let begin = Instant::now();
        let outcome = tokio::select! {
            outcome = self.shared.run(&self.key) => outcome,
            () = self.abandoned() => Err(ImageError::Abandoned {
                reference: self.key.name.qualify().to_string(),
            }),
        };
        self.shared.metrics.pull_ended(result(&outcome));
        if let Ok(image) = &outcome {
            let took_ms = begin.elapsed().as_millis();
            info!(image = %image.id, name = %self.key.name.qualify(), took_ms, "image pulled");
        }
        let sender = Arc::clone(&self.flight.outcome);
        // Out of the table first: whoever comes now begins anew.
        drop(self);
        sender.send_replace(Some(outcome.map_err(Arc::new)));
    }

    /// Returns when nobody has waited for the grace period.
    async fn abandoned(&self) {
        loop {
            self.flight.outcome.closed().await;
            sleep(self.shared.grace).await;
            // RACE: joining happens under this lock, so either we see the one who joins or he
            // does not see us.
            let mut flights = lock(&self.shared.flights);
            if self.flight.outcome.receiver_count() == 0 {
                flights.remove(&self.key);
                return;
            }
        }
    }
}

/// Counts what was received, however the pull ends.
struct Received<'a> {
    sources: Arc<[Registry]>,
    metrics: &'a Metrics,
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        self.metrics.pulled(self.sources.iter().map(Registry::received).sum());
    }
}

/// The word for how a pull ended.
fn result(outcome: &Result<Arc<Image>, ImageError>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(ImageError::Abandoned { .. }) => "abandoned",
        Err(_) => "failed",
    }
}

impl Shared {
    async fn run(&self, key: &Key) -> Result<Arc<Image>, ImageError> {
        let name = key.name.qualify().to_string();
        let settings = self.settings.clone();
        let read = move || {
            (
                RegistriesConf::load(&settings.registries_conf, settings.trust),
                Policy::load(&settings.policy, settings.trust),
            )
        };
        let (registries, policy) = spawn_blocking(read).await.map_err(|_| ImageError::Panicked)?;
        let of_registries = |source| ImageError::Registries { reference: name.clone(), source };
        let registries = Arc::new(registries.map_err(of_registries)?);
        let policy =
            policy.map_err(|source| ImageError::Rejected { reference: name.clone(), source })?;
        self.registries.store(Arc::clone(&registries));
        let mut candidates = registries.candidates(&key.name).map_err(of_registries)?.into_iter();
        let mut next = candidates.next();
        while let Some(reference) = next {
            next = candidates.next();
            let error = match self.pull_one(&reference, key, &registries, &policy).await {
                Ok(image) => return Ok(image),
                Err(error) => error,
            };
            let elsewhere =
                matches!(error.kind(), Kind::NotFound | Kind::Denied | Kind::NamedByFirstWord);
            if next.is_none() || !elsewhere {
                return Err(error);
            }
        }
        // There is always at least one candidate.
        Err(ImageError::NotFound { text: name })
    }

    async fn pull_one(
        &self,
        reference: &Reference,
        key: &Key,
        registries: &RegistriesConf,
        policy: &Policy,
    ) -> Result<Arc<Image>, ImageError> {
        let text = reference.to_string();
        policy
            .check(reference)
            .map_err(|source| ImageError::Rejected { reference: text.clone(), source })?;
        let endpoints = registries
            .endpoints(reference)
            .map_err(|source| ImageError::Registries { reference: text.clone(), source })?;
        let sources: Arc<[Registry]> = self.sources(reference, &endpoints, key).await?.into();
        let _counted = Received { sources: Arc::clone(&sources), metrics: &self.metrics };
        let resolved = match resolve(&self.store, reference, &sources).await? {
            Resolved::Known { image, digest } => {
                if let Some(named) = self.add_name(&image, reference, digest).await? {
                    return Ok(named);
                }
                // Removed in this very moment; so the long way.
                resolve::anew(reference, &sources).await?
            }
            Resolved::New(resolved) => resolved,
        };
        let pulled = self.complete(reference, resolved, sources).await;
        if pulled.as_ref().is_err_and(|error| error.kind() == Kind::Exhausted) {
            // Whoever is short of space does not keep what came so far.
            let store = Arc::clone(&self.store);
            spawn_blocking(move || store.collect(Unused::Any)).await.ok();
        }
        pulled
    }

    async fn add_name(
        &self,
        image: &Image,
        reference: &Reference,
        digest: super::Digest,
    ) -> Result<Option<Arc<Image>>, ImageError> {
        let (store, id, reference) = (Arc::clone(&self.store), image.id, reference.clone());
        let add = move || store.add_name(&id, &reference, digest);
        Ok(spawn_blocking(add).await.map_err(|_| ImageError::Panicked)??)
    }

    /// Fetches the layers that are missing, all at once, and commits the image.
    async fn complete(
        &self,
        reference: &Reference,
        resolved: resolve::NewManifest,
        sources: Arc<[Registry]>,
    ) -> Result<Arc<Image>, ImageError> {
        let text = reference.to_string();
        let bad_config = |source| ImageError::Config { reference: text.clone(), source };
        let config_bytes = resolve::config_blob(&text, &sources, resolved.manifest.config).await?;
        let (config, diff_ids) = config::parse(&config_bytes).map_err(bad_config)?;
        let layers = resolved.manifest.layers;
        if diff_ids.len() != layers.len() {
            let (diff_ids, layers) = (diff_ids.len(), layers.len());
            return Err(bad_config(config::ConfigError::LayerCount { diff_ids, layers }));
        }
        if config.is_foreign() {
            warn!(name = %reference, architecture = config.architecture,
                "image is for another architecture");
        }
        let chains = chain_ids(&diff_ids);
        let _lease = self.store.lease(&chains);
        let wanted = layers.iter().zip(&diff_ids).enumerate().map(|(at, (blob, diff_id))| Wanted {
            blob: *blob,
            diff_id: *diff_id,
            chain: chains[at],
            below: chains[..at].to_vec(),
        });
        self.fetch_layers(&text, wanted.collect(), &sources).await?;
        let digest = resolved.digest;
        let new = NewImage { config_bytes, config, diff_ids, reference: reference.clone(), digest };
        let store = Arc::clone(&self.store);
        let commit = move || {
            let image = store.commit_image(&new)?;
            store.collect(Unused::Old);
            Ok::<_, ImageError>(image)
        };
        spawn_blocking(commit).await.map_err(|_| ImageError::Panicked)?
    }

    async fn fetch_layers(
        &self,
        reference: &str,
        wanted: Vec<Wanted>,
        sources: &Arc<[Registry]>,
    ) -> Result<(), ImageError> {
        let pulling = Arc::new(Pulling {
            reference: reference.to_owned(),
            sources: Arc::clone(sources),
            unpacker: Arc::default(),
        });
        let mut fetches = JoinSet::new();
        let mut below_done = None;
        for wanted in wanted {
            let (done, next) = oneshot::channel();
            let below = below_done.replace(next);
            let (fetcher, pulling) = (Arc::clone(&self.fetcher), Arc::clone(&pulling));
            fetches.spawn(async move {
                fetcher.ensure(&pulling, wanted, below).await?;
                // Nobody is above the topmost layer.
                done.send(()).ok();
                Ok::<_, ImageError>(())
            });
        }
        let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
        loop {
            tokio::select! {
                fetched = fetches.join_next() => match fetched {
                    None => break,
                    // The first failure is the reason; dropping the set stops the others.
                    Some(fetched) => fetched.map_err(|_| ImageError::Panicked)??,
                },
                _ = progress.tick() => {
                    let bytes: u64 = sources.iter().map(Registry::received).sum();
                    info!(name = reference, bytes, layers_left = fetches.len(), "image is being pulled");
                }
            }
        }
        Ok(())
    }

    /// The registries to ask, in order, each with the credentials that are meant for it.
    async fn sources(
        &self,
        reference: &Reference,
        endpoints: &[Endpoint],
        key: &Key,
    ) -> Result<Vec<Registry>, ImageError> {
        let mut sources = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            // What a request brings is for the registry it names: not for its mirrors, and not
            // for another host that registries.conf puts in its place (S54).
            let same =
                endpoint.role == Role::Primary && endpoint.reference.host() == reference.host();
            let given = key.credentials.as_ref().filter(|given| same && given.are_for(reference));
            let credentials = match given {
                Some(given) => Some(given.clone()),
                None => self.stored_credentials(reference, &endpoint.reference).await?,
            };
            sources.push(Registry::new(&self.network, endpoint, credentials));
        }
        Ok(sources)
    }

    async fn stored_credentials(
        &self,
        reference: &Reference,
        endpoint: &Reference,
    ) -> Result<Option<Credentials>, ImageError> {
        let Some(path) = self.settings.auth_file.clone() else { return Ok(None) };
        let (endpoint, trust) = (endpoint.clone(), self.settings.trust);
        let found = spawn_blocking(move || auth_file::find(&path, trust, &endpoint)).await;
        found.map_err(|_| ImageError::Panicked)?.map_err(|source| {
            let reference = reference.to_string();
            ImageError::AuthFile { reference, source }
        })
    }
}
