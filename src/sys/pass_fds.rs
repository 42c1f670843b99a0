//! Passes descriptors over a unix socket (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sends the beginning of `bytes` together with `fds`; returns how many bytes went.
pub async fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd; 3]) -> io::Result<usize> {
    let borrowed: [BorrowedFd<'_>; 3] = [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
        })
        .await
}

/// Receives one descriptor with a message, of which nothing else is kept.
///
/// # Errors
/// `UnexpectedEof` when the message has none.
pub async fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    stream
        .async_io(Interest::READABLE, || {
            let mut words = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut words)];
            recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            fd.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
        .await
}
