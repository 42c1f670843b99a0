//! The store's records on disk: JSON under a checksum, replaced atomically, read with doubt.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::ImageId;
use crate::image::Image;
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// Longest record that is read; one image with a thousand tags has a tenth of that.
const MAX_RECORD: u64 = 4 << 20;

/// Version of both record types. A record of a newer version is not touched: the store does not open.
pub(super) const VERSION: u32 = 1;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not a record.
    #[error("parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The content is damaged, or belongs elsewhere.
    #[error("{} {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A later release wrote it.
    #[error(
        "{} has version {version}, and this release knows {VERSION} at most: \
         it needs a newer crisol, or an image store of its own", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl RecordError {
    /// Whether the file was read whole and is not what was written. Any other error says nothing of
    /// the file.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Parse { .. } | Self::Damaged { .. })
    }

    /// Whether there is no such file, says the kernel.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// One committed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub version: u32,
    /// The whole chain id; the directory's name is only its beginning.
    pub chain: Digest,
    pub diff_id: Digest,
    /// Bytes that its files take.
    pub bytes: u64,
    /// Inodes that its files take.
    pub inodes: u64,
    /// Whether nothing below it is visible.
    pub opaque: bool,
    /// When it was committed, seconds since 1970.
    pub committed_at: u64,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub version: u32,
    /// Digest of the configuration, which lies beside the record.
    pub config: Digest,
    /// Full names with tag.
    pub tags: Vec<String>,
    /// Full names with digest.
    pub digests: Vec<String>,
    /// Diff ids, bottom first.
    pub layers: Vec<Digest>,
    /// When it was written, nanoseconds since 1970: of two records with one tag, the newer wins.
    pub written_at: u64,
}

impl ImageRecord {
    /// A record without names.
    pub(super) fn new(config: Digest, diff_ids: &[Digest]) -> Self {
        Self {
            version: VERSION,
            config,
            tags: Vec::new(),
            digests: Vec::new(),
            layers: diff_ids.to_vec(),
            written_at: 0,
        }
    }

    /// The record of an image that is there.
    pub(super) fn of(image: &Image) -> Self {
        Self {
            tags: image.repo_tags.clone(),
            digests: image.repo_digests.clone(),
            ..Self::new(digest_of(&image.id), &image.diff_ids)
        }
    }

    /// Adds the names that a pull gives an image.
    pub(super) fn add(&mut self, reference: &Reference, digest: Digest) {
        for (names, name) in [
            (&mut self.tags, reference.as_tag()),
            (&mut self.digests, Some(reference.with_digest(digest))),
        ] {
            if let Some(name) = name
                && !names.contains(&name)
            {
                names.push(name);
                names.sort();
            }
        }
    }
}

fn digest_of(id: &ImageId) -> Digest {
    // An image's id is the digest of its configuration in other words.
    format!("sha256:{id}").parse().expect("an id prints as 64 lower-case hex digits")
}

#[derive(Deserialize)]
struct Envelope<'a> {
    digest: Digest,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a record and verifies its checksum and version.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let text = read_bounded(path, MAX_RECORD)?;
    let parse = |source| RecordError::Parse { path: path.to_owned(), source };
    let envelope: Envelope<'_> = serde_json::from_slice(&text).map_err(parse)?;
    if Digest::of(envelope.record.get().as_bytes()) != envelope.digest {
        return Err(RecordError::Damaged { path: path.to_owned(), why: "has a wrong checksum" });
    }
    let Versioned { version } = serde_json::from_str(envelope.record.get()).map_err(parse)?;
    if version > VERSION {
        return Err(RecordError::Newer { path: path.to_owned(), version });
    }
    serde_json::from_str(envelope.record.get()).map_err(parse)
}

/// Replaces the record at `path`; when this returns, the new one is on disk.
pub(super) fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), RecordError> {
    let parse = |source| RecordError::Parse { path: path.to_owned(), source };
    let record = serde_json::to_string(record).map_err(parse)?;
    let digest = Digest::of(record.as_bytes());
    let text = format!("{{\"digest\":\"{digest}\",\"record\":{record}}}\n");
    if text.len() as u64 > MAX_RECORD {
        let (path, source) = (path.to_owned(), io::ErrorKind::FileTooLarge.into());
        return Err(RecordError::File { what: "write", path, source });
    }
    replace(path, text.as_bytes())
}

/// Replaces the file at `path`: temporary file, fsync, rename, fsync of the directory.
///
/// A failed fsync is final for that file (R34): the temporary one goes, the old one stays.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    let temporary = path.with_extension("new");
    let failed = |what| {
        let path = path.to_owned();
        move |source| RecordError::File { what, path, source }
    };
    let written = write_synced(&temporary, bytes).map_err(failed("write"));
    let renamed = written.and_then(|()| fs::rename(&temporary, path).map_err(failed("replace")));
    if renamed.is_err() {
        // Best effort: what is left is removed at the next start, by its suffix.
        fs::remove_file(&temporary).ok();
    }
    renamed?;
    sync_dir(path.parent().unwrap_or(Path::new("/"))).map_err(failed("sync directory of"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options();
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes renames within `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, RecordError> {
    let failed = |source| RecordError::File { what: "read", path: path.to_owned(), source };
    // Without O_NONBLOCK a fifo in our directory would hang the start.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file =
        File::options().read(true).custom_flags(flags.cast_signed()).open(path).map_err(failed)?;
    let damaged = |why| RecordError::Damaged { path: path.to_owned(), why };
    // Nothing of ours was read yet, so this is no damage.
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(failed(rustix::io::Errno::ISDIR.into()));
    } else if !kind.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(damaged("is too long"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LayerRecord {
        LayerRecord {
            version: VERSION,
            chain: Digest::of(b"chain"),
            diff_id: Digest::of(b"diff"),
            bytes: 4096,
            inodes: 1,
            opaque: false,
            committed_at: 7,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a.json");
        write(&path, &record()).expect("write");
        write(&path, &record()).expect("replace");
        assert_eq!(read::<LayerRecord>(&path).expect("read"), record());
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }

    #[test]
    fn every_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a.json");
        write(&path, &record()).expect("write");
        let good = fs::read(&path).expect("read");
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("write");
            assert!(read::<LayerRecord>(&path).is_err(), "bit flip at {at}");
            fs::write(&path, &good[..at]).expect("write");
            assert!(read::<LayerRecord>(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_damage() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a.json");
        let read = || read::<LayerRecord>(&path).expect_err("no record");
        assert!(read().is_absence() && !read().is_damage());
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("link");
        assert!(!read().is_absence() && !read().is_damage(), "link");
        fs::remove_file(&path).expect("remove");
        fs::create_dir(&path).expect("directory");
        assert!(!read().is_absence() && !read().is_damage(), "directory");
        fs::remove_dir(&path).expect("remove");
        fs::write(&path, "").expect("write");
        assert!(!read().is_absence() && read().is_damage(), "empty");
    }

    /// Records as former releases wrote them.
    #[test]
    fn records_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/store/golden");
        let layer: LayerRecord = read(&golden.join("layer-1.json")).expect("layer");
        assert_eq!(layer, record());
        let image: ImageRecord = read(&golden.join("image-1.json")).expect("image");
        let name = "registry.example:5000/team/app";
        let digest = Digest::of(b"manifest");
        let expected = ImageRecord {
            version: 1,
            config: Digest::of(b"{}"),
            tags: vec![format!("{name}:v1")],
            digests: vec![format!("{name}@{digest}")],
            layers: vec![Digest::of(b"diff"), Digest::of(b"diff two")],
            written_at: 1_700_000_000_123_456_789,
        };
        assert_eq!(image, expected);
    }

    #[test]
    fn a_record_of_a_newer_version_is_told_from_a_damaged_one_whatever_is_in_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a.json");
        write(&path, &serde_json::json!({"version": 2, "chains": []})).expect("write");
        let error = read::<LayerRecord>(&path).expect_err("newer");
        assert!(matches!(error, RecordError::Newer { version: 2, .. }) && !error.is_damage());
        assert!(error.to_string().contains("needs a newer crisol"), "{error}");
    }
}
