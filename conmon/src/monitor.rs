//! The monitor of one container: its state, and the loop that everything passes through.
//!
//! ```text
//!  Creating ──► Living ──► Draining ──► Ended ──► (the process ends)
//!     │ runtime failed    init ended   streams ended,   TakeExit
//!     ▼                                or 100 ms later
//!  (the process ends)
//! ```
//!
//! One thread, one wait. Nothing here blocks, but for the log's disk, and nothing but `TakeExit`
//! ends a monitor whose container was created: not a full disk, not a missing directory, not the
//! daemon's death. After it the process stays for as long as an attached client takes to read the
//! last of the output.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conmon::{Exit, Launch, Reply};

use crate::attach::{Attach, StdinOnce};
use crate::child::{self, Early, Ended, Process, Spawner};
use crate::console::Console;
use crate::control::{Control, Slot};
use crate::exec::Execs;
use crate::exit::ExitFile;
use crate::fault::{Fault, Tried, complain};
use crate::log::{Log, Place};
use crate::oom::OomCounter;
use crate::poller::{Poller, Token};
use crate::stdio::{Channel, Read, Reading, Said, Sink, Stdin, Stdio};
use crate::{report, rights, sys};

mod create;
mod request;

/// How long the exit of a container waits for the end of its output after its init has ended. In a
/// pid namespace of its own all other processes are gone by then, and nothing waits.
const DRAIN: Duration = Duration::from_millis(100);

/// What the container is doing.
enum Phase {
    /// The runtime program creates it.
    Creating { program: i32, deadline: Instant, said: Said },
    /// It is created, and perhaps started: the monitor need not know.
    Living { init: Process },
    /// Its init has ended; its output has not.
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
    attach: Attach,
    console: Option<Console>,
    stdio: Stdio,
    log: Log,
    exit_file: ExitFile,
    oom: Option<OomCounter>,
    execs: Execs,
    phase: Phase,
    /// The exit is taken; there is nothing more to do than to let clients read.
    dismissed: bool,
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
        let once = if launch.stdin_once && !launch.terminal {
            StdinOnce::Yes { first: None }
        } else {
            StdinOnce::No
        };
        let mut attach = Attach::bind(dir.as_fd(), once, &poller)?;
        let control = Control::bind(dir.as_fd(), &poller)?;
        let log = Log::open(Place::of(&launch))?;
        let spawner = Spawner::new(launch.owner);
        let stdin = if launch.stdin { Stdin::Open } else { Stdin::Null };
        let reading = if launch.restore { Reading::Held } else { Reading::AtOnce };
        let (console, (stdio, input, streams)) = if launch.terminal {
            (Some(Console::bind(dir.as_fd(), &poller)?), Stdio::terminal(stdin, reading, &poller)?)
        } else {
            (None, Stdio::pipes(stdin, reading, &poller)?)
        };
        attach.set_input(input, &poller);
        rights::give_up().tried(|| "give up capabilities".to_owned())?;
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
            attach,
            console,
            stdio,
            log,
            exit_file,
            oom: None,
            execs: Execs::default(),
            phase: Phase::Creating { program, deadline, said: Said::default() },
            dismissed: false,
            over: None,
        })
    }

    fn serve(&mut self) -> ExitCode {
        loop {
            if let Some(code) = self.over {
                return code;
            }
            if self.dismissed && self.attach.is_settled() {
                return ExitCode::SUCCESS;
            }
            let deadline = self.deadline();
            if let Err(error) = self.poller.wait(deadline) {
                // Only short of kernel memory; the next wait may do better.
                complain(format_args!("wait for events: {error}"));
                std::thread::sleep(DRAIN);
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
        }
    }

    fn on_event(&mut self, token: Token) {
        match token {
            Token::Signals => self.children_ended(),
            Token::Output(channel) => self.pump(channel),
            Token::Console | Token::Terminal => self.receive_terminal(),
            Token::Control => self.control.accept(&self.poller),
            Token::Client(slot) => self.serve_client(slot),
            Token::Attach => self.attach.accept(&self.poller),
            Token::Attached(slot) => self.attach.serve(slot, &self.poller),
            Token::Input => self.attach.input_ready(&self.poller),
        }
    }

    /// The next moment at which something is to be done without an event.
    fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Creating { deadline, .. } | Phase::Draining { deadline, .. } => Some(*deadline),
            Phase::Living { .. } | Phase::Ended { .. } => None,
        };
        let others = [self.execs.deadline(), self.stdio.deadline(), self.attach.deadline()];
        others.into_iter().chain([phase]).flatten().min()
    }

    fn on_time(&mut self, now: Instant) {
        match &self.phase {
            Phase::Creating { deadline, .. } if *deadline <= now => self.create_timed_out(),
            Phase::Draining { deadline, .. } if *deadline <= now => self.finish(),
            _ => {}
        }
        self.stdio.on_time(now, &self.poller);
        self.attach.on_time(now, &self.poller);
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

    /// The container's init has ended. Its output may not have.
    fn init_ended(&mut self, ended: Ended) {
        if let Phase::Living { init } = self.phase {
            // At once: the cgroup may be gone soon.
            let oom_killed = self.oom.as_ref().is_some_and(OomCounter::has_killed);
            let deadline = Instant::now() + DRAIN;
            self.phase = Phase::Draining { init, ended, oom_killed, deadline };
            self.finish_if_ended();
        }
    }

    fn pump(&mut self, channel: Channel) {
        let sink = match (&mut self.phase, channel) {
            (Phase::Creating { said, .. }, _) => Sink::Said(said),
            (_, Channel::Runtime) => Sink::Nowhere,
            _ => Sink::Container { log: &mut self.log, attach: &mut self.attach },
        };
        if self.stdio.pump(channel, sink, &self.poller) == Read::End {
            self.finish_if_ended();
        }
    }

    fn finish_if_ended(&mut self) {
        if matches!(self.phase, Phase::Draining { .. }) && self.stdio.has_ended() {
            self.finish();
        }
    }

    /// Completes the log and publishes the exit. Processes that outlive the container's init and
    /// write on are read, and logged, until the daemon takes the exit.
    fn finish(&mut self) {
        let Phase::Draining { init, ended, oom_killed, .. } = self.phase else { return };
        self.stdio.drain(&mut self.log, &mut self.attach, &self.poller);
        let lost_bytes = self.log.lost_bytes();
        let exit = Exit { code: ended.code, at_ns: ended.at_ns, oom_killed, lost_bytes };
        if let Err(fault) = self.exit_file.publish(&exit) {
            complain(format_args!("{}: {}", self.launch.id, fault.chain()));
        }
        self.oom = None;
        self.phase = Phase::Ended { init, exit };
        self.control.publish(&Reply::Exited(exit), &self.poller);
        self.attach.end(&self.poller);
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
