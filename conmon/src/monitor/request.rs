//! What the daemon asks for, carried out.

use std::time::Instant;

use conmon::{Reply, Request};

use super::{FAREWELL, Monitor, Phase};
use crate::control::Slot;
use crate::exec::Order;
use crate::fault::Fault;

impl Monitor {
    /// Carries a request out. None: the reply comes later, or is another's.
    pub(super) fn request(&mut self, slot: Slot, request: Request) -> Option<Reply> {
        match request {
            Request::Subscribe => {
                self.control.subscribe(slot);
                Some(self.state())
            }
            Request::ReopenLog => self.reopen_log(slot),
            Request::Resize { rows, cols } => Some(if self.launch.terminal {
                self.while_living(|monitor| monitor.reader.resize(rows, cols))
            } else {
                failed("the container has no terminal")
            }),
            Request::CloseStdin => Some(self.close_stdin()),
            Request::TakeExit => self.take_exit(slot),
            Request::Exec { argv, pid_file, timeout } => {
                let Some(fds) = self.control.take_fds(slot) else {
                    return Some(failed("an exec comes with three descriptors"));
                };
                self.exec(slot, Order { argv, pid_file, timeout, fds })
            }
            Request::Kill => self.execs.kill(slot).err().map(failed),
        }
    }

    fn state(&self) -> Reply {
        let (init, exit) = match &self.phase {
            Phase::Creating { .. } => (None, None),
            Phase::Living { init } | Phase::Draining { init, .. } => (Some(init), None),
            Phase::Ended { init, exit } => (Some(init), Some(*exit)),
        };
        let (pid, start_time) = init.map_or((0, 0), |init| (init.pid, init.start_time));
        Reply::State { pid, start_time, exit }
    }

    /// Does something that only makes sense while there is a container.
    fn while_living(&mut self, act: impl FnOnce(&mut Monitor) -> Result<(), Fault>) -> Reply {
        match &self.phase {
            Phase::Creating { .. } => failed("the container is not created yet"),
            Phase::Draining { .. } | Phase::Ended { .. } => failed("the container has ended"),
            Phase::Living { .. } => match act(self) {
                Ok(()) => Reply::Ok,
                Err(fault) => failed(fault.chain()),
            },
        }
    }

    /// Opens the log anew. If that fails, the old file stays in use and none is created.
    fn reopen_log(&mut self, slot: Slot) -> Option<Reply> {
        let mut moved = true;
        let reply = self.while_living(|monitor| {
            if let Some(place) = &monitor.place {
                moved = monitor.reader.move_log(place.open()?, slot, &monitor.poller)?;
            }
            Ok(())
        });
        // The old file gets lines until the reader has answered.
        Some(reply).filter(|reply| moved || *reply != Reply::Ok)
    }

    fn close_stdin(&mut self) -> Reply {
        if self.launch.terminal {
            return failed("a terminal's input cannot be closed");
        }
        self.reader.close_input(&self.poller);
        Reply::Ok
    }

    fn exec(&mut self, slot: Slot, order: Order) -> Option<Reply> {
        if !matches!(self.phase, Phase::Living { .. }) {
            return Some(failed("the container does not run"));
        }
        self.execs.start(slot, order, &self.spawner).err().map(failed)
    }

    /// The daemon has the exit on record: the monitor has done its work.
    fn take_exit(&mut self, slot: Slot) -> Option<Reply> {
        if !matches!(self.phase, Phase::Ended { .. }) {
            return Some(failed("the container has not ended"));
        }
        self.execs.kill_all();
        // Into the socket's buffer, which outlives this process.
        self.control.send(slot, &Reply::Ok, &self.poller);
        self.reader.dismiss(&self.poller);
        self.dismissed = Some(Instant::now() + FAREWELL);
        None
    }
}

fn failed(message: impl Into<String>) -> Reply {
    Reply::Failed { message: message.into() }
}
