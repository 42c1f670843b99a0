//! containers-registries.conf(5), version 2: which registries a name leads to, and how they are
//! spoken to. Read again for every pull.
//!
//! Where we are more specific than the manual page: without `unqualified-search-registries` a
//! short name is one of docker.io. Credential helpers are not run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

mod file;

use file::{Pull, RawFile, RawMirror, RawRegistry, ShortNameMode, drop_ins, read};

use super::reference::{Name, Reference, ReferenceError};
use crate::error::{Classify, Kind};
use crate::trust::Trust;

/// Why registries.conf cannot be used, or forbids a pull.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not TOML, or a key has the wrong type.
    #[error("parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with the line.
        source: Box<toml::de::Error>,
    },
    /// A value means nothing.
    #[error("{}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value, and what is wrong.
        what: String,
    },
    /// `blocked = true`.
    #[error("registry {prefix:?} is blocked by {}", path.display())]
    Blocked {
        /// The matching `[[registry]]`.
        prefix: String,
        /// The file it is in.
        path: PathBuf,
    },
    /// A short name, several registries to search, and nobody to ask which.
    #[error(
        "short name {name:?} could be in several registries and short-name-mode is enforcing: write it in full"
    )]
    ShortName {
        /// The name.
        name: String,
    },
    /// A mirror's location and the rest of the name are no reference together.
    #[error("location {location:?}")]
    Rewrite {
        /// The mirror's location.
        location: String,
        /// What is wrong.
        source: ReferenceError,
    },
}

impl Classify for RegistriesError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } | Self::Parse { .. } | Self::Value { .. } => Kind::Unavailable,
            Self::Blocked { .. } => Kind::Denied,
            Self::ShortName { .. } | Self::Rewrite { .. } => Kind::Invalid,
        }
    }
}

/// One place to pull from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The name to ask for there: its host is who to ask.
    pub reference: Reference,
    /// How.
    pub access: Access,
    /// Whether it stands in for the registry that the name means.
    pub role: Role,
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// By https with a verified certificate.
    Verified,
    /// By https with any certificate or, failing that, by http.
    Insecure,
}

/// What an endpoint is to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry that is meant.
    Primary,
    /// A copy of it.
    Mirror,
}

/// The configuration, from all its files.
#[derive(Clone, Debug, Default)]
pub(super) struct RegistriesConf {
    search: Vec<String>,
    mode: ShortNameMode,
    aliases: BTreeMap<String, Name>,
    registries: BTreeMap<String, Registry>,
}

#[derive(Clone, Debug)]
struct Registry {
    file: PathBuf,
    raw: RawRegistry,
}

impl RegistriesConf {
    /// Reads `path` and the `*.conf` files in the directory `path.d`, in the order of their names.
    /// None of them need exist. Blocks.
    ///
    /// # Errors
    /// [`RegistriesError`] names the file.
    pub(super) fn load(path: &Path, trust: Trust) -> Result<Self, RegistriesError> {
        let mut conf = Self::default();
        let mut directory = path.as_os_str().to_owned();
        directory.push(".d");
        let files = std::iter::once(path.to_owned()).chain(drop_ins(Path::new(&directory), trust)?);
        for file in files {
            if let Some(text) = read(&file, trust)? {
                conf.merge(&file, &text)?;
            }
        }
        Ok(conf)
    }

    /// Puts one file on top of what is there: a registry replaces the one with the same prefix,
    /// an alias the one with the same name, the search list the whole search list.
    fn merge(&mut self, file: &Path, text: &str) -> Result<(), RegistriesError> {
        let raw: RawFile = toml::from_str(text)
            .map_err(|e| RegistriesError::Parse { path: file.to_owned(), source: Box::new(e) })?;
        let refuse = |what| Err(RegistriesError::Value { path: file.to_owned(), what });
        if raw.registries.is_some() {
            return refuse("version 1 of the format ([registries.…]) is not supported".into());
        }
        if let Some(search) = raw.unqualified_search_registries {
            for place in &search {
                if format!("{place}/x").parse::<Name>().map_or(true, |name| name.is_short()) {
                    return refuse(format!("{place:?} is not a registry"));
                }
            }
            self.search = search;
        }
        if let Some(mode) = raw.short_name_mode {
            self.mode = mode;
        }
        for (alias, target) in raw.aliases {
            if target.is_empty() {
                // An empty target takes an alias of an earlier file away.
                self.aliases.remove(&alias);
                continue;
            }
            match target.parse::<Name>() {
                Ok(name) if !name.is_short() => self.aliases.insert(alias, name),
                _ => {
                    return refuse(format!(
                        "alias {alias:?} leads to {target:?}, which is no full name"
                    ));
                }
            };
        }
        let mut seen = Vec::new();
        for mut registry in raw.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            let prefix = registry.prefix.trim_end_matches('/').to_owned();
            let wildcard = prefix.starts_with("*.");
            if prefix.is_empty() {
                return refuse("a [[registry]] has neither prefix nor location".into());
            }
            if prefix.contains("://") || registry.location.contains("://") {
                return refuse(format!("[[registry]] {prefix:?} must not have a scheme"));
            }
            if wildcard && prefix.contains('/') {
                return refuse(format!("wildcard prefix {prefix:?} must not have a path"));
            }
            if registry.mirror.iter().any(|mirror| mirror.location.is_empty()) {
                return refuse(format!("a mirror of {prefix:?} has no location"));
            }
            if seen.contains(&prefix) {
                return refuse(format!("there are two [[registry]] for {prefix:?}"));
            }
            seen.push(prefix.clone());
            self.registries.insert(prefix, Registry { file: file.to_owned(), raw: registry });
        }
        Ok(())
    }

    /// The full names that `name` can mean, to be tried in this order.
    ///
    /// # Errors
    /// [`RegistriesError::ShortName`] if there are several and the mode forbids to guess.
    pub(super) fn candidates(&self, name: &Name) -> Result<Vec<Reference>, RegistriesError> {
        if !name.is_short() {
            return Ok(vec![name.qualify()]);
        }
        if let Some(alias) = self.aliases.get(name.path()) {
            return Ok(vec![name.graft(alias)]);
        }
        if self.search.len() > 1 && self.mode == ShortNameMode::Enforcing {
            return Err(RegistriesError::ShortName { name: name.path().to_owned() });
        }
        Ok(self.search(name))
    }

    /// The full names that a stored image may have that is asked for by `name`: those it could be
    /// pulled by, and the one that Docker's users expect.
    pub(super) fn names(&self, name: &Name) -> Vec<Reference> {
        let mut names = match self.aliases.get(name.path()).filter(|_| name.is_short()) {
            Some(alias) => vec![name.graft(alias)],
            None => self.search(name),
        };
        let qualified = name.qualify();
        if !names.contains(&qualified) {
            names.push(qualified);
        }
        names
    }

    fn search(&self, name: &Name) -> Vec<Reference> {
        let at = |place: &String| match place.split_once('/') {
            Some((host, namespace)) => name.qualify_at(host, Some(namespace)),
            None => name.qualify_at(place, None),
        };
        match self.search.as_slice() {
            [] => vec![name.qualify()],
            search => search.iter().map(at).collect(),
        }
    }

    /// Where `reference` is pulled from, in this order: the mirrors that serve it, then the
    /// registry itself.
    ///
    /// # Errors
    /// [`RegistriesError::Blocked`] if that is configured.
    pub(super) fn endpoints(
        &self,
        reference: &Reference,
    ) -> Result<Vec<Endpoint>, RegistriesError> {
        let Some((prefix, length, registry)) = self.longest_match(reference) else {
            let reference = reference.clone();
            let role = Role::Primary;
            return Ok(vec![Endpoint { reference, access: Access::Verified, role }]);
        };
        let raw = &registry.raw;
        if raw.blocked {
            let prefix = prefix.to_owned();
            return Err(RegistriesError::Blocked { prefix, path: registry.file.clone() });
        }
        let by_digest = reference.digest().is_some();
        let serves = |mirror: &&RawMirror| match mirror.pull_from_mirror {
            Pull::All => by_digest || !raw.mirror_by_digest_only,
            Pull::DigestOnly => by_digest,
            Pull::TagOnly => !by_digest && !raw.mirror_by_digest_only,
        };
        let access = |insecure| if insecure { Access::Insecure } else { Access::Verified };
        let mut endpoints = Vec::new();
        for mirror in raw.mirror.iter().filter(serves) {
            let reference = rewrite(reference, length, &mirror.location)?;
            let access = access(mirror.insecure);
            endpoints.push(Endpoint { reference, access, role: Role::Mirror });
        }
        let reference = match raw.location.as_str() {
            "" => reference.clone(),
            location => rewrite(reference, length, location)?,
        };
        let role = Role::Primary;
        endpoints.push(Endpoint { reference, access: access(raw.insecure), role });
        Ok(endpoints)
    }

    /// The registry with the longest matching prefix, and how much of the name that covers.
    fn longest_match(&self, reference: &Reference) -> Option<(&str, usize, &Registry)> {
        let name = reference.to_string();
        let covered = |prefix: &str| match prefix.strip_prefix('*') {
            // `*.example.com` covers the host, however long it is; not example.com itself.
            Some(domain) => {
                let host = reference.host();
                (host.ends_with(domain) && host.len() > domain.len()).then_some(host.len())
            }
            None => name
                .strip_prefix(prefix)
                .filter(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
                .map(|_| prefix.len()),
        };
        self.registries
            .iter()
            .filter_map(|(prefix, registry)| Some((prefix, covered(prefix)?, registry)))
            .max_by_key(|(prefix, ..)| prefix.len())
            .map(|(prefix, length, registry)| (prefix.as_str(), length, registry))
    }
}

/// Replaces the first `length` bytes of a name by a location.
fn rewrite(
    reference: &Reference,
    length: usize,
    location: &str,
) -> Result<Reference, RegistriesError> {
    let location = location.trim_end_matches('/');
    let name = format!("{location}{}", &reference.to_string()[length..]);
    let parsed: Name = name
        .parse()
        .map_err(|source| RegistriesError::Rewrite { location: location.to_owned(), source })?;
    Ok(parsed.qualify())
}

#[cfg(test)]
mod tests;
