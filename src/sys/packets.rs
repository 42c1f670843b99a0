//! Packets with descriptors between two processes, by blocking calls: unix(7), `SOCK_SEQPACKET`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Descriptors that a packet can have.
const MAX_FDS: usize = 3;

/// Bytes that a packet can have: far less than a socket's buffer takes by default.
pub const MAX_BYTES: usize = 64 << 10;

/// Two sockets; what goes into one comes out of the other.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet, which must not be empty, with up to three descriptors. Blocks until there is
/// room for it.
///
/// # Errors
/// Those of sendmsg(2); `EPIPE` if nobody can receive it.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// One packet and the descriptors with it; empty if no more will come. Blocks until then. More than
/// three descriptors are closed unseen.
///
/// # Errors
/// Those of recvmsg(2), and `InvalidData` for a packet that is longer than [`MAX_BYTES`].
pub fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_BYTES];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            // The other end went with packets of ours unread.
            Err(Errno::CONNRESET) => return Ok((Vec::new(), Vec::new())),
            received => received?,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is too long"));
        }
        bytes.truncate(received.bytes);
        return Ok((bytes, fds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn packets_keep_their_bounds_and_their_descriptors() {
        let (one, other) = pair().expect("a pair");
        let file = File::open("/proc/self/comm").expect("a file");
        send(&one, b"with", &[file.as_fd(), one.as_fd()]).expect("sent");
        send(&one, b"without", &[]).expect("sent");
        let (bytes, fds) = receive(&other).expect("received");
        assert_eq!((&*bytes, fds.len()), (&b"with"[..], 2));
        let mut text = String::new();
        let first = fds.into_iter().next().expect("two");
        File::from(first).read_to_string(&mut text).expect("read");
        assert!(!text.is_empty());
        assert_eq!(receive(&other).expect("received").0, b"without");
        drop(one);
        assert!(receive(&other).expect("the end").0.is_empty());
        assert_eq!(send(&other, b"x", &[]).expect_err("nobody").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        let (one, other) = pair().expect("a pair");
        send(&one, &vec![1; MAX_BYTES + 1], &[]).expect("sent");
        assert_eq!(receive(&other).expect_err("cut").kind(), io::ErrorKind::InvalidData);
    }
}
