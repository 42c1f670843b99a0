//! The create: from the runtime program's start to the report that it has or has not worked. A
//! restore goes the same way, only that the container runs already when the runtime ends.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use conmon::{PID, Reply};

use super::{Monitor, Phase};
use crate::child::{self, Claimed};
use crate::fault::complain;
use crate::oom::OomCounter;
use crate::stdio::{Channel, Read, Sink};
use crate::tree::Tree;
use crate::{procfs, report};

/// How long a failed create takes the time to kill what the runtime has left behind.
const CLEAR_LIMIT: Duration = Duration::from_secs(2);

/// Time between two rounds of that.
const CLEAR_ROUND: Duration = Duration::from_millis(2);

impl Monitor {
    /// The console socket has something: the terminal, or at least a connection.
    pub(super) fn receive_terminal(&mut self) {
        let Some(console) = &mut self.console else { return };
        let master = match console.receive(&self.poller) {
            Ok(None) => return,
            Ok(Some(master)) => self.stdio.adopt_terminal(master, &self.poller),
            Err(error) => Err(error),
        };
        match master {
            Ok(input) => {
                // The terminal is enough; the socket is closed and its name removed.
                self.console = None;
                if self.launch.stdin {
                    self.attach.set_input(input, &self.poller);
                }
            }
            Err(error) => self.fail(&format!("receive the terminal from the runtime: {error}")),
        }
    }

    /// The runtime program has ended.
    pub(super) fn runtime_ended(&mut self, code: u8) {
        self.receive_terminal();
        // What is in the pipes of a container that was restored is its own.
        if code != 0 || !self.launch.restore {
            self.hear_the_rest();
        }
        if self.over.is_some() {
            return;
        }
        if code != 0 {
            return self.fail(&format!("the runtime ended with status {code}"));
        }
        if self.console.is_some() {
            return self.fail("the runtime has sent no terminal");
        }
        let path = self.launch.dir.join(PID);
        match procfs::read_pid_file(&path) {
            Ok(pid) => self.created(pid),
            Err(error) => self.fail(&format!("read {}: {error}", path.display())),
        }
    }

    fn created(&mut self, pid: i32) {
        let claimed = self.early.claim(pid);
        let init = match claimed {
            Claimed::Child(process) => process,
            Claimed::Ended(ended) => ended.process,
            Claimed::Stranger => {
                return self.fail(&format!(
                    "the runtime says it created {pid}, which is no child of the monitor"
                ));
            }
        };
        self.oom = OomCounter::open(pid)
            .inspect_err(|error| {
                if matches!(claimed, Claimed::Child(_)) {
                    complain(format_args!("{}: open the OOM counter: {error}", self.launch.id));
                }
            })
            .ok();
        if let Phase::Creating { said, .. } = &self.phase
            && !said.text().is_empty()
        {
            complain(format_args!("{}: the runtime says: {}", self.launch.id, said.text()));
        }
        self.phase = Phase::Living { init };
        if let Err(fault) = self.stdio.read_on(&self.poller) {
            complain(format_args!("{}: {}", self.launch.id, fault.chain()));
        }
        let reply = Reply::Created { pid, start_time: init.start_time };
        self.control.publish(&reply, &self.poller);
        report::send(&reply);
        report::close();
        if let Claimed::Ended(ended) = claimed {
            self.init_ended(ended);
        }
    }

    pub(super) fn create_timed_out(&mut self) {
        let timeout = self.launch.create_timeout.as_millis();
        self.hear_the_rest();
        self.fail(&format!("the runtime did not create the container within {timeout} ms"));
    }

    /// The container is not created. Nothing that the runtime has started stays alive; its files
    /// are for `runtime delete`, that is for the daemon, to remove.
    fn fail(&mut self, why: &str) {
        let Phase::Creating { said, .. } = &self.phase else { return };
        let said = said.text();
        let message = if said.is_empty() { why.to_owned() } else { format!("{why}: {said}") };
        clear();
        self.attach.fail(&message, &self.poller);
        let reply = Reply::Failed { message };
        self.control.publish(&reply, &self.poller);
        report::send(&reply);
        self.over = Some(ExitCode::FAILURE);
    }

    fn hear_the_rest(&mut self) {
        let Phase::Creating { said, .. } = &mut self.phase else { return };
        for channel in Channel::ALL {
            // A terminal holds no words of the runtime, but the first ones of a container.
            if channel == Channel::Stdout && self.launch.terminal {
                continue;
            }
            while let Read::Bytes(_) = self.stdio.pump(channel, Sink::Said(said), &self.poller) {}
        }
    }
}

/// Kills the runtime program and everything else below the monitor, and reaps it.
///
/// This is the one place that waits outside of the loop: the monitor ends after it, and whoever
/// hears that the create has failed must find nothing of it alive.
fn clear() {
    let until = Instant::now() + CLEAR_LIMIT;
    let mut tree = Tree::below_self();
    while tree.kill() > 0 && Instant::now() < until {
        while child::next_ended().is_some() {}
        std::thread::sleep(CLEAR_ROUND);
    }
    while child::next_ended().is_some() {}
}
