//! What the daemon remembers of its objects: one checksummed file each, replaced atomically.
//!
//! A file is written beside its final name and renamed over it, so a reader sees the old record or
//! the new one and never a part. Records are not fsynced: what they describe (processes, mounts,
//! namespaces) does not survive a power cut, and what does (image layers, cached CNI results) has
//! its own durable store. A record that a power cut did tear fails its checksum and is set aside.
//!
//! INVARIANT: a record is on disk before the first resource it names is taken, and goes last.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::{Classify, Kind};

/// Version of the envelope. A file of a newer version is set aside, never rewritten.
const VERSION: u32 = 1;

/// A record's largest size; a request is at most 16 MiB, its record little more.
const MAX_BYTES: u64 = 32 << 20;

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
    /// The file could not be written, replaced or removed.
    #[error("{action} record {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("record {path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Classify for RecordError {
    fn kind(&self) -> Kind {
        match self {
            Self::Directory { source, .. } | Self::File { source, .. } => Kind::of_io(source),
            Self::Encode { .. } => Kind::Internal,
            Self::Damaged { .. } => Kind::DataLoss,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    sha256: String,
    record: Box<RawValue>,
}

/// The records of one kind of object, one file each, named by the object's id.
#[derive(Debug)]
pub struct Records<R> {
    dir: PathBuf,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Records<R> {
    fn clone(&self) -> Self {
        Self { dir: self.dir.clone(), kind: PhantomData }
    }
}

impl<R: Serialize + DeserializeOwned> Records<R> {
    /// The records in `dir`, which is made if it is absent (mode 0700). Remains of interrupted
    /// writes are dropped: nobody else may be writing yet.
    pub fn open(dir: PathBuf) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Directory { dir: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(Self { dir, kind: PhantomData })
    }

    /// Replaces the record `id`.
    pub fn save(&self, id: &impl ToString, record: &R) -> Result<(), RecordError> {
        let path = self.file(&id.to_string());
        let encode = |source| RecordError::Encode { path: path.clone(), source };
        let text = serde_json::value::to_raw_value(record).map_err(encode)?;
        let envelope = Envelope { version: VERSION, sha256: checksum(text.get()), record: text };
        let bytes = serde_json::to_vec(&envelope).map_err(encode)?;
        replace(&path, &bytes).map_err(|source| RecordError::File {
            action: "replace",
            path,
            source,
        })
    }

    /// Forgets the record `id`; absent is fine.
    pub fn delete(&self, id: &impl ToString) -> Result<(), RecordError> {
        let path = self.file(&id.to_string());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::File { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The record `id`, if there is one.
    pub fn load(&self, id: &impl ToString) -> Result<Option<R>, RecordError> {
        let path = self.file(&id.to_string());
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => load(&path).map(Some),
        }
    }

    /// Every record, or what is wrong with it. Records may be written meanwhile.
    pub fn load_all(&self) -> Result<Vec<Result<R, RecordError>>, RecordError> {
        let listing = |source| RecordError::Directory { dir: self.dir.clone(), source };
        let mut loaded = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match load(&path) {
                    // RACE: it was deleted since the listing.
                    Err(_) if !path.exists() => {}
                    record => loaded.push(record),
                }
            }
        }
        Ok(loaded)
    }

    /// Takes a damaged record out of the way, keeping it for a person to look at.
    pub fn set_aside(&self, path: &Path) -> Result<(), RecordError> {
        let aside = path.with_extension("damaged");
        fs::rename(path, aside).map_err(|source| RecordError::File {
            action: "set aside",
            path: path.to_owned(),
            source,
        })
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn load<R: DeserializeOwned>(path: &Path) -> Result<R, RecordError> {
    let damaged = |problem: String| RecordError::Damaged { path: path.to_owned(), problem };
    let mut text = String::new();
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| damaged(error.to_string()))?;
    let envelope: Envelope = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    if envelope.version != VERSION {
        return Err(damaged(format!("version {} is not {VERSION}", envelope.version)));
    }
    if checksum(envelope.record.get()) != envelope.sha256 {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    serde_json::from_str(envelope.record.get()).map_err(|e| damaged(e.to_string()))
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
mod tests {
    use super::*;

    type Note = std::collections::BTreeMap<String, u32>;

    fn records() -> (tempfile::TempDir, Records<Note>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let records = Records::open(dir.path().join("notes")).expect("records");
        (dir, records)
    }

    #[test]
    fn what_was_saved_last_is_loaded() {
        let (_dir, records) = records();
        records.save(&"a", &Note::from([("x".to_owned(), 1)])).expect("save");
        let newest = Note::from([("x".to_owned(), 2)]);
        records.save(&"a", &newest).expect("save");
        let loaded: Vec<_> =
            records.load_all().expect("load").into_iter().map(Result::ok).collect();
        assert_eq!(loaded, [Some(newest)]);
    }

    #[test]
    fn a_deleted_record_is_gone_and_deleting_it_again_is_fine() {
        let (_dir, records) = records();
        records.save(&"a", &Note::new()).expect("save");
        records.delete(&"a").expect("delete");
        records.delete(&"a").expect("delete again");
        assert!(records.load_all().expect("load").is_empty());
    }

    #[test]
    fn listing_disturbs_no_write_and_opening_drops_what_a_crash_interrupted() {
        let (dir, records) = records();
        let unfinished = dir.path().join("notes/a.tmp");
        fs::write(&unfinished, "half").expect("write");
        assert!(records.load_all().expect("load").is_empty());
        assert!(unfinished.exists());
        Records::<Note>::open(dir.path().join("notes")).expect("records");
        assert!(!unfinished.exists());
    }

    #[test]
    fn every_kind_of_damage_is_told_and_hurts_only_its_own_record() {
        let (dir, records) = records();
        records.save(&"good", &Note::new()).expect("save");
        let path = dir.path().join("notes/bad.json");
        let good = fs::read_to_string(dir.path().join("notes/good.json")).expect("read");
        for bad in ["", "{", "null", &good[..good.len() / 2], &good.replace("{}", "{\"x\":3}")] {
            fs::write(&path, bad).expect("write");
            let loaded = records.load_all().expect("load");
            assert_eq!(loaded.iter().filter(|r| r.is_ok()).count(), 1, "{bad}");
            assert_eq!(loaded.len(), 2, "{bad}");
        }
        records.set_aside(&path).expect("set aside");
        assert_eq!(records.load_all().expect("load").len(), 1);
    }
}
