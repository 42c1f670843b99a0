//! The reader: the process of a monitor that reads what strangers write.
//!
//! ```text
//!                     ┌── keeper ──────────────────────────┐
//!   daemon ── ctl ───►│ starts the runtime, reaps, writes  │
//!                     │ the exit record; root's rights     │
//!                     └──┬──────────────────────────▲──────┘
//!                 orders │ descriptors              │ words: a byte, and for
//!                     ┌──▼──────────────────────────┴──────┐ the runtime's a text
//!   container ─pipes─►│ reader: log, attached clients;     │
//!   clients ─ attach ►│ no rights, few system calls        │
//!                     └────────────────────────────────────┘
//! ```
//!
//! The keeper binds and opens; the reader gets descriptors of it and reads and writes them. It is
//! forked, not started anew, so that both share their memory. Before its first byte it gives up all
//! capabilities, the bounding set too, and all system calls that it does not make (`filter.rs`), for
//! good. Code of a stranger's in it has what the container has already: its streams, its log, and the
//! clients that are attached to it.
//!
//! The keeper believes it nothing that could hurt others: what it says is short and wakes the keeper
//! for a moment, descriptors are not taken, and an exit waits for it for a while only. When a reader
//! is killed, another one goes on with the same descriptors: the keeper has them, too. What the dead
//! one had read and not written is missing in the log, which says so, and counts as lost in the exit
//! record; clients lose their connections; the input of a client that was not taken yet is lost.
//!
//! A reader ends with its keeper, however that ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use conmon::Launch;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

use crate::control::Slot;
use crate::ends::{Ends, Inlet};
use crate::fault::{Fault, Tried, complain};
use crate::poller::{Interest, Poller, Token, timespec};
use crate::sys::{self, Counters, Fork};

mod filter;
mod message;
mod process;

use message::Order;
pub(crate) use message::Word;

/// How long the keeper waits for an answer without which it cannot go on. The reader is not at work
/// for the container then.
const ANSWER: Duration = Duration::from_secs(10);

/// The least time from one reader's start to that of the next.
const RESTART: Duration = Duration::from_secs(1);

/// How many readers are told of in the monitor's standard error, whose file is the node's.
const MAX_TOLD: u32 = 16;

/// New logs that wait for the reader to go on in them. More are refused.
const MAX_MOVING: usize = 64;

/// Words that are taken from the reader before others have their turn.
pub(crate) const MAX_WORDS: usize = 16;

/// What a container is at, as far as its reader has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Creating,
    Living,
    Draining,
    Ended,
}

/// All that a reader needs to begin with.
struct Setup {
    /// The attach socket.
    door: Option<OwnedFd>,
    ends: Ends,
    log: Option<OwnedFd>,
    stage: Stage,
    /// The container's standard output is, or will be, a terminal.
    is_terminal: bool,
    once: bool,
    restore: bool,
    /// Bytes that the reader before took along.
    missing: u64,
    /// The first reader is 1.
    number: u32,
}

impl Setup {
    fn is_told_of(&self) -> bool {
        self.number <= MAX_TOLD
    }

    fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        let inlet = match &self.ends.inlet {
            Inlet::Pipe(fd) | Inlet::Terminal(fd) => Some(fd),
            Inlet::Closed | Inlet::Awaited => None,
        };
        self.ends.outputs.iter().flatten().chain(inlet).chain(&self.log).chain(&self.door)
    }
}

struct Running {
    pid: Pid,
    socket: OwnedFd,
    since: Instant,
    /// It has closed its end of the socket, or has said nonsense, and is killed.
    killed: bool,
}

/// The keeper's side of the reader, of the one that lives and of those that follow it.
pub(crate) struct Reader {
    setup: Setup,
    counters: &'static Counters,
    running: Option<Running>,
    /// When the next one is to be started.
    restart: Option<Instant>,
    orders: VecDeque<(Order, Vec<OwnedFd>)>,
    /// Who waits for the log to go on in another file, in the order in which they asked; none = is
    /// gone.
    moving: VecDeque<Option<Slot>>,
    /// The input is to end.
    closing: bool,
    /// Bytes that readers which are gone have lost.
    lost: u64,
    /// It has said that the log is complete.
    drained: bool,
    dismissed: bool,
}

impl Reader {
    /// Starts the first reader. Its log is where the launch says it is.
    pub(crate) fn start(
        launch: &Launch,
        door: OwnedFd,
        ends: Ends,
        log: Option<OwnedFd>,
        poller: &Poller,
    ) -> Result<Reader, Fault> {
        let setup = Setup {
            door: Some(door),
            ends,
            log,
            stage: Stage::Creating,
            is_terminal: launch.terminal,
            once: launch.stdin_once && !launch.terminal,
            restore: launch.restore,
            missing: 0,
            number: 0,
        };
        let mut reader = Reader {
            setup,
            counters: Counters::share().tried(|| "share the reader's counters".to_owned())?,
            running: None,
            restart: None,
            orders: VecDeque::new(),
            moving: VecDeque::new(),
            closing: false,
            lost: 0,
            drained: false,
            dismissed: false,
        };
        reader.fork(poller).tried(|| "start the reader".to_owned())?;
        Ok(reader)
    }

    fn fork(&mut self, poller: &Poller) -> io::Result<()> {
        if self.closing {
            self.setup.ends.inlet = Inlet::Closed;
        }
        let flags = SocketFlags::CLOEXEC;
        let (socket, readers) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        poller.add(&socket, Token::Other)?;
        let parent = std::process::id();
        self.setup.number = self.setup.number.saturating_add(1);
        match sys::fork()? {
            Fork::Child => self.become_reader(readers, parent),
            Fork::Parent { child } => {
                let since = Instant::now();
                self.running = Some(Running { pid: child, socket, since, killed: false });
                self.restart = None;
                self.setup.missing = 0;
                Ok(())
            }
        }
    }

    /// In the child of a fork: everything else of the keeper's is neither used nor dropped again.
    fn become_reader(&mut self, socket: OwnedFd, parent: u32) -> ! {
        let ends = Ends { outputs: [const { None }; 3], inlet: Inlet::Closed, terminal: false };
        let empty = Setup {
            door: None,
            ends,
            log: None,
            stage: Stage::Ended,
            is_terminal: false,
            once: false,
            restore: false,
            missing: 0,
            number: 0,
        };
        process::run(std::mem::replace(&mut self.setup, empty), socket, parent, self.counters)
    }

    /// Whether this process is the reader.
    pub(crate) fn is(&self, pid: i32) -> bool {
        self.pid() == Some(pid)
    }

    /// The reader's pid, as long as it is not reaped.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|running| Pid::as_raw(Some(running.pid)))
    }

    /// Whether the operator hears of it: not of all those that a container may bring down.
    pub(crate) fn is_told_of(&self) -> bool {
        self.setup.is_told_of()
    }

    /// It has ended and is reaped. Returns who waited for it to move the log: the next one begins
    /// with the new file.
    pub(crate) fn ended(&mut self) -> Vec<Slot> {
        let Some(running) = self.running.take() else { return Vec::new() };
        let held = self.counters.held.swap(0, Ordering::Relaxed);
        let lost = self.counters.lost.swap(0, Ordering::Relaxed);
        self.lost = self.lost.saturating_add(held).saturating_add(lost);
        self.orders.clear();
        if !self.dismissed {
            self.setup.missing = held;
            self.restart = Some(Instant::now().max(running.since + RESTART));
        }
        self.moving.drain(..).flatten().collect()
    }

    /// When the next reader is to be started.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.restart
    }

    /// Starts the next reader when it is time.
    pub(crate) fn on_time(&mut self, now: Instant, poller: &Poller) {
        if self.restart.is_some_and(|at| at <= now)
            && let Err(error) = self.fork(poller)
        {
            complain(format_args!("start another reader: {error}"));
            self.restart = Some(now + RESTART);
        }
    }

    /// The container is created: what it writes from now on is its own. Returns what the runtime has
    /// said.
    pub(crate) fn created(&mut self, poller: &Poller) -> String {
        self.setup.stage = Stage::Living;
        self.ask(Order::Created, poller)
    }

    /// What a runtime has said that has failed.
    pub(crate) fn last_words(&mut self, poller: &Poller) -> String {
        self.ask(Order::Hear, poller)
    }

    /// Waits for the answer. Without one the reader is killed; the next one knows the stage.
    fn ask(&mut self, order: Order, poller: &Poller) -> String {
        let until = Instant::now() + ANSWER;
        self.order(order, Vec::new(), poller);
        while let Some(running) = self.running.as_ref().filter(|running| !running.killed) {
            match Word::receive(&running.socket) {
                Ok(Some(Word::Said(text))) => {
                    return String::from_utf8_lossy(text.trim_ascii()).into_owned();
                }
                Ok(Some(Word::InputEnded)) => self.setup.ends.inlet = Inlet::Closed,
                Ok(Some(Word::Moved | Word::Drained)) => {}
                Ok(None) if Instant::now() < until => {
                    let left = timespec(until.saturating_duration_since(Instant::now()));
                    let mut polled = [PollFd::new(&running.socket, PollFlags::IN)];
                    // What it returns is found out by the next look.
                    rustix::event::poll(&mut polled, Some(&left)).ok();
                    self.flush(poller);
                }
                Ok(None) | Err(_) => self.kill(poller),
            }
        }
        String::new()
    }

    /// Takes the container's terminal.
    pub(crate) fn take_terminal(&mut self, master: OwnedFd, poller: &Poller) -> io::Result<()> {
        self.setup.ends.adopt(master)?;
        let mut fds = Vec::new();
        if let Some(output) = &self.setup.ends.outputs[0] {
            fds.push(output.try_clone()?);
        }
        if let Inlet::Terminal(input) = &self.setup.ends.inlet {
            fds.push(input.try_clone()?);
        }
        self.order(Order::Terminal, fds, poller);
        Ok(())
    }

    /// Sets the size of the container's terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) -> Result<(), Fault> {
        self.setup.ends.resize(rows, cols)
    }

    /// Has the log go on in another file. True: it does; false: somebody is to be told later, by
    /// [`Reader::moved`] or [`Reader::ended`].
    pub(crate) fn move_log(
        &mut self,
        file: OwnedFd,
        whom: Slot,
        poller: &Poller,
    ) -> Result<bool, Fault> {
        let tried = || "hand the log over".to_owned();
        if self.moving.len() >= MAX_MOVING {
            return Err(io::Error::other("too many wait for that")).tried(tried);
        }
        let readers = file.try_clone().tried(tried)?;
        self.setup.log = Some(file);
        if self.running.is_none() {
            return Ok(true);
        }
        self.moving.push_back(Some(whom));
        self.order(Order::Log, vec![readers], poller);
        Ok(false)
    }

    /// The log has moved. Returns who waits for that.
    pub(crate) fn moved(&mut self) -> Option<Slot> {
        self.moving.pop_front().flatten()
    }

    /// Nobody is to be told any more.
    pub(crate) fn client_closed(&mut self, slot: Slot) {
        for whom in self.moving.iter_mut().filter(|whom| **whom == Some(slot)) {
            *whom = None;
        }
    }

    /// Ends the container's input with what was sent until now.
    pub(crate) fn close_input(&mut self, poller: &Poller) {
        self.closing = true;
        self.order(Order::CloseInput, Vec::new(), poller);
    }

    /// The container's input has ended: nobody keeps it open.
    pub(crate) fn input_ended(&mut self) {
        self.setup.ends.inlet = Inlet::Closed;
    }

    /// The container has ended: its log is to be completed.
    pub(crate) fn drain(&mut self, poller: &Poller) {
        self.setup.stage = Stage::Draining;
        self.order(Order::Drain, Vec::new(), poller);
    }

    /// The log is complete.
    pub(crate) fn drained(&mut self) {
        self.drained = true;
    }

    /// The exit is published: clients are told, and those that come later, too.
    pub(crate) fn end(&mut self, poller: &Poller) {
        self.setup.stage = Stage::Ended;
        self.order(Order::End, Vec::new(), poller);
    }

    /// There is no container after all: clients are told why, and the reader ends.
    pub(crate) fn fail(&mut self, why: &str, poller: &Poller) {
        self.dismissed = true;
        self.order(Order::Fail(why.as_bytes().to_vec()), Vec::new(), poller);
    }

    /// Has the reader end when its clients have read the last of the output. One that was not waited
    /// for any more ends at once.
    pub(crate) fn dismiss(&mut self, poller: &Poller) {
        self.dismissed = true;
        self.restart = None;
        self.order(Order::Dismiss, Vec::new(), poller);
        if !self.drained {
            self.kill(poller);
        }
    }

    /// Bytes of output that are not in the log.
    pub(crate) fn lost_bytes(&self) -> u64 {
        let lost = self.counters.lost.load(Ordering::Relaxed);
        let held = self.counters.held.load(Ordering::Relaxed);
        self.lost.saturating_add(lost).saturating_add(held)
    }

    /// The next thing that the reader says.
    pub(crate) fn next_word(&mut self, poller: &Poller) -> Option<Word> {
        self.flush(poller);
        let running = self.running.as_ref().filter(|running| !running.killed)?;
        Word::receive(&running.socket).unwrap_or_else(|_| {
            self.kill(poller);
            None
        })
    }

    fn order(&mut self, order: Order, fds: Vec<OwnedFd>, poller: &Poller) {
        if self.running.is_some() {
            self.orders.push_back((order, fds));
            self.flush(poller);
        }
    }

    /// Sends what can be sent now.
    fn flush(&mut self, poller: &Poller) {
        let Some(running) = self.running.as_ref().filter(|running| !running.killed) else { return };
        let waiting = self.orders.len();
        while let Some((order, fds)) = self.orders.front() {
            match order.send(&running.socket, fds) {
                Ok(()) => drop(self.orders.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It is gone. What else it was to get, the next one begins with.
                Err(_) => return self.kill(poller),
            }
        }
        if waiting > 0 {
            let interest = Interest::of(true, !self.orders.is_empty());
            poller.watch(&running.socket, Token::Other, interest);
        }
    }

    /// Kills it. Its end comes as that of any child.
    fn kill(&mut self, poller: &Poller) {
        if let Some(running) = &mut self.running {
            running.killed = true;
            poller.remove(&running.socket);
            // It is not reaped yet, so this is its pid. An error would mean that it has ended.
            rustix::process::kill_process(running.pid, Signal::KILL).ok();
        }
    }
}
