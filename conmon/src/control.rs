//! The control socket: who is connected, what they ask, what they are yet to be told.
//!
//! Does not carry requests out; `monitor.rs` takes them from here one by one. Everything about a
//! client is bounded: how many there are, what is kept of an incomplete request, what waits to be
//! sent. A client that does not read its replies is dropped, and what it had is found by
//! [`Control::take_closed`].

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use conmon::wire::MAX_FRAME;
use conmon::{MAX_CONNECTIONS, Reply, Request, SOCKET, WireError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags};

use crate::console::listen;
use crate::fault::{Fault, Tried};
use crate::poller::{Interest, Poller, Token};

/// Connections that wait to be taken; the loop takes them within a millisecond.
const BACKLOG: i32 = 64;

/// Replies that wait for a client to read them. Some thousand replies, or eight of the longest.
const MAX_UNSENT: usize = 64 * 1024;

/// Bytes read from a client at once; requests are short.
const READ: usize = 4096;

/// Descriptors that come with an exec.
const EXEC_FDS: usize = 3;

/// Which client, as long as it is connected.
pub(crate) type Slot = u8;

struct Client {
    socket: OwnedFd,
    /// Received bytes that are no whole request yet.
    received: Vec<u8>,
    /// Descriptors received with them.
    fds: Vec<OwnedFd>,
    unsent: Vec<u8>,
    subscribed: bool,
}

/// The control socket and its clients.
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<Option<Client>>,
    /// Clients that are gone and whose going nobody has asked about yet.
    closed: Vec<Slot>,
}

impl Control {
    /// Binds the control socket in the monitor directory.
    pub(crate) fn bind(dir: BorrowedFd<'_>, poller: &Poller) -> Result<Control, Fault> {
        let tried = || format!("bind {SOCKET}");
        let listener = listen(dir, SOCKET, BACKLOG).tried(tried)?;
        poller.add(&listener, Token::Control).tried(tried)?;
        Ok(Control { listener, clients: Vec::new(), closed: Vec::new() })
    }

    /// Lets in whoever waits. Too many, and other users than root and our own, are turned away.
    pub(crate) fn accept(&mut self, poller: &Poller) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            if !is_trusted(&socket) {
                continue;
            }
            let Some(slot) = self.free_slot() else { continue };
            let Ok(name) = Slot::try_from(slot) else { continue };
            if poller.add(&socket, Token::Client(name)).is_err() {
                continue;
            }
            let client = Client {
                socket,
                received: Vec::new(),
                fds: Vec::new(),
                unsent: Vec::new(),
                subscribed: false,
            };
            match self.clients.get_mut(slot) {
                Some(entry) => *entry = Some(client),
                None => self.clients.push(Some(client)),
            }
        }
    }

    /// A place for a client; if all are taken, that of one that is gone. Its event may come after that
    /// of the connection that it has made room for.
    fn free_slot(&mut self) -> Option<usize> {
        let free = self.clients.iter().position(Option::is_none);
        let room = (self.clients.len() < MAX_CONNECTIONS).then_some(self.clients.len());
        let is_gone = |it: &Option<Client>| it.as_ref().is_some_and(|it| has_hung_up(&it.socket));
        let slot = free.or(room).or_else(|| self.clients.iter().position(is_gone))?;
        if let Ok(name) = Slot::try_from(slot) {
            self.close(name);
        }
        Some(slot)
    }

    /// Sends and receives what can be sent to and received from a client now.
    pub(crate) fn serve(&mut self, slot: Slot, poller: &Poller) {
        self.flush(slot, poller);
        if let Some(client) = self.client(slot)
            && client.receive().is_err()
        {
            self.close(slot);
        }
    }

    /// The next request of a client. After an error in the framing the client is gone.
    pub(crate) fn next_request(&mut self, slot: Slot) -> Option<Result<Request, WireError>> {
        let client = self.client(slot)?;
        let next = Request::decode(&mut client.received).transpose()?;
        if client.received.is_empty() {
            client.received = Vec::new();
        }
        if matches!(next, Err(WireError::Length(_))) {
            self.close(slot);
            return None;
        }
        Some(next)
    }

    /// The three descriptors that came with an exec.
    pub(crate) fn take_fds(&mut self, slot: Slot) -> Option<[OwnedFd; EXEC_FDS]> {
        std::mem::take(&mut self.client(slot)?.fds).try_into().ok()
    }

    /// Has a client told of everything that happens.
    pub(crate) fn subscribe(&mut self, slot: Slot) {
        if let Some(client) = self.client(slot) {
            client.subscribed = true;
        }
    }

    /// Tells all subscribers.
    pub(crate) fn publish(&mut self, reply: &Reply, poller: &Poller) {
        for slot in 0..self.clients.len() {
            let subscribed = self.clients[slot].as_ref().is_some_and(|client| client.subscribed);
            if let Some(slot) = Slot::try_from(slot).ok().filter(|_| subscribed) {
                self.send(slot, reply, poller);
            }
        }
    }

    /// Tells one client, now or as soon as it reads. One that has too much unread is dropped.
    pub(crate) fn send(&mut self, slot: Slot, reply: &Reply, poller: &Poller) {
        let Some(client) = self.client(slot) else { return };
        client.unsent.extend_from_slice(&reply.encode());
        if client.unsent.len() > MAX_UNSENT {
            self.close(slot);
        } else {
            self.flush(slot, poller);
        }
    }

    /// A client that has gone since this was last asked.
    pub(crate) fn take_closed(&mut self) -> Option<Slot> {
        self.closed.pop()
    }

    fn flush(&mut self, slot: Slot, poller: &Poller) {
        let Some(client) = self.client(slot) else { return };
        if client.unsent.is_empty() {
            return;
        }
        if client.send_unsent().is_err() {
            self.close(slot);
            return;
        }
        let interest = Interest::of(true, !client.unsent.is_empty());
        poller.watch(&client.socket, Token::Client(slot), interest);
    }

    fn client(&mut self, slot: Slot) -> Option<&mut Client> {
        self.clients.get_mut(usize::from(slot))?.as_mut()
    }

    fn close(&mut self, slot: Slot) {
        if let Some(entry) = self.clients.get_mut(usize::from(slot))
            && entry.take().is_some()
        {
            self.closed.push(slot);
        }
    }
}

impl Client {
    /// Receives until there is nothing more, or enough. Err: the client is gone or misbehaves.
    fn receive(&mut self) -> io::Result<()> {
        while self.received.len() <= MAX_FRAME {
            let mut buffer = [0; READ];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(EXEC_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let result = rustix::net::recvmsg(&self.socket, &mut slices, &mut ancillary, flags);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            match result {
                Ok(message) if message.bytes == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(_) if self.fds.len() > EXEC_FDS => return Err(io::ErrorKind::InvalidData.into()),
                Ok(message) => self.received.extend_from_slice(&buffer[..message.bytes]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn send_unsent(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, &self.unsent, flags) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}

/// Root and the monitor's own user may command it.
pub(crate) fn is_trusted(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Whether the other side has closed its connection, whatever events say of it.
pub(crate) fn has_hung_up(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok()
        && polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
