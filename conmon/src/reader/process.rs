//! The reader's own side: its start, its confinement, and its loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::message::{Order, Word};
use super::{Setup, Stage, filter};
use crate::attach::{Attach, Input, StdinOnce};
use crate::ends::Inlet;
use crate::fault::{Fault, Tried, complain};
use crate::log::Log;
use crate::poller::{Poller, Token};
use crate::stdio::{Channel, Read, Reading, Said, Sink, Stdio};
use crate::sys::Counters;
use crate::{rights, sys};

/// How long the exit of a container waits for the end of its output after its init has ended. In a
/// pid namespace of its own all other processes are gone by then, and nothing waits.
const DRAIN: Duration = Duration::from_millis(100);

/// Descriptors that a reader may have open: those of the container, and one per client.
const MAX_DESCRIPTORS: u64 = 64;

/// A reader.
struct Process {
    poller: Poller,
    keeper: OwnedFd,
    stdio: Stdio,
    log: Log,
    attach: Attach,
    /// What the runtime has said; none = the container is created, and all words are its own.
    said: Option<Said>,
    restore: bool,
    terminal: bool,
    takes_input: bool,
    /// The container's init has ended; when its log is to be complete.
    draining: Option<Instant>,
    /// The keeper knows that the input has ended.
    input_told: bool,
    dismissed: bool,
}

/// Whether a reader goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Order,
    End,
}

/// Is a reader until it is dismissed, or its keeper is gone.
pub(super) fn run(setup: Setup, keeper: OwnedFd, parent: u32, counters: &'static Counters) -> ! {
    let is_told_of = setup.is_told_of();
    let process = begin(&setup, &keeper, parent).and_then(|poller| {
        Process::new(setup, keeper, counters, poller)
            .tried(|| "read the container's streams".to_owned())
    });
    // From here on there are bytes of strangers, and no rights.
    match process.and_then(|process| confine(is_told_of).map(|()| process)) {
        Ok(mut process) => {
            process.serve();
            sys::exit_now(0)
        }
        Err(fault) => {
            if is_told_of {
                complain(format_args!("the reader does not start: {}", fault.chain()));
            }
            sys::exit_now(1)
        }
    }
}

/// Lets go of everything that is the keeper's alone.
fn begin(setup: &Setup, keeper: &OwnedFd, parent: u32) -> Result<Poller, Fault> {
    // The pipe of the start report has to end with the keeper's own descriptor.
    sys::replace_stdout(std::io::stdin().as_fd()).tried(|| "leave standard output".to_owned())?;
    let mut kept: Vec<_> = setup.descriptors().map(AsRawFd::as_raw_fd).collect();
    kept.push(keeper.as_raw_fd());
    sys::close_all_but(&kept).tried(|| "close the keeper's descriptors".to_owned())?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .tried(|| "end with the keeper".to_owned())?;
    if rustix::process::Pid::as_raw(rustix::process::getppid()).cast_unsigned() != parent {
        // It ended before that.
        sys::exit_now(0);
    }
    Poller::new().tried(|| "make an epoll instance".to_owned())
}

/// Gives up all that a reader does not need. What the host does not let it give up is told of, and
/// the container's output is read all the same.
fn confine(is_told_of: bool) -> Result<(), Fault> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let stderr = stderr.tried(|| "keep standard error".to_owned())?;
    sys::replace_stderr(std::io::stdin().as_fd()).tried(|| "leave standard error".to_owned())?;
    rustix::thread::set_name(c"conmon-reader").tried(|| "take a name".to_owned())?;
    let limit = Rlimit { current: Some(MAX_DESCRIPTORS), maximum: Some(MAX_DESCRIPTORS) };
    let confined = [
        ("memory", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("descriptors", rustix::process::setrlimit(Resource::Nofile, limit)),
    ];
    let confined = confined.map(|(what, result)| (what, result.map_err(io::Error::from)));
    let rest = [("capabilities", rights::forswear()), ("system calls", filter::enter())];
    for (what, result) in confined.into_iter().chain(rest) {
        if let Err(error) = result
            && is_told_of
        {
            let line = format!("conmon: the reader keeps its {what}: {error}\n");
            // Where that cannot be written, the container is read nevertheless.
            rustix::io::write(&stderr, line.as_bytes()).ok();
        }
    }
    Ok(())
}

impl Process {
    fn new(
        setup: Setup,
        keeper: OwnedFd,
        counters: &'static Counters,
        poller: Poller,
    ) -> io::Result<Process> {
        poller.add(&keeper, Token::Other)?;
        let created = setup.stage != Stage::Creating;
        let held = setup.restore && !created;
        let reading = if held { Reading::Held } else { Reading::AtOnce };
        let terminal = setup.ends.terminal;
        let stdio = Stdio::new(setup.ends.outputs, terminal, reading, counters, &poller)?;
        let mut log = Log::new(setup.log);
        log.miss(setup.missing);
        let once = if setup.once { StdinOnce::Yes { first: None } } else { StdinOnce::No };
        let takes_input = !matches!(setup.ends.inlet, Inlet::Closed);
        let input = match setup.ends.inlet {
            Inlet::Closed => Input::closed(),
            Inlet::Awaited => Input::awaited(),
            Inlet::Pipe(fd) => Input::pipe(fd),
            Inlet::Terminal(fd) => Input::terminal(fd),
        };
        let door = setup.door.ok_or(io::ErrorKind::InvalidInput)?;
        let attach = Attach::new(door, once, input, &poller)?;
        let mut process = Process {
            poller,
            keeper,
            stdio,
            log,
            attach,
            said: (!created).then(Said::default),
            restore: setup.restore,
            terminal: setup.is_terminal,
            takes_input,
            draining: (setup.stage == Stage::Draining).then(|| Instant::now() + DRAIN),
            input_told: !takes_input,
            dismissed: false,
        };
        if setup.stage == Stage::Ended {
            process.attach.end(&process.poller);
        }
        Ok(process)
    }

    fn serve(&mut self) {
        loop {
            if self.dismissed && self.attach.is_settled() {
                return;
            }
            let deadlines = [self.draining, self.stdio.deadline(), self.attach.deadline()];
            if self.poller.wait(deadlines.into_iter().flatten().min()).is_err() {
                // Only short of kernel memory; the keeper starts another reader then.
                return;
            }
            while let Some(token) = self.poller.take_event() {
                match token {
                    Token::Output(channel) => drop(self.pump(channel)),
                    Token::Attach => self.attach.accept(&self.poller),
                    Token::Attached(slot) => self.attach.serve(slot, &self.poller),
                    Token::Input => self.attach.input_ready(&self.poller),
                    Token::Other if self.obey() == Next::End => return,
                    _ => {}
                }
            }
            let now = Instant::now();
            self.stdio.on_time(now, &self.poller);
            self.attach.on_time(now, &self.poller);
            if !self.input_told && self.attach.input_has_ended() {
                self.input_told = true;
                self.tell(&Word::InputEnded);
            }
            if self.draining.is_some_and(|until| until <= now || self.stdio.has_ended()) {
                self.draining = None;
                self.stdio.drain(&mut self.log, &mut self.attach, &self.poller);
                self.tell(&Word::Drained);
            }
        }
    }

    fn pump(&mut self, channel: Channel) -> Read {
        let sink = match (&mut self.said, channel) {
            (Some(said), _) => Sink::Said(said),
            (None, Channel::Runtime) => Sink::Nowhere,
            (None, _) => Sink::Container { log: &mut self.log, attach: &mut self.attach },
        };
        self.stdio.pump(channel, sink, &self.poller)
    }

    /// If the keeper is gone, the next order says so.
    fn tell(&self, word: &Word) {
        drop(word.send(&self.keeper));
    }

    /// Carries out what the keeper has ordered.
    fn obey(&mut self) -> Next {
        loop {
            let (order, mut fds) = match Order::receive(&self.keeper) {
                Ok(Some(order)) => order,
                Ok(None) => return Next::Order,
                Err(_) => return Next::End,
            };
            match order {
                Order::Created => self.created(),
                Order::Hear => self.hear(),
                Order::Terminal => {
                    let input = (fds.len() > 1).then(|| fds.pop()).flatten();
                    self.take_terminal(fds.pop(), input);
                }
                Order::Log => {
                    if let Some(file) = fds.pop() {
                        self.log.move_to(file);
                    }
                    self.tell(&Word::Moved);
                }
                Order::CloseInput => self.attach.close_input(&self.poller),
                Order::Drain => self.draining = Some(Instant::now() + DRAIN),
                Order::End => self.attach.end(&self.poller),
                Order::Fail(why) => {
                    self.attach.fail(&why, &self.poller);
                    return Next::End;
                }
                Order::Dismiss => self.dismissed = true,
            }
        }
    }

    /// The runtime has done its work. What is in the pipes of a container that was restored is its
    /// own; what is in others is the runtime's.
    fn created(&mut self) {
        if self.restore {
            self.tell(&Word::Said(Vec::new()));
        } else {
            self.hear();
        }
        self.said = None;
        // Fails short of kernel memory alone: the stream is read at the end.
        drop(self.stdio.read_on(&self.poller));
    }

    fn hear(&mut self) {
        for channel in Channel::ALL {
            // A terminal holds no words of the runtime, but the first ones of a container.
            if channel == Channel::Stdout && self.terminal {
                continue;
            }
            while self.said.is_some() && matches!(self.pump(channel), Read::Bytes(_)) {}
        }
        let said = self.said.as_mut().map(Said::take).unwrap_or_default();
        self.tell(&Word::Said(said));
    }

    fn take_terminal(&mut self, output: Option<OwnedFd>, input: Option<OwnedFd>) {
        let Some(output) = output else { return };
        // Fails short of kernel memory alone: the terminal is read at the end.
        drop(self.stdio.adopt_terminal(output, &self.poller));
        if let Some(input) = input.filter(|_| self.takes_input) {
            self.attach.set_input(Input::terminal(input), &self.poller);
        }
    }
}
