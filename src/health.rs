//! What `Version`, `Status` and `RuntimeConfig` answer, as plain values.
//!
//! Pure assembly of what others found before: no file is read and no lock taken here, so that
//! `Status` answers in microseconds while anything else on the node hangs (R4).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::config::{CgroupDriver, Config, render, table};
use crate::host::Host;
use crate::record::Trouble;
use crate::runtime::criu::Criu;
use crate::runtime::handlers::{Inventory, Problem};

#[cfg(test)]
mod tests;

/// What the kubelet calls the version of its runtime API; it only checks that it is not empty.
const KUBELET_API_VERSION: &str = "0.1.0";

/// The version of the CRI that is served, as in `runtime.v1`.
const CRI_API_VERSION: &str = "v1";

/// What crisol itself can do; the kubelet puts pods that need more on other nodes.
const FEATURES: Features = Features {
    supplemental_groups_policy: true,
    user_namespaces_host_network: false,
    mount_options: true,
};

/// `VersionResponse`, and what `crisol version` prints besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// `version`: that of the kubelet's API.
    #[serde(skip)]
    pub kubelet_api: &'static str,
    /// `runtime_name`
    pub name: &'static str,
    /// `runtime_version`
    pub version: &'static str,
    /// `runtime_api_version`
    pub cri: &'static str,
    /// The commit it was built from, if the build said so (`CRISOL_COMMIT`).
    pub commit: Option<&'static str>,
    /// The compiler, if the build said so (`CRISOL_RUSTC`).
    pub rustc: Option<&'static str>,
}

/// The version of this program.
pub fn version() -> Version {
    Version {
        kubelet_api: KUBELET_API_VERSION,
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        cri: CRI_API_VERSION,
        commit: option_env!("CRISOL_COMMIT").filter(|commit| !commit.is_empty()),
        rustc: option_env!("CRISOL_RUSTC").filter(|rustc| !rustc.is_empty()),
    }
}

impl Version {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        json!(self).to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}\nCRI: {}", self.name, self.version, self.cri)?;
        if let Some(commit) = self.commit {
            write!(f, "\ncommit: {commit}")?;
        }
        if let Some(rustc) = self.rustc {
            write!(f, "\nrustc: {rustc}")?;
        }
        Ok(())
    }
}

/// Whether a part is ready, and if not, why: one word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// It is not.
    NotReady {
        /// One word, e.g. `NetworkPluginNotReady`.
        reason: String,
        /// A sentence.
        message: String,
    },
}

impl Readiness {
    fn not_ready(problem: &Problem) -> Self {
        Self::NotReady { reason: problem.reason.to_owned(), message: problem.message.clone() }
    }
}

/// An operation that has not ended (R37).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InFlight {
    /// E.g. `RunPodSandbox`.
    pub operation: String,
    /// Id or name of what it works on.
    pub object: String,
    /// The step it is in.
    pub step: String,
    /// Since it began.
    #[serde(serialize_with = "seconds", rename = "ageSeconds")]
    pub age: Duration,
}

fn seconds<S: serde::Serializer>(age: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(age.as_millis() as f64 / 1000.0)
}

/// Space on the file system of `root`, as last measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Taken by images.
    pub images_bytes: u64,
    /// Taken by writable layers.
    pub writable_bytes: u64,
    /// Free for us.
    pub free_bytes: u64,
}

/// All that `Status` is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// In force.
    pub config: &'a Config,
    /// Gathered at start.
    pub host: &'a Host,
    /// As last taken.
    pub inventory: &'a Inventory,
    /// Whether the records of the last run have been taken over.
    pub recovery: &'a Readiness,
    /// What the CNI client says.
    pub network: &'a Readiness,
    /// Operations that have not ended.
    pub in_flight: &'a [InFlight],
    /// As last measured.
    pub storage: Storage,
    /// Clean-up that has not succeeded yet.
    pub owed: usize,
    /// Whether root file systems can be mapped for user namespaces here; if not, why.
    pub mapped_rootfs: &'a Result<(), String>,
    /// What this host does not give of the confinement of the processes that unpack images.
    pub unpacker_gaps: &'a [String],
    /// Records that cannot be used.
    pub troubles: &'a [Trouble],
}

/// `StatusResponse`
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// `RuntimeReady`
    pub runtime: Readiness,
    /// `NetworkReady`
    pub network: Readiness,
    /// `RecordsUsable`, which is ours: the kubelet leaves it to people and to what watches the node.
    pub records: Readiness,
    /// The default handler under the empty name, then each by its own; only usable ones, because
    /// the scheduler takes a listed handler for one that works.
    pub handlers: Vec<Handler>,
    /// What crisol itself can do.
    pub features: Features,
}

/// `RuntimeHandler`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Empty for the default one.
    pub name: String,
    /// `recursive_read_only_mounts`
    pub recursive_read_only: bool,
    /// `user_namespaces`
    pub user_namespaces: bool,
}

/// `RuntimeFeatures`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// `supplemental_groups_policy`
    pub supplemental_groups_policy: bool,
    /// `user_namespaces_host_network`
    pub user_namespaces_host_network: bool,
    /// `mount_options`
    pub mount_options: bool,
}

/// `StatusResponse` without its `info`.
pub fn status(facts: &Facts<'_>) -> Status {
    Status {
        runtime: runtime(facts),
        network: facts.network.clone(),
        records: records(facts.troubles),
        handlers: handlers(facts),
        features: FEATURES,
    }
}

/// `RuntimeConfigResponse`: the driver that is in force, never `Auto`. The kubelet follows it
/// (KubeletCgroupDriverFromCRI), so it must be the one that our own groups are made with.
pub fn cgroup_driver(config: &Config, host: &Host) -> CgroupDriver {
    host.cgroup_driver(config.cgroup.driver)
}

/// Pods can be run if records are loaded and the default handler and the monitor are usable.
fn runtime(facts: &Facts<'_>) -> Readiness {
    if facts.recovery != &Readiness::Ready {
        return facts.recovery.clone();
    }
    let name = &facts.config.runtime.default_handler;
    match facts.inventory.usable(name) {
        Err(Some(problem)) => {
            let message = format!("default handler {name}: {}", problem.message);
            Readiness::NotReady { reason: problem.reason.to_owned(), message }
        }
        Err(None) => {
            let message = format!("default handler {name} has not been looked at");
            Readiness::NotReady { reason: "RuntimeMissing".to_owned(), message }
        }
        Ok(_) => match &facts.inventory.monitor {
            Some(problem) => Readiness::not_ready(problem),
            None => Readiness::Ready,
        },
    }
}

/// What a record that cannot be used names is left as it is, so the node goes on.
fn records(troubles: &[Trouble]) -> Readiness {
    let Some(Trouble { path, problem, remedy }) = troubles.first() else {
        return Readiness::Ready;
    };
    let count = troubles.len();
    let message = format!("{count} cannot be used, first {}: {problem}; {remedy}", path.display());
    Readiness::NotReady { reason: "UnusableRecords".to_owned(), message }
}

fn handlers(facts: &Facts<'_>) -> Vec<Handler> {
    let default = facts.config.runtime.default_handler.as_str();
    let named = facts.inventory.handlers.keys().map(|name| (name.as_str(), name.as_str()));
    std::iter::once(("", default))
        .chain(named)
        .filter_map(|(shown, name)| {
            let features = &facts.inventory.usable(name).ok()?.features;
            Some(Handler {
                name: shown.to_owned(),
                recursive_read_only: features.recursive_read_only
                    && facts.host.kernel.has_mount_setattr(),
                user_namespaces: facts.mapped_rootfs.is_ok() && features.idmapped_mounts,
            })
        })
        .collect()
}

/// `StatusResponse.info` of a verbose request: each value is JSON, as crictl expects.
pub fn info(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let handlers: BTreeMap<_, _> = facts
        .inventory
        .handlers
        .iter()
        .map(|(name, report)| {
            let features = &report.features;
            let value = json!({
                "path": report.path,
                "version": report.version.as_ref().map(|version| &version.text),
                "ociVersion": features.oci_version,
                "recursiveReadOnly": features.recursive_read_only,
                "idmappedMounts": features.idmapped_mounts,
                "checkpoint": features.checkpoint && facts.inventory.criu.is_ok(),
                "problem": report.problem,
            });
            (name, value)
        })
        .collect();
    let host = facts.host;
    let entries = [
        ("version", json!(version())),
        ("config", config(facts.config)),
        (
            "cgroup",
            json!({
                "driver": table::driver(cgroup_driver(facts.config, host)),
                "version": host.cgroups.version.as_str(),
            }),
        ),
        (
            "host",
            json!({ "kernel": host.kernel.release, "bootId": host.boot_id, "cpus": host.cpus }),
        ),
        ("handlers", json!(handlers)),
        ("criu", criu(&facts.inventory.criu)),
        ("userNamespaces", user_namespaces(facts.mapped_rootfs)),
        ("unpacker", json!({ "gaps": facts.unpacker_gaps })),
        ("inFlight", json!(facts.in_flight)),
        ("storage", json!(facts.storage)),
        ("owed", json!(facts.owed)),
        ("unusableRecords", json!(facts.troubles)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

fn criu(found: &Criu) -> serde_json::Value {
    json!({ "version": found.as_ref().ok(), "problem": found.as_ref().err() })
}

fn user_namespaces(mapped_rootfs: &Result<(), String>) -> serde_json::Value {
    json!({ "idmappedRootfs": mapped_rootfs.is_ok(), "problem": mapped_rootfs.as_ref().err() })
}

/// The configuration in force in the structure of its file, and what critest looks for to learn on
/// which file system root file systems are: the directory of the state.
fn config(config: &Config) -> serde_json::Value {
    let table = render::effective(config).parse::<toml::Table>();
    let mut value = json!(table.unwrap_or_default());
    value["stateDir"] = json!(config.state);
    value
}
