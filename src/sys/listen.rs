//! Listening on unix sockets.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often a socket on which somebody seems to listen is looked at, and after which pause.
const TRIES: u32 = 10;
/// See `TRIES`.
const PAUSE: Duration = Duration::from_millis(50);

/// The other name, which goes again; a left-over of a process that died meanwhile is replaced.
const BESIDE: &str = ".crisol.new";

/// Listens on a socket at `path` of this mode, in the place of one that a dead process left.
///
/// It is bound under another name first, so that nobody ever sees it with a wider mode, and below
/// its directory's descriptor, because that name may be longer than a socket's path can be
/// (unix(7)).
///
/// Blocks, for half a second where somebody listens.
///
/// # Errors
/// `AddrInUse` when somebody listens there.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // RACE: a program that a killed daemon was just starting holds its socket up to its execve(2).
    let mut tries = 0;
    while UnixStream::connect(path).is_ok() {
        tries += 1;
        if tries == TRIES {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        sleep(PAUSE);
    }
    let held = File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    let beside = format!("/proc/self/fd/{}/{BESIDE}", held.as_raw_fd());
    fs::remove_file(&beside).ok();
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_works_and_only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = "s".repeat(107 - dir.path().as_os_str().len() - 1);
        let path = dir.path().join(name);
        let listener = listen(&path, 0o600).expect("listen");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).expect("readable").count(), 1, "nothing is left beside it");
        let taken = listen(&path, 0o600).expect_err("somebody listens");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let _again = listen(&path, 0o660).expect("listen in its place");
        UnixStream::connect(&path).expect("connect");
    }
}
