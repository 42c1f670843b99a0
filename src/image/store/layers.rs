//! The layers on disk: which there are, who needs them, and the durable commit of a new one.
//!
//! ```text
//! layers/0123456789abcdef/       content, as overlayfs wants it; the beginning of the chain id
//! layers/0123456789abcdef.json   its record: written last, so a directory without one is garbage
//! ```
//!
//! A record that cannot be read says nothing of its layer: both stay as they are, the layer cannot be
//! used, and the record is read again later. What belongs to no layer is kept until all containers
//! have told what they use, and longer if it is among that.
//!
//! INVARIANT: a layer in the table has a directory and a record on disk, and so have all layers
//! of the chain below it or they had when it was committed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use super::in_use::InUse;
use super::record::{self, LayerRecord};
use super::{StoreError, lock};
use crate::image::digest::Digest;
use crate::image::gc::Trash;
use crate::image::unpack::Unpacked;

/// Digits of the chain id in a directory's name. Overlayfs gets all names in one page, so they
/// are short; a chain whose name is taken gets a suffix.
const NAME_DIGITS: usize = 16;

/// Suffixes tried. More than one is an attack on the first 64 bits already.
const MAX_SUFFIX: u32 = 100;

/// All layers of the store.
#[derive(Debug)]
pub(super) struct Layers {
    dir: PathBuf,
    table: Mutex<Table>,
    sync: GroupSync,
    trash: Arc<Trash>,
    /// What belongs to no layer; to be discarded when it is known what is in use.
    garbage: Mutex<HashSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Table {
    layers: HashMap<Digest, Stored>,
    /// Records that could not be read.
    unread: HashSet<PathBuf>,
    /// Number of pulls that need a layer, whether it is there already or not.
    leases: HashMap<Digest, usize>,
    bytes: u64,
    inodes: u64,
}

/// One committed layer.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Where its content is.
    pub path: PathBuf,
    /// Its record.
    pub record: LayerRecord,
}

impl Layers {
    /// Loads the records in `dir`. Nothing is discarded yet.
    ///
    /// # Errors
    /// If the directory cannot be listed, and records of a newer version.
    pub(super) fn open(dir: &Path, trash: Arc<Trash>) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File { what: "open", path: dir.to_owned(), source };
        let mut table = Table::default();
        let mut garbage: HashSet<PathBuf> = HashSet::new();
        let mut kept: HashSet<PathBuf> = HashSet::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                Some("new") => {
                    trash.discard(&path).map_err(failed)?;
                    continue;
                }
                _ => {
                    garbage.insert(path);
                    continue;
                }
            }
            match load(&path) {
                Ok(stored) if table.layers.contains_key(&stored.record.chain) => {
                    warn!(layer = %stored.record.chain, "layer is there twice");
                    garbage.insert(path);
                }
                Ok(stored) => {
                    kept.insert(stored.path.clone());
                    table.insert(stored);
                }
                Err(error) if error.is_damage() => {
                    warn!(error = %crate::error::chain(&error), "layer is damaged");
                    garbage.insert(path);
                }
                Err(error) if error.is_newer() => return Err(error),
                Err(error) => {
                    error!(error = %crate::error::chain(&error), "layer cannot be used for now");
                    kept.insert(path.with_extension(""));
                    table.unread.insert(path);
                }
            }
        }
        garbage.retain(|path| !kept.contains(path));
        let sync = GroupSync::new(File::open(dir).map_err(failed)?);
        let (table, garbage) = (Mutex::new(table), Mutex::new(garbage));
        Ok(Self { dir: dir.to_owned(), table, sync, trash, garbage })
    }

    /// Discards what belongs to no layer, except what is in use. Blocks.
    pub(super) fn discard_garbage(&self, in_use: &InUse) {
        for path in std::mem::take(&mut *lock(&self.garbage)) {
            if in_use.has(&path) {
                warn!(path = %path.display(), "has no record, but a container uses it; it stays");
            } else if let Err(error) = self.trash.discard(&path) {
                warn!(path = %path.display(), %error, "leftover of a layer remains until restart");
            }
        }
    }

    /// Reads records again that could not be read. Blocks.
    pub(super) fn look_again(&self) {
        let unread: Vec<PathBuf> = lock(&self.table).unread.iter().cloned().collect();
        for path in unread {
            let loaded = load(&path);
            let mut table = lock(&self.table);
            match loaded {
                Ok(stored) if table.layers.contains_key(&stored.record.chain) => {
                    warn!(layer = %stored.record.chain, "layer is there twice");
                }
                Ok(stored) => {
                    info!(layer = %stored.record.chain, "layer can be used again");
                    table.insert(stored);
                }
                // The next start discards it.
                Err(error) if error.is_damage() => {
                    warn!(error = %crate::error::chain(&error), "layer is damaged");
                }
                Err(error) => {
                    debug!(error = %crate::error::chain(&error), "layer still cannot be used");
                    continue;
                }
            }
            table.unread.remove(&path);
        }
    }

    /// The record that may be this layer's and could not be read.
    pub(super) fn unread(&self, chain: &Digest) -> Option<PathBuf> {
        let short = &chain.hex()[..NAME_DIGITS];
        let table = lock(&self.table);
        let is_its = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(short.as_bytes()))
        };
        table.unread.iter().find(is_its).cloned()
    }

    /// The layer with this chain id, if it is committed.
    pub(super) fn get(&self, chain: &Digest) -> Option<Stored> {
        lock(&self.table).layers.get(chain).cloned()
    }

    /// Bytes and inodes of all layers.
    pub(super) fn usage(&self) -> (u64, u64) {
        let table = lock(&self.table);
        (table.bytes, table.inodes)
    }

    /// Keeps these layers, there or to come, until the lease is dropped.
    pub(super) fn lease(self: &Arc<Self>, chains: &[Digest]) -> Lease {
        let mut table = lock(&self.table);
        for chain in chains {
            *table.leases.entry(*chain).or_default() += 1;
        }
        Lease { layers: Arc::clone(self), chains: chains.to_vec() }
    }

    /// Makes an unpacked layer part of the store. `below` are the chain ids below it, bottom
    /// first, all committed. The caller sees to it that nobody else commits this one. Blocks.
    pub(super) fn commit(
        &self,
        unpacked: Unpacked,
        chain: Digest,
        below: &[Digest],
    ) -> Result<(), StoreError> {
        let at = |what| {
            let path = unpacked.path().to_owned();
            move |source| StoreError::File { what, path, source }
        };
        if let Some(path) = self.unread(&chain) {
            return Err(StoreError::LayerUnread { chain, path });
        }
        let parents = self.parents(below)?;
        unpacked.inherit(&parents).map_err(at("inherit directories of layer"))?;
        // Content first, then the name, then the record: a crash leaves garbage, never a layer
        // whose files are empty (R19).
        self.sync.sync().map_err(at("sync layer"))?;
        let record = LayerRecord {
            version: record::VERSION,
            chain,
            diff_id: unpacked.diff_id(),
            bytes: unpacked.bytes(),
            inodes: unpacked.inodes(),
            opaque: unpacked.is_opaque(),
            committed_at: now(),
        };
        let path = self.place(unpacked, &chain)?;
        let written = record::sync_dir(&self.dir)
            .map_err(|source| StoreError::File { what: "sync", path: self.dir.clone(), source })
            .and_then(|()| Ok(record::write(&path.with_extension("json"), &record)?));
        if let Err(error) = written {
            // Without a record it would be swept at the next start; with a full disk that is late.
            self.trash.discard(&path).ok();
            return Err(error);
        }
        lock(&self.table).insert(Stored { path, record });
        Ok(())
    }

    /// Directories of the chain below a layer, the topmost first, as far as they are visible.
    fn parents(&self, below: &[Digest]) -> Result<Vec<PathBuf>, StoreError> {
        let table = lock(&self.table);
        let mut parents = Vec::with_capacity(below.len());
        for chain in below.iter().rev() {
            let stored = table.layers.get(chain).ok_or(StoreError::LayerGone(*chain))?;
            parents.push(stored.path.clone());
            if stored.record.opaque {
                break;
            }
        }
        Ok(parents)
    }

    /// Renames an unpacked layer to the first free name for its chain.
    fn place(&self, unpacked: Unpacked, chain: &Digest) -> Result<PathBuf, StoreError> {
        let short = chain.hex()[..NAME_DIGITS].to_owned();
        for suffix in 0..MAX_SUFFIX {
            let name = if suffix == 0 { short.clone() } else { format!("{short}-{suffix}") };
            let path = self.dir.join(name);
            match renameat_with(CWD, unpacked.path(), CWD, &path, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    unpacked.placed();
                    return Ok(path);
                }
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(error) => {
                    let source = error.into();
                    return Err(StoreError::File { what: "rename layer to", path, source });
                }
            }
        }
        Err(StoreError::LayerNames(*chain))
    }

    /// Discards layers that no image in `referenced` and no pull needs, if they were committed at
    /// least `age` ago. The caller sees to it that no image is committed meanwhile. Blocks.
    pub(super) fn collect(&self, referenced: &HashSet<Digest>, age: Duration, in_use: &InUse) {
        let newest = now().saturating_sub(age.as_secs());
        let doomed = lock(&self.table).take(|table, stored| {
            let chain = &stored.record.chain;
            stored.record.committed_at <= newest
                && !referenced.contains(chain)
                && !table.leases.contains_key(chain)
                && !in_use.has(&stored.path)
        });
        for stored in doomed {
            // The record first: a crash in between leaves a directory without one.
            let record = stored.path.with_extension("json");
            let gone = fs::remove_file(&record).and_then(|()| self.trash.discard(&stored.path));
            if let Err(error) = gone {
                warn!(layer = %stored.record.chain, %error, "unused layer remains until restart");
            }
        }
    }
}

impl Table {
    fn insert(&mut self, stored: Stored) {
        self.bytes += stored.record.bytes;
        self.inodes += stored.record.inodes;
        if let Some(old) = self.layers.insert(stored.record.chain, stored) {
            self.bytes -= old.record.bytes;
            self.inodes -= old.record.inodes;
        }
    }

    fn take(&mut self, doomed: impl Fn(&Self, &Stored) -> bool) -> Vec<Stored> {
        let chains: Vec<Digest> = self
            .layers
            .values()
            .filter(|stored| doomed(self, stored))
            .map(|stored| stored.record.chain)
            .collect();
        let taken: Vec<Stored> =
            chains.iter().filter_map(|chain| self.layers.remove(chain)).collect();
        for stored in &taken {
            self.bytes -= stored.record.bytes;
            self.inodes -= stored.record.inodes;
        }
        taken
    }
}

/// Layers that a pull needs; dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lease {
    layers: Arc<Layers>,
    chains: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = lock(&self.layers.table);
        for chain in &self.chains {
            if let Some(count) = table.leases.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    table.leases.remove(chain);
                }
            }
        }
    }
}

fn load(path: &Path) -> Result<Stored, StoreError> {
    let record: LayerRecord = record::read(path)?;
    let content = path.with_extension("");
    let damaged = |why| record::RecordError::Damaged { path: path.to_owned(), why };
    let name = content.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.starts_with(&record.chain.hex()[..NAME_DIGITS]) {
        return Err(damaged("is the record of another layer").into());
    }
    match fs::symlink_metadata(&content) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(damaged("has no layer beside it").into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("has no layer beside it").into());
        }
        Err(source) => return Err(StoreError::File { what: "look at", path: content, source }),
    }
    Ok(Stored { path: content, record })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// syncfs(2) for many at once: whoever comes while one runs waits for the next, all together.
#[derive(Debug)]
struct GroupSync {
    dir: File,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    started: u64,
    finished: u64,
    /// The last round that failed, and how.
    failed: Option<(u64, Errno)>,
}

impl GroupSync {
    fn new(dir: File) -> Self {
        Self { dir, rounds: Mutex::default(), ended: Condvar::new() }
    }

    /// Returns when everything written before the call is on disk.
    fn sync(&self) -> io::Result<()> {
        let mut rounds = lock(&self.rounds);
        // A round that has begun may have passed our files already; the next one has not.
        let mine = rounds.started + 1;
        while rounds.finished < mine {
            if rounds.started > rounds.finished {
                rounds = self.ended.wait(rounds).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            rounds.started += 1;
            let round = rounds.started;
            drop(rounds);
            let result = rustix::fs::syncfs(&self.dir);
            rounds = lock(&self.rounds);
            rounds.finished = round;
            if let Err(error) = result {
                rounds.failed = Some((round, error));
            }
            self.ended.notify_all();
        }
        // The kernel reports a lost write once, to one caller; everyone whom that round covered,
        // or who cannot tell, has to begin again with new files (R34).
        match rounds.failed {
            Some((round, error)) if round >= mine => Err(error.into()),
            _ => Ok(()),
        }
    }
}
