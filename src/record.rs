//! What the daemon remembers of its objects: one checksummed file each, replaced atomically.
//!
//! A file is written beside its final name and renamed over it, so a reader sees the old record or
//! the new one and never a part. Records are not fsynced: what they describe (processes, mounts,
//! namespaces) does not survive a power cut, and what does (image layers, cached CNI results) has
//! its own durable store. A record that a power cut did tear fails its checksum.
//!
//! What is wrong with a file is one of three things, and only the first is damage: it was read whole
//! and is not what was written; the system did not let it be read ([`RecordError::File`]), which says
//! nothing of it; or a newer crisol wrote it ([`RecordError::Foreign`]), which only that one may touch.
//!
//! INVARIANT: a record is on disk before the first resource it names is taken, and goes last.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::{Classify, Kind};

mod trouble;

pub use trouble::{Trouble, Troubles};

/// Version of the envelope. It grows whenever an older crisol must not go on with what is written
/// now; a new field with a default is no reason.
const VERSION: u32 = 1;

/// The crisol that writes.
const CRISOL: &str = env!("CARGO_PKG_VERSION");

/// A record's largest size; a request is at most 16 MiB, its record little more.
const MAX_BYTES: u64 = 32 << 20;

/// How often records that the system does not let be read are tried again at the start.
const TRIES: u32 = 5;

/// The pause before each.
const PAUSE: Duration = Duration::from_millis(200);

/// What a record's file ends with.
const RECORD: &str = "json";

/// What it ends with once it is set aside.
const ASIDE: &str = "damaged";

/// Why a record could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory could not be made or listed.
    #[error("records in {dir}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The record could not be turned into text.
    #[error("encode record {path}")]
    Encode {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file could not be read, written, replaced or removed. What is in it is not known.
    #[error("{action} record {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read, and is not what was written.
    #[error("record {path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is whole, and says what this crisol does not understand.
    #[error(
        "record {path} was written by a newer crisol: {problem}; install that crisol again, or let \
         it remove the pod first"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        problem: String,
    },
}

impl Classify for RecordError {
    fn kind(&self) -> Kind {
        match self {
            Self::Directory { source, .. } | Self::File { source, .. } => Kind::of_io(source),
            Self::Encode { .. } => Kind::Internal,
            Self::Damaged { .. } => Kind::DataLoss,
            Self::Foreign { .. } => Kind::Unavailable,
        }
    }
}

/// All that every version of the envelope has.
#[derive(Deserialize)]
struct Head {
    version: u32,
    /// The crisol that wrote it; the first ones did not say.
    #[serde(default)]
    crisol: String,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(default)]
    crisol: String,
    sha256: String,
    record: Box<RawValue>,
}

/// The records of one kind of object, one file each, named by the object's id.
#[derive(Debug)]
pub struct Records<R> {
    dir: PathBuf,
    troubles: Troubles,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Records<R> {
    fn clone(&self) -> Self {
        Self { dir: self.dir.clone(), troubles: self.troubles.clone(), kind: PhantomData }
    }
}

/// What a look at all records found.
#[derive(Debug)]
pub struct Found<R> {
    /// What could be read.
    pub records: Vec<R>,
    /// What could not, and why: [`RecordError::File`], [`RecordError::Damaged`] and
    /// [`RecordError::Foreign`], each with the id that the file is named by.
    pub failed: Vec<(String, RecordError)>,
    /// The ids of records that were set aside before.
    pub aside: Vec<String>,
}

impl<R> Found<R> {
    /// Whether there is a record of this id, and what is in it is not known: it may be whole.
    pub fn is_unknown(&self, id: &impl ToString) -> bool {
        let id = id.to_string();
        self.failed
            .iter()
            .any(|(failed, why)| *failed == id && !matches!(why, RecordError::Damaged { .. }))
    }
}

impl<R: Serialize + DeserializeOwned> Records<R> {
    /// The records in `dir`, which is made if it is absent (mode 0700). Remains of interrupted
    /// writes are dropped: nobody else may be writing yet. Blocks, also for a second when there are
    /// records that the system does not let be read: at a start they may be readable a moment later.
    ///
    /// # Errors
    /// [`RecordError::Foreign`] if there is a record of a newer crisol: this one would not take care
    /// of what it names.
    pub fn open(dir: PathBuf) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Directory { dir: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp")
                && let Err(error) = fs::remove_file(&path)
            {
                // The next write replaces it.
                tracing::warn!(path = %path.display(), %error, "remove an unfinished record");
            }
        }
        let records = Self { dir, troubles: Troubles::default(), kind: PhantomData };
        for _ in 0..TRIES {
            let found = records.load_all()?.failed.into_iter().map(|(_, error)| error);
            let mut unread = false;
            for error in found {
                match error {
                    foreign @ RecordError::Foreign { .. } => return Err(foreign),
                    error => unread |= matches!(error, RecordError::File { .. }),
                }
            }
            if !unread {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(records)
    }

    /// What is wrong with records of this kind now.
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// Replaces the record `id`.
    pub fn save(&self, id: &impl ToString, record: &R) -> Result<(), RecordError> {
        let path = self.file(&id.to_string());
        let encode = |source| RecordError::Encode { path: path.clone(), source };
        let text = serde_json::value::to_raw_value(record).map_err(encode)?;
        let envelope = Envelope {
            version: VERSION,
            crisol: CRISOL.to_owned(),
            sha256: checksum(text.get()),
            record: text,
        };
        let bytes = serde_json::to_vec(&envelope).map_err(encode)?;
        replace(&path, &bytes).map_err(|source| RecordError::File {
            action: "replace",
            path,
            source,
        })
    }

    /// Forgets the record `id`, also what was set aside of it; absent is fine.
    pub fn delete(&self, id: &impl ToString) -> Result<(), RecordError> {
        let path = self.file(&id.to_string());
        for path in [path.with_extension(ASIDE), path] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(RecordError::File { action: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The record `id`, if there is one.
    pub fn load(&self, id: &impl ToString) -> Result<Option<R>, RecordError> {
        unless_absent(load(&self.file(&id.to_string())))
    }

    /// Whether there is neither a record `id` nor what was set aside of one. Only the system's word
    /// that there is none counts.
    pub fn is_gone(&self, id: &impl ToString) -> Result<bool, RecordError> {
        let path = self.file(&id.to_string());
        for path in [path.with_extension(ASIDE), path] {
            match path.symlink_metadata() {
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RecordError::File { action: "look for", path, source }),
            }
        }
        Ok(true)
    }

    /// Every record, and what is wrong with the others. Records may be written meanwhile.
    pub fn load_all(&self) -> Result<Found<R>, RecordError> {
        let listing = |source| RecordError::Directory { dir: self.dir.clone(), source };
        let mut found = Found { records: Vec::new(), failed: Vec::new(), aside: Vec::new() };
        for entry in fs::read_dir(&self.dir).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match path.extension().and_then(|extension| extension.to_str()) {
                // RACE: it may have been deleted since the listing.
                Some(RECORD) => match unless_absent(load(&path)) {
                    Ok(record) => found.records.extend(record),
                    Err(error) => found.failed.push((id, error)),
                },
                Some(ASIDE) => found.aside.push(id),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Takes the damaged record `id` out of the way, keeping it for a person to look at. While it is
    /// there, `id` is not gone.
    pub fn set_aside(&self, id: &impl ToString) -> Result<(), RecordError> {
        let path = self.file(&id.to_string());
        let failed = |source| RecordError::File { action: "set aside", path: path.clone(), source };
        fs::rename(&path, path.with_extension(ASIDE)).map_err(failed)
    }

    /// Where what was set aside of the record `id` is.
    pub fn aside(&self, id: &str) -> PathBuf {
        self.file(id).with_extension(ASIDE)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.join(id).with_extension(RECORD)
    }
}

fn load<R: DeserializeOwned>(path: &Path) -> Result<R, RecordError> {
    let mut bytes = Vec::new();
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(|source| RecordError::File { action: "read", path: path.to_owned(), source })?;
    decode(path, &bytes)
}

fn decode<R: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<R, RecordError> {
    let damaged = |problem: String| RecordError::Damaged { path: path.to_owned(), problem };
    let foreign = |problem: String| RecordError::Foreign { path: path.to_owned(), problem };
    let head: Head = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let writer = match head.crisol.as_str() {
        "" => String::new(),
        version => format!(" of crisol {version}"),
    };
    match head.version {
        0 => return Err(damaged("there is no version 0".to_owned())),
        1..=VERSION => {}
        newer => {
            return Err(foreign(format!(
                "it has version {newer}{writer}, and this is crisol {CRISOL}, which knows {VERSION}"
            )));
        }
    }
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if checksum(envelope.record.get()) != envelope.sha256 {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    // Somebody meant every byte of it.
    serde_json::from_str(envelope.record.get())
        .map_err(|error| foreign(format!("{error}{writer}, and this is crisol {CRISOL}")))
}

/// None where the system says that there is no such file.
fn unless_absent<R>(loaded: Result<R, RecordError>) -> Result<Option<R>, RecordError> {
    match loaded {
        Err(RecordError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        loaded => loaded.map(Some),
    }
}

/// Writes `bytes` beside `path` and renames the file over it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
