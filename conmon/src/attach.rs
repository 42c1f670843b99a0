//! Who is attached to the container's standard streams: the attach socket and its clients.
//!
//! ```text
//!             Hello               container ended, or too far behind
//!  Greeting ────────► Attached ──────────────────────────────────────► Leaving ──► (closed)
//!      │ nonsense        │ gone with input unread: it is still taken       │ all sent, or not
//!      ▼                 ▼                                                 ▼ read for a while
//!  (closed)           (closed)                                          (closed)
//! ```
//!
//! What is said there is written down in the library, `wire/attach.rs`. Nobody is waited for:
//! output that a client has not read yet is kept up to a bound, and a client beyond it is told
//! and let go; input is read only when the container takes it. Without clients nothing here holds
//! memory.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use conmon::ATTACH;
use conmon::wire::attach::{Hello, Kind, MAX_PAYLOAD, Source};
use rustix::net::SocketFlags;

use crate::console::listen;
use crate::control::is_trusted;
use crate::fault::{Fault, Tried};
use crate::poller::{Interest, Poller, Token};
use crate::sys;

mod client;
mod input;

use client::{Client, Received, Stage};
pub(crate) use input::Input;

/// Clients at one time. Somebody looks over a colleague's shoulder; nobody needs sixteen to do so,
/// and each may hold [`client::MAX_UNSENT`].
const MAX_CLIENTS: usize = 16;

/// Connections that wait to be taken; the loop takes them within a millisecond.
const BACKLOG: i32 = 16;

/// Which client, as long as it is connected.
pub(crate) type Slot = u8;

/// Whether the container's input ends with that of its first client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StdinOnce {
    No,
    Yes { first: Option<Slot> },
}

/// The attach socket, its clients, and the container's standard input, which is theirs.
pub(crate) struct Attach {
    listener: OwnedFd,
    clients: Vec<Option<Client>>,
    input: Input,
    once: StdinOnce,
    /// The container's output has ended.
    ended: bool,
}

/// Binds the attach socket in the monitor directory.
pub(crate) fn bind(dir: BorrowedFd<'_>) -> Result<OwnedFd, Fault> {
    listen(dir, ATTACH, BACKLOG).tried(|| format!("bind {ATTACH}"))
}

impl Attach {
    /// Lets clients in at a socket that is bound.
    pub(crate) fn new(
        listener: OwnedFd,
        once: StdinOnce,
        input: Input,
        poller: &Poller,
    ) -> io::Result<Attach> {
        poller.add(&listener, Token::Attach)?;
        Ok(Attach { listener, clients: Vec::new(), input, once, ended: false })
    }

    /// Says what the container's standard input is.
    pub(crate) fn set_input(&mut self, input: Input, poller: &Poller) {
        self.input = input;
        self.input_ready(poller);
    }

    /// Whether the container takes no input any more.
    pub(crate) fn input_has_ended(&self) -> bool {
        self.input.has_ended()
    }

    /// Ends the container's standard input when it has got what was sent until now.
    pub(crate) fn close_input(&mut self, poller: &Poller) {
        self.input.close();
        self.refresh(poller);
    }

    /// Lets in whoever waits. Too many are told so; other users than root and our own are not.
    pub(crate) fn accept(&mut self, poller: &Poller) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            if !is_trusted(&socket) {
                continue;
            }
            let mut client = Client::new(socket);
            let Some(slot) = self.free_slot() else {
                client.put(Kind::Detached, format!("{MAX_CLIENTS} are attached").as_bytes());
                continue;
            };
            let Ok(name) = Slot::try_from(slot) else { continue };
            if poller.add(client.socket(), Token::Attached(name)).is_err() {
                continue;
            }
            if slot == self.clients.len() {
                self.clients.push(None);
            }
            self.clients[slot] = Some(client);
        }
    }

    /// A place for a client; if all are taken, that of one that is gone and still has input which
    /// the container does not take.
    fn free_slot(&mut self) -> Option<usize> {
        let free = self.clients.iter().position(Option::is_none);
        let room = (self.clients.len() < MAX_CLIENTS).then_some(self.clients.len());
        let gone = || self.clients.iter().position(|it| it.as_ref().is_some_and(Client::is_gone));
        let slot = free.or(room).or_else(gone)?;
        if slot < self.clients.len() {
            self.close(slot);
        }
        Some(slot)
    }

    /// Sends and receives what can be sent to and received from a client now.
    pub(crate) fn serve(&mut self, slot: Slot, poller: &Poller) {
        let at = usize::from(slot);
        let Some(client) = self.client(at) else { return };
        if client.send_unsent().is_err() || client.has_hung_up() {
            self.hang_up(at, poller);
        } else if client.has_left() {
            self.close(at);
        } else {
            match client.stage() {
                Stage::Greeting => self.greet(at),
                Stage::Attached if self.input.has_room() => drop(self.take_input(at, poller)),
                Stage::Attached | Stage::Leaving { .. } => {}
            }
        }
        self.refresh(poller);
    }

    fn greet(&mut self, at: usize) {
        let (ended, open) = (self.ended, self.input.is_open());
        let Some(client) = self.client(at) else { return };
        let hello = match client.receive_hello() {
            Ok(Some(hello)) => Hello::decode(&hello),
            Ok(None) => return,
            Err(_) => return self.close(at),
        };
        let Ok(Hello { input }) = hello else {
            client.leave(Kind::Detached, b"the first bytes are no greeting");
            return;
        };
        let takes_input = input && open && !ended;
        client.attach(takes_input);
        if ended {
            client.leave(Kind::End, b"");
        }
        if takes_input && let StdinOnce::Yes { first: first @ None } = &mut self.once {
            *first = Slot::try_from(at).ok();
        }
    }

    /// Hands what one read of a client's input yields to the container.
    fn take_input(&mut self, at: usize, poller: &Poller) -> Received {
        let Some(client) = self.client(at).filter(|client| client.has_input()) else {
            return Received::Nothing;
        };
        let (received, bytes) = client.receive_input();
        match received {
            Received::Bytes => self.input.write(bytes, poller),
            Received::End => self.end_input(at),
            Received::Nothing => {}
        }
        received
    }

    /// A client's input has ended, with the client or before it.
    fn end_input(&mut self, at: usize) {
        let Some(client) = self.client(at) else { return };
        client.end_input();
        if client.is_gone() {
            self.clients[at] = None;
        }
        if let StdinOnce::Yes { first: Some(first) } = self.once
            && usize::from(first) == at
        {
            self.input.close();
        }
    }

    /// A client is gone. What it wrote before it went is still taken.
    fn hang_up(&mut self, at: usize, poller: &Poller) {
        let Some(client) = self.client(at) else { return };
        if !client.has_input() {
            return self.close(at);
        }
        client.mark_gone(poller);
        self.take_rest(at, poller);
    }

    fn take_rest(&mut self, at: usize, poller: &Poller) {
        while self.input.has_room() && self.take_input(at, poller) == Received::Bytes {}
    }

    /// The container takes input again, or never will.
    pub(crate) fn input_ready(&mut self, poller: &Poller) {
        self.input.resume(poller);
        for at in 0..self.clients.len() {
            if self.clients[at].as_ref().is_some_and(Client::is_gone) {
                self.take_rest(at, poller);
            }
        }
        self.refresh(poller);
    }

    /// Passes output of the container on to all clients.
    pub(crate) fn output(&mut self, source: Source, output: &[u8], poller: &Poller) {
        if self.clients.iter().all(Option::is_none) {
            return;
        }
        for at in 0..self.clients.len() {
            let Some(client) = self.client(at).filter(|client| client.wants_output()) else {
                continue;
            };
            let mut pieces = output.chunks(MAX_PAYLOAD);
            if !pieces.all(|piece| client.put_output(source, piece)) {
                let why = b"the client does not keep up with the container's output";
                self.leave(at, Kind::Detached, why);
            }
        }
        self.refresh(poller);
    }

    /// The container's output has ended.
    pub(crate) fn end(&mut self, poller: &Poller) {
        self.ended = true;
        self.leave_all(Kind::End, b"", poller);
    }

    /// There is no container after all.
    pub(crate) fn fail(&mut self, why: &[u8], poller: &Poller) {
        self.leave_all(Kind::Detached, why, poller);
    }

    fn leave_all(&mut self, last: Kind, text: &[u8], poller: &Poller) {
        for at in 0..self.clients.len() {
            if self.client(at).is_some_and(|client| client.wants_output()) {
                self.leave(at, last, text);
            }
        }
        self.refresh(poller);
    }

    /// Tells a client the last thing it will hear. Its input ends here.
    fn leave(&mut self, at: usize, last: Kind, text: &[u8]) {
        let Some(client) = self.client(at) else { return };
        client.leave(last, text);
        if client.has_input() {
            self.end_input(at);
        }
    }

    /// Whether all clients have got everything that is for them.
    pub(crate) fn is_settled(&self) -> bool {
        !self.clients.iter().flatten().any(|client| matches!(client.stage(), Stage::Leaving { .. }))
    }

    /// When the next client that leaves has had time enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.clients.iter().flatten().filter_map(|client| match client.stage() {
            Stage::Leaving { deadline } => Some(deadline),
            Stage::Greeting | Stage::Attached => None,
        });
        deadlines.min()
    }

    /// Closes clients that leave and do not read.
    pub(crate) fn on_time(&mut self, now: Instant, poller: &Poller) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        for at in 0..self.clients.len() {
            if let Some(client) = &self.clients[at]
                && let Stage::Leaving { deadline } = client.stage()
                && deadline <= now
            {
                self.close(at);
            }
        }
        self.refresh(poller);
    }

    /// Has every client watched for what it can do now, and closes those that are done.
    fn refresh(&mut self, poller: &Poller) {
        let (open, room) = (self.input.is_open(), self.input.has_room());
        for (slot, entry) in (0..).zip(&mut self.clients) {
            let Some(client) = entry else { continue };
            if client.has_input() && !open {
                client.end_input();
            }
            if client.has_left() || client.is_gone() && !client.has_input() {
                *entry = None;
                continue;
            }
            let read = match client.stage() {
                Stage::Greeting => true,
                Stage::Attached => client.has_input() && room,
                Stage::Leaving { .. } => false,
            };
            client.watch(Token::Attached(slot), read, poller);
        }
        while self.clients.last().is_some_and(Option::is_none) {
            self.clients.pop();
        }
        if self.clients.is_empty() && self.clients.capacity() > 0 {
            self.clients = Vec::new();
            sys::return_memory();
        }
    }

    fn client(&mut self, at: usize) -> Option<&mut Client> {
        self.clients.get_mut(at)?.as_mut()
    }

    fn close(&mut self, at: usize) {
        if self.client(at).is_some_and(|client| client.has_input()) {
            self.end_input(at);
        }
        if let Some(entry) = self.clients.get_mut(at) {
            *entry = None;
        }
    }
}
