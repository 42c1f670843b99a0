//! [`Reference`]: the name of an image, parsed once.
//!
//! The grammar is that of the distribution specification as every client speaks it:
//! `[host[:port]/]path[:tag][@digest]`. The first component is a host only if it has a dot or a
//! port or is `localhost` or an IPv6 address in brackets; a name without a host is *short*.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::digest::Digest;
use crate::error::{Classify, Kind};

/// The registry of names that name none.
const DEFAULT_HOST: &str = "docker.io";

/// The tag of names that have neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// Longest name without tag and digest (distribution specification).
const MAX_NAME: usize = 255;

/// Longest tag (distribution specification).
const MAX_TAG: usize = 128;

/// Longest piece of a refused text that an error repeats.
const MAX_SHOWN: usize = 300;

/// Why a text is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("image reference is empty")]
    Empty,
    /// A part breaks the grammar.
    #[error("image reference {text:?}: {part} {why}")]
    Part {
        /// The whole text, shortened.
        text: String,
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Classify for ReferenceError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// A name as it was written, checked; its host may be missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    host: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    /// True when no registry is named.
    pub fn is_short(&self) -> bool {
        self.host.is_none()
    }

    /// The path as written, without tag and digest.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full reference, short names being taken from docker.io.
    pub fn qualify(&self) -> Reference {
        self.qualify_at(DEFAULT_HOST, None)
    }

    /// The full reference of a short name at `host`, below `namespace` when there is one. A host
    /// that the name itself has wins.
    pub fn qualify_at(&self, host: &str, namespace: Option<&str>) -> Reference {
        let (host, path) = match &self.host {
            Some(host) => (host.clone(), self.path.clone()),
            None => match namespace {
                Some(namespace) => (host.to_owned(), format!("{namespace}/{}", self.path)),
                None => (host.to_owned(), self.path.clone()),
            },
        };
        Reference::new(host, path, self.tag.clone(), self.digest)
    }

    /// This name's tag and digest on another, full name (an alias).
    pub fn graft(&self, onto: &Name) -> Reference {
        let host = onto.host.clone().unwrap_or_else(|| DEFAULT_HOST.to_owned());
        Reference::new(host, onto.path.clone(), self.tag.clone(), self.digest)
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let refuse = |part, why| ReferenceError::Part {
            text: text.chars().take(MAX_SHOWN).collect(),
            part,
            why,
        };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| refuse("digest", "is not sha256: and 64 lower-case hex digits"))?;
                (rest, Some(digest))
            }
        };
        // A colon after the last slash begins the tag; one before it belongs to a port.
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| refuse("tag", why))?;
        }
        if name.len() > MAX_NAME {
            return Err(refuse("name", "is longer than 255 bytes"));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (Some(first), path),
            _ => (None, name),
        };
        if let Some(host) = host {
            check_host(host).map_err(|why| refuse("host", why))?;
        }
        if !path.split('/').all(is_path_component) {
            return Err(refuse(
                "path",
                "has a component that is not lower-case letters and digits, separated by . _ __ or -",
            ));
        }
        Ok(Self {
            host: host.map(str::to_ascii_lowercase),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// The full name of an image: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    fn new(host: String, path: String, tag: Option<String>, digest: Option<Digest>) -> Self {
        let docker = matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io");
        let host = if docker { DEFAULT_HOST.to_owned() } else { host };
        let official = host == DEFAULT_HOST && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path };
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag,
        };
        Self { host, path, tag, digest }
    }

    /// Registry: host, and port if there is one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `host/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The tag; `latest` if neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which then decides alone what is meant.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `host/path:tag`, unless a digest decides: then the tag says nothing about the content.
    pub fn as_tag(&self) -> Option<String> {
        match (&self.tag, self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.repository())),
            _ => None,
        }
    }

    /// `host/path@digest` for the digest of a manifest.
    pub fn with_digest(&self, digest: Digest) -> String {
        format!("{}@{digest}", self.repository())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a first component names a registry rather than a part of the path.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':', '['])
}

fn check_host(text: &str) -> Result<(), &'static str> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("has a bracket that is not closed")?;
        address.parse::<Ipv6Addr>().map_err(|_| "is not an IPv6 address in brackets")?;
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return Err("has text after the bracket"),
        }
    } else {
        match text.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(text), None),
        }
    };
    if let Some(name) = name {
        let label = |label: &str| {
            let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            !label.is_empty() && inside && !label.starts_with('-') && !label.ends_with('-')
        };
        if !name.split('.').all(label) {
            return Err("is not a host name");
        }
    }
    match port {
        Some(port) if !is_port(port) => Err("has a port that is not between 1 and 65535"),
        _ => Ok(()),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if tag.len() > MAX_TAG {
        return Err("is longer than 128 characters");
    }
    let first = tag.bytes().next().is_some_and(word);
    if first && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(())
    } else {
        Err("is not made of A-Z a-z 0-9 _ . -, or begins with . or -")
    }
}

/// Letters and digits, in groups separated by one dot, one or two underscores, or any dashes.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes.iter().all(|b| alphanumeric(*b) || b"._-".contains(b))
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests;
