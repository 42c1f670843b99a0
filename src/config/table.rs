//! The one table of keys: name, default, reason. `raw` takes the types from it, `check` the
//! defaults, `render` all three.

use super::{CgroupDriver, Config, Handler, HandlerKind, LogFormat};

/// A value as TOML has it, reduced to the types that our keys use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
    /// An array of strings.
    List(Vec<String>),
}

/// A default; its variant is also the type that the key must have.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// A string.
    Text(&'static str),
    /// An integer.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
    /// An array of strings.
    List(&'static [&'static str]),
}

impl Fallback {
    /// The default as a value.
    pub fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Number(number) => Value::Number(number),
            Self::Flag(flag) => Value::Flag(flag),
            Self::List(items) => Value::List(items.iter().map(|&item| item.to_owned()).collect()),
        }
    }

    /// The type, as mistakes call it.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "an integer",
            Self::Flag(_) => "a boolean",
            Self::List(_) => "an array of strings",
        }
    }
}

/// One key that has exactly one value.
pub struct Key {
    /// Dotted, e.g. `stream.port`.
    pub name: &'static str,
    /// What holds where no file says otherwise.
    pub default: Fallback,
    /// Why one would set it, in one line.
    pub reason: &'static str,
    /// Reads the effective value back.
    pub get: fn(&Config) -> Value,
}

/// One key of every `[runtime.handlers.NAME]`.
pub struct HandlerKey {
    /// Last part of the name, e.g. `path`.
    pub name: &'static str,
    /// What holds where no file says otherwise; `path` of a handler that is not built in has none.
    pub default: Fallback,
    /// Why one would set it, in one line.
    pub reason: &'static str,
    /// Reads the effective value back.
    pub get: fn(&Handler) -> Value,
}

/// A handler that exists without any file.
pub struct BuiltInHandler {
    /// Name, as a RuntimeClass names it.
    pub name: &'static str,
    /// Its program where distributions put it.
    pub path: &'static str,
}

/// Parent of the handlers' tables.
pub const HANDLERS: &str = "runtime.handlers";

/// The monitor, if neither the place of an installed nor that of a built crisol has one.
pub const MONITOR_FALLBACK: &str = "/usr/libexec/crisol/conmon";

/// Where a built-in handler's program is looked for if it is not at its default path.
pub const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// Handlers that exist without any file.
pub const BUILT_IN: [BuiltInHandler; 2] = [
    BuiltInHandler { name: "runc", path: "/usr/bin/runc" },
    BuiltInHandler { name: "crun", path: "/usr/bin/crun" },
];

/// All keys with one value, in the order in which files show them.
pub const KEYS: [Key; 31] = [
    Key {
        name: "root",
        default: Fallback::Text("/var/lib/crisol"),
        reason: "Durable data: images, writable layers, records; a local disk, not a tmpfs.",
        get: |c| path(&c.root),
    },
    Key {
        name: "state",
        default: Fallback::Text("/run/crisol"),
        reason: "What must be gone after a reboot: sockets, namespaces, mounts, bundles; a tmpfs.",
        get: |c| path(&c.state),
    },
    Key {
        name: "accept_writable_files",
        default: Fallback::Flag(false),
        reason: "true uses configurations, policies, plugins and runtimes that others than root may change; false neither starts with them nor uses them later.",
        get: |c| Value::Flag(c.accept_writable_files),
    },
    Key {
        name: "sweep_interval",
        default: Fallback::Number(30),
        reason: "Seconds between two looks for what is left over, lost or owed, and at the runtimes.",
        get: |c| seconds(c.sweep_interval),
    },
    Key {
        name: "cri.listen",
        default: Fallback::Text("/run/crisol/crisol.sock"),
        reason: "The unix socket that the kubelet's containerRuntimeEndpoint names.",
        get: |c| path(&c.cri.listen),
    },
    Key {
        name: "stream.address",
        default: Fallback::Text("127.0.0.1"),
        reason: "Address of the exec, attach and port-forward server; only the kubelet calls it.",
        get: |c| Value::Text(c.stream.address.to_string()),
    },
    Key {
        name: "stream.port",
        default: Fallback::Number(0),
        reason: "Its port; 0 takes any free one, which suits every kubelet.",
        get: |c| Value::Number(c.stream.port.into()),
    },
    Key {
        name: "stream.tls_cert",
        default: Fallback::Text(""),
        reason: "Certificate chain (PEM) for TLS on that server, read again when it changes; empty = no TLS.",
        get: |c| optional(c.stream.tls_cert.as_deref()),
    },
    Key {
        name: "stream.tls_key",
        default: Fallback::Text(""),
        reason: "Its private key (PEM).",
        get: |c| optional(c.stream.tls_key.as_deref()),
    },
    Key {
        name: "stream.tls_client_ca",
        default: Fallback::Text(""),
        reason: "Certificates (PEM) that must have signed those of clients; empty = a URL's token is enough.",
        get: |c| optional(c.stream.tls_client_ca.as_deref()),
    },
    Key {
        name: "network.conf_dir",
        default: Fallback::Text("/etc/cni/net.d"),
        reason: "Where the network provider installs its CNI configuration.",
        get: |c| path(&c.network.conf_dir),
    },
    Key {
        name: "network.conf_template",
        default: Fallback::Text(""),
        reason: "Template of a CNI configuration, written to conf_dir/10-crisol.conflist when the kubelet tells the pods' addresses; empty = none.",
        get: |c| c.network.conf_template.as_deref().map_or(Value::Text(String::new()), path),
    },
    Key {
        name: "network.plugin_dirs",
        default: Fallback::List(&["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]),
        reason: "Where CNI plugins are, in search order.",
        get: |c| Value::List(c.network.plugin_dirs.iter().map(|p| text(p)).collect()),
    },
    Key {
        name: "cgroup.driver",
        default: Fallback::Text("auto"),
        reason: "Who makes control groups: \"systemd\", \"cgroupfs\", or \"auto\" = systemd where it is init.",
        get: |c| Value::Text(driver(c.cgroup.driver).to_owned()),
    },
    Key {
        name: "image.registries_conf",
        default: Fallback::Text("/etc/containers/registries.conf"),
        reason: "Mirrors, blocked and insecure registries, containers-registries.conf(5).",
        get: |c| path(&c.image.registries_conf),
    },
    Key {
        name: "image.policy",
        default: Fallback::Text("/etc/containers/policy.json"),
        reason: "Which images may be pulled, containers-policy.json(5).",
        get: |c| path(&c.image.policy),
    },
    Key {
        name: "image.auth_file",
        default: Fallback::Text(""),
        reason: "Credentials for registries, containers-auth.json(5); empty = only those of the request.",
        get: |c| optional(c.image.auth_file.as_deref()),
    },
    // The library that image builders use has 32 MiB at its highest level; `zstd -19` has 8,
    // `--ultra -22` and `--long` have 128.
    Key {
        name: "image.max_zstd_window",
        default: Fallback::Number(32),
        reason: "MiB that a zstd layer may make its decoder keep; images have up to 32, those of zstd --long or --ultra -22 128.",
        get: |c| Value::Number(i64::try_from(c.image.max_zstd_window >> 20).unwrap_or(i64::MAX)),
    },
    Key {
        name: "runtime.default_handler",
        default: Fallback::Text("runc"),
        reason: "Handler for pods without a RuntimeClass.",
        get: |c| Value::Text(c.runtime.default_handler.clone()),
    },
    Key {
        name: "runtime.monitor",
        default: Fallback::Text(""),
        reason: "The monitor; empty = libexec/crisol/conmon for an installed crisol, conmon beside it for a built one.",
        get: |c| path(&c.runtime.monitor),
    },
    Key {
        name: "runtime.search_path",
        default: Fallback::List(&[
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ]),
        reason: "PATH of runtimes, and so where they find criu and the programs of hooks.",
        get: |c| Value::List(c.runtime.search_path.iter().map(|p| text(p)).collect()),
    },
    Key {
        name: "nri.enable",
        default: Fallback::Flag(true),
        reason: "Whether plugins of the Node Resource Interface are told of pods and containers.",
        get: |c| Value::Flag(c.nri.enable),
    },
    Key {
        name: "nri.socket",
        default: Fallback::Text("/var/run/nri/nri.sock"),
        reason: "The unix socket that plugins connect to; who reaches it may change every container.",
        get: |c| path(&c.nri.socket),
    },
    Key {
        name: "nri.disable_connections",
        default: Fallback::Flag(false),
        reason: "true leaves the socket away: only plugins of plugin_dir run.",
        get: |c| Value::Flag(c.nri.disable_connections),
    },
    Key {
        name: "nri.plugin_dir",
        default: Fallback::Text("/opt/nri/plugins"),
        reason: "Plugins that are started with crisol, in the order of their names NN-name.",
        get: |c| path(&c.nri.plugin_dir),
    },
    Key {
        name: "nri.plugin_config_dir",
        default: Fallback::Text("/etc/nri/conf.d"),
        reason: "Their configuration: NN-name.conf or name.conf.",
        get: |c| path(&c.nri.plugin_config_dir),
    },
    Key {
        name: "nri.registration_timeout",
        default: Fallback::Number(5),
        reason: "Seconds that a plugin has for registering, and again for taking in what there is.",
        get: |c| seconds(c.nri.registration_timeout),
    },
    Key {
        name: "nri.request_timeout",
        default: Fallback::Number(2),
        reason: "Seconds that a plugin has for one event; one that is late is disconnected.",
        get: |c| seconds(c.nri.request_timeout),
    },
    Key {
        name: "log.level",
        default: Fallback::Text("info"),
        reason: "error, warn, info, debug or trace, also per module: \"info,crisol::image=debug\"; audit=debug tells of ExecSync too.",
        get: |c| Value::Text(c.log.level.clone()),
    },
    Key {
        name: "log.format",
        default: Fallback::Text("text"),
        reason: "\"text\" for people, \"json\" for collectors; both go to stderr.",
        get: |c| {
            Value::Text(match c.log.format {
                LogFormat::Text => "text".to_owned(),
                LogFormat::Json => "json".to_owned(),
            })
        },
    },
    Key {
        name: "metrics.listen",
        default: Fallback::Text(""),
        reason: "ADDRESS:PORT that serves /metrics without authentication; empty = nowhere.",
        get: |c| Value::Text(c.metrics.listen.map(|a| a.to_string()).unwrap_or_default()),
    },
];

/// The keys of every handler, in the order in which files show them.
pub const HANDLER_KEYS: [HandlerKey; 4] = [
    HandlerKey {
        name: "type",
        default: Fallback::Text("oci"),
        reason: "\"oci\" = a program with the OCI command line, \"shim\" = containerd's shim v2 protocol.",
        get: |h| {
            Value::Text(match h.kind {
                HandlerKind::Oci => "oci".to_owned(),
                HandlerKind::Shim => "shim".to_owned(),
            })
        },
    },
    HandlerKey {
        name: "path",
        default: Fallback::Text(""),
        reason: "Its program; runc and crun are also looked for in /usr/sbin, /usr/local/bin and /usr/local/sbin.",
        get: |h| path(&h.path),
    },
    HandlerKey {
        name: "root",
        default: Fallback::Text(""),
        reason: "Its state directory (--root); empty = runtimes/NAME below `state`.",
        get: |h| path(&h.root),
    },
    HandlerKey {
        name: "options",
        default: Fallback::List(&[]),
        reason: "Further options, written before the command.",
        get: |h| Value::List(h.options.clone()),
    },
];

/// The default path of a built-in handler.
pub fn built_in_path(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|handler| handler.name == name).map(|handler| handler.path)
}

/// The word for a driver in files, in `Status` and in findings.
pub fn driver(driver: CgroupDriver) -> &'static str {
    match driver {
        CgroupDriver::Auto => "auto",
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::Cgroupfs => "cgroupfs",
    }
}

fn seconds(time: std::time::Duration) -> Value {
    Value::Number(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn optional(value: Option<&std::path::Path>) -> Value {
    value.map_or(Value::Text(String::new()), path)
}

fn path(path: &std::path::Path) -> Value {
    Value::Text(text(path))
}

/// Paths of a configuration are UTF-8: TOML strings are.
fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
