//! The files of containers-registries.conf(5) as they are written, and where they lie.
//!
//! Keys that are not known are left alone: other programs read these files too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistriesError;
use crate::trust::Trust;

/// Longest file that is read. Distributions ship alias lists of some 20 KiB.
const MAX_FILE: u64 = 4 << 20;

/// Drop-in files that are read.
const MAX_FILES: usize = 1000;

/// What a short name means that could mean several things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ShortNameMode {
    #[default]
    Enforcing,
    Permissive,
    Disabled,
}

/// One file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawFile {
    pub unqualified_search_registries: Option<Vec<String>>,
    pub short_name_mode: Option<ShortNameMode>,
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    #[serde(default)]
    pub registry: Vec<RawRegistry>,
    /// Version 1 of the format; its tables have nothing in common with ours.
    pub registries: Option<toml::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RawRegistry {
    pub prefix: String,
    pub location: String,
    pub insecure: bool,
    pub blocked: bool,
    pub mirror_by_digest_only: bool,
    pub mirror: Vec<RawMirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RawMirror {
    pub location: String,
    pub insecure: bool,
    pub pull_from_mirror: Pull,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Pull {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

/// The drop-in files, in the order of their names.
pub(super) fn drop_ins(directory: &Path, trust: Trust) -> Result<Vec<PathBuf>, RegistriesError> {
    let failed = |source| RegistriesError::Read { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    trust.check(directory).map_err(failed)?;
    let mut files = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file, or none if it does not exist.
pub(super) fn read(path: &Path, trust: Trust) -> Result<Option<String>, RegistriesError> {
    match crate::image::read_config_file(path, trust, MAX_FILE) {
        Ok(text) => Ok(text),
        Err(source) => Err(RegistriesError::Read { path: path.to_owned(), source }),
    }
}
