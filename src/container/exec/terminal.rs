//! A terminal for a process: taken from the runtime, read, written, resized.
//!
//! The runtime makes the pseudo-terminal and sends its master over a socket (runc's
//! docs/terminals.md, "detached mode"). Closing the master is how the process's end of the line is
//! hung up: the kernel sends it SIGHUP.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use crate::sys::{pass_fds, readiness};

/// How long the terminal may take to arrive once the runtime says that the process runs: it was
/// sent before.
const ARRIVAL: Duration = Duration::from_secs(5);

/// The socket on which a runtime sends a terminal. It goes when dropped.
pub(super) struct Console {
    listener: UnixListener,
    file: PathBuf,
    path: PathBuf,
    /// Held so that `path` leads to it.
    _dir: File,
}

impl Console {
    /// Listens in `dir` on a socket called `name`.
    pub(super) fn bind(dir: &Path, name: &str) -> io::Result<Self> {
        let held = File::open(dir)?;
        // The runtime follows this link as the socket's path, whose length unix(7) bounds; both run
        // as root in one process namespace.
        let (pid, fd) = (std::process::id(), held.as_raw_fd());
        let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}/{name}"));
        let listener = UnixListener::bind(&path)?;
        Ok(Self { listener, file: dir.join(name), path, _dir: held })
    }

    /// Where the runtime is to connect to.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal.
    pub(super) async fn receive(self) -> io::Result<Terminal> {
        let received = async {
            let (stream, _) = self.listener.accept().await?;
            pass_fds::receive(&stream).await
        };
        let master = tokio::time::timeout(ARRIVAL, received)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if !rustix::termios::isatty(&master) {
            return Err(Errno::NOTTY.into());
        }
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Terminal(Arc::new(readiness::watch(master, Interest::READABLE | Interest::WRITABLE)?)))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        fs::remove_file(&self.file).ok();
    }
}

/// The master of a pseudo-terminal; hung up when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// Reads what the process has written; 0 when nothing has the terminal open any more.
    ///
    /// # Errors
    /// Those of read(2).
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|master| Ok(rustix::io::read(master, &mut *buffer)?));
            match read {
                // tty_io: EIO is the master's end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Types all of `bytes`; waits while the process does not read.
    ///
    /// # Errors
    /// Those of write(2).
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|master| Ok(rustix::io::write(master, bytes)?)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Types what the process reads as the end of its input, if its terminal has such a character
    /// now. `in_line` = something was typed since the last line ended: then the first one only ends
    /// that line.
    ///
    /// # Errors
    /// Those of write(2).
    pub async fn end(&self, in_line: bool) -> io::Result<()> {
        let modes = tcgetattr(self.0.get_ref())?;
        if modes.local_modes.contains(LocalModes::ICANON) {
            let end = modes.special_codes[SpecialCodeIndex::VEOF];
            self.write_all(&[end, end][usize::from(!in_line)..]).await?;
        }
        Ok(())
    }

    /// Sets the size, in characters; the process gets SIGWINCH.
    ///
    /// # Errors
    /// Those of ioctl(2), `TIOCSWINSZ`.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}
