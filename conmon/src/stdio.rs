//! The container's standard streams, and the runtime program's while it creates the container, as the
//! [reader](crate::reader) reads them.
//!
//! Every stream is read the moment it has something and never waits for whoever consumes it, so
//! that no reader can stall a container. Until the container is created, what arrives is the
//! runtime program's own words: they explain a failure and do not belong in the log. A restored
//! container, though, writes before the runtime has ended: nothing is read until it is known whose
//! words they are.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::attach::Attach;
use crate::ends::Outputs;
use crate::fault::{Fault, Tried};
use crate::log::{Log, MAX_MESSAGE, Source};
use crate::poller::{Poller, Token};
use crate::sys::Counters;

/// Bytes of one read: a pipe's default capacity (pipe(7)).
const READ: usize = 64 * 1024;

/// How much of the runtime's own output is kept: its last words.
const SAID: usize = 4 * 1024;

/// How much is read from a stream that does not end though its container has: the largest pipe an
/// unprivileged process can have (/proc/sys/fs/pipe-max-size), so everything that was in it.
const DRAIN: usize = 1024 * 1024;

/// How often a terminal is tried again that nobody holds open at the moment.
const TERMINAL_RETRY: Duration = Duration::from_millis(250);

/// A stream that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// The container's standard output, or its terminal.
    Stdout,
    /// The container's standard error.
    Stderr,
    /// The runtime program's output, where the container has a terminal instead of pipes.
    Runtime,
}

impl Channel {
    pub(crate) const ALL: [Channel; 3] = [Channel::Stdout, Channel::Stderr, Channel::Runtime];
}

/// What the runtime program said.
#[derive(Default)]
pub(crate) struct Said(Vec<u8>);

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(SAID);
        self.0.drain(..excess);
    }

    /// The last words.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Where what is read goes.
pub(crate) enum Sink<'a> {
    /// The container's output: into the log, and to whoever is attached.
    Container { log: &'a mut Log, attach: &'a mut Attach },
    /// The runtime's words.
    Said(&'a mut Said),
    /// Words of a runtime that has done its work.
    Nowhere,
}

struct Stream {
    fd: OwnedFd,
    source: Source,
    /// Output that is not a whole line yet; at most [`MAX_MESSAGE`] bytes.
    kept: Vec<u8>,
}

/// All streams of one container.
pub(crate) struct Stdio {
    streams: [Option<Stream>; 3],
    terminal: Terminal,
    reading: Reading,
    /// What was kept of a stream and, after it, what is read.
    input: Vec<u8>,
    counters: &'static Counters,
}

/// Whether the container's standard output is a terminal, and whether somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    None,
    Open,
    /// Nobody does, but a process of the container may open it again; it is tried again then.
    Idle {
        retry: Instant,
    },
}

/// When streams are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The moment they have something.
    AtOnce,
    /// After [`Stdio::read_on`].
    Held,
}

/// What came of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
}

impl Stdio {
    /// Reads these streams. The standard output may be a terminal, of which it is not known then
    /// whether somebody holds it open.
    pub(crate) fn new(
        outputs: Outputs,
        terminal: bool,
        reading: Reading,
        counters: &'static Counters,
        poller: &Poller,
    ) -> io::Result<Stdio> {
        let mut stdio = Stdio {
            streams: [const { None }; 3],
            terminal: if terminal { Terminal::Open } else { Terminal::None },
            reading,
            input: Vec::with_capacity(MAX_MESSAGE + READ),
            counters,
        };
        for (channel, fd) in Channel::ALL.into_iter().zip(outputs) {
            if let Some(fd) = fd {
                stdio.open(channel, fd, poller)?;
            }
        }
        Ok(stdio)
    }

    fn open(&mut self, channel: Channel, fd: OwnedFd, poller: &Poller) -> io::Result<()> {
        if self.reading == Reading::AtOnce {
            poller.add(&fd, Token::Output(channel))?;
        }
        let source = match channel {
            Channel::Stdout => Source::Stdout,
            Channel::Stderr | Channel::Runtime => Source::Stderr,
        };
        self.streams[channel as usize] = Some(Stream { fd, source, kept: Vec::new() });
        Ok(())
    }

    /// Reads what was held back, and everything that comes.
    pub(crate) fn read_on(&mut self, poller: &Poller) -> Result<(), Fault> {
        if self.reading == Reading::AtOnce {
            return Ok(());
        }
        self.reading = Reading::AtOnce;
        for channel in Channel::ALL {
            if let Some(stream) = &self.streams[channel as usize] {
                let added = poller.add(&stream.fd, Token::Output(channel));
                added.tried(|| format!("read {channel:?}"))?;
            }
        }
        Ok(())
    }

    /// Takes the container's terminal: all its output is standard output.
    pub(crate) fn adopt_terminal(&mut self, master: OwnedFd, poller: &Poller) -> io::Result<()> {
        self.open(Channel::Stdout, master, poller)?;
        self.terminal = Terminal::Open;
        Ok(())
    }

    /// Reads from a stream once and hands what comes to `sink`.
    pub(crate) fn pump(&mut self, channel: Channel, sink: Sink<'_>, poller: &Poller) -> Read {
        let Some(stream) = &mut self.streams[channel as usize] else { return Read::End };
        self.input.clear();
        self.input.append(&mut stream.kept);
        let kept = self.input.len();
        let buffer = rustix::buffer::spare_capacity(&mut self.input);
        let result = match rustix::io::read(&stream.fd, buffer) {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Read::Empty,
            // EIO: nobody has the terminal's other end open. Any other error would repeat itself.
            Err(_) => Read::End,
        };
        match (sink, result) {
            (Sink::Container { log, attach }, Read::Bytes(count)) => {
                self.counters.held.fetch_add(count as u64, Ordering::Relaxed);
                attach.output(stream.source, &self.input[kept..], poller);
                let rest = log.write(stream.source, &self.input);
                let done = self.input.len() - rest;
                stream.kept.extend_from_slice(&self.input[done..]);
                self.counters.done(log, done);
            }
            (Sink::Container { log, .. }, Read::End) if self.terminal == Terminal::None => {
                log.write_last(stream.source, &self.input);
                self.counters.done(log, kept);
            }
            (Sink::Container { .. }, _) => stream.kept.extend_from_slice(&self.input[..kept]),
            (Sink::Said(said), _) => said.hear(&self.input),
            (Sink::Nowhere, _) => {}
        }
        if result == Read::End {
            self.end(channel, poller);
        }
        result
    }

    fn end(&mut self, channel: Channel, poller: &Poller) {
        let Some(stream) = &self.streams[channel as usize] else { return };
        poller.remove(&stream.fd);
        if channel == Channel::Stdout && self.terminal != Terminal::None {
            self.terminal = Terminal::Idle { retry: Instant::now() + TERMINAL_RETRY };
        } else {
            self.streams[channel as usize] = None;
        }
    }

    /// When an idle terminal is to be tried again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.terminal {
            Terminal::Idle { retry } => Some(retry),
            Terminal::None | Terminal::Open => None,
        }
    }

    /// Tries an idle terminal again if it is time.
    pub(crate) fn on_time(&mut self, now: Instant, poller: &Poller) {
        if self.deadline().is_some_and(|retry| retry <= now)
            && let Some(stream) = &self.streams[Channel::Stdout as usize]
        {
            self.terminal = match poller.add(&stream.fd, Token::Output(Channel::Stdout)) {
                Ok(()) => Terminal::Open,
                Err(_) => Terminal::Idle { retry: now + TERMINAL_RETRY },
            };
        }
    }

    /// Whether the container can write nothing any more, as far as one can know now.
    pub(crate) fn has_ended(&self) -> bool {
        let idle = matches!(self.terminal, Terminal::Idle { .. });
        let [stdout, stderr, _] = &self.streams;
        (stdout.is_none() || idle) && stderr.is_none()
    }

    /// Ends the log of a container that has ended: reads what its streams still hold, though other
    /// processes may keep them open, and writes the last lines without a newline.
    pub(crate) fn drain(&mut self, log: &mut Log, attach: &mut Attach, poller: &Poller) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            let mut budget = DRAIN;
            loop {
                let sink = Sink::Container { log: &mut *log, attach: &mut *attach };
                let Read::Bytes(count) = self.pump(channel, sink, poller) else { break };
                budget = budget.saturating_sub(count);
                if budget == 0 {
                    break;
                }
            }
        }
        for stream in self.streams.iter_mut().flatten() {
            log.write_last(stream.source, &stream.kept);
            self.counters.done(log, stream.kept.len());
            stream.kept = Vec::new();
        }
        if matches!(self.terminal, Terminal::Idle { .. }) {
            self.streams[Channel::Stdout as usize] = None;
            self.terminal = Terminal::None;
        }
        log.settle();
    }
}

impl Counters {
    /// So many bytes that were read are in the log, or lost.
    fn done(&self, log: &Log, bytes: usize) {
        self.lost.store(log.lost_bytes(), Ordering::Relaxed);
        self.held.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}
