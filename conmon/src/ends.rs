//! The ends of the container's standard streams that are the monitor's, and those that the runtime
//! gets.
//!
//! The keeper makes them and keeps them, so that a [reader](crate::reader) which was killed is followed
//! by another. It reads none of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize};

use crate::child::Streams;
use crate::fault::{Fault, Tried};
use crate::stdio::Channel;

/// What is read, by [`Channel`]. Nothing of it blocks.
pub(crate) type Outputs = [Option<OwnedFd>; 3];

/// Whether the container has a standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    Open,
    Null,
}

/// Where the container's input goes. Nothing of it blocks.
#[derive(Debug)]
pub(crate) enum Inlet {
    /// There is none, or it has ended.
    Closed,
    /// A terminal that the runtime has yet to make.
    Awaited,
    Pipe(OwnedFd),
    Terminal(OwnedFd),
}

/// The monitor's ends.
pub(crate) struct Ends {
    pub(crate) outputs: Outputs,
    pub(crate) inlet: Inlet,
    /// The container's standard output is a terminal, and it has come.
    pub(crate) terminal: bool,
}

impl Ends {
    /// Makes the pipes of a container without a terminal, and their other ends for the runtime.
    pub(crate) fn pipes(stdin: Stdin) -> Result<(Ends, Streams), Fault> {
        let tried = || "make the container's pipes".to_owned();
        let (inlet, stdin) = match stdin {
            Stdin::Open => {
                let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(tried)?;
                set_nonblocking(&write).tried(tried)?;
                (Inlet::Pipe(write), read)
            }
            Stdin::Null => (Inlet::Closed, ended().tried(tried)?),
        };
        let (out, stdout) = output().tried(tried)?;
        let (err, stderr) = output().tried(tried)?;
        let ends = Ends { outputs: [Some(out), Some(err), None], inlet, terminal: false };
        Ok((ends, Streams { stdin, stdout, stderr }))
    }

    /// Makes what the runtime program needs to create a container with a terminal.
    pub(crate) fn terminal(stdin: Stdin) -> Result<(Ends, Streams), Fault> {
        let tried = || "make the runtime's pipe".to_owned();
        let (words, stderr) = output().tried(tried)?;
        let stdout = stderr.try_clone().tried(tried)?;
        let inlet = match stdin {
            Stdin::Open => Inlet::Awaited,
            Stdin::Null => Inlet::Closed,
        };
        let stdin = ended().tried(tried)?;
        let ends = Ends { outputs: [None, None, Some(words)], inlet, terminal: false };
        Ok((ends, Streams { stdin, stdout, stderr }))
    }

    /// Takes the container's terminal.
    pub(crate) fn adopt(&mut self, master: OwnedFd) -> io::Result<()> {
        // COMPAT: the terminal ends lines with CR LF, which is what kubectl expects of a TTY; a
        // runtime may have switched that off.
        let mut attributes = rustix::termios::tcgetattr(&master)?;
        attributes.output_modes |= OutputModes::ONLCR;
        rustix::termios::tcsetattr(&master, OptionalActions::Now, &attributes)?;
        set_nonblocking(&master)?;
        if matches!(self.inlet, Inlet::Awaited) {
            // A descriptor of its own, which the poller knows apart from that of the output.
            self.inlet = Inlet::Terminal(master.try_clone()?);
        }
        self.outputs[Channel::Stdout as usize] = Some(master);
        self.terminal = true;
        Ok(())
    }

    /// Sets the size of the container's terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) -> Result<(), Fault> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let master = self.outputs[Channel::Stdout as usize].as_ref().filter(|_| self.terminal);
        let master = master.ok_or(Errno::NOTTY).tried(|| "find the terminal".to_owned())?;
        rustix::termios::tcsetwinsize(master, size).tried(|| "resize the terminal".to_owned())
    }
}

/// A pipe that the monitor reads.
fn output() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    set_nonblocking(&read)?;
    Ok((read, write))
}

/// An input that has ended already. Not /dev/null: crun gives a container's stdio to the container's
/// user, and the node's own device would be his.
fn ended() -> io::Result<OwnedFd> {
    let (read, _) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok(read)
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}
