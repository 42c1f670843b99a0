//! One client of the attach socket: what it is yet to get, and what it has to say.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use conmon::wire::MAX_MESSAGE;
use conmon::wire::attach::{HEAD, Head, Hello, Kind, Source};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};

use super::{Interest, Poller, Token};

/// Output that waits for one client, besides what is in its socket. A container that floods fills
/// it within milliseconds, whatever its size; it is to cover the moments in which an honest
/// client's process is not scheduled.
pub(super) const MAX_UNSENT: usize = 1024 * 1024;

/// Bytes of input read from a client at once: as much as a pipe that has room surely takes soon.
const READ: usize = 16 * 1024;

/// How long a client that leaves may take for its next bytes.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where in its life a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not said what it wants.
    Greeting,
    /// It gets the container's output.
    Attached,
    /// It gets what is unsent and no more, if it takes it in time.
    Leaving { deadline: Instant },
}

/// What came of one read of a client's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes,
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

pub(super) struct Client {
    socket: OwnedFd,
    stage: Stage,
    /// The hello, as far as it has come.
    hello: Vec<u8>,
    /// Whole frames, but for the first, which may be sent in part.
    unsent: VecDeque<u8>,
    /// Its bytes are for the container, and they have not ended.
    input: bool,
    /// It has closed its connection. Its last bytes may be unread.
    gone: bool,
    watched: Interest,
}

impl Client {
    /// A client that is, or will be, watched for reading.
    pub(super) fn new(socket: OwnedFd) -> Client {
        Client {
            socket,
            stage: Stage::Greeting,
            hello: Vec::new(),
            unsent: VecDeque::new(),
            input: false,
            gone: false,
            watched: Interest::Read,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn has_input(&self) -> bool {
        self.input
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn wants_output(&self) -> bool {
        self.stage == Stage::Attached && !self.gone
    }

    /// Whether it has got its last frame.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. }) && self.unsent.is_empty()
    }

    /// Receives of the hello what there is; the whole of it once it has come. Not a byte more is
    /// taken: what follows is input. Err: the client is gone.
    pub(super) fn receive_hello(&mut self) -> io::Result<Option<[u8; Hello::LENGTH]>> {
        while self.hello.len() < Hello::LENGTH {
            let mut buffer = [0; Hello::LENGTH];
            let missing = &mut buffer[self.hello.len()..];
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut *missing)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.hello.extend_from_slice(&missing[..count]),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(std::mem::take(&mut self.hello).try_into().ok())
    }

    /// Takes it in, and tells it whether its input is wanted.
    pub(super) fn attach(&mut self, takes_input: bool) {
        self.stage = Stage::Attached;
        self.input = true;
        if !takes_input {
            self.end_input();
        }
        self.put(Kind::Attached, &[u8::from(takes_input)]);
    }

    /// Reads input once.
    pub(super) fn receive_input(&mut self) -> (Received, Vec<u8>) {
        let mut bytes = Vec::with_capacity(READ);
        let buffer = rustix::buffer::spare_capacity(&mut bytes);
        let received = match rustix::io::read(&self.socket, buffer) {
            Ok(0) => Received::End,
            Ok(_) => Received::Bytes,
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::End,
        };
        (received, bytes)
    }

    /// Its bytes are wanted no more: its writes fail from now on.
    pub(super) fn end_input(&mut self) {
        self.input = false;
        // Fails if the connection is gone, which is as good.
        rustix::net::shutdown(&self.socket, Shutdown::Read).ok();
    }

    /// Puts output by for it. False: it is too far behind.
    pub(super) fn put_output(&mut self, source: Source, output: &[u8]) -> bool {
        if self.unsent.len() + HEAD + output.len() > MAX_UNSENT {
            return false;
        }
        self.put(Kind::Output(source), output);
        true
    }

    /// Sends a frame, now or as soon as it reads.
    pub(super) fn put(&mut self, kind: Kind, payload: &[u8]) {
        let head = Head { kind, payload: payload.len() }.encode();
        let mut sent = 0;
        if self.unsent.is_empty() {
            let slices = [IoSlice::new(&head), IoSlice::new(payload)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let mut none = SendAncillaryBuffer::default();
            // An error is found again when the rest is to be sent.
            sent = rustix::net::sendmsg(&self.socket, &slices, &mut none, flags).unwrap_or(0);
        }
        self.unsent.extend(head.get(sent..).unwrap_or_default());
        self.unsent.extend(&payload[sent.saturating_sub(HEAD)..]);
    }

    /// Sends the last frame. Err from `send_unsent` or [`Client::has_left`] follow.
    pub(super) fn leave(&mut self, last: Kind, text: &[u8]) {
        self.put(last, &text[..text.len().min(MAX_MESSAGE)]);
        self.stage = Stage::Leaving { deadline: Instant::now() + FAREWELL };
    }

    /// Sends what is unsent, as much as goes. Err: the client is gone.
    pub(super) fn send_unsent(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, self.unsent.as_slices().0, flags) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Stage::Leaving { deadline } = &mut self.stage {
                *deadline = Instant::now() + FAREWELL;
            }
        }
        self.unsent = VecDeque::new();
        Ok(())
    }

    /// Whether it has closed its connection. Asked on every event: the event may have been meant
    /// for what the client was watched for earlier.
    pub(super) fn has_hung_up(&self) -> bool {
        crate::control::has_hung_up(&self.socket)
    }

    /// It is gone and gets nothing any more. Its last bytes may be read on.
    pub(super) fn mark_gone(&mut self, poller: &Poller) {
        poller.remove(&self.socket);
        self.gone = true;
        self.unsent = VecDeque::new();
    }

    /// Has it watched: for what it sends, if `read`, and for room to send what is unsent.
    pub(super) fn watch(&mut self, token: Token, read: bool, poller: &Poller) {
        let interest = Interest::of(read, !self.unsent.is_empty());
        if interest != self.watched && !self.gone {
            poller.watch(&self.socket, token, interest);
            self.watched = interest;
        }
    }
}
