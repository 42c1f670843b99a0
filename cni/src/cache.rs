//! What was attached, on disk, so that it can be detached after a restart and after the
//! configuration has changed or gone.
//!
//! Directory, names and format are libcni's (`<dir>/results/<network>-<container>-<interface>`,
//! kind `cniCacheV1`), so its tools read ours and we read theirs. One thing is added: an entry
//! exists from before the first plugin runs; until ADD has succeeded it has no `result`.
//! An entry is replaced, never edited: temporary file, fsync, rename, fsync of the directory. Only
//! for the result of an ADD the fsync comes last, and nobody waits for it ([`Cache::save_soon`]).
//!
//! The functions block. [`crate::Network`] calls them from tokio's blocking threads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::conflist::{ConfigError, NetworkConfig};

/// The only kind of entry.
const KIND: &str = "cniCacheV1";

/// Largest entry that is read: a configuration of 1 MiB in base64, and a result of 1 MiB.
const MAX_ENTRY_BYTES: u64 = 4 << 20;

/// Why the cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory could not be made.
    #[error("make {path}", path = path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory could not be listed.
    #[error("list {path}", path = path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be written.
    #[error("write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry could not be removed.
    #[error("remove {path}", path = path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry is larger than any that was ever written.
    #[error("{path} is larger than {MAX_ENTRY_BYTES} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// An entry is not JSON of the right form.
    #[error("parse {path}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// An entry is of another kind.
    #[error("{path} has kind {kind:?}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The kind.
        kind: String,
    },
}

impl CacheError {
    /// The failed system call, if it was one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            CacheError::MakeDirectory { source, .. }
            | CacheError::List { source, .. }
            | CacheError::Read { source, .. }
            | CacheError::Write { source, .. }
            | CacheError::Remove { source, .. } => Some(source),
            CacheError::TooLarge { .. } | CacheError::Json { .. } | CacheError::Kind { .. } => None,
        }
    }
}

/// One attachment as it is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    kind: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// The network's configuration as used by ADD; see [`Entry::network`].
    #[serde(with = "base64_text")]
    pub config: Vec<u8>,
    /// `CNI_IFNAME`.
    pub if_name: String,
    /// Name of the network.
    pub network_name: String,
    /// `CNI_NETNS` of ADD.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// `CNI_ARGS` of ADD.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_null")]
    pub cni_args: Vec<(String, String)>,
    /// What ADD offered for `runtimeConfig`.
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "or_null")]
    pub capability_args: Map<String, Value>,
    /// What ADD made; none = it was started and never succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

impl Entry {
    /// An entry for an ADD that is about to start.
    pub(crate) fn started(config: &NetworkConfig, attachment: &crate::Attachment) -> Self {
        let netns = attachment.netns.as_deref().unwrap_or(Path::new(""));
        Self {
            kind: KIND.to_owned(),
            container_id: attachment.container_id.clone(),
            config: config.to_json(),
            if_name: attachment.ifname.clone(),
            network_name: config.name().to_owned(),
            netns: netns.to_string_lossy().into_owned(),
            cni_args: attachment.args.clone(),
            capability_args: attachment.capability_args.clone(),
            result: None,
        }
    }

    /// The network as it was when ADD ran.
    pub fn network(&self) -> Result<NetworkConfig, ConfigError> {
        // libcni keeps the text of a single plugin's file as it was.
        NetworkConfig::parse_list(&self.config)
            .or_else(|error| NetworkConfig::parse_single(&self.config).map_err(|_| error))
    }
}

/// A file of the cache that is no entry.
#[derive(Debug)]
pub struct Damaged {
    /// Its name: network, container and interface, joined by hyphens.
    pub name: String,
    /// What is wrong with it.
    pub error: CacheError,
}

/// When a file is synced to disk.
#[derive(Clone, Copy)]
enum Sync {
    /// Before it takes the place of another.
    BeforeRename,
    /// By the caller.
    Later,
}

/// The directory of entries. A cheap clone.
#[derive(Clone, Debug)]
pub struct Cache {
    results: Arc<Path>,
}

impl Cache {
    /// The cache below `directory`, which is made when something is first written. libcni's own
    /// default is `/var/lib/cni`.
    pub fn new(directory: &Path) -> Self {
        Self { results: directory.join("results").into() }
    }

    /// Removes what writes left that a crash interrupted. Only for the one process that writes here,
    /// before it does.
    pub fn drop_unfinished(&self) {
        // What cannot be listed or removed is a file without a meaning, no more.
        for entry in fs::read_dir(&self.results).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    fn path(&self, network: &str, container_id: &str, ifname: &str) -> PathBuf {
        self.results.join(file_name(network, container_id, ifname))
    }

    /// Writes an entry; it is on disk when this returns.
    pub fn save(&self, entry: &Entry) -> Result<(), CacheError> {
        self.replace(entry, Sync::BeforeRename).map(drop)
    }

    /// Replaces an entry by one that says more. Every process sees it when this returns; on disk
    /// it is when the file that is returned has been synced, which may be done later.
    ///
    /// What an ADD made lives in a namespace and is void after a power cut, so nobody has to wait
    /// for the disk a second time. If the power fails before the sync, the old entry is there or,
    /// on file systems that do not write data before they rename, a damaged one, for which DEL
    /// uses the configuration it is given.
    pub(crate) fn save_soon(&self, entry: &Entry) -> Result<File, CacheError> {
        self.replace(entry, Sync::Later)
    }

    fn replace(&self, entry: &Entry, sync: Sync) -> Result<File, CacheError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.results).map_err(|source| {
            CacheError::MakeDirectory { path: self.results.to_path_buf(), source }
        })?;
        let name = file_name(&entry.network_name, &entry.container_id, &entry.if_name);
        let path = self.results.join(&name);
        let text = serde_json::to_vec(entry)
            .map_err(|source| CacheError::Json { path: path.clone(), source })?;
        // Entries never begin with a dot, so the temporary file is none.
        let temporary = self.results.join(format!(".{name}"));
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&text)?;
            match sync {
                Sync::Later => fs::rename(&temporary, &path)?,
                Sync::BeforeRename => {
                    file.sync_all()?;
                    fs::rename(&temporary, &path)?;
                    File::open(&self.results)?.sync_all()?;
                }
            }
            Ok(file)
        })();
        written.map_err(|source| {
            // Only space is lost if this fails as well; the next write of the entry reuses it.
            fs::remove_file(&temporary).ok();
            CacheError::Write { path, source }
        })
    }

    /// The entry of one attachment, if there is one.
    pub fn find(
        &self,
        network: &str,
        container_id: &str,
        ifname: &str,
    ) -> Result<Option<Entry>, CacheError> {
        read(self.path(network, container_id, ifname))
    }

    /// Forgets one attachment. It may be forgotten already.
    pub fn remove(
        &self,
        network: &str,
        container_id: &str,
        ifname: &str,
    ) -> Result<(), CacheError> {
        let path = self.path(network, container_id, ifname);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Not synced: after a power cut the entry may be back and DEL runs once more, which
            // plugins must accept.
            other => other.map_err(|source| CacheError::Remove { path, source }),
        }
    }

    /// All entries, sorted by name, and the files that are none.
    pub fn list(&self) -> Result<(Vec<Entry>, Vec<Damaged>), CacheError> {
        self.list_named(|_| true)
    }

    /// The entries of one container, and the files named for it that are none.
    pub fn of_container(&self, id: &str) -> Result<(Vec<Entry>, Vec<Damaged>), CacheError> {
        let part = format!("-{id}-");
        let (mut entries, damaged) = self.list_named(|name| name.contains(&part))?;
        // Networks may have hyphens in their names; what looks like the id may be a part of one.
        entries.retain(|entry| entry.container_id == id);
        Ok((entries, damaged))
    }

    fn list_named(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Entry>, Vec<Damaged>), CacheError> {
        let failed = |source| CacheError::List { path: self.results.to_path_buf(), source };
        let directory = match fs::read_dir(&self.results) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for file in directory {
            let name = file.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && wanted(&name) {
                names.push(name);
            }
        }
        names.sort();
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for name in names {
            match read(self.results.join(&name)) {
                Ok(entry) => entries.extend(entry),
                Err(error) => damaged.push(Damaged { name, error }),
            }
        }
        Ok((entries, damaged))
    }
}

fn file_name(network: &str, container_id: &str, ifname: &str) -> String {
    format!("{network}-{container_id}-{ifname}")
}

fn read(path: PathBuf) -> Result<Option<Entry>, CacheError> {
    let mut text = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CacheError::Read { path, source }),
    }
    if text.len() as u64 > MAX_ENTRY_BYTES {
        return Err(CacheError::TooLarge { path });
    }
    match serde_json::from_slice::<Entry>(&text) {
        Err(source) => Err(CacheError::Json { path, source }),
        Ok(entry) if entry.kind != KIND => Err(CacheError::Kind { path, kind: entry.kind }),
        Ok(entry) => Ok(Some(entry)),
    }
}

/// Go writes bytes as base64 text.
mod base64_text {
    use super::{BASE64, Engine};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// Go writes an empty list or map as `null`.
fn or_null<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
