//! The daemon's configuration as validated. Nothing in here can be wrong any more.
//!
//! ```text
//!  crisol.toml, crisol.d/*.toml ─► raw ─► check ─► Config
//!                                    │       │
//!                     table (keys, defaults, │ reasons) ─► render ─► `crisol config`, deploy/, docs/
//!                                    ▼       ▼
//!                                  all mistakes at once, each with file, line and key
//! ```
//!
//! Adding a key: a field here, a line in `table`, a line in `check`. Tests compare the rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Classify, Kind};
use crate::trust::Trust;

pub mod check;
pub mod raw;
pub mod render;
pub mod table;

mod rules;

#[cfg(test)]
mod tests;

pub use raw::{Mistake, Place};

/// Where the configuration is when the command line names none. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/crisol/crisol.toml";

/// Everything an operator can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Durable data: images, writable layers, records.
    pub root: PathBuf,
    /// What is gone at reboot: sockets, pinned namespaces, mounts, bundles.
    pub state: PathBuf,
    /// Whether files and programs are used that others than root may change.
    pub accept_writable_files: bool,
    /// How often leftovers, owed networks and the runtimes are looked at.
    pub sweep_interval: Duration,
    /// The CRI socket.
    pub cri: Cri,
    /// The exec, attach and port-forward server.
    pub stream: Stream,
    /// CNI.
    pub network: Network,
    /// Control groups.
    pub cgroup: Cgroup,
    /// Images.
    pub image: Image,
    /// Runtimes.
    pub runtime: Runtime,
    /// Plugins of the Node Resource Interface.
    pub nri: Nri,
    /// Logging.
    pub log: Log,
    /// Metrics.
    pub metrics: Metrics,
}

/// `[cri]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cri {
    /// Path of the unix socket.
    pub listen: PathBuf,
}

/// `[stream]`
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Whose files are used; see [`Config::accept_writable_files`].
    pub trust: Trust,
    /// Address that streaming URLs name.
    pub address: IpAddr,
    /// Port; 0 = any free one.
    pub port: u16,
    /// Certificate chain; none = no TLS.
    pub tls_cert: Option<PathBuf>,
    /// Its key; there exactly if the chain is.
    pub tls_key: Option<PathBuf>,
    /// Whom clients' certificates must come from; none = clients need no certificate.
    pub tls_client_ca: Option<PathBuf>,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Whose files are used; see [`Config::accept_writable_files`].
    pub trust: Trust,
    /// Where CNI configurations are.
    pub conf_dir: PathBuf,
    /// What becomes a CNI configuration when the kubelet tells the pods' addresses; none = nothing.
    pub conf_template: Option<PathBuf>,
    /// Where CNI plugins are, in search order.
    pub plugin_dirs: Vec<PathBuf>,
}

/// `[cgroup]`
#[derive(Clone, Debug, PartialEq)]
pub struct Cgroup {
    /// Who makes control groups.
    pub driver: CgroupDriver,
}

/// Who makes control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd where it is the init system, else the file system.
    Auto,
    /// systemd, over D-Bus.
    Systemd,
    /// The cgroup file system.
    Cgroupfs,
}

/// `[image]`
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Whose files are used; see [`Config::accept_writable_files`].
    pub trust: Trust,
    /// containers-registries.conf(5); its drop-in directory is this path with `.d` appended.
    pub registries_conf: PathBuf,
    /// containers-policy.json(5).
    pub policy: PathBuf,
    /// containers-auth.json(5); none = only credentials from requests.
    pub auth_file: Option<PathBuf>,
    /// Bytes of the largest zstd window that layers may have.
    pub max_zstd_window: u64,
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Whose programs are run; see [`Config::accept_writable_files`].
    pub trust: Trust,
    /// Name of the handler for requests that name none.
    pub default_handler: String,
    /// The monitor's program.
    pub monitor: PathBuf,
    /// The directories of the PATH that runtimes get.
    pub search_path: Vec<PathBuf>,
    /// Handlers by name.
    pub handlers: BTreeMap<String, Handler>,
}

/// `[runtime.handlers.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// How the runtime is spoken to.
    pub kind: HandlerKind,
    /// Its program, absolute.
    pub path: PathBuf,
    /// Its state directory (`--root`).
    pub root: PathBuf,
    /// Further command line options, before the command (type `oci`).
    pub options: Vec<String>,
}

/// How a runtime is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerKind {
    /// As a program with the OCI command line.
    Oci,
    /// By containerd's shim v2 protocol.
    Shim,
}

/// `[nri]`
#[derive(Clone, Debug, PartialEq)]
pub struct Nri {
    /// Whose files are used; see [`Config::accept_writable_files`].
    pub trust: Trust,
    /// Whether there are plugins at all.
    pub enable: bool,
    /// Where plugins connect.
    pub socket: PathBuf,
    /// Only plugins of `plugin_dir`.
    pub disable_connections: bool,
    /// Plugins that are started with the daemon.
    pub plugin_dir: PathBuf,
    /// Their configurations.
    pub plugin_config_dir: PathBuf,
    /// For registering, and for one part of the synchronisation.
    pub registration_timeout: Duration,
    /// For one event.
    pub request_timeout: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// A `tracing` filter, e.g. `info` or `crisol=debug`.
    pub level: String,
    /// Text or JSON lines.
    pub format: LogFormat,
}

/// Form of the daemon's log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Where `/metrics` is served; none = nowhere.
    pub listen: Option<SocketAddr>,
}

/// Everything that is wrong with the configuration, one line a mistake.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(mistakes))]
pub struct ConfigError {
    /// In the order of the files, then of the lines.
    pub mistakes: Vec<Mistake>,
}

impl Classify for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads the main file and its drop-ins: `file`, which must exist, or [`DEFAULT_FILE`], which
    /// need not. The drop-ins of `/a/b.toml` are `/a/b.d/*.toml`.
    ///
    /// # Errors
    ///
    /// All mistakes of all files, if there is one.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let raw = match file {
            Some(file) => raw::read(file, raw::MainFile::Required),
            None => raw::read(Path::new(DEFAULT_FILE), raw::MainFile::Optional),
        };
        check::config(raw, &check::Programs::of_this_host())
    }

    /// The configuration of a host without any file, with the programs of this host.
    pub fn defaults() -> Self {
        check::config(raw::Raw::default(), &check::Programs::of_this_host())
            .expect("the table of defaults passes its own rules, a test says so")
    }
}
