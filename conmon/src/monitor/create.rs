//! The create: from the runtime program's start to the report that it has or has not worked. A
//! restore goes the same way, only that the container runs already when the runtime ends.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use conmon::{PID, Reply};

use super::{Monitor, Phase};
use crate::child::{self, Claimed};
use crate::fault::complain;
use crate::oom::OomCounter;
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
        let taken = match console.receive(&self.poller) {
            Ok(None) => return,
            Ok(Some(master)) => self.reader.take_terminal(master, &self.poller),
            Err(error) => Err(error),
        };
        match taken {
            // The terminal is enough; the socket is closed and its name removed.
            Ok(()) => self.console = None,
            Err(error) => self.fail(&format!("receive the terminal from the runtime: {error}")),
        }
    }

    /// The runtime program has ended.
    pub(super) fn runtime_ended(&mut self, code: u8) {
        self.receive_terminal();
        if self.over.is_some() {
            return;
        }
        if code != 0 {
            return self.fail(&format!("the runtime ended with status {code}"));
        }
        if self.console.is_some() {
            return self.fail_after_all("the runtime has sent no terminal");
        }
        let path = self.launch.dir.join(PID);
        match procfs::read_pid_file(&path) {
            Ok(pid) => self.created(pid),
            Err(error) => self.fail_after_all(&format!("read {}: {error}", path.display())),
        }
    }

    fn created(&mut self, pid: i32) {
        let claimed = self.early.claim(pid);
        let init = match claimed {
            Claimed::Child(process) => process,
            Claimed::Ended(ended) => ended.process,
            Claimed::Stranger => {
                return self.fail_after_all(&format!(
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
        // Before anybody hears of the container and starts it.
        let said = self.reader.created(&self.poller);
        if !said.is_empty() {
            complain(format_args!("{}: the runtime says: {said}", self.launch.id));
        }
        self.phase = Phase::Living { init };
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
        self.fail(&format!("the runtime did not create the container within {timeout} ms"));
    }

    /// The container is not created. Nothing that the runtime has started stays alive; its files
    /// are for `runtime delete`, that is for the daemon, to remove.
    fn fail(&mut self, why: &str) {
        if matches!(self.phase, Phase::Creating { .. }) && self.over.is_none() {
            let said = self.reader.last_words(&self.poller);
            self.fail_saying(why, &said);
        }
    }

    /// Fails though the runtime has ended well. What comes from a container that was restored is its
    /// own, and explains nothing.
    fn fail_after_all(&mut self, why: &str) {
        if self.launch.restore { self.fail_saying(why, "") } else { self.fail(why) }
    }

    fn fail_saying(&mut self, why: &str, said: &str) {
        let message = if said.is_empty() { why.to_owned() } else { format!("{why}: {said}") };
        self.clear();
        self.reader.fail(&message, &self.poller);
        self.wait_for_reader();
        let reply = Reply::Failed { message };
        self.control.publish(&reply, &self.poller);
        report::send(&reply);
        self.over = Some(ExitCode::FAILURE);
    }

    /// Kills the runtime program and everything else below the monitor but its reader, and reaps it.
    ///
    /// This and what follows is the one place that waits outside of the loop: the monitor ends after
    /// it, and whoever hears that the create has failed must find nothing of it alive.
    fn clear(&mut self) {
        let until = Instant::now() + CLEAR_LIMIT;
        let mut tree = Tree::below_self(self.reader.pid());
        while tree.kill() > 0 && Instant::now() < until {
            self.reap();
            std::thread::sleep(CLEAR_ROUND);
        }
        self.reap();
    }

    /// The reader has told its clients when it has ended.
    fn wait_for_reader(&mut self) {
        let until = Instant::now() + CLEAR_LIMIT;
        self.reap();
        while self.reader.pid().is_some() && Instant::now() < until {
            std::thread::sleep(CLEAR_ROUND);
            self.reap();
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = child::next_ended() {
            if self.reader.is(ended.process.pid) {
                self.reader.ended();
            }
        }
    }
}
