//! The one place where a process of the monitor waits: an epoll instance whose events carry a [`Token`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::stdio::Channel;

/// How many events one wait returns; the rest come with the next.
const BATCH: usize = 32;

/// Who a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Children ended.
    Signals,
    /// Somebody connects to the control socket.
    Control,
    /// The runtime connects to the console socket.
    Console,
    /// The runtime's message on its console connection.
    Terminal,
    /// Somebody connects to the attach socket.
    Attach,
    /// The keeper's or the reader's: the other one says something, or has ended.
    Other,
    /// The container's standard input takes bytes again, or never will.
    Input,
    /// Output of the container or of the runtime.
    Output(Channel),
    /// A client of the control socket, by its slot.
    ///
    /// RACE: an event of a closed client may follow in the same batch the one that let a new
    /// client into its slot. The new one is then read too early, which yields nothing.
    Client(u8),
    /// A client of the attach socket, by its slot, under the same terms.
    Attached(u8),
}

/// Where the bits of the tokens that have a number begin.
const OUTPUTS: u64 = 16;
const CLIENTS: u64 = 256;
const ATTACHED: u64 = 512;

impl Token {
    fn to_bits(self) -> u64 {
        match self {
            Token::Signals => 0,
            Token::Control => 1,
            Token::Console => 2,
            Token::Terminal => 3,
            Token::Attach => 4,
            Token::Input => 5,
            Token::Other => 6,
            Token::Output(channel) => OUTPUTS + channel as u64,
            Token::Client(slot) => CLIENTS + u64::from(slot),
            Token::Attached(slot) => ATTACHED + u64::from(slot),
        }
    }

    fn from_bits(bits: u64) -> Option<Token> {
        Some(match bits {
            0 => Token::Signals,
            1 => Token::Control,
            2 => Token::Console,
            3 => Token::Terminal,
            4 => Token::Attach,
            5 => Token::Input,
            6 => Token::Other,
            OUTPUTS..CLIENTS => {
                Token::Output(*Channel::ALL.get(usize::try_from(bits - OUTPUTS).ok()?)?)
            }
            CLIENTS..ATTACHED => Token::Client(u8::try_from(bits - CLIENTS).ok()?),
            ATTACHED.. => Token::Attached(u8::try_from(bits - ATTACHED).ok()?),
            _ => return None,
        })
    }
}

/// An epoll instance. A descriptor leaves it by being closed.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, events: Vec::with_capacity(BATCH) })
    }

    /// Reports `fd` as `token` when it can be read or has ended.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.add_for(fd, token, Interest::Read)
    }

    /// Reports `fd` as `token` when what `interest` says can be done.
    pub(crate) fn add_for(&self, fd: impl AsFd, token: Token, on: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.to_bits());
        Ok(epoll::add(&self.epoll, fd, data, on.flags())?)
    }

    /// From now on reports `fd` when what `interest` says can be done.
    pub(crate) fn watch(&self, fd: impl AsFd, token: Token, on: Interest) {
        let data = EventData::new_u64(token.to_bits());
        // Cannot fail for a descriptor that is in the set, short of memory; then the client is
        // slow, and a slow client is dropped.
        epoll::modify(&self.epoll, fd, data, on.flags()).ok();
    }

    /// Takes a descriptor out that stays open.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        epoll::delete(&self.epoll, fd).ok();
    }

    /// Waits until something happens or `until` has passed, and hands each event to `see`.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        self.events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next event of the last wait.
    pub(crate) fn take_event(&mut self) -> Option<Token> {
        while let Some(event) = self.events.pop() {
            if let Some(token) = Token::from_bits(event.data.u64()) {
                return Some(token);
            }
        }
        None
    }
}

/// What a descriptor is watched for. That its other end has gone is reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Nothing,
    Read,
    Write,
    ReadAndWrite,
}

impl Interest {
    /// Reading, writing, both or neither.
    pub(crate) fn of(read: bool, write: bool) -> Interest {
        match (read, write) {
            (false, false) => Interest::Nothing,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (true, true) => Interest::ReadAndWrite,
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            Interest::Nothing => EventFlags::empty(),
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::ReadAndWrite => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// Rounded up, so that a deadline has passed when the wait for it ends.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    let duration = duration + Duration::from_micros(50);
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_read_back_from_its_bits() {
        let sockets = [Token::Control, Token::Console, Token::Terminal, Token::Attach];
        let fixed = sockets.into_iter().chain([Token::Signals, Token::Input, Token::Other]);
        let outputs = Channel::ALL.map(Token::Output);
        let clients = (0..=u8::MAX).flat_map(|slot| [Token::Client(slot), Token::Attached(slot)]);
        for token in fixed.chain(outputs).chain(clients) {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        for bits in [7, 15, 19, 255, 768, u64::MAX] {
            assert_eq!(Token::from_bits(bits), None);
        }
    }
}
