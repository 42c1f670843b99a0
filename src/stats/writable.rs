//! Space taken by containers' writable layers, measured in the background: no request walks a
//! directory or waits for a disk.
//!
//! Layers are walked in turn, each anew after a while, with a pause after each look that is a
//! multiple of the look: however much there is, walking takes a twentieth of one processor. A look
//! has a bounded number of entries; the walk of a layer that has more goes on when it is its turn
//! again, so that it holds up nobody else's.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FileType;

use crate::ids::ContainerId;
use crate::seldom::Seldom;
use crate::steps::blocking;
use crate::sys::tree::{Step, Walk};

use super::devices;

/// Between two walks of one layer: as often as the kubelet looks.
const PERIOD: Duration = Duration::from_secs(10);

/// Between two looks for layers that are due.
const LOOK: Duration = Duration::from_secs(2);

/// The pause after a walk, as a multiple of what the walk took.
const REST: u32 = 19;

/// Entries looked at, and directories opened, before the next layer has its turn: some tenths of a
/// second.
const TURN: u32 = 20_000;

/// Entries looked at in one walk. A layer of more is counted as far as this.
const MAX_ENTRIES: u64 = 2_000_000;

/// Space on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// A directory on it.
    pub mountpoint: PathBuf,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
    /// When it was measured.
    pub at: SystemTime,
}

/// What one writable layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
    /// When it was measured.
    pub at: SystemTime,
}

/// The file system that the layers are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Its device.
    pub device: String,
    /// Bytes it has.
    pub bytes: u64,
    /// Inodes it has.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// The writable layers of all containers.
#[derive(Clone, Debug)]
pub struct WritableLayers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the names of their directories.
    layers: HashMap<String, Layer>,
    room: Room,
}

#[derive(Debug)]
struct Layer {
    usage: LayerUsage,
    due: Instant,
    /// The walk that has not come to its end.
    unfinished: Option<Box<Count>>,
}

impl WritableLayers {
    /// Those in `dir`, not measured yet.
    pub fn new(dir: PathBuf) -> Self {
        Self(Arc::new(Shared { dir, known: Mutex::default() }))
    }

    /// What all of them took when they were measured last.
    pub fn usage(&self) -> Usage {
        let known = self.lock();
        let layers = || known.layers.values().map(|layer| layer.usage);
        Usage {
            mountpoint: self.0.dir.clone(),
            used_bytes: layers().map(|layer| layer.used_bytes).sum(),
            inodes_used: layers().map(|layer| layer.inodes_used).sum(),
            at: layers().map(|layer| layer.at).max().unwrap_or_else(SystemTime::now),
        }
    }

    /// What the layer of one container took; none before it was measured.
    pub fn layer(&self, id: &ContainerId) -> Option<LayerUsage> {
        Some(self.lock().layers.get(&id.to_string())?.usage)
    }

    /// The directory of all layers.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The file system that the layers are on.
    pub fn room(&self) -> Room {
        self.lock().room.clone()
    }

    /// Measures a layer that is new and therefore small, unless it is known already. Blocks.
    pub(super) fn measure_first(&self, id: &ContainerId) {
        let name = id.to_string();
        if self.lock().room == Room::default() {
            self.look_at_room();
        }
        if !self.lock().layers.contains_key(&name) {
            self.measure_one(name);
        }
    }

    /// Measures again and again, for as long as the daemon lives.
    pub async fn sample(self) {
        loop {
            let layers = self.clone();
            let due = blocking(move || layers.due()).await;
            for name in due {
                let layers = self.clone();
                let took = blocking(move || layers.measure_one(name)).await;
                tokio::time::sleep(took * REST).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The layers that should be measured now, those that waited longest first. Forgets those that
    /// are gone.
    fn due(&self) -> Vec<String> {
        self.look_at_room();
        let entries = fs::read_dir(&self.0.dir).into_iter().flatten().flatten();
        let there: HashSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let mut known = self.lock();
        known.layers.retain(|name, _| there.contains(name));
        let now = Instant::now();
        let since = |name: &String| known.layers.get(name).map(|layer| layer.due);
        let mut due: Vec<_> = there
            .iter()
            .filter(|name| since(name).is_none_or(|due| due <= now))
            .map(|name| (since(name), name.clone()))
            .collect();
        due.sort();
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// Returns how long it took.
    fn measure_one(&self, name: String) -> Duration {
        let began = Instant::now();
        let dir = self.0.dir.join(&name);
        let (before, count) = match self.lock().layers.get_mut(&name) {
            Some(layer) => (Some(layer.usage), layer.unfinished.take()),
            None => (None, None),
        };
        let mut count = match count.map_or_else(|| Count::new(&dir).map(Box::new), Ok) {
            Ok(count) => count,
            // It went meanwhile, or is looked at the next time.
            Err(_) => return began.elapsed(),
        };
        let done = match count.go_on(TURN) {
            Ok(done) => done,
            Err(error) => {
                self.unreadable(&name, &error);
                return began.elapsed();
            }
        };
        if dir.exists() {
            let at = Instant::now();
            // Until all of it is counted, what it had before is nearer to the truth, unless it is less.
            let usage = match before {
                Some(before) if !done && before.used_bytes > count.usage.used_bytes => before,
                _ => count.usage,
            };
            let layer = match done {
                true => Layer { usage, due: at + PERIOD, unfinished: None },
                false => Layer { usage, due: at, unfinished: Some(count) },
            };
            self.lock().layers.insert(name, layer);
        }
        began.elapsed()
    }

    /// A walk that failed half-way says nothing of how much there is: what was measured before stays,
    /// and the next walk begins anew. One that was never measured has no figures yet.
    fn unreadable(&self, name: &str, error: &io::Error) {
        static UNREADABLE: Seldom = Seldom::new();
        if let Some(times) = UNREADABLE.again() {
            tracing::warn!(layer = name, %error, times, "measure a writable layer");
        }
        if let Some(layer) = self.lock().layers.get_mut(name) {
            layer.due = Instant::now() + PERIOD;
        }
    }

    fn look_at_room(&self) {
        let Ok(found) = rustix::fs::statvfs(&self.0.dir) else { return };
        let device = fs::metadata(&self.0.dir)
            .map(|dir| devices::name(rustix::fs::major(dir.dev()), rustix::fs::minor(dir.dev())));
        self.lock().room = Room {
            device: device.unwrap_or_default(),
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_ffree,
        };
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A walk through a layer, and what it has found so far.
#[derive(Debug)]
struct Count {
    walk: Walk,
    usage: LayerUsage,
    /// Inodes with several names.
    seen: HashSet<u64>,
}

impl Count {
    fn new(dir: &Path) -> io::Result<Self> {
        let usage = LayerUsage { used_bytes: 0, inodes_used: 0, at: SystemTime::now() };
        Ok(Self { walk: Walk::new(File::open(dir)?.into())?, usage, seen: HashSet::new() })
    }

    /// Takes about so many looks more; says whether everything has been counted. Blocks.
    ///
    /// # Errors
    /// Those of the file system; what is counted so far is then no more than a part.
    fn go_on(&mut self, looks: u32) -> io::Result<bool> {
        let mut taken: u32 = 0;
        while taken < looks {
            let entry = match self.walk.step()? {
                Step::Entry(entry) => entry,
                Step::Way(opened) => {
                    taken = taken.saturating_add(opened);
                    continue;
                }
                Step::End => return Ok(true),
            };
            taken += 1;
            let found = &entry.stat;
            let several = found.st_nlink > 1 && entry.kind() != FileType::Directory;
            if several && !self.seen.insert(found.st_ino) {
                continue;
            }
            self.usage.inodes_used += 1;
            // stat(2): always of 512 bytes
            self.usage.used_bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
            if self.usage.inodes_used >= MAX_ENTRIES {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn measure(dir: &Path) -> LayerUsage {
        let mut count = Count::new(dir).unwrap();
        while !count.go_on(2).unwrap() {}
        count.usage
    }

    /// Names that are together longer than any path may be.
    #[test]
    fn what_lies_deep_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = rustix::fs::openat(
            rustix::fs::CWD,
            dir.path(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let name = "d".repeat(200);
        for _ in 0..100 {
            rustix::fs::mkdirat(&here, &name, rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY;
            here = rustix::fs::openat(&here, &name, flags, rustix::fs::Mode::empty()).unwrap();
        }
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let file = rustix::fs::openat(&here, "f", flags, rustix::fs::Mode::RUSR).unwrap();
        rustix::io::write(&file, &vec![1; 1 << 20]).unwrap();
        let found = measure(dir.path());
        assert_eq!(found.inodes_used, 101);
        assert!(found.used_bytes >= 1 << 20, "{found:?}");
        crate::sys::tree::remove(&dir.path().join(name)).unwrap();
    }

    #[test]
    fn a_large_layer_takes_turns_with_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let layers = WritableLayers::new(dir.path().to_owned());
        let (large, small) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        for (id, files) in [(large, TURN + 10), (small, 1)] {
            let layer = dir.path().join(id.to_string());
            fs::create_dir(&layer).unwrap();
            for file in 0..files {
                fs::write(layer.join(file.to_string()), "").unwrap();
            }
        }
        layers.measure_one(large.to_string());
        assert_eq!(layers.layer(&large).unwrap().inodes_used, u64::from(TURN));
        assert_eq!(layers.due(), [small.to_string(), large.to_string()]);
        layers.measure_one(small.to_string());
        layers.measure_one(large.to_string());
        assert_eq!(layers.layer(&large).unwrap().inodes_used, u64::from(TURN) + 10);
        assert!(layers.due().is_empty());
    }

    #[test]
    fn a_walk_that_fails_leaves_what_was_measured() {
        let dir = tempfile::tempdir().unwrap();
        let layers = WritableLayers::new(dir.path().to_owned());
        let id = ContainerId::from_bytes([1; 32]);
        let layer = dir.path().join(id.to_string());
        fs::create_dir(&layer).unwrap();
        let broken = io::Error::from_raw_os_error(libc::EIO);
        layers.unreadable(&id.to_string(), &broken);
        assert_eq!(layers.layer(&id), None, "nothing is known of it");
        assert_eq!(layers.due(), [id.to_string()]);
        fs::write(layer.join("file"), "x").unwrap();
        layers.measure_one(id.to_string());
        let before = layers.layer(&id).unwrap();
        layers.lock().layers.get_mut(&id.to_string()).unwrap().due = Instant::now();
        layers.unreadable(&id.to_string(), &broken);
        assert_eq!(layers.layer(&id), Some(before));
        assert!(layers.due().is_empty(), "it is looked at again after a while");
    }

    #[test]
    fn files_in_all_depths_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), vec![1; 8192]).unwrap();
        let before = measure(dir.path());
        assert_eq!(before.inodes_used, 3);
        assert!(before.used_bytes >= 8192, "{before:?}");
        fs::hard_link(dir.path().join("a/b/file"), dir.path().join("a/other")).unwrap();
        assert_eq!(measure(dir.path()).inodes_used, 3);
    }

    #[test]
    fn each_layer_has_its_own_figures_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let layers = WritableLayers::new(dir.path().to_owned());
        let (one, two) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        for (id, bytes) in [(one, 1 << 20), (two, 2 << 20)] {
            let upper = dir.path().join(id.to_string()).join("upper");
            fs::create_dir_all(&upper).unwrap();
            fs::write(upper.join("file"), vec![1; bytes]).unwrap();
        }
        assert_eq!(layers.layer(&one), None);
        layers.measure_first(&one);
        assert_eq!(layers.due(), [two.to_string()]);
        layers.measure_one(two.to_string());
        let used = |id| layers.layer(id).unwrap().used_bytes;
        assert!((1 << 20..2 << 20).contains(&used(&one)) && used(&two) >= 2 << 20);
        assert_eq!(layers.usage().used_bytes, used(&one) + used(&two));
        assert!(layers.room().bytes >= layers.usage().used_bytes);
        fs::remove_dir_all(dir.path().join(one.to_string())).unwrap();
        assert!(layers.due().is_empty());
        assert_eq!(layers.layer(&one), None);
        layers.measure_one(one.to_string());
        assert_eq!(layers.layer(&one), None, "a layer that went meanwhile");
    }
}
