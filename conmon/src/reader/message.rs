//! What the keeper and the reader say to each other: one message each, on a socket that keeps them
//! apart (`SOCK_SEQPACKET`).
//!
//! A message is a byte that says what it is, then its text. The keeper believes nothing that could
//! not be true of its own container, and takes no descriptors.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The longest text of a message; the rest of a longer one is cut off.
pub(super) const MAX_TEXT: usize = 4 * 1024;

/// Descriptors that come with one message at the most.
const MAX_FDS: usize = 2;

/// What the keeper tells the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The container is created: what comes from now on is its own. Answered with [`Word::Said`].
    Created,
    /// Nothing more will come of the runtime. Answered with [`Word::Said`].
    Hear,
    /// The container's terminal, and once more if it takes input.
    Terminal,
    /// The file in which the log goes on. Answered with [`Word::Moved`].
    Log,
    /// The container's input ends with what was sent until now.
    CloseInput,
    /// The container has ended. Answered with [`Word::Drained`].
    Drain,
    /// The exit is published.
    End,
    /// There is no container after all. The reader ends.
    Fail(Vec<u8>),
    /// The reader is to end when all clients have read the last of the output.
    Dismiss,
}

/// What the reader tells the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The runtime's last words.
    Said(Vec<u8>),
    /// The log goes on in the file that was sent.
    Moved,
    /// The container's input has ended.
    InputEnded,
    /// The log holds all the output of the container that ended.
    Drained,
}

impl Order {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Order::Created => (b'C', b""),
            Order::Hear => (b'H', b""),
            Order::Terminal => (b'T', b""),
            Order::Log => (b'L', b""),
            Order::CloseInput => (b'I', b""),
            Order::Drain => (b'D', b""),
            Order::End => (b'E', b""),
            Order::Fail(why) => (b'F', why),
            Order::Dismiss => (b'G', b""),
        }
    }

    fn read(message: &[u8]) -> Option<Order> {
        let (kind, text) = message.split_first()?;
        Some(match kind {
            b'C' => Order::Created,
            b'H' => Order::Hear,
            b'T' => Order::Terminal,
            b'L' => Order::Log,
            b'I' => Order::CloseInput,
            b'D' => Order::Drain,
            b'E' => Order::End,
            b'F' => Order::Fail(text.to_vec()),
            b'G' => Order::Dismiss,
            _ => return None,
        })
    }

    /// Sends it, without waiting.
    pub(super) fn send(&self, socket: impl AsFd, fds: &[OwnedFd]) -> io::Result<()> {
        let (kind, text) = self.parts();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        send(socket, kind, text, &mut ancillary, SendFlags::DONTWAIT)
    }

    /// The next one and its descriptors, if there is one.
    ///
    /// # Errors
    /// `UnexpectedEof`: the keeper is gone.
    pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
        let mut message = [0; 1 + MAX_TEXT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let Some(count) = receive(socket, &mut message, &mut ancillary)? else { return Ok(None) };
        let mut fds = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        Ok(Order::read(&message[..count]).map(|order| (order, fds)))
    }
}

impl Word {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Word::Said(text) => (b's', text),
            Word::Moved => (b'm', b""),
            Word::InputEnded => (b'i', b""),
            Word::Drained => (b'd', b""),
        }
    }

    fn read(message: &[u8]) -> Option<Word> {
        let (kind, text) = message.split_first()?;
        Some(match kind {
            b's' => Word::Said(text.to_vec()),
            b'm' => Word::Moved,
            b'i' => Word::InputEnded,
            b'd' => Word::Drained,
            _ => return None,
        })
    }

    /// Sends it. Waits while the keeper has no room for it.
    pub(super) fn send(&self, socket: impl AsFd) -> io::Result<()> {
        let (kind, text) = self.parts();
        send(socket, kind, text, &mut SendAncillaryBuffer::default(), SendFlags::empty())
    }

    /// The next one, if there is one. Descriptors that came with it are closed by the kernel.
    ///
    /// # Errors
    /// `UnexpectedEof`: the reader is gone, or has closed its end. `InvalidData`: it says what no
    /// reader says.
    pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<Word>> {
        let mut message = [0; 1 + MAX_TEXT];
        let mut none = RecvAncillaryBuffer::default();
        let Some(count) = receive(socket, &mut message, &mut none)? else { return Ok(None) };
        let word = Word::read(&message[..count]).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(word))
    }
}

fn send(
    socket: impl AsFd,
    kind: u8,
    text: &[u8],
    ancillary: &mut SendAncillaryBuffer<'_, '_, '_>,
    flags: SendFlags,
) -> io::Result<()> {
    let (kind, text) = ([kind], &text[..text.len().min(MAX_TEXT)]);
    let slices = [IoSlice::new(&kind), IoSlice::new(text)];
    let flags = flags | SendFlags::NOSIGNAL;
    let sent = || rustix::net::sendmsg(&socket, &slices, ancillary, flags);
    rustix::io::retry_on_intr(sent)?;
    Ok(())
}

fn receive(
    socket: impl AsFd,
    message: &mut [u8],
    ancillary: &mut RecvAncillaryBuffer<'_>,
) -> io::Result<Option<usize>> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut slices = [IoSliceMut::new(message)];
    match rustix::net::recvmsg(socket, &mut slices, ancillary, flags) {
        Ok(received) if received.bytes == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(received) => Ok(Some(received.bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::PipeFlags;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn what_is_sent_is_received() {
        let (keeper, reader) = pair();
        let orders = [Order::Created, Order::Hear, Order::Terminal, Order::Log];
        let more = [Order::CloseInput, Order::Drain, Order::End, Order::Dismiss];
        let fail = Order::Fail(b"why".to_vec());
        for order in orders.into_iter().chain(more).chain([fail]) {
            order.send(&keeper, &[]).unwrap();
            assert_eq!(Order::receive(&reader).unwrap().unwrap().0, order);
        }
        assert!(Order::receive(&reader).unwrap().is_none());
        let said = Word::Said(vec![b'x'; MAX_TEXT]);
        for word in [Word::Moved, Word::InputEnded, Word::Drained, said] {
            word.send(&reader).unwrap();
            assert_eq!(Word::receive(&keeper).unwrap(), Some(word));
        }
        assert_eq!(Word::receive(&keeper).unwrap(), None);
        drop(reader);
        let gone = Word::receive(&keeper).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn descriptors_come_with_orders_and_not_with_words() {
        let (keeper, reader) = pair();
        Order::Terminal.send(&keeper, &<[OwnedFd; 2]>::from(pair())).unwrap();
        assert_eq!(Order::receive(&reader).unwrap().unwrap().1.len(), 2);
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        Order::Log.send(&reader, &[write]).unwrap();
        let nonsense = Word::receive(&keeper).unwrap_err();
        assert_eq!(nonsense.kind(), io::ErrorKind::InvalidData);
        // Nobody has the other end.
        assert_eq!(rustix::io::read(&read, &mut [0; 1][..]), Ok(0));
    }
}
