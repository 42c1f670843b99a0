//! From what the files say to a [`Config`], or to the list of all mistakes.
//!
//! A value that breaks its rule is replaced by its default for the rest of the check, so that one
//! run finds every mistake; rules between keys are skipped for keys that are already wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{self, Entry, Mistake, Raw, RawHandler};
use super::table::{self, HANDLER_KEYS, HANDLERS, KEYS, Value};
use super::{
    Cgroup, Config, ConfigError, Cri, Handler, Image, Log, Metrics, Network, Nri, Runtime, Stream,
    rules,
};
use crate::path::Layout;
use crate::trust::Trust;

/// What defaults depend on outside of the files.
pub struct Programs<'a> {
    /// Directory of the crisol program.
    pub own_dir: Option<PathBuf>,
    /// Whether a path is a program.
    pub is_program: &'a dyn Fn(&Path) -> bool,
}

impl Programs<'_> {
    /// The programs of this host.
    pub fn of_this_host() -> Self {
        let exe = std::env::current_exe().ok();
        let own_dir = exe.as_deref().and_then(Path::parent).map(Path::to_owned);
        Self { own_dir, is_program: &is_program }
    }

    /// `bin` is full of strangers, among them the `conmon` of other projects, so programs that were
    /// installed have theirs in `libexec`. A build directory has both programs side by side.
    fn monitor(&self) -> PathBuf {
        let own = self.own_dir.as_deref().map(|dir| match dir.parent() {
            Some(prefix) if dir.ends_with("bin") => prefix.join("libexec/crisol/conmon"),
            Some(_) | None => dir.join("conmon"),
        });
        own.filter(|path| (self.is_program)(path))
            .unwrap_or_else(|| PathBuf::from(table::MONITOR_FALLBACK))
    }

    /// A built-in handler's program, where the distribution put it. Not found = the default path,
    /// which `crisol check` and `Status` then name.
    fn runtime(&self, name: &str, default: PathBuf) -> PathBuf {
        let dirs = table::PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name));
        std::iter::once(default.clone())
            .chain(dirs)
            .find(|path| (self.is_program)(path))
            .unwrap_or(default)
    }
}

/// Whether `path` is a regular file that somebody may execute.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Checks everything.
///
/// # Errors
///
/// All mistakes, those of reading first.
pub fn config(raw: Raw, programs: &Programs<'_>) -> Result<Config, ConfigError> {
    let mut check = Check { raw, programs, mistakes: Vec::new(), wrong: BTreeSet::new() };
    let config = check.all();
    check.between_keys(&config);
    let mut mistakes = check.raw.mistakes;
    mistakes.append(&mut check.mistakes);
    mistakes.sort_by(|a, b| a.place.cmp(&b.place));
    if mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes }) }
}

struct Check<'a> {
    raw: Raw,
    programs: &'a Programs<'a>,
    mistakes: Vec<Mistake>,
    /// Keys that broke their own rule.
    wrong: BTreeSet<String>,
}

impl Check<'_> {
    fn all(&mut self) -> Config {
        let root = self.text("root", rules::own_directory);
        let state = self.text("state", rules::own_directory);
        let handlers = self.handlers(&Layout::new(&root, &state));
        let accept_writable_files = self.key(raw::ACCEPT, flag);
        let trust = if accept_writable_files { Trust::Everybody } else { Trust::RootAlone };
        Config {
            accept_writable_files,
            sweep_interval: self.key("sweep_interval", seconds),
            cri: Cri { listen: self.text("cri.listen", rules::socket_path) },
            stream: Stream {
                trust,
                address: self.text("stream.address", rules::address),
                port: self.key("stream.port", |value| match value {
                    Value::Number(number) => rules::port(*number),
                    _ => Err("expected an integer".to_owned()),
                }),
                tls_cert: self.text("stream.tls_cert", rules::optional_path),
                tls_key: self.text("stream.tls_key", rules::optional_path),
                tls_client_ca: self.text("stream.tls_client_ca", rules::optional_path),
            },
            network: Network {
                trust,
                conf_dir: self.text("network.conf_dir", rules::absolute_path),
                conf_template: self.text("network.conf_template", rules::optional_path),
                plugin_dirs: self
                    .key("network.plugin_dirs", |value| list(value, rules::plugin_dirs)),
            },
            cgroup: Cgroup { driver: self.text("cgroup.driver", rules::cgroup_driver) },
            image: Image {
                trust,
                registries_conf: self.text("image.registries_conf", rules::absolute_path),
                policy: self.text("image.policy", rules::absolute_path),
                auth_file: self.text("image.auth_file", rules::optional_path),
                max_zstd_window: self.key("image.max_zstd_window", |value| match value {
                    Value::Number(number) => rules::window(*number),
                    _ => Err("expected an integer".to_owned()),
                }),
            },
            runtime: Runtime {
                trust,
                default_handler: self.text("runtime.default_handler", rules::handler_name),
                monitor: self
                    .text("runtime.monitor", rules::optional_path)
                    .unwrap_or_else(|| self.programs.monitor()),
                search_path: self
                    .key("runtime.search_path", |value| list(value, rules::search_path)),
                handlers,
            },
            nri: Nri {
                trust,
                enable: self.key("nri.enable", flag),
                socket: self.text("nri.socket", rules::socket_path),
                disable_connections: self.key("nri.disable_connections", flag),
                plugin_dir: self.text("nri.plugin_dir", rules::absolute_path),
                plugin_config_dir: self.text("nri.plugin_config_dir", rules::absolute_path),
                registration_timeout: self.key("nri.registration_timeout", seconds),
                request_timeout: self.key("nri.request_timeout", seconds),
            },
            log: Log {
                level: self.text("log.level", rules::log_level),
                format: self.text("log.format", rules::log_format),
            },
            metrics: Metrics { listen: self.text("metrics.listen", rules::optional_listen) },
            root,
            state,
        }
    }

    /// Applies `rule` to the value of `name`, or to its default if that fails.
    fn key<T>(&mut self, name: &str, rule: impl Fn(&Value) -> Result<T, String>) -> T {
        if let Some(Entry { value, place }) = self.raw.keys.get(name) {
            match rule(value) {
                Ok(value) => return value,
                Err(what) => {
                    let (place, key) = (Some(place.clone()), Some(name.to_owned()));
                    self.mistakes.push(Mistake { place, key, what });
                    self.wrong.insert(name.to_owned());
                }
            }
        }
        let key = KEYS.iter().find(|key| key.name == name).expect("check names keys of the table");
        rule(&key.default.value()).expect("a default keeps its own rule, a test says so")
    }

    fn text<T>(&mut self, name: &str, rule: impl Fn(&str) -> Result<T, String>) -> T {
        self.key(name, |value| text(value, &rule))
    }

    /// The built-in handlers and those of the files.
    fn handlers(&mut self, layout: &Layout) -> BTreeMap<String, Handler> {
        let built_in = table::BUILT_IN.iter().map(|handler| handler.name.to_owned());
        let names: BTreeSet<_> = built_in.chain(self.raw.handlers.keys().cloned()).collect();
        let mut handlers = BTreeMap::new();
        for name in names {
            let raw = self.raw.handlers.get(&name).cloned();
            if let (Err(what), Some(raw)) = (rules::handler_name(&name), &raw) {
                let (place, key) = (Some(raw.place.clone()), Some(format!("{HANDLERS}.{name}")));
                self.mistakes.push(Mistake { place, key, what });
                continue;
            }
            let handler = self.handler(&name, raw.as_ref(), layout);
            handlers.insert(name, handler);
        }
        handlers
    }

    fn handler(&mut self, name: &str, raw: Option<&RawHandler>, layout: &Layout) -> Handler {
        let built_in = table::built_in_path(name);
        let mut at = HandlerCheck { name, raw, mistakes: &mut self.mistakes };
        let path = at.key("path", |value| text(value, rules::optional_path));
        let root = at.key("root", |value| text(value, rules::optional_path));
        let kind = at.key("type", |value| text(value, rules::handler_kind));
        let options = at.key("options", |value| list(value, rules::options));
        if let (None, None, Some(raw)) = (&path, built_in, raw) {
            let (place, key) = (Some(raw.place.clone()), Some(format!("{HANDLERS}.{name}.path")));
            let what = "missing: only runc and crun have a default path".to_owned();
            // A path that broke its rule has been reported, and is not missing.
            if !self.mistakes.iter().any(|mistake| mistake.key == key) {
                self.mistakes.push(Mistake { place, key, what });
            }
        }
        // A file that repeats the default, e.g. one made from `crisol config --default`, must not
        // behave otherwise than no file.
        let default = built_in.map(PathBuf::from);
        let path = match (path, default) {
            (Some(path), Some(default)) if path != default => path,
            (_, Some(default)) => self.programs.runtime(name, default),
            (path, None) => path.unwrap_or_default(),
        };
        Handler { kind, path, root: root.unwrap_or_else(|| layout.runtime_root(name)), options }
    }

    /// Rules that need more than one key.
    fn between_keys(&mut self, config: &Config) {
        let (root, state) = (&config.root, &config.state);
        if root.starts_with(state) || state.starts_with(root) {
            let (root, state) = (root.display(), state.display());
            let what =
                format!("root {root} and state {state} must be apart: state is emptied at boot");
            self.conflict(["root", "state"], what);
        }
        if [root, state].contains(&&config.cri.listen) {
            let key = if root == &config.cri.listen { "root" } else { "state" };
            self.conflict(["cri.listen", key], format!("a directory, the value of {key}"));
        }
        let name = &config.runtime.default_handler;
        // A handler may be defined in the file that could not be read.
        if !config.runtime.handlers.contains_key(name) && !self.raw.incomplete {
            let known: Vec<_> = config.runtime.handlers.keys().map(String::as_str).collect();
            let what = format!("no handler {name:?}, there are {}", known.join(", "));
            self.conflict(["runtime.default_handler"], what);
        }
        let Stream { tls_cert, tls_key, tls_client_ca, .. } = &config.stream;
        if tls_cert.is_some() != tls_key.is_some() {
            let what = "a certificate and its key go together".to_owned();
            self.conflict(["stream.tls_cert", "stream.tls_key"], what);
        }
        if tls_client_ca.is_some() && tls_cert.is_none() {
            let what = "clients have certificates only where the server has one".to_owned();
            self.conflict(["stream.tls_client_ca", "stream.tls_cert"], what);
        }
        let stream = (config.stream.address, config.stream.port);
        if config.stream.port != 0
            && config.metrics.listen.is_some_and(|listen| (listen.ip(), listen.port()) == stream)
        {
            let what = "the same address and port as [stream]".to_owned();
            self.conflict(["metrics.listen", "stream.port", "stream.address"], what);
        }
    }

    /// Reports at the first of `keys` that a file sets, unless one of them is wrong in itself.
    fn conflict<const N: usize>(&mut self, keys: [&'static str; N], what: String) {
        if keys.iter().any(|&key| self.wrong.contains(key)) {
            return;
        }
        let set = keys.iter().find(|&key| self.raw.keys.contains_key(key));
        let key = *set.unwrap_or(&keys[0]);
        let place = self.raw.keys.get(key).map(|entry| entry.place.clone());
        self.mistakes.push(Mistake { place, key: Some(key.to_owned()), what });
    }
}

/// One handler's keys.
struct HandlerCheck<'a> {
    name: &'a str,
    raw: Option<&'a RawHandler>,
    mistakes: &'a mut Vec<Mistake>,
}

impl HandlerCheck<'_> {
    fn key<T>(&mut self, name: &str, rule: impl Fn(&Value) -> Result<T, String>) -> T {
        if let Some(Entry { value, place }) = self.raw.and_then(|raw| raw.keys.get(name)) {
            match rule(value) {
                Ok(value) => return value,
                Err(what) => self.mistakes.push(Mistake {
                    place: Some(place.clone()),
                    key: Some(format!("{HANDLERS}.{}.{name}", self.name)),
                    what,
                }),
            }
        }
        let key = HANDLER_KEYS.iter().find(|key| key.name == name);
        let default = key.expect("check names keys of the table").default.value();
        rule(&default).expect("a default keeps its own rule, a test says so")
    }
}

fn text<T>(value: &Value, rule: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    match value {
        Value::Text(text) => rule(text),
        _ => Err("expected a string".to_owned()),
    }
}

fn list<T>(value: &Value, rule: impl Fn(&[String]) -> Result<T, String>) -> Result<T, String> {
    match value {
        Value::List(items) => rule(items),
        _ => Err("expected an array of strings".to_owned()),
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Flag(flag) => Ok(*flag),
        _ => Err("expected a boolean".to_owned()),
    }
}

fn seconds(value: &Value) -> Result<Duration, String> {
    match value {
        Value::Number(number) => rules::seconds(*number),
        _ => Err("expected an integer".to_owned()),
    }
}
