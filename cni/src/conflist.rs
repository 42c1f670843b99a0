//! [`NetworkConfig`]: one network as an administrator configured it, checked.
//!
//! A file holds either a list of plugins (`.conflist`) or a single plugin (`.conf`, `.json`, the
//! form before 0.3), which is read as a list of one. Fields that the specification does not name
//! belong to the plugins and are kept as they are. [`load`] reads files and directories; this file
//! touches none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::version::Version;

pub mod load;

/// Longest chain that is accepted. Real ones have two to five plugins; each may take as long as
/// the deadline of one plugin allows.
pub const MAX_PLUGINS: usize = 64;

/// What is wrong with a configuration. The file is named by [`load::LoadError`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("parse JSON")]
    Json(#[source] serde_json::Error),
    /// JSON, but not an object.
    #[error("{what} is not an object")]
    NotAnObject {
        /// Which part.
        what: String,
    },
    /// A field is absent that must be there.
    #[error("{field} is missing")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// A field has the wrong type.
    #[error("{field} is not {expected}")]
    Type {
        /// Path of the field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The name of the network could not be a part of a file name.
    #[error("name {0:?} is not a letter or digit followed by letters, digits, . _ -")]
    Name(String),
    /// A plugin's type could lead out of the plugin directories.
    #[error("{field} {value:?} is not the plain name of a program")]
    PluginType {
        /// Path of the field.
        field: String,
        /// The value.
        value: String,
    },
    /// No version in the file is one of ours.
    #[error("cniVersion {0} is not spoken here, only 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(String),
    /// No plugin at all.
    #[error("there are no plugins")]
    NoPlugins,
    /// More plugins than [`MAX_PLUGINS`].
    #[error("there are {0} plugins, more than {MAX_PLUGINS}")]
    TooManyPlugins(usize),
}

/// May a verb be used on a network?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Yes.
    Yes,
    /// The administrator disabled it.
    No,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    kind: String,
    capabilities: BTreeSet<String>,
    fields: Map<String, Value>,
}

impl PluginConfig {
    /// Checks one plugin's object; `place` names it in errors (`plugins[2]`).
    pub fn from_value(value: Value, place: &str) -> Result<Self, ConfigError> {
        let Value::Object(fields) = value else {
            return Err(ConfigError::NotAnObject { what: place.to_owned() });
        };
        let kind = plugin_type(fields.get("type"), &format!("{place}.type"))?;
        // The address plugin is run by the plugin itself, from the same directories. An old
        // plugin may lack the check that stopped CVE-2021-20206.
        if let Some(ipam @ Value::Object(ipam_fields)) = fields.get("ipam")
            && ipam.get("type").is_some()
        {
            plugin_type(ipam_fields.get("type"), &format!("{place}.ipam.type"))?;
        }
        let capabilities = match fields.get("capabilities") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Object(map)) => map
                .iter()
                .filter(|(_, declared)| **declared == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(_) => {
                let field = format!("{place}.capabilities");
                return Err(ConfigError::Type { field, expected: "an object" });
            }
        };
        Ok(Self { kind, capabilities, fields })
    }

    /// Name of its program.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The capabilities that it declares with `true`.
    pub fn capabilities(&self) -> &BTreeSet<String> {
        &self.capabilities
    }

    /// Everything that its configuration says.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// One network.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    name: String,
    versions: BTreeSet<Version>,
    version: Version,
    check: Allowed,
    gc: Allowed,
    inlined: Inlined,
    plugins: Vec<PluginConfig>,
    file: Option<PathBuf>,
}

/// `loadOnlyInlinedPlugins`: where plugins may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inlined {
    /// From the list alone.
    Only,
    /// Also from files in the directory that has the network's name.
    AndOthers,
}

impl NetworkConfig {
    /// A network from the text of a list. It may still lack plugins, which [`load::read`] adds.
    fn parse_incomplete_list(text: &[u8]) -> Result<Self, ConfigError> {
        let mut fields = object(text)?;
        let name = network_name(&fields)?;
        let versions = versions(&fields)?;
        let inlined = if flag(&fields, "loadOnlyInlinedPlugins")? {
            Inlined::Only
        } else {
            Inlined::AndOthers
        };
        let plugins = match fields.remove("plugins") {
            None if inlined == Inlined::Only => {
                return Err(ConfigError::Missing { field: "plugins".to_owned() });
            }
            None => Vec::new(),
            Some(Value::Array(list)) if list.is_empty() => return Err(ConfigError::NoPlugins),
            Some(Value::Array(list)) => list
                .into_iter()
                .enumerate()
                .map(|(n, value)| PluginConfig::from_value(value, &format!("plugins[{n}]")))
                .collect::<Result<_, _>>()?,
            Some(_) => {
                let field = "plugins".to_owned();
                return Err(ConfigError::Type { field, expected: "a list" });
            }
        };
        let allowed = |disabled| if disabled { Allowed::No } else { Allowed::Yes };
        Ok(Self {
            version: newest(&versions)?,
            check: allowed(flag(&fields, "disableCheck")?),
            gc: allowed(flag(&fields, "disableGC")?),
            name,
            versions,
            inlined,
            plugins,
            file: None,
        })
    }

    /// A network from the text of a list that holds all its plugins.
    pub fn parse_list(text: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_incomplete_list(text)?.complete()
    }

    /// A network from the text of a single plugin (`.conf`, `.json`).
    pub fn parse_single(text: &[u8]) -> Result<Self, ConfigError> {
        let fields = object(text)?;
        let name = network_name(&fields)?;
        let versions = versions(&fields)?;
        let plugin = PluginConfig::from_value(Value::Object(fields), "the plugin")?;
        Ok(Self {
            name,
            version: newest(&versions)?,
            versions,
            check: Allowed::Yes,
            gc: Allowed::Yes,
            inlined: Inlined::Only,
            plugins: vec![plugin],
            file: None,
        })
    }

    fn complete(self) -> Result<Self, ConfigError> {
        match self.plugins.len() {
            0 => Err(ConfigError::NoPlugins),
            count if count > MAX_PLUGINS => Err(ConfigError::TooManyPlugins(count)),
            _ => Ok(self),
        }
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version spoken with its plugins.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All versions that the configuration is written for and that we speak.
    pub fn versions(&self) -> &BTreeSet<Version> {
        &self.versions
    }

    /// May CHECK be used (`disableCheck`)?
    pub fn check(&self) -> Allowed {
        self.check
    }

    /// May GC be used (`disableGC`)?
    pub fn gc(&self) -> Allowed {
        self.gc
    }

    /// The plugins in the order of ADD.
    pub fn plugins(&self) -> &[PluginConfig] {
        &self.plugins
    }

    /// Does any plugin declare this capability?
    pub fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(name))
    }

    /// Where it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The same network, with one of its [`versions`](Self::versions) chosen by the caller.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The network as one list with nothing left to choose: a single version, every plugin inlined.
    /// This is what the cache keeps, so that a later DEL meets exactly what ADD did.
    pub fn to_json(&self) -> Vec<u8> {
        let plugins = self.plugins.iter().map(|plugin| Value::Object(plugin.fields.clone()));
        let mut list = Map::new();
        list.insert("cniVersion".to_owned(), self.version.as_str().into());
        list.insert("name".to_owned(), self.name.as_str().into());
        list.insert("disableCheck".to_owned(), (self.check == Allowed::No).into());
        list.insert("disableGC".to_owned(), (self.gc == Allowed::No).into());
        list.insert("loadOnlyInlinedPlugins".to_owned(), true.into());
        list.insert("plugins".to_owned(), plugins.collect());
        Value::Object(list).to_string().into_bytes()
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_slice(text).map_err(ConfigError::Json)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(ConfigError::NotAnObject { what: "the configuration".to_owned() }),
    }
}

fn network_name(fields: &Map<String, Value>) -> Result<String, ConfigError> {
    match fields.get("name") {
        None => Err(ConfigError::Missing { field: "name".to_owned() }),
        Some(Value::String(name)) if is_plain_name(name) => Ok(name.clone()),
        Some(Value::String(name)) => Err(ConfigError::Name(name.clone())),
        Some(_) => Err(ConfigError::Type { field: "name".to_owned(), expected: "a string" }),
    }
}

/// The characters that the specification allows in network names and container ids.
pub(crate) fn is_plain_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn plugin_type(value: Option<&Value>, field: &str) -> Result<String, ConfigError> {
    match value {
        None => Err(ConfigError::Missing { field: field.to_owned() }),
        Some(Value::String(name)) => {
            let bad = name.is_empty()
                || matches!(name.as_str(), "." | "..")
                || name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
            if bad {
                let (field, value) = (field.to_owned(), name.clone());
                return Err(ConfigError::PluginType { field, value });
            }
            Ok(name.clone())
        }
        Some(_) => Err(ConfigError::Type { field: field.to_owned(), expected: "a string" }),
    }
}

/// Booleans may be written as strings; libcni reads those too.
fn flag(fields: &Map<String, Value>, key: &str) -> Result<bool, ConfigError> {
    match fields.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfigError::Type { field: key.to_owned(), expected: "true or false" }),
    }
}

/// `cniVersion` and `cniVersions` together; versions that we do not speak are left out, as the
/// specification's "Version considerations" ask: others in the set may do.
fn versions(fields: &Map<String, Value>) -> Result<BTreeSet<Version>, ConfigError> {
    let mut texts = Vec::new();
    match fields.get("cniVersion") {
        None => {}
        Some(Value::String(text)) => texts.push(text.as_str()),
        Some(_) => {
            let field = "cniVersion".to_owned();
            return Err(ConfigError::Type { field, expected: "a string" });
        }
    }
    let wrong =
        || ConfigError::Type { field: "cniVersions".to_owned(), expected: "a list of strings" };
    match fields.get("cniVersions") {
        None => {}
        Some(Value::Array(list)) => {
            for value in list {
                texts.push(value.as_str().ok_or_else(wrong)?);
            }
        }
        Some(_) => return Err(wrong()),
    }
    if texts.is_empty() {
        // Without one it would be 0.1.0, which is too old for a chain.
        return Err(ConfigError::Missing { field: "cniVersion".to_owned() });
    }
    let known: BTreeSet<_> = texts.iter().filter_map(|text| Version::find(text)).collect();
    if known.is_empty() { Err(ConfigError::Version(texts.join(", "))) } else { Ok(known) }
}

fn newest(versions: &BTreeSet<Version>) -> Result<Version, ConfigError> {
    versions.last().copied().ok_or(ConfigError::Missing { field: "cniVersion".to_owned() })
}

#[cfg(test)]
mod tests;
