//! Receives the container's terminal from the runtime.
//!
//! The runtime connects to `--console-socket` and sends one message that carries the descriptor of
//! the pty master (runc's docs/terminals.md, "detached mode"). The socket is bound, and the runtime
//! connects to it, below the monitor directory's descriptor, because the whole path may be longer
//! than the 108 bytes of sun_path (unix(7)).

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use conmon::{CONSOLE, Launch};
use rustix::fs::{AtFlags, Mode};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::fault::{Fault, Tried};
use crate::poller::{Poller, Token};

/// A connection carries one terminal; connections after the first wait and are never taken.
const BACKLOG: i32 = 1;

/// The console socket until the terminal has come.
pub(crate) struct Console {
    dir: OwnedFd,
    listener: OwnedFd,
    connection: Option<OwnedFd>,
}

impl Console {
    /// Binds the console socket in the monitor directory.
    pub(crate) fn bind(dir: BorrowedFd<'_>, poller: &Poller) -> Result<Console, Fault> {
        let tried = || format!("bind {CONSOLE}");
        let listener = listen(dir, CONSOLE, BACKLOG).tried(tried)?;
        poller.add(&listener, Token::Console).tried(tried)?;
        let dir = dir.try_clone_to_owned().tried(tried)?;
        Ok(Console { dir, listener, connection: None })
    }

    /// The runtime's command line with the socket's path in a form that is always short enough.
    ///
    /// The link leads through this process, so that the runtime inherits no descriptor of the node's
    /// file system; both run as root in one process namespace.
    pub(crate) fn shorten(&self, launch: &Launch) -> Vec<OsString> {
        let long = launch.dir.join(CONSOLE);
        let (pid, fd) = (std::process::id(), self.dir.as_raw_fd());
        let short = OsString::from(format!("/proc/{pid}/fd/{fd}/{CONSOLE}"));
        let word = |word: &OsString| if *word == long { short.clone() } else { word.clone() };
        launch.runtime.iter().map(word).collect()
    }

    /// Takes the terminal if it has come. Called on every event of the socket, and once more when
    /// the runtime says it is done: by then it has been sent.
    pub(crate) fn receive(&mut self, poller: &Poller) -> io::Result<Option<OwnedFd>> {
        if self.connection.is_none() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(connection) => {
                    poller.remove(&self.listener);
                    poller.add(&connection, Token::Terminal)?;
                    self.connection = Some(connection);
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(connection) = &self.connection else { return Ok(None) };
        // The payload is the master's name, which nobody needs.
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut name)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(connection, &mut slices, &mut ancillary, flags) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let master = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        master.filter(|fd| rustix::termios::isatty(fd)).map(Some).ok_or_else(|| Errno::NOTTY.into())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        rustix::fs::unlinkat(&self.dir, CONSOLE, AtFlags::empty()).ok();
    }
}

/// Binds and listens on a socket of mode 0600 that is called `name` in `dir`.
pub(crate) fn listen(dir: BorrowedFd<'_>, name: &str, backlog: i32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it is bound: the file takes its mode from the socket, so it is never open to others.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}
