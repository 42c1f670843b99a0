//! The image store from outside, against registries that are honest, that lie, and that are real.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::error::{Classify, Kind, chain};

mod docker_registry;
mod fixture;
mod lies;
mod pulls;
mod server;
mod stores;
mod trouble;

use fixture::{Fixture, Layer};
use server::{Answer, Asked, Body, Server};

/// A store with a configuration of its own.
struct Site {
    dir: tempfile::TempDir,
}

/// Waiting times for tests: a registry on loopback that is silent for half a second is dead.
fn pace() -> registry::Pace {
    registry::Pace {
        headers: Duration::from_millis(1500),
        window: Duration::from_secs(1),
        least: 1024,
        tries: 3,
        backoff: Duration::from_millis(5),
        longest_wait: Duration::from_millis(300),
        patience: Duration::from_secs(20),
    }
}

/// The grace period of abandoned pulls in tests.
const GRACE: Duration = Duration::from_millis(300);

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    /// A site where the registry at each address is insecure.
    fn trusting(servers: &[&Server]) -> Self {
        let site = Self::new();
        let lines = servers.iter().map(|server| {
            format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", server.host())
        });
        site.write("registries.conf", &lines.collect::<String>());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("write");
    }

    fn config(&self) -> crate::config::Image {
        crate::config::Image {
            trust: crate::trust::Trust::RootAlone,
            registries_conf: self.path("registries.conf"),
            policy: self.path("policy.json"),
            auth_file: Some(self.path("auth.json")),
            max_zstd_window: 8 << 20,
        }
    }

    /// As a daemon whose containers have all been found.
    fn open(&self) -> Images {
        let images = self.open_unsettled().expect("open");
        images.settle().expect("settle");
        images
    }

    /// As a daemon that does not know yet what its containers use.
    fn open_unsettled(&self) -> Result<Images, ImageError> {
        let metrics = Arc::new(Metrics::new("1", "c").expect("metrics"));
        let places = (&*self.path("images"), self.dir.path());
        Images::open_with(places, &self.config(), pace(), GRACE, metrics)
    }

    /// Names in a directory of the store.
    fn names(&self, dir: &str) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.expect("entry").file_name().into_string().expect("UTF-8")
        };
        let mut names: Vec<_> =
            fs::read_dir(self.path("images").join(dir)).expect(dir).map(name).collect();
        names.sort();
        names
    }

    /// Waits until nothing unfinished or discarded is left.
    async fn settled(&self) {
        eventually("the store is clean", || {
            self.names("tmp").is_empty() && self.names("trash").is_empty()
        })
        .await;
    }

    /// Asserts that a failed pull has left nothing behind.
    async fn assert_empty(&self, images: &Images) {
        self.settled().await;
        assert!(images.list().is_empty());
        assert!(self.names("images").is_empty());
    }
}

async fn pull(images: &Images, reference: &str) -> Result<Arc<Image>, ImageError> {
    images.pull(PullRequest { reference: reference.to_owned(), credentials: None }).await
}

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not so in 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The layers of an image as a container would see them: path and content.
fn contents(image: &Image) -> BTreeMap<String, String> {
    let place = tempfile::tempdir().expect("temporary directory");
    let target = place.path().join("target");
    crate::rootfs::mount_readonly(&image.layers, &target, None).expect("mount");
    let mut found = BTreeMap::new();
    let mut dirs = vec![target.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(&target).expect("below").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("read"));
            }
        }
    }
    crate::rootfs::unmount(&target).expect("unmount");
    found
}
