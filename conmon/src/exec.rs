//! Processes that the daemon has the runtime start in the container: probes, `kubectl exec`.
//!
//! ```text
//!            program ended well          process ended
//!  Starting ───────────────────► Running ─────────────► Ended (told; the tree can still be killed)
//!     │ program failed: told        │                     │
//!     ▼                             ▼                     ▼
//!   (gone) ◄─────────────────── being killed ◄────────────┘   Kill, the client gone, too late
//! ```
//!
//! An exec belongs to the connection that asked for it. The standard streams are the daemon's own
//! descriptors and go to the runtime program at once; no byte passes through the monitor. Killing
//! is done in rounds, between which the loop runs on.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use conmon::Reply;

use crate::child::{Claimed, Early, Ended, Process, Spawner, Streams, now_ns};
use crate::control::Slot;
use crate::fault::Tried;
use crate::procfs;
use crate::tree::Tree;

/// Execs at one time, those included whose client is gone and which are being killed.
const MAX_EXECS: usize = 128;

/// The longest time a runtime program gets, whatever the daemon says: the loop counts on an end.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Time between two rounds of killing: for the dead to be reaped, and for new ones to show.
const KILL_ROUND: Duration = Duration::from_millis(5);

/// After this long the daemon is told that the exec has ended though something of it lives on: a
/// process in uninterruptible sleep cannot be waited for.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What a client asks for.
pub(crate) struct Order {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) pid_file: PathBuf,
    pub(crate) timeout: Duration,
    pub(crate) fds: [OwnedFd; 3],
}

/// A reply, and to whom.
pub(crate) type Answer = (Slot, Reply);

#[derive(Clone, Copy)]
enum Stage {
    /// The runtime program is under way.
    Starting { deadline: Instant },
    /// The runtime program has ended without a process.
    NotStarted,
    /// The process runs. `ended` is set when it has ended while its tree is being killed.
    Running { process: Process, ended: Option<Ended> },
    /// The process has ended and the client has been told.
    Ended { process: Process },
}

struct Killing {
    tree: Tree,
    /// What the client is told if there is no process whose end it could be told.
    failure: String,
    next: Instant,
    until: Instant,
}

struct Exec {
    /// None: the client is gone.
    client: Option<Slot>,
    /// The runtime program's pid.
    program: i32,
    pid_file: PathBuf,
    stage: Stage,
    killing: Option<Killing>,
}

/// All execs of one container.
#[derive(Default)]
pub(crate) struct Execs {
    all: Vec<Exec>,
}

impl Execs {
    /// Starts the runtime program. The client is told how that went when it has ended.
    pub(crate) fn start(
        &mut self,
        client: Slot,
        order: Order,
        spawner: &Spawner,
    ) -> Result<(), String> {
        if self.all.iter().any(|exec| exec.client == Some(client)) {
            return Err("this connection has an exec already".to_owned());
        }
        if self.all.len() >= MAX_EXECS {
            return Err(format!("more than {MAX_EXECS} execs at one time"));
        }
        let argv: Vec<&OsStr> = order.argv.iter().map(|a| OsStr::from_bytes(a)).collect();
        let [stdin, stdout, stderr] = order.fds;
        let program = spawner
            .start(&argv, Streams { stdin, stdout, stderr })
            .tried(|| format!("start {}", argv[0].display()))
            .map_err(|fault| fault.chain())?;
        let deadline = Instant::now() + order.timeout.min(MAX_TIMEOUT);
        self.all.push(Exec {
            client: Some(client),
            program,
            pid_file: order.pid_file,
            stage: Stage::Starting { deadline },
            killing: None,
        });
        Ok(())
    }

    /// Whether a runtime program is under way, so that an unknown child may yet get a name.
    pub(crate) fn any_starting(&self) -> bool {
        self.all.iter().any(|exec| matches!(exec.stage, Stage::Starting { .. }))
    }

    /// Takes note of an ended child. None: it is none of ours.
    pub(crate) fn child_ended(&mut self, ended: &Ended, early: &mut Early) -> Option<Vec<Answer>> {
        let at = self.all.iter().position(|exec| exec.is(ended.process.pid))?;
        let exec = &mut self.all[at];
        let mut answers = Vec::new();
        match &mut exec.stage {
            Stage::Starting { .. } => exec.program_ended(ended, early, &mut answers),
            Stage::Running { ended: slot, .. } => {
                *slot = Some(*ended);
                exec.tell_end(&mut answers);
            }
            Stage::NotStarted | Stage::Ended { .. } => {}
        }
        if exec.killing.is_none() && matches!(exec.stage, Stage::NotStarted) {
            self.all.swap_remove(at);
        }
        Some(answers)
    }

    /// Begins to kill the tree of a client's exec.
    pub(crate) fn kill(&mut self, client: Slot) -> Result<(), String> {
        let exec = self.all.iter_mut().find(|exec| exec.client == Some(client));
        let exec = exec.ok_or("this connection has no exec")?;
        exec.kill("killed before the process was started".to_owned());
        Ok(())
    }

    /// The client is gone: what it has running is killed, what has ended is let go.
    pub(crate) fn client_closed(&mut self, client: Slot) {
        for exec in self.all.iter_mut().filter(|exec| exec.client == Some(client)) {
            exec.client = None;
            if !matches!(exec.stage, Stage::Ended { .. }) {
                exec.kill(String::new());
            }
        }
        self.all.retain(|exec| exec.client.is_some() || exec.killing.is_some());
    }

    /// Kills everything once, without waiting: the monitor is about to end.
    pub(crate) fn kill_all(&mut self) {
        for exec in &mut self.all {
            if !matches!(exec.stage, Stage::Ended { .. }) {
                exec.kill(String::new());
            }
        }
    }

    /// When something is to be done next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = self.all.iter().filter_map(|exec| match (&exec.killing, exec.stage) {
            (Some(killing), _) => Some(killing.next),
            (None, Stage::Starting { deadline }) => Some(deadline),
            (None, _) => None,
        });
        due.min()
    }

    /// Does what is due: kills programs that took too long, and goes on killing trees.
    pub(crate) fn on_time(&mut self, now: Instant) -> Vec<Answer> {
        let mut answers = Vec::new();
        for exec in &mut self.all {
            if let Stage::Starting { deadline } = exec.stage
                && deadline <= now
            {
                exec.kill("the runtime did not start the process in time".to_owned());
            }
        }
        let mut at = 0;
        while at < self.all.len() {
            if self.all[at].kill_round(now, &mut answers) == Round::Over {
                self.all.swap_remove(at);
            } else {
                at += 1;
            }
        }
        answers
    }
}

#[derive(PartialEq, Eq)]
enum Round {
    Over,
    GoesOn,
}

impl Exec {
    /// Whether an ended child is this exec's program or process.
    fn is(&self, ended: i32) -> bool {
        match self.stage {
            Stage::Starting { .. } => self.program == ended,
            Stage::Running { process, ended: None } => process.pid == ended,
            Stage::Running { .. } | Stage::NotStarted | Stage::Ended { .. } => false,
        }
    }

    fn program_ended(&mut self, ended: &Ended, early: &mut Early, answers: &mut Vec<Answer>) {
        let claimed = procfs::read_pid_file(&self.pid_file).map(|pid| (pid, early.claim(pid)));
        self.stage = Stage::NotStarted;
        if let Some(killing) = &mut self.killing {
            // It may have started the process before it was killed.
            if let Ok((_, Claimed::Child(process))) = claimed {
                killing.tree.add(process);
                self.stage = Stage::Running { process, ended: None };
            }
            return;
        }
        let failure = match (ended.code, claimed) {
            (0, Ok((pid, Claimed::Child(process)))) => {
                self.stage = Stage::Running { process, ended: None };
                self.tell(Reply::ExecStarted { pid }, answers);
                return;
            }
            (0, Ok((pid, Claimed::Ended(ended)))) => {
                self.stage = Stage::Running { process: ended.process, ended: Some(ended) };
                self.tell(Reply::ExecStarted { pid }, answers);
                self.tell_end(answers);
                return;
            }
            (0, Ok((pid, Claimed::Stranger))) => {
                format!("the runtime says it started {pid}, which is no child of the monitor")
            }
            (0, Err(error)) => {
                format!("read the pid file {}: {error}", self.pid_file.display())
            }
            (code, _) => format!("the runtime ended with status {code}"),
        };
        self.tell(Reply::Failed { message: failure }, answers);
    }

    /// Tells of the process's end, unless that has to wait for its tree.
    fn tell_end(&mut self, answers: &mut Vec<Answer>) {
        if let (None, Stage::Running { process, ended: Some(ended) }) = (&self.killing, self.stage)
        {
            self.tell(Reply::ExecExited { code: ended.code, at_ns: ended.at_ns }, answers);
            self.stage = Stage::Ended { process };
        }
    }

    fn tell(&self, reply: Reply, answers: &mut Vec<Answer>) {
        answers.extend(self.client.map(|client| (client, reply)));
    }

    fn kill(&mut self, failure: String) {
        if self.killing.is_some() {
            return;
        }
        let tree = match self.stage {
            Stage::Starting { .. } => Tree::of(Process::look_at(self.program)),
            Stage::Running { process, .. } | Stage::Ended { process } => Tree::of(process),
            Stage::NotStarted => return,
        };
        let now = Instant::now();
        self.killing = Some(Killing { tree, failure, next: now, until: now + KILL_LIMIT });
        self.kill_now();
    }

    fn kill_now(&mut self) -> usize {
        self.killing.as_mut().map_or(0, |killing| killing.tree.kill())
    }

    fn kill_round(&mut self, now: Instant, answers: &mut Vec<Answer>) -> Round {
        let Some(killing) = &self.killing else { return Round::GoesOn };
        if killing.next > now {
            return Round::GoesOn;
        }
        let late = killing.until <= now;
        let alive = self.kill_now();
        let Some(killing) = &mut self.killing else { return Round::GoesOn };
        if alive > 0 && !late {
            killing.next = now + KILL_ROUND;
            return Round::GoesOn;
        }
        let reply = match self.stage {
            Stage::Running { ended: Some(ended), .. } => {
                Reply::ExecExited { code: ended.code, at_ns: ended.at_ns }
            }
            // Dead, but not reaped yet: its status is about to come.
            Stage::Starting { .. } | Stage::Running { .. } if !late => {
                killing.next = now + KILL_ROUND;
                return Round::GoesOn;
            }
            // It cannot be killed now; when it can, SIGKILL will have been its end.
            Stage::Running { .. } => Reply::ExecExited { code: 137, at_ns: now_ns() },
            Stage::Starting { .. } | Stage::NotStarted => {
                Reply::Failed { message: std::mem::take(&mut killing.failure) }
            }
            Stage::Ended { .. } => Reply::Ok,
        };
        self.tell(reply, answers);
        Round::Over
    }
}
