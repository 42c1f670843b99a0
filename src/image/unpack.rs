//! Unpacks one layer: compressed pieces in, a directory that overlayfs can use out.
//!
//! ```text
//!  pieces ─► sha256 (blob) ═pipe═► inflate ─► sha256 (diff id), bounded ─► tar ─► tree
//!  └─── threads of the daemon ──┘  └─ a confined process, one a layer (child.rs) ───────┘
//! ```
//!
//! The daemon hashes the bytes that it passes on, and never looks into them. What the process says of
//! them, the diff id too, is as good as that process: a layer that takes it over can pass for another
//! archive; what else it can do is in docs/reliability.md, "Images". The directory is independent of the
//! layers below, so all layers of an image are unpacked at once; what an archive leaves to the
//! layer below (the mode of a directory it only mentions in a path) is added by
//! [`Unpacked::inherit`] when the layer is committed.
//!
//! INVARIANT: an [`Unpacked`] has the digest, the size and the diff id it should have.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

pub use archive::MAX_EXTENSION;
pub use node::is_taken;
pub use pax::MAX_XATTRS;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

mod archive;
mod child;
mod decompress;
mod error;
mod frames;
mod implied;
mod inherit;
mod line;
mod memory;
mod node;
mod numbers;
mod pax;
mod pieces;
mod place;
mod room;
mod tree;
mod unpacker;
mod whiteout;
mod wire;

pub use child::serve as serve_unpacker;
pub use error::UnpackError;
pub use unpacker::gaps as unpacker_gaps;
pub(super) use unpacker::known_gaps;
pub(super) use unpacker::{Line, Unpacker};

use error::is_not_given;

use super::digest::Digest;
use super::gc::Temporary;
use super::manifest::Descriptor;
use crate::sys;
use implied::Implied;
use wire::{Done, Job, MAX_IMPLIED, Onto, Said, Windows};

/// Entries of one layer. A full distribution has 300,000 files.
const MAX_ENTRIES: u64 = 2_000_000;

/// Bytes that one layer may unpack to, whatever it was compressed from.
const MAX_BYTES: u64 = 256 << 30;

/// Inodes that one layer can have: one an entry, one an undescribed directory, its root.
const MAX_INODES: u64 = MAX_ENTRIES + MAX_IMPLIED as u64 + 1;

/// How long the process of a layer may work without taking a piece of it, or, after the last one, until
/// it ends: on the slowest of disks no piece takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes of a layer that may be on their way to its process.
const PIPE_BYTES: usize = 1 << 20;

/// Bytes that any layer may unpack to, however well it compresses.
const FREE_BYTES: u64 = 1 << 30;

/// Above [`FREE_BYTES`], how many bytes may come out of one. Gzip reaches 1032 with zeros only.
const MAX_RATIO: u64 = 200;

/// Bytes that unpacking leaves free on the file system: records of running containers still have
/// to be written when it is full (R33).
const RESERVED_BYTES: u64 = 64 << 20;

/// Inodes that unpacking leaves free.
const RESERVED_INODES: u64 = 1024;

/// A layer that is unpacked and verified, but not committed; discarded when dropped.
#[derive(Debug)]
pub(super) struct Unpacked {
    place: Temporary,
    diff_id: Digest,
    contents: Contents,
}

/// What a tree has come to, by what its process said.
#[derive(Debug)]
struct Contents {
    bytes: u64,
    inodes: u64,
    opaque: bool,
    /// Directories that only occur in the paths of others.
    implied: Implied,
}

impl Unpacked {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Its diff id.
    pub(super) fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// Bytes that its files take.
    pub(super) fn bytes(&self) -> u64 {
        self.contents.bytes
    }

    /// Inodes that its files take.
    pub(super) fn inodes(&self) -> u64 {
        self.contents.inodes
    }

    /// Whether nothing of the layers below is visible.
    pub(super) fn is_opaque(&self) -> bool {
        self.contents.opaque
    }

    /// Gives directories that the archive did not describe the owner, mode, attributes and times
    /// they have in the layers below (topmost first).
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn inherit(&self, below: &[PathBuf]) -> io::Result<()> {
        inherit::inherit(self.path(), &self.contents.implied, below)
    }

    /// It has been renamed and belongs to the store now.
    pub(super) fn placed(self) {
        self.place.keep();
    }
}

/// A layer to unpack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    blob: Descriptor,
    diff_id: Digest,
    /// Bytes that may come out of it.
    limit: u64,
    /// Bytes that a zstd frame may have its decoder keep.
    max_window: u64,
}

impl Layer {
    /// The archive `diff_id` in `blob`.
    pub(super) fn new(blob: Descriptor, diff_id: Digest, max_window: u64) -> Self {
        let limit = blob.size.saturating_mul(MAX_RATIO).clamp(FREE_BYTES, MAX_BYTES);
        Self { blob, diff_id, limit, max_window }
    }
}

/// Unpacks the layer that arrives in `pieces` into `place`, by a process of `unpacker` that `line`
/// leads to. Blocks until all has arrived; dropping the sender early ends it.
///
/// # Errors
/// [`UnpackError`]; the directory is discarded then.
pub(super) fn unpack(
    unpacker: &Unpacker,
    layer: &Layer,
    place: Temporary,
    pieces: Receiver<Bytes>,
    line: &Line,
) -> Result<Unpacked, UnpackError> {
    let owing = Owing::new(PATIENCE);
    let owing = &owing;
    let (reading, writing) = pipe()?;
    let windows = Windows::of_layer(layer.max_window);
    let job = Job { limit: layer.limit, windows, onto: Onto::Nothing };
    let dir = layer_dir(place.path())?;
    unpacker.begin(&job, dir.as_fd(), reading.as_fd(), line)?;
    drop(reading);
    let (verdict, judged) = mpsc::channel();
    let (heard, (size, actual)) = thread::scope(|scope| {
        let feeding = thread::Builder::new().name("feed-layer".into());
        let feeding = feeding.spawn_scoped(scope, move || feed(pieces, writing, &judged, owing));
        let feeding = feeding.map_err(UnpackError::Thread)?;
        let heard = listen(unpacker, line, dir.as_fd(), windows, Some(&place), owing);
        // It has ended; one that answers nonsense does now, and takes no more bytes.
        line.hang_up();
        // What is wrong with an archive does not matter if it is not the right one.
        let all_matters = heard.as_ref().err().is_none_or(UnpackError::is_about_content);
        if !all_matters {
            line.give_up();
        }
        // Who feeds is not there to hear it if all was read.
        verdict.send(all_matters).ok();
        let fed = feeding.join().map_err(|_| UnpackError::Nonsense("a panic".into()))?;
        Ok::<_, UnpackError>((heard, fed))
    })?;
    if heard.as_ref().err().is_none_or(UnpackError::is_about_content) {
        if size < layer.blob.size {
            return Err(UnpackError::Interrupted);
        }
        if actual != layer.blob.digest {
            return Err(UnpackError::Digest { actual });
        }
    }
    let (done, implied) = heard?;
    if done.diff_id != layer.diff_id {
        return Err(UnpackError::DiffId { expected: layer.diff_id, actual: done.diff_id });
    }
    let Done { bytes, inodes, opaque, diff_id } = done;
    Ok(Unpacked { place, diff_id, contents: Contents { bytes, inodes, opaque, implied } })
}

/// Lays an archive over what is in the directory `onto`: what is there of the same name is replaced,
/// except that directories stay. Blocks until that is done.
///
/// # Errors
/// [`UnpackError`]; a part may have been laid over then.
pub fn lay_over(archive: &File, onto: &Path) -> Result<(), UnpackError> {
    let owing = Owing::new(PATIENCE);
    let owing = &owing;
    let (unpacker, line) = (Unpacker::default(), Line::new()?);
    let (reading, writing) = pipe()?;
    let job = Job { limit: MAX_BYTES, windows: Windows::of_checkpoint(), onto: Onto::Tree };
    let dir = layer_dir(onto)?;
    unpacker.begin(&job, dir.as_fd(), reading.as_fd(), &line)?;
    drop(reading);
    thread::scope(|scope| {
        let feeding = thread::Builder::new().name("feed-archive".into());
        let feeding = feeding.spawn_scoped(scope, move || pass_on(archive, writing, owing));
        let feeding = feeding.map_err(UnpackError::Thread)?;
        let heard = listen(&unpacker, &line, dir.as_fd(), job.windows, None, owing);
        // As above.
        line.hang_up();
        let fed = feeding.join().map_err(|_| UnpackError::Nonsense("a panic".into()))?;
        fed.map_err(|error| UnpackError::file("read", b"", error))?;
        heard.map(drop)
    })
}

/// Passes on a file that is the node's own: a process that unpacks could change what it can read.
fn pass_on(mut archive: &File, mut pipe: File, owing: &Owing) -> io::Result<()> {
    let mut piece = vec![0; 128 << 10];
    loop {
        owing.begin(true);
        let length = match archive.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        // Why nobody reads on, its process has told.
        if length == 0 || pipe.write_all(&piece[..length]).is_err() {
            return Ok(());
        }
    }
}

/// The directory as a process may have it that must not leave it.
fn layer_dir(path: &Path) -> Result<OwnedFd, UnpackError> {
    // A mount that cannot be bound elsewhere (mount(8), "unbindable") is EINVAL.
    let directory = match sys::detached::directory(path) {
        Err(error) if is_not_given(&error) => {
            unpacker::miss(format!("a mount of the layer without devices: {error}"));
            sys::detached::directory_with_devices(path)
        }
        opened => opened,
    };
    let directory = match directory {
        Err(error) if is_not_given(&error) => {
            unpacker::miss(format!("a mount of the layer alone: {error}"));
            File::open(path).map(OwnedFd::from)
        }
        opened => opened,
    };
    directory.map_err(|error| UnpackError::file("open", b"/", error))
}

/// A pipe for a layer's bytes: reading end, writing end.
fn pipe() -> Result<(OwnedFd, File), UnpackError> {
    let failed = |error: rustix::io::Errno| UnpackError::Start(error.into());
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // Where so much is not allowed, the pipe stays as it is, and is a little slower.
    fcntl_setpipe_size(&writing, PIPE_BYTES).ok();
    Ok((reading, writing.into()))
}

/// Passes on the pieces and hashes them; how many bytes they were, and their digest. Once nobody reads
/// them any more, goes on only if they all matter still.
fn feed(
    mut pieces: Receiver<Bytes>,
    pipe: File,
    all_matters: &mpsc::Receiver<bool>,
    owing: &Owing,
) -> (u64, Digest) {
    let (mut pipe, mut hash, mut size) = (Some(pipe), Sha256::new(), 0);
    let mut next = || {
        owing.begin(false);
        let piece = pieces.blocking_recv();
        owing.begin(true);
        piece
    };
    while let Some(piece) = next() {
        if let Some(reader) = &mut pipe
            && reader.write_all(&piece).is_err()
        {
            pipe = None;
            if !all_matters.recv().unwrap_or(false) {
                break;
            }
        }
        // Behind the writing: whoever reads works meanwhile.
        hash.update(&piece);
        size += piece.len() as u64;
    }
    (size, Digest::finish(hash))
}

/// Hears and answers the process of a layer until it has ended: not before all ends of its line are
/// closed, and the unpacker's is only then.
fn listen(
    unpacker: &Unpacker,
    line: &Line,
    dir: BorrowedFd<'_>,
    windows: Windows,
    place: Option<&Temporary>,
    owing: &Owing,
) -> Result<(Done, Implied), UnpackError> {
    let nonsense = |what: &'static str| UnpackError::Nonsense(what.into());
    let (mut result, mut implied) = (None, Implied::default());
    let (mut memory, mut ended) = (None, None);
    let mut asked = None;
    loop {
        owing.check()?;
        // A process that does not look itself finds less than there should be left.
        room::check(dir, 2)?;
        // What comes with a packet is closed unseen.
        let packet = match line.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received.map_err(UnpackError::Start)?.0,
        };
        if packet.is_empty() {
            return match (result, ended) {
                (Some(Err(error)), _) => Err(error),
                (Some(Ok(all)), Some(_)) => Ok(all),
                (None, Some(status)) => {
                    let how = unpacker::how(ExitStatus::from_raw(status));
                    Err(UnpackError::Died { how: how.into() })
                }
                (_, None) => Err(unpacker.lost(line)),
            };
        }
        let answer = match Said::decode(&packet) {
            None => return Err(nonsense("a message that is none")),
            Some(Said::Ended(status)) => {
                ended = Some(status);
                continue;
            }
            Some(_) if result.is_some() => return Err(nonsense("more after the last message")),
            Some(Said::Memory(bytes)) if bytes > windows.limit => {
                return Err(nonsense("a window that is larger than any"));
            }
            // A decoder asks for a larger window only.
            Some(Said::Memory(bytes)) if asked.is_some_and(|before| bytes <= before) => {
                return Err(nonsense("a window that is no larger than the last"));
            }
            Some(Said::Memory(bytes)) => {
                asked = Some(bytes);
                // RACE: nobody may hold a share while he waits for another.
                drop(memory.take());
                let waits = Instant::now();
                memory = Some(memory::NODE.take(bytes));
                owing.forgive(waits.elapsed());
                0
            }
            Some(Said::Opaque(path)) => mark_opaque(&path, dir),
            Some(Said::Implied(paths)) => {
                implied.add(&paths, place)?;
                continue;
            }
            Some(Said::Done(done)) => {
                if done.inodes > MAX_INODES || done.bytes > MAX_BYTES + MAX_INODES * room::UNIT {
                    return Err(nonsense("a size that cannot be"));
                }
                result = Some(Ok((done, std::mem::take(&mut implied))));
                continue;
            }
            Some(Said::Failed(error)) => {
                result = Some(Err(error));
                continue;
            }
        };
        // That nobody takes the answer, the end of the line tells.
        line.answer(answer).ok();
    }
}

/// Since when a process has been given what it has not taken.
#[derive(Debug)]
struct Owing {
    since: Mutex<Option<Instant>>,
    patience: Duration,
}

impl Owing {
    fn new(patience: Duration) -> Self {
        Self { since: Mutex::new(Some(Instant::now())), patience }
    }

    /// It has taken all so far, and more is there, or is not there yet.
    fn begin(&self, is_there: bool) {
        *self.lock() = is_there.then(Instant::now);
    }

    /// It was others whom it waited for so long.
    fn forgive(&self, waited: Duration) {
        if let Some(since) = &mut *self.lock() {
            *since += waited;
        }
    }

    fn check(&self) -> Result<(), UnpackError> {
        match *self.lock() {
            Some(since) if since.elapsed() > self.patience => Err(UnpackError::Stuck),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a directory of the layer opaque for its process; 0 or the error.
fn mark_opaque(path: &[u8], layer: BorrowedFd<'_>) -> i32 {
    let marked = match sys::in_root::open_dir(layer, path) {
        Ok(marked) => marked,
        Err(error) => return error.raw_os_error().unwrap_or(libc::EIO),
    };
    let mount = |of: BorrowedFd<'_>| {
        let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
        statx(of, "", AtFlags::EMPTY_PATH, wanted)
    };
    let is_of_the_layer = |marked: Statx, layer: Statx| {
        let is_dir = FileType::from_raw_mode(marked.stx_mode.into()) == FileType::Directory;
        is_dir && marked.stx_mnt_id == layer.stx_mnt_id
    };
    let made = match (mount(marked.as_fd()), mount(layer)) {
        (Ok(of_marked), Ok(of_layer)) if is_of_the_layer(of_marked, of_layer) => {
            node::make_opaque(marked)
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
        _ => Err(rustix::io::Errno::PERM),
    };
    made.err().map_or(0, rustix::io::Errno::raw_os_error)
}

#[cfg(test)]
mod tests;
