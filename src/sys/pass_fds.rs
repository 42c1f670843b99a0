//! Passes descriptors over a unix socket (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
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
