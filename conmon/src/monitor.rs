//! The keeper of one container, which is the monitor but for its [reader](crate::reader): its state, and
//! the loop that everything passes through.
//!
//! ```text
//!  Creating ──► Living ──► Draining ──► Ended ──► (the process ends)
//!     │ runtime failed    init ended   the reader has    TakeExit
//!     ▼                                the last output
//!  (the process ends)
//! ```
//!
//! One thread, one wait. Nothing here blocks, but for the reader's answer when the create ends, and
//! nothing but `TakeExit` ends a monitor whose container was created: not a full disk, not a missing
//! directory, not the daemon's death, not the reader's. After it the monitor stays for as long as an
//! attached client takes to read the last of the output.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conmon::{Exit, Launch, Reply};

use crate::child::{self, Early, Ended, Process, Spawner};
use crate::console::Console;
use crate::control::{Control, Slot};
use crate::ends::{Ends, Stdin};
use crate::exec::Execs;
use crate::exit::ExitFile;
use crate::fault::{Fault, Tried, complain};
use crate::log::Place;
use crate::oom::OomCounter;
use crate::poller::{Poller, Token};
use crate::reader::{MAX_WORDS, Reader, Word};
use crate::{attach, report, rights, sys};

mod create;
mod request;

/// How long the exit of a container waits for its reader to complete the log. The log's disk may be
/// slow; a reader that strangers have taken over could keep the exit back for good.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a monitor that has done its work stays for clients that read.
const FAREWELL: Duration = Duration::from_secs(600);

/// Time between two waits where the kernel is short of memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What the container is doing.
enum Phase {
    /// The runtime program creates it.
    Creating { program: i32, deadline: Instant },
    /// It is created, and perhaps started: the monitor need not know.
    Living { init: Process },
    /// Its init has ended; its log is not complete.
    Draining { init: Process, ended: Ended, oom_killed: bool, deadline: Instant },
    /// All is known and published.
    Ended { init: Process, exit: Exit },
}

/// One monitor.
pub(crate) struct Monitor {
    launch: Launch,
    poller: Poller,
    signals: OwnedFd,
    spawner: Spawner,
    early: Early,
    control: Control,
    console: Option<Console>,
    place: Option<Place>,
    reader: Reader,
    exit_file: ExitFile,
    oom: Option<OomCounter>,
    execs: Execs,
    phase: Phase,
    /// The exit is taken; there is nothing more to do than to let clients read until then.
    dismissed: Option<Instant>,
    over: Option<ExitCode>,
}

/// Runs a monitor to its end.
pub(crate) fn run(launch: Launch) -> ExitCode {
    let monitor = sys::block_signals()
        .tried(|| "block signals".to_owned())
        .and_then(|signals| Monitor::start(launch, signals));
    match monitor {
        Ok(mut monitor) => monitor.serve(),
        Err(fault) => {
            report::send(&Reply::Failed { message: fault.chain() });
            ExitCode::FAILURE
        }
    }
}

impl Monitor {
    /// Makes everything that can fail, then starts the runtime.
    fn start(launch: Launch, signals: OwnedFd) -> Result<Monitor, Fault> {
        let poller = Poller::new().tried(|| "make an epoll instance".to_owned())?;
        poller.add(&signals, Token::Signals).tried(|| "watch for signals".to_owned())?;
        let dir = std::fs::File::open(&launch.dir)
            .tried(|| format!("open the monitor directory {}", launch.dir.display()))?;
        let exit_file = ExitFile::prepare(dir.as_fd())?;
        // Before the control socket, as the library says.
        let door = attach::bind(dir.as_fd())?;
        let control = Control::bind(dir.as_fd(), &poller)?;
        let place = Place::of(&launch);
        let log = place.as_ref().map(Place::open).transpose()?;
        let spawner = Spawner::new(launch.owner);
        let stdin = if launch.stdin { Stdin::Open } else { Stdin::Null };
        let (console, (ends, streams)) = if launch.terminal {
            (Some(Console::bind(dir.as_fd(), &poller)?), Ends::terminal(stdin)?)
        } else {
            (None, Ends::pipes(stdin)?)
        };
        rights::give_up().tried(|| "give up capabilities".to_owned())?;
        let reader = Reader::start(&launch, door, ends, log, &poller)?;
        let shortened = console.as_ref().map(|console| console.shorten(&launch));
        let program = spawner
            .start(shortened.as_ref().unwrap_or(&launch.runtime), streams)
            .tried(|| format!("start {}", launch.runtime[0].display()))?;
        let deadline = Instant::now() + launch.create_timeout;
        Ok(Monitor {
            launch,
            poller,
            signals,
            spawner,
            early: Early::default(),
            control,
            console,
            place,
            reader,
            exit_file,
            oom: None,
            execs: Execs::default(),
            phase: Phase::Creating { program, deadline },
            dismissed: None,
            over: None,
        })
    }

    fn serve(&mut self) -> ExitCode {
        loop {
            if let Some(code) = self.over {
                return code;
            }
            if let Some(until) = self.dismissed
                && (self.reader.pid().is_none() || until <= Instant::now())
            {
                return ExitCode::SUCCESS;
            }
            let deadline = self.deadline();
            if let Err(error) = self.poller.wait(deadline) {
                // Only short of kernel memory; the next wait may do better.
                complain(format_args!("wait for events: {error}"));
                std::thread::sleep(PAUSE);
            }
            while let Some(token) = self.poller.take_event() {
                self.on_event(token);
                self.let_clients_go();
            }
            self.on_time(Instant::now());
            self.let_clients_go();
        }
    }

    /// Ends what clients that are gone had, before a new client in the place of one asks for anything.
    fn let_clients_go(&mut self) {
        while let Some(slot) = self.control.take_closed() {
            self.execs.client_closed(slot);
            self.reader.client_closed(slot);
        }
    }

    fn on_event(&mut self, token: Token) {
        match token {
            Token::Signals => self.children_ended(),
            Token::Console | Token::Terminal => self.receive_terminal(),
            Token::Control => self.control.accept(&self.poller),
            Token::Client(slot) => self.serve_client(slot),
            Token::Other => self.hear_reader(),
            // The reader's.
            Token::Output(_) | Token::Attach | Token::Attached(_) | Token::Input => {}
        }
    }

    fn hear_reader(&mut self) {
        for _ in 0..MAX_WORDS {
            let Some(word) = self.reader.next_word(&self.poller) else { break };
            match word {
                Word::Moved => {
                    if let Some(slot) = self.reader.moved() {
                        self.control.send(slot, &Reply::Ok, &self.poller);
                    }
                }
                Word::InputEnded => self.reader.input_ended(),
                Word::Drained => {
                    self.reader.drained();
                    self.finish();
                }
                // The answer to a question that is not waited for any more.
                Word::Said(_) => {}
            }
        }
    }

    /// The next moment at which something is to be done without an event.
    fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Creating { deadline, .. } | Phase::Draining { deadline, .. } => Some(*deadline),
            Phase::Living { .. } | Phase::Ended { .. } => None,
        };
        let others = [self.execs.deadline(), self.reader.deadline(), self.dismissed];
        others.into_iter().chain([phase]).flatten().min()
    }

    fn on_time(&mut self, now: Instant) {
        match &self.phase {
            Phase::Creating { deadline, .. } if *deadline <= now => self.create_timed_out(),
            Phase::Draining { deadline, .. } if *deadline <= now => self.finish(),
            _ => {}
        }
        self.reader.on_time(now, &self.poller);
        for (slot, reply) in self.execs.on_time(now) {
            self.control.send(slot, &reply, &self.poller);
        }
    }

    fn children_ended(&mut self) {
        // Before the reaping, so that an end after it makes the descriptor readable again.
        let mut queue = [0; 1024];
        while rustix::io::read(&self.signals, &mut queue).is_ok() {}
        while let Some(ended) = child::next_ended() {
            self.child_ended(ended);
        }
        if !matches!(self.phase, Phase::Creating { .. }) && !self.execs.any_starting() {
            self.early.clear();
        }
    }

    fn child_ended(&mut self, ended: Ended) {
        if self.reader.is(ended.process.pid) {
            return self.reader_ended(ended.code);
        }
        match &self.phase {
            Phase::Creating { program, .. } if *program == ended.process.pid => {
                self.runtime_ended(ended.code);
                return;
            }
            Phase::Living { init } if init.pid == ended.process.pid => {
                self.init_ended(ended);
                return;
            }
            _ => {}
        }
        match self.execs.child_ended(&ended, &mut self.early) {
            Some(answers) => {
                for (slot, reply) in answers {
                    self.control.send(slot, &reply, &self.poller);
                }
            }
            None => self.early.remember(ended),
        }
    }

    /// The reader has ended, which it does of itself only when it is dismissed.
    fn reader_ended(&mut self, code: u8) {
        if self.dismissed.is_none() && self.reader.is_told_of() {
            let id = &self.launch.id;
            complain(format_args!("{id}: the reader ended with status {code}; another follows"));
        }
        for slot in self.reader.ended() {
            self.control.send(slot, &Reply::Ok, &self.poller);
        }
    }

    /// The container's init has ended. Its output may not have.
    fn init_ended(&mut self, ended: Ended) {
        if let Phase::Living { init } = self.phase {
            // At once: the cgroup may be gone soon.
            let oom_killed = self.oom.as_ref().is_some_and(OomCounter::has_killed);
            let deadline = Instant::now() + DRAIN;
            self.phase = Phase::Draining { init, ended, oom_killed, deadline };
            self.reader.drain(&self.poller);
        }
    }

    /// Publishes the exit: the log is complete, or has had its time. Processes that outlive the
    /// container's init and write on are read, and logged, until the daemon takes the exit.
    fn finish(&mut self) {
        let Phase::Draining { init, ended, oom_killed, .. } = self.phase else { return };
        let lost_bytes = self.reader.lost_bytes();
        let exit = Exit { code: ended.code, at_ns: ended.at_ns, oom_killed, lost_bytes };
        if let Err(fault) = self.exit_file.publish(&exit) {
            complain(format_args!("{}: {}", self.launch.id, fault.chain()));
        }
        self.oom = None;
        self.phase = Phase::Ended { init, exit };
        self.control.publish(&Reply::Exited(exit), &self.poller);
        self.reader.end(&self.poller);
    }

    fn serve_client(&mut self, slot: Slot) {
        self.control.serve(slot, &self.poller);
        while let Some(next) = self.control.next_request(slot) {
            let reply = match next {
                Ok(request) => self.request(slot, request),
                Err(error) => Some(Reply::Failed { message: error.to_string() }),
            };
            if let Some(reply) = reply {
                self.control.send(slot, &reply, &self.poller);
            }
        }
    }
}
