//! Layers as attackers and careless builders write them, unpacked beside a canary.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::*;
use crate::error::{Classify, Kind};
use crate::image::gc::Trash;

mod format;
mod layers;
mod processes;

/// Bytes of the largest zstd window that is accepted here.
const WINDOW: u64 = 64 << 20;

/// An archive under construction. Names are written as they are, whatever they are.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn header(kind: u8, path: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkflag[0] = kind;
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header
    }

    fn raw(mut self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.raw(Self::header(b'0', path.as_bytes(), data.len() as u64), data.as_bytes())
    }

    fn dir(self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(b'5', path.as_bytes(), 0);
        header.set_mode(mode);
        self.raw(header, b"")
    }

    fn link(self, kind: u8, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, path.as_bytes(), 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.link(b'2', path, target)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(b'1', path, target)
    }

    fn node(self, kind: u8, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, path.as_bytes(), 0);
        header.set_device_major(major).expect("ustar");
        header.set_device_minor(minor).expect("ustar");
        self.raw(header, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let digits = (1..6).find(|n| (body + n).to_string().len() == *n).expect("short");
            write!(data, "{} {key}=", body + digits).expect("memory");
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(Self::header(b'x', b"pax", data.len() as u64), &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Unpacks what arrives as the daemon does it.
fn unpack_arriving(
    blob: Descriptor,
    diff_id: Digest,
    place: Temporary,
    pieces: Receiver<Bytes>,
) -> Result<Unpacked, UnpackError> {
    let line = Line::new().expect("a line");
    let layer = Layer::new(blob, diff_id, WINDOW);
    unpack(&Unpacker::default(), &layer, place, pieces, &line)
}

/// A place to unpack in, and beside it what must not change.
struct Lab {
    dir: tempfile::TempDir,
    trash: Arc<Trash>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["canary", "trash"] {
            fs::create_dir(dir.path().join(name)).expect("directory");
        }
        fs::write(dir.path().join("canary/secret"), "secret").expect("file");
        let trash = Arc::new(Trash::open(&dir.path().join("trash")).expect("trash"));
        Self { dir, trash }
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().expect("UTF-8").to_owned()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// Unpacks `blob`, which should have the archive with digest `diff_id` in it.
    fn unpack_blob(
        &self,
        blob: &[u8],
        diff_id: Digest,
        limit: u64,
    ) -> Result<Unpacked, UnpackError> {
        let place = Temporary::create(self.root(), Arc::clone(&self.trash)).expect("place");
        let pieces: Vec<Bytes> = blob.chunks(1000).map(Bytes::copy_from_slice).collect();
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            sender.try_send(piece).expect("room for all");
        }
        drop(sender);
        let target = Descriptor { digest: Digest::of(blob), size: blob.len() as u64 };
        let layer = Layer { limit, ..Layer::new(target, diff_id, WINDOW) };
        let line = Line::new().expect("a line");
        let result = super::unpack(&Unpacker::default(), &layer, place, receiver, &line);
        self.check_canary();
        assert!(result.is_ok() || !self.root().exists(), "a failure leaves something");
        result
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack_blob(archive, Digest::of(archive), 1 << 30)
    }

    fn check_canary(&self) {
        let dir = fs::metadata(self.canary()).expect("canary");
        assert_eq!(dir.mode() & 0o7777, 0o755, "mode of the canary");
        let secret = self.dir.path().join("canary/secret");
        assert_eq!(fs::read_dir(self.canary()).expect("list").count(), 1, "files of the canary");
        assert_eq!(fs::read_to_string(&secret).expect("read"), "secret");
        assert_eq!(fs::metadata(&secret).expect("stat").nlink(), 1, "links to the canary");
    }

    /// Paths of everything below the layer's root, with a letter for the kind.
    fn list(&self) -> Vec<String> {
        fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).expect("list") {
                let entry = entry.expect("entry");
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                let metadata = entry.path().symlink_metadata().expect("stat");
                let kind = metadata.file_type();
                let letter = match () {
                    () if kind.is_dir() => 'd',
                    () if kind.is_symlink() => 'l',
                    () if kind.is_char_device() && metadata.rdev() == 0 => 'w',
                    () if kind.is_char_device() => 'c',
                    () if kind.is_block_device() => 'b',
                    () if kind.is_fifo() => 'p',
                    () => 'f',
                };
                found.push(format!("{letter} {name}"));
                if kind.is_dir() {
                    walk(&entry.path(), &format!("{name}/"), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root(), "", &mut found);
        found.sort_by(|a, b| a[2..].cmp(&b[2..]));
        found
    }

    fn is_opaque(&self, path: &str) -> bool {
        let dir = fs::File::open(self.root().join(path)).expect("open");
        node::is_opaque(&dir).expect("read attribute")
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).expect(path)
    }
}

/// What becomes of one archive, in words: the tree, or the kind of failure.
fn outcome(tar: Tar) -> Result<Vec<String>, Kind> {
    let lab = Lab::new();
    match lab.unpack(&tar.end()) {
        Ok(unpacked) => {
            let list = lab.list();
            drop(unpacked);
            Ok(list)
        }
        Err(error) => Err(error.kind()),
    }
}
