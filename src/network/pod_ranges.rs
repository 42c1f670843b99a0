//! The ranges of pod addresses that the kubelet tells (UpdateRuntimeConfig): kept across restarts,
//! and written into a CNI configuration where the operator has a template for one.
//!
//! A request either has both effects or none: the configuration is written first, then the ranges
//! are kept. After a restart the template is rendered again with what was kept, so that a changed
//! template needs no word from the kubelet.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cni::conflist::NetworkConfig;

use crate::config;
use crate::error::{Classify, Kind, chain};
use crate::record;
use crate::steps::blocking;
use crate::trust::Trust;

mod template;

pub use template::{Template, TemplateError};

/// The file that a template becomes. Low in the order of names, so that a network provider's own
/// file, if one is installed, can be put before or after it.
pub const FILE: &str = "10-crisol.conflist";

/// A node has one range per family; more than this is no list of ranges.
const MAX_RANGES: usize = 64;

/// Longest template; a CNI configuration is a few kilobytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Why ranges were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RangesError {
    /// It is no list of address ranges.
    #[error("runtime_config.network_config.pod_cidr: {0}")]
    Malformed(String),
    /// The template could not be read.
    #[error("read network.conf_template {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The template is not one.
    #[error("network.conf_template {path}")]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// What the template becomes is no network.
    #[error("network.conf_template {path} with {ranges}")]
    Network {
        /// The file.
        path: PathBuf,
        /// What was put in.
        ranges: String,
        /// What is wrong with it.
        source: Box<cni::conflist::ConfigError>,
    },
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Classify for RangesError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_) => Kind::Invalid,
            Self::Read { .. } | Self::Template { .. } | Self::Network { .. } => Kind::Unavailable,
            Self::Write { .. } => Kind::Internal,
        }
    }
}

/// A range of addresses, without bits beyond its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    address: IpAddr,
    length: u8,
}

impl Range {
    /// From `10.1.0.0/16` or `fd00:1::/64`. Bits beyond the length are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let plain = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| plain)?;
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The range of everything in the same family.
    pub fn everything(self) -> &'static str {
        if self.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Keeps the ranges.
#[derive(Debug)]
pub struct PodRanges {
    /// Where they are kept, as the kubelet writes them.
    kept: PathBuf,
    template: Option<PathBuf>,
    trust: Trust,
    target: PathBuf,
    /// One request at a time, so that the two files agree.
    turn: Mutex<()>,
}

impl PodRanges {
    /// Ranges kept in the file `kept`.
    fn new(config: &config::Network, kept: PathBuf) -> Self {
        Self {
            kept,
            template: config.conf_template.clone(),
            trust: config.trust,
            target: config.conf_dir.join(FILE),
            turn: Mutex::default(),
        }
    }

    /// The ranges as a former daemon was told. What is wrong with them or the template keeps nothing
    /// from starting: the kubelet tells them again, and gets the reason.
    pub async fn restored(config: &config::Network, kept: PathBuf) -> Arc<Self> {
        let ranges = Arc::new(Self::new(config, kept));
        let restoring = ranges.clone();
        if let Err(error) = blocking(move || restoring.restore()).await {
            tracing::error!(error = %chain(&error), "restore the pods' address ranges");
        }
        ranges
    }

    /// Renders the template with the ranges of a former daemon, if there are any. Blocks.
    fn restore(&self) -> Result<(), RangesError> {
        match read(&self.kept, Trust::Everybody) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(RangesError::Read { path: self.kept.clone(), source }),
            Ok(text) => self.render(&parse(&text)?),
        }
    }

    /// Takes over the ranges of a request, separated by commas. An empty text changes nothing.
    /// Blocks.
    pub fn set(&self, text: &str) -> Result<(), RangesError> {
        if text.is_empty() {
            return Ok(());
        }
        let ranges = parse(text)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.render(&ranges)?;
        let text = list(&ranges);
        record::replace(&self.kept, text.as_bytes())
            .map_err(|source| RangesError::Write { path: self.kept.clone(), source })?;
        tracing::info!(ranges = text, "pod addresses");
        Ok(())
    }

    fn render(&self, ranges: &[Range]) -> Result<(), RangesError> {
        let Some(path) = &self.template else { return Ok(()) };
        let text = load(path, self.trust)?
            .render(ranges)
            .map_err(|source| RangesError::Template { path: path.clone(), source })?;
        NetworkConfig::parse_list(text.as_bytes()).map_err(|source| RangesError::Network {
            path: path.clone(),
            ranges: list(ranges),
            source: Box::new(source),
        })?;
        // Written anew, it would make every reader of the directory look again.
        if fs::read(&self.target).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        let written = self.target.parent().map_or(Ok(()), fs::create_dir_all);
        written
            .and_then(|()| record::replace(&self.target, text.as_bytes()))
            .and_then(|()| fs::set_permissions(&self.target, PermissionsExt::from_mode(0o644)))
            .map_err(|source| RangesError::Write { path: self.target.clone(), source })
    }
}

/// The template in a file.
pub fn load(path: &Path, trust: Trust) -> Result<Template, RangesError> {
    let text =
        read(path, trust).map_err(|source| RangesError::Read { path: path.to_owned(), source })?;
    Template::parse(&text).map_err(|source| RangesError::Template { path: path.to_owned(), source })
}

fn parse(text: &str) -> Result<Vec<Range>, RangesError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > MAX_RANGES {
        let problem = format!("{} ranges, at most {MAX_RANGES} are taken", parts.len());
        return Err(RangesError::Malformed(problem));
    }
    let range = |part: &&str| {
        let shown: String = part.chars().take(64).collect();
        let malformed = || RangesError::Malformed(format!("{shown:?} is no address range"));
        Range::parse(part).ok_or_else(malformed)
    };
    parts.iter().map(range).collect()
}

fn list(ranges: &[Range]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The text of a regular file of bounded size.
fn read(path: &Path, trust: Trust) -> io::Result<String> {
    use std::io::Read;
    let file = trust.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_TEMPLATE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEMPLATE {
        return Err(io::Error::other(format!("longer than {MAX_TEMPLATE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
