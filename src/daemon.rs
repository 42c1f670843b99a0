//! Builds every part, finds what a former daemon left, serves, and goes down cleanly.
//!
//! Known by nobody but `main`. Containers are not the daemon's children and outlive it: going down
//! means to finish what is in flight, no more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::apparmor::Apparmor;
use crate::cgroup::{Cgroups, Driver};
use crate::config::{CgroupDriver, Config, HandlerKind};
use crate::container::{self, Containers};
use crate::cri::answer::MAX_MESSAGE;
use crate::cri::image_service::ImageStore;
use crate::cri::layer::Calls;
use crate::cri::report::Reporter;
use crate::cri::runtime_service::{NodeEvents, Runtime as RuntimeApi};
use crate::cri::{ImageServiceServer, RuntimeServiceServer};
use crate::error::chain;
use crate::health;
use crate::host::Host;
use crate::image::Images;
use crate::metrics::{self, Metrics};
use crate::network::{Networks, PodRanges, left_running};
use crate::nri::Plugins;
use crate::path::Layout;
use crate::pod::{self, Pods};
use crate::rootfs;
use crate::runtime::handlers::Inventory;
use crate::runtime::{Environment, Runtime, SystemdCgroup, Turns};
use crate::stats::{self, Stats, WritableLayers};
use crate::steps::{self, Operations, blocking};
use crate::stream;
use crate::sys::listen::listen;
use crate::trust::{self, Program};

mod drain;
mod own;
mod plugins;
mod settle;

/// How often networks are given back while some are owed, at least: addresses may be scarce.
const OWED: Duration = Duration::from_secs(5);

/// How often the gauges of the metrics are brought up to date.
const GAUGES: Duration = Duration::from_secs(5);

/// Runtime programs started side by side, per processor and at least; more only slow each other.
const RUNTIMES_PER_CPU: usize = 4;

/// All parts of a running daemon.
struct Daemon {
    pods: Pods,
    containers: Containers,
    reporter: Arc<Reporter>,
    images: Images,
    layers: WritableLayers,
    metrics: Arc<Metrics>,
    /// Plugins of the Node Resource Interface.
    plugins: Plugins,
    events: NodeEvents,
    stats: Stats,
    /// Becomes true when pods and containers have been found again.
    recovered: watch::Sender<bool>,
    /// Pods whose network could not be given back yet.
    owed: watch::Sender<usize>,
    cgroups: Cgroups,
    operations: Operations,
    calls: Calls,
    /// Held for as long as the daemon lives.
    _locks: [File; 2],
}

/// Runs the daemon until SIGTERM or SIGINT.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let config = blocking(move || trust::only_trusted(config)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    raise_descriptor_limit();
    let listener = config.cri.listen.clone();
    let metrics_address = config.metrics.listen;
    let stream_config = config.stream.clone();
    let daemon = Daemon::build(config).await?;
    let socket = bind(&listener)?;
    let (stop, stopping) = watch::channel(false);
    if let Some(address) = metrics_address {
        let bound = metrics::serve::listen(address).await?;
        let served = metrics::serve::serve(bound, daemon.metrics.clone(), until(stopping.clone()));
        drop(steps::spawn("metrics", served));
    }
    let (pods, containers) = (daemon.pods.clone(), daemon.containers.clone());
    let streams =
        stream::Server::listen(&stream_config, pods, containers, stopping.clone()).await?;
    let server = tokio::spawn(daemon.server(socket, streams.streaming(), stopping));
    let streams = tokio::spawn(streams.serve());
    daemon.recover().await?;
    tracing::info!(socket = %listener.display(), "serving");
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();

    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: going down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: going down"),
            _ = hangup.recv() => {
                tracing::warn!("SIGHUP: the configuration is read at the start only");
                continue;
            }
        }
        break;
    }
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    stop.send_replace(true);
    daemon.events.close();
    drain::drain(&daemon.operations, &daemon.calls.unanswered(), server, streams).await;
    daemon.plugins.shut_down().await;
    fs::remove_file(&listener).ok();
    let cgroups = daemon.cgroups.clone();
    blocking(move || cgroups.remove_default_parent()).await;
    Ok(())
}

impl Daemon {
    async fn build(config: Config) -> anyhow::Result<Self> {
        let layout = Layout::new(&config.root, &config.state);
        let locks = own::take(&layout)?;
        let (pod_records, container_records) = own::records(&layout)?;
        let host = Host::gather()?;
        let cgroups = cgroups(&config, &host);
        make_default_parent(&cgroups).await;
        let inventory = Inventory::take(&config.runtime).await;
        let version = health::version();
        let metrics = Arc::new(Metrics::new(version.version, version.commit.unwrap_or_default())?);
        let images = open_images(&config, &layout, &metrics).await?;
        let pod_ranges = PodRanges::restored(&config.network, layout.pod_ranges()).await;
        let mapped_rootfs = try_mapped_rootfs(&layout).await;
        let networks = Networks::new(&config.network, layout.cni_cache());
        let operations = Operations::default();
        let layers = WritableLayers::new(layout.writable_layers());
        let plugins = Plugins::new(&config.nri, (version.name, version.version));
        let events = NodeEvents::new(metrics.clone());
        let monitor = Program::new(&config.runtime.monitor, config.runtime.trust);

        let containers = Containers::new(Arc::new(container::Parts {
            layout: layout.clone(),
            records: container_records,
            images: images.clone(),
            criu: ArcSwap::from_pointee(inventory.criu.clone()),
            runtimes: runtimes(&config, &inventory, &host, cgroups.driver()),
            monitor: monitor.clone(),
            cgroups: cgroups.clone(),
            apparmor: Apparmor::start(host.security.apparmor),
            host: host.clone(),
            plugins: plugins.clone(),
            operations: operations.clone(),
            outputs: container::exec::Outputs::default(),
            events: events.of_containers(),
            metrics: metrics.clone(),
        }));
        let pods = Pods::new(Arc::new(pod::Parts {
            layout: layout.clone(),
            records: pod_records,
            containers: containers.clone(),
            networks: networks.clone(),
            cgroups: cgroups.clone(),
            host: host.clone(),
            monitor: monitor.clone(),
            handlers: oci_handlers(&config),
            default_handler: config.runtime.default_handler.clone(),
            plugins: plugins.clone(),
            mapped_rootfs: mapped_rootfs.clone(),
            operations: operations.clone(),
            events: events.of_pods(),
            metrics: metrics.clone(),
        }));
        let stats = Stats::new(stats::Parts {
            pods: pods.clone(),
            containers: containers.clone(),
            cgroups: cgroups.clone(),
            mounted: host.cgroups.clone(),
            layout: layout.clone(),
            layers: layers.clone(),
        });
        let (recovered, recovering) = watch::channel(false);
        let calls = Calls::new(recovering.clone(), metrics.clone());
        let (owed, owing) = watch::channel(0);
        let reporter = Arc::new(Reporter {
            config,
            host,
            inventory: Arc::new(ArcSwap::from_pointee(inventory)),
            recovered: recovering,
            networks,
            operations: operations.clone(),
            images: images.clone(),
            layers: layers.clone(),
            cgroups: cgroups.clone(),
            owed: owing,
            pod_ranges,
            mapped_rootfs,
            troubles: [pods.troubles(), containers.troubles()],
        });
        let daemon = Self {
            pods,
            containers,
            reporter,
            images,
            layers,
            metrics,
            plugins,
            events,
            stats,
            recovered,
            owed,
            cgroups,
            operations,
            calls,
            _locks: locks,
        };
        Ok(daemon)
    }

    /// The gRPC server: it listens at once and answers what needs no pod; the rest waits for
    /// recovery.
    fn server(
        &self,
        socket: UnixListener,
        streaming: stream::Streaming,
        stopping: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
        let (pods, containers) = (self.pods.clone(), self.containers.clone());
        let runtime = RuntimeApi::new(
            pods,
            containers,
            streaming,
            self.reporter.clone(),
            self.events.clone(),
            self.stats.clone(),
        );
        let images = ImageStore::new(self.images.clone(), self.layers.clone());
        Server::builder()
            .layer(self.calls.clone())
            .add_service(
                RuntimeServiceServer::new(runtime)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                ImageServiceServer::new(images)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .serve_with_incoming_shutdown(UnixListenerStream::new(socket), until(stopping))
    }

    /// Finds what a former daemon left, then starts what goes on in the background.
    async fn recover(&self) -> anyhow::Result<()> {
        let pods = Layout::new(&self.reporter.config.root, &self.reporter.config.state).pods();
        left_running::settle(&pods, left_running::PATIENCE).await;
        self.containers.recover().await.context("find containers again")?;
        settle::images(&self.containers, &self.images).await;
        self.pods.recover().await.context("find pods again")?;
        let (pods, containers) = (self.pods.clone(), self.containers.clone());
        let objects = Arc::new(plugins::Objects { pods, containers });
        self.plugins.serve(&self.reporter.config.nri, objects).await;
        self.recovered.send_replace(true);
        drop(steps::spawn("slow steps", self.operations.clone().tell_slow_steps()));
        drop(steps::spawn("writable layers", self.layers.clone().sample()));
        drop(steps::spawn("statistics", self.stats.clone().sample()));
        let every = self.reporter.config.sweep_interval;
        let paid = pay_networks(every, self.pods.clone(), self.owed.clone());
        drop(steps::spawn("owed networks", paid));
        let (pods, containers) = (self.pods.clone(), self.containers.clone());
        drop(steps::spawn("sweep", sweep(every, pods, containers, self.images.clone())));
        let retaken = retake(every, self.reporter.clone(), self.containers.clone());
        drop(steps::spawn("inventory", retaken));
        let (pods, containers) = (self.pods.clone(), self.containers.clone());
        let gauges = gauge(pods, containers, self.reporter.clone(), self.metrics.clone());
        drop(steps::spawn("gauges", gauges));
        Ok(())
    }
}

async fn open_images(
    config: &Config,
    layout: &Layout,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Images> {
    let (dir, config, metrics) = (layout.images(), config.image.clone(), metrics.clone());
    let mounts = layout.state().to_owned();
    let opened = blocking(move || Images::open((&dir, &mounts), &config, metrics)).await;
    opened.context("open the image store")
}

async fn make_default_parent(cgroups: &Cgroups) {
    let cgroups = cgroups.clone();
    blocking(move || cgroups.make_default_parent()).await;
}

/// Whether root file systems can be mapped for user namespaces here; if not, why.
async fn try_mapped_rootfs(layout: &Layout) -> Result<(), String> {
    let root = layout.root().to_owned();
    let probed = blocking(move || rootfs::mapping::probe(&root)).await;
    if let Err(reason) = &probed {
        tracing::info!(reason, "no user namespaces for pods");
    }
    probed
}

/// Gives back the networks that are owed, for as long as the daemon lives.
async fn pay_networks(every: Duration, pods: Pods, owed: watch::Sender<usize>) {
    loop {
        let left = pods.sweep_networks().await;
        owed.send_replace(left);
        tokio::time::sleep(if left > 0 { every.min(OWED) } else { every }).await;
    }
}

/// Finishes what failed to be cleaned up, for as long as the daemon lives.
async fn sweep(every: Duration, pods: Pods, containers: Containers, images: Images) {
    loop {
        tokio::time::sleep(every).await;
        for swept in [containers.recover().await, pods.recover().await] {
            if let Err(error) = swept {
                tracing::error!(error = %chain(&error), "look for leftovers");
            }
        }
        pods.look_at_parts().await;
        settle::images(&containers, &images).await;
    }
}

/// Looks at the runtimes again and again, so that a repaired node becomes ready.
async fn retake(every: Duration, reporter: Arc<Reporter>, containers: Containers) {
    loop {
        tokio::time::sleep(every).await;
        let inventory = Inventory::take(&reporter.config.runtime).await;
        containers.learn(&inventory);
        reporter.inventory.store(Arc::new(inventory));
    }
}

/// Keeps the gauges at what is in memory, for as long as the daemon lives.
async fn gauge(pods: Pods, containers: Containers, reporter: Arc<Reporter>, metrics: Arc<Metrics>) {
    use crate::container::state::State as ContainerState;
    use crate::pod::state::State as PodState;
    loop {
        let pods = pods.list();
        let ready = pods.iter().filter(|pod| pod.state == PodState::Ready).count();
        metrics.set_pods("ready", ready);
        metrics.set_pods("notready", pods.len() - ready);
        let containers = containers.list();
        let count =
            |of: &[ContainerState]| containers.iter().filter(|c| of.contains(&c.state)).count();
        metrics
            .set_containers("created", count(&[ContainerState::Created, ContainerState::Starting]));
        metrics
            .set_containers("running", count(&[ContainerState::Running, ContainerState::Stopping]));
        metrics
            .set_containers("exited", count(&[ContainerState::Exited, ContainerState::Removing]));
        metrics.set_containers("unknown", count(&[ContainerState::Unknown]));
        metrics.set_owed(*reporter.owed.borrow());
        metrics.set_network_ready(reporter.networks.readiness().is_ok());
        tokio::time::sleep(GAUGES).await;
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    stopping.wait_for(|stopping| *stopping).await.ok();
}

/// What is below belongs to root: in a writable layer lie set-user-id files of a container's making.
///
/// A runtime walks to a root file system as the root of the pod's user namespace, so that way, and
/// nothing else, can be walked by anybody: at its end, each bundle is open to its own pod's root.
fn directories(layout: &Layout) -> anyhow::Result<()> {
    let all = [
        (layout.root().to_owned(), 0o700),
        (layout.state().to_owned(), 0o711),
        (layout.pods(), 0o700),
        (layout.bundles(), 0o711),
        (layout.runtime_roots(), 0o700),
        (layout.writable_layers(), 0o700),
        (layout.checkpoints(), 0o700),
        (layout.owed_networks(), 0o700),
    ];
    for (dir, mode) in all {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&dir)
            .and_then(|()| fs::set_permissions(&dir, PermissionsExt::from_mode(mode)))
            .with_context(|| format!("make {}", dir.display()))?;
    }
    Ok(())
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    let listener = match listen(path, 0o660) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("somebody else listens on {}", path.display());
        }
        listener => listener.with_context(|| format!("bind {}", path.display()))?,
    };
    Ok(UnixListener::from_std(listener)?)
}

fn cgroups(config: &Config, host: &Host) -> Cgroups {
    let driver = match host.cgroup_driver(config.cgroup.driver) {
        CgroupDriver::Systemd => Driver::Systemd,
        CgroupDriver::Auto | CgroupDriver::Cgroupfs => Driver::Cgroupfs,
    };
    let mounted = &host.cgroups;
    let hierarchies: BTreeSet<_> = mounted.v1.values().chain(&mounted.unified).cloned().collect();
    Cgroups::new(driver, hierarchies.into_iter().collect())
}

fn oci_handlers(config: &Config) -> BTreeSet<String> {
    let handlers = config.runtime.handlers.iter();
    handlers.filter(|(_, h)| h.kind == HandlerKind::Oci).map(|(name, _)| name.clone()).collect()
}

fn runtimes(
    config: &Config,
    inventory: &Inventory,
    host: &Host,
    driver: Driver,
) -> std::collections::BTreeMap<String, Arc<Runtime>> {
    let systemd = match driver {
        Driver::Systemd => SystemdCgroup::Yes,
        Driver::Cgroupfs => SystemdCgroup::No,
    };
    let turns = Turns::new(host.cpus * RUNTIMES_PER_CPU);
    let environment = Environment::new(&config.runtime.search_path);
    let usable = config.runtime.handlers.iter().filter_map(|(name, handler)| {
        let report = inventory.handlers.get(name).filter(|_| handler.kind == HandlerKind::Oci)?;
        let (features, turns) = (report.features.clone(), turns.clone());
        let program = Program::new(&handler.path, config.runtime.trust);
        let runtime = (handler, program);
        let runtime = Runtime::new(runtime, features, systemd, environment.clone(), turns);
        Some((name.clone(), Arc::new(runtime)))
    });
    usable.collect()
}

/// Every container costs a descriptor; the soft limit is for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "raise the limit of open files");
    }
}
