//! [`Line`]: the process of a layer speaks to the daemon, and asks it for what it may not do itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::wire::Said;
use crate::sys::packets;

/// One end of a layer's line.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

impl Line {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Says something that needs no answer.
    ///
    /// # Errors
    /// If nobody listens any more.
    pub(super) fn say(&self, said: &Said) -> io::Result<()> {
        packets::send(&self.0, &said.encode()?, &[])
    }

    /// Waits until a decoder may keep as many bytes.
    ///
    /// # Errors
    /// If nobody answers.
    pub(super) fn take_memory(&self, bytes: u64) -> io::Result<()> {
        self.ask(&Said::Memory(bytes))
    }

    /// Hides what the layers below have in a directory. It takes a capability over all file systems to
    /// say so.
    ///
    /// # Errors
    /// Those of setting the attribute.
    pub(super) fn make_opaque(&self, path: &[u8]) -> Result<(), Errno> {
        self.ask(&Said::Opaque(path.to_vec()))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn ask(&self, what: &Said) -> io::Result<()> {
        packets::send(self.0.as_fd(), &what.encode()?, &[])?;
        let (answer, _) = packets::receive(self.0.as_fd())?;
        match answer.as_slice().try_into().map(i32::from_le_bytes) {
            Ok(0) => Ok(()),
            Ok(error) => Err(io::Error::from_raw_os_error(error)),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
