//! Answers `Status` and `RuntimeConfig` from what is in memory. Nothing here waits.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cgroup::{Cgroups, Driver};
use crate::config::Config;
use crate::health::{self, Facts, InFlight, Readiness, Storage};
use crate::host::Host;
use crate::image::Images;
use crate::network::{Networks, PodRanges};
use crate::record::Troubles;
use crate::runtime::handlers::Inventory;
use crate::stats::WritableLayers;
use crate::steps::Operations;

use super::pb;

/// Everything `Status` looks at.
pub struct Reporter {
    /// In force.
    pub config: Config,
    /// Gathered at start.
    pub host: Host,
    /// Taken again and again.
    pub inventory: Arc<ArcSwap<Inventory>>,
    /// Whether pods and containers have been found again.
    pub recovered: watch::Receiver<bool>,
    /// Networks.
    pub networks: Networks,
    /// Work in flight.
    pub operations: Operations,
    /// Images.
    pub images: Images,
    /// Writable layers.
    pub layers: WritableLayers,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Whether root file systems can be mapped for user namespaces here; if not, why.
    pub mapped_rootfs: Result<(), String>,
    /// Pods whose network could not be given back yet.
    pub owed: watch::Receiver<usize>,
    /// What is wrong with records.
    pub troubles: [Troubles; 2],
    /// The ranges of pod addresses that the kubelet tells.
    pub pod_ranges: Arc<PodRanges>,
}

impl Reporter {
    /// The answer to `Status`.
    pub fn status(&self, verbose: bool) -> pb::StatusResponse {
        let inventory = self.inventory.load();
        let recovery = self.recovery();
        let network = self.network();
        let in_flight = self.in_flight();
        let unpacker_gaps = self.images.unpacker_gaps();
        let troubles: Vec<_> = self.troubles.iter().flat_map(Troubles::list).collect();
        let facts = Facts {
            config: &self.config,
            host: &self.host,
            inventory: &inventory,
            recovery: &recovery,
            network: &network,
            in_flight: &in_flight,
            storage: Storage {
                images_bytes: self.images.usage().used_bytes,
                writable_bytes: self.layers.usage().used_bytes,
                free_bytes: free_bytes(&self.config.root),
            },
            owed: *self.owed.borrow(),
            mapped_rootfs: &self.mapped_rootfs,
            unpacker_gaps: &unpacker_gaps,
            troubles: &troubles,
        };
        let status = health::status(&facts);
        pb::StatusResponse {
            status: Some(pb::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", &status.runtime),
                    condition("NetworkReady", &status.network),
                    condition("RecordsUsable", &status.records),
                ],
            }),
            info: if verbose { health::info(&facts) } else { Default::default() },
            runtime_handlers: status.handlers.into_iter().map(handler).collect(),
            features: Some(pb::RuntimeFeatures {
                supplemental_groups_policy: status.features.supplemental_groups_policy,
                user_namespaces_host_network: status.features.user_namespaces_host_network,
                mount_options: status.features.mount_options,
            }),
        }
    }

    /// The driver that the kubelet must use, too.
    pub fn cgroup_driver(&self) -> pb::CgroupDriver {
        match self.cgroups.driver() {
            Driver::Systemd => pb::CgroupDriver::Systemd,
            Driver::Cgroupfs => pb::CgroupDriver::Cgroupfs,
        }
    }

    fn recovery(&self) -> Readiness {
        if *self.recovered.borrow() {
            return Readiness::Ready;
        }
        Readiness::NotReady {
            reason: "Starting".to_owned(),
            message: "pods and containers are being found again".to_owned(),
        }
    }

    fn network(&self) -> Readiness {
        match self.networks.readiness() {
            Ok(()) => Readiness::Ready,
            Err(why) => Readiness::NotReady { reason: why.reason.to_owned(), message: why.message },
        }
    }

    fn in_flight(&self) -> Vec<InFlight> {
        let running = self.operations.snapshot().into_iter();
        running
            .map(|progress| InFlight {
                operation: progress.verb.to_owned(),
                object: progress.subject,
                step: progress.step.to_owned(),
                age: progress.took,
            })
            .collect()
    }
}

fn condition(type_: &str, readiness: &Readiness) -> pb::RuntimeCondition {
    let (status, reason, message) = match readiness {
        Readiness::Ready => (true, String::new(), String::new()),
        Readiness::NotReady { reason, message } => (false, reason.clone(), message.clone()),
    };
    pb::RuntimeCondition { r#type: type_.to_owned(), status, reason, message }
}

fn handler(handler: health::Handler) -> pb::RuntimeHandler {
    pb::RuntimeHandler {
        name: handler.name,
        features: Some(pb::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only,
            user_namespaces: handler.user_namespaces,
        }),
    }
}

fn free_bytes(root: &std::path::Path) -> u64 {
    rustix::fs::statvfs(root).map_or(0, |found| found.f_bavail * found.f_frsize)
}
