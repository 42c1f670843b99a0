//! containers-policy.json(5): which images may be pulled at all.
//!
//! Without a file everything may. Understood are `insecureAcceptAnything` and `reject`; whatever
//! demands a signature rejects, because we verify none. A file that is not a policy rejects every
//! image: a policy that fails open is none.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::reference::Reference;
use crate::trust::Trust;

/// Longest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// The only transport that images are pulled by here.
const TRANSPORT: &str = "docker";

/// Why an image may not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a policy.
    #[error("parse {}, so every image is rejected", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The policy says `reject`.
    #[error("{} rejects {scope}", path.display())]
    Rejected {
        /// The file.
        path: PathBuf,
        /// The scope that applies.
        scope: String,
    },
    /// The policy demands a signature.
    #[error("{} demands {kind} for {scope}, which is not supported", path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// The kind of signature.
        kind: &'static str,
        /// The scope that applies.
        scope: String,
    },
}

/// The policy.
#[derive(Debug)]
pub(super) struct Policy {
    path: PathBuf,
    /// None = no file, everything is accepted.
    rules: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    default: Requirements,
    #[serde(default)]
    transports: Unique<Unique<Requirements>>,
}

#[derive(Debug)]
struct Requirements(Vec<Requirement>);

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Requirement {
    #[serde(rename = "insecureAcceptAnything")]
    Accept(Nothing),
    #[serde(rename = "reject")]
    Reject(Nothing),
    #[serde(rename = "signedBy")]
    SignedBy(IgnoredAny),
    #[serde(rename = "sigstoreSigned")]
    SigstoreSigned(IgnoredAny),
}

impl Policy {
    /// Reads the policy. Blocks.
    ///
    /// # Errors
    /// [`PolicyError::Read`] and [`PolicyError::Parse`]; then no image may be pulled.
    pub(super) fn load(path: &Path, trust: Trust) -> Result<Self, PolicyError> {
        let owned = path.to_owned();
        match super::read_config_file(path, trust, MAX_FILE) {
            Ok(Some(text)) => Self::parse(owned, &text),
            Ok(None) => Ok(Self { path: owned, rules: None }),
            Err(source) => Err(PolicyError::Read { path: owned, source }),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, PolicyError> {
        match serde_json::from_str(text) {
            Ok(rules) => Ok(Self { path, rules: Some(rules) }),
            Err(source) => Err(PolicyError::Parse { path, source }),
        }
    }

    /// Decides about the image as the request meant it, not as a mirror names it.
    ///
    /// # Errors
    /// [`PolicyError`] names the scope that applies.
    pub(super) fn check(&self, reference: &Reference) -> Result<(), PolicyError> {
        let Some(rules) = &self.rules else { return Ok(()) };
        let (scope, Requirements(requirements)) = rules.requirements(reference);
        // All of them have to be met.
        for requirement in requirements {
            let (path, scope) = (self.path.clone(), scope.clone());
            match requirement {
                Requirement::Accept(Nothing) => {}
                Requirement::Reject(Nothing) => return Err(PolicyError::Rejected { path, scope }),
                Requirement::SignedBy(_) => {
                    return Err(PolicyError::Signature { path, kind: "signedBy", scope });
                }
                Requirement::SigstoreSigned(_) => {
                    return Err(PolicyError::Signature { path, kind: "sigstoreSigned", scope });
                }
            }
        }
        Ok(())
    }
}

impl Rules {
    /// The requirements of the most specific scope, and that scope's name.
    fn requirements(&self, reference: &Reference) -> (String, &Requirements) {
        if let Some(scopes) = self.transports.0.get(TRANSPORT) {
            for scope in scopes_of(reference) {
                if let Some(requirements) = scopes.0.get(&scope) {
                    return (format!("{TRANSPORT}: {scope:?}"), requirements);
                }
            }
        }
        ("default".to_owned(), &self.default)
    }
}

/// All scopes an image is in, the narrowest first: the whole name, the repository, every
/// namespace above it, the registry, wildcards for its domain, and the transport itself.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference.to_string(),
    }];
    let mut name = reference.repository();
    loop {
        scopes.push(name.clone());
        match name.rfind('/') {
            Some(at) => name.truncate(at),
            None => break,
        }
    }
    let mut domain = reference.host();
    while let Some((_, above)) = domain.split_once('.') {
        scopes.push(format!("*.{above}"));
        domain = above;
    }
    scopes.push(String::new());
    scopes
}

impl<'de> Deserialize<'de> for Requirements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::deserialize(deserializer)?;
        // No requirement at all would be met by everything, and is certainly not meant so.
        if list.is_empty() {
            Err(D::Error::custom("list of requirements is empty"))
        } else {
            Ok(Self(list))
        }
    }
}

/// The fields of a requirement that has none.
#[derive(Debug)]
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Unique::<IgnoredAny>::deserialize(deserializer)?.0.into_keys().next() {
            None => Ok(Self),
            Some(key) => Err(D::Error::custom(format_args!("unknown key {key:?}"))),
        }
    }
}

/// A map whose keys are all different; serde's own maps keep the last of two.
#[derive(Debug)]
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(std::marker::PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut unique = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if unique.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format_args!("key {key:?} is there twice")));
                    }
                }
                Ok(Unique(unique))
            }
        }

        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests;
