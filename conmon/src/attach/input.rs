//! The container's standard input: takes what the container takes, keeps the rest of one read.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::poller::{Interest, Poller, Token};

/// The write end of the container's standard input. It stays open while nobody is attached, so the
/// container does not read an end.
pub(crate) struct Input {
    state: State,
    /// What the container has not taken yet: at most one read of one client. While there is any,
    /// no client is read.
    pending: Vec<u8>,
}

enum State {
    /// The terminal has not come yet.
    Awaited,
    Open {
        fd: OwnedFd,
        kind: Kind,
    },
    /// It ends when what is pending has been taken.
    Ending {
        fd: OwnedFd,
    },
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Terminal,
}

impl Input {
    /// The container has no input that anybody could write to.
    pub(crate) fn closed() -> Input {
        Input { state: State::Closed, pending: Vec::new() }
    }

    /// The input is a terminal that the runtime has yet to make.
    pub(crate) fn awaited() -> Input {
        Input { state: State::Awaited, pending: Vec::new() }
    }

    /// The input is a pipe. It must not block.
    pub(crate) fn pipe(fd: OwnedFd) -> Input {
        Input { state: State::Open { fd, kind: Kind::Pipe }, pending: Vec::new() }
    }

    /// The input is the container's terminal. It must not block.
    pub(crate) fn terminal(fd: OwnedFd) -> Input {
        Input { state: State::Open { fd, kind: Kind::Terminal }, pending: Vec::new() }
    }

    /// Whether clients may have input.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Awaited | State::Open { .. })
    }

    /// Whether nobody can write to it any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether input of clients is to be read now.
    pub(super) fn has_room(&self) -> bool {
        matches!(self.state, State::Open { .. }) && self.pending.is_empty()
    }

    /// Gives bytes to the container. Only when there [is room](Input::has_room); what the
    /// container does not take at once waits for it.
    pub(super) fn write(&mut self, bytes: Vec<u8>, poller: &Poller) {
        self.pending = bytes;
        self.push(poller);
        if let State::Open { fd, .. } = &self.state
            && !self.pending.is_empty()
            && poller.add_for(fd, Token::Input, Interest::Write).is_err()
        {
            self.end(poller);
        }
    }

    /// Goes on with what waits.
    pub(super) fn resume(&mut self, poller: &Poller) {
        if self.pending.is_empty() {
            return;
        }
        self.push(poller);
        match &self.state {
            State::Open { fd, .. } if self.pending.is_empty() => poller.remove(fd),
            State::Ending { .. } if self.pending.is_empty() => self.end(poller),
            _ => {}
        }
    }

    /// Ends the input when everything written until now has been taken.
    pub(super) fn close(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Open { fd, kind: Kind::Pipe } if !self.pending.is_empty() => {
                State::Ending { fd }
            }
            ending @ State::Ending { .. } => ending,
            State::Awaited | State::Open { .. } | State::Closed => State::Closed,
        };
    }

    fn push(&mut self, poller: &Poller) {
        let (State::Open { fd, .. } | State::Ending { fd }) = &self.state else { return };
        let mut written = 0;
        while written < self.pending.len() {
            match rustix::io::write(fd, &self.pending[written..]) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Nobody has the terminal open at the moment: nobody reads this.
                Err(Errno::IO) if self.is_terminal() => written = self.pending.len(),
                // The container has closed its end.
                Err(_) => return self.end(poller),
            }
        }
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self.state, State::Open { kind: Kind::Terminal, .. })
    }

    fn end(&mut self, poller: &Poller) {
        if let State::Open { fd, .. } | State::Ending { fd } = &self.state {
            // Closing is not enough for a terminal, which has another descriptor.
            poller.remove(fd);
        }
        self.state = State::Closed;
        self.pending = Vec::new();
    }
}
