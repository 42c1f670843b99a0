//! Questions about paths that are not ours and may never be answered: NFS, FUSE, a dead disk.
//!
//! Each is asked on a thread of its own that is given up after a deadline; a thread that hangs in
//! the kernel cannot be ended, so their number is bounded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a path may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Threads that may be waiting for paths at once.
const MAX_THREADS: usize = 64;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The path without symbolic links.
///
/// # Errors
/// `TimedOut` when the file system does not answer; `ResourceBusy` when too many others do not.
pub async fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    let path = path.to_owned();
    ask(move || std::fs::canonicalize(path)).await
}

/// Asks any question that only a path's file system can answer.
///
/// # Errors
/// As [`canonicalize`], and the question's own.
pub async fn ask<T: Send + 'static>(
    question: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = Place::take().ok_or(io::ErrorKind::ResourceBusy)?;
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new().name("foreign path".to_owned()).spawn(move || {
        answer.send(question()).ok();
        drop(place);
    })?;
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// One of the threads; free again when dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        THREADS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < MAX_THREADS).then_some(n + 1)
            })
            .ok()
            .map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_absent_path_is_not_found_and_a_link_is_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let absent = canonicalize(&dir.path().join("x")).await.expect_err("absent");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("/", dir.path().join("root")).expect("link");
        let real = canonicalize(&dir.path().join("root/proc")).await.expect("there");
        assert_eq!(real, Path::new("/proc"));
    }
}
