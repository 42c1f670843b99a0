//! The messages on the control socket and in the start report, and their framing.
//!
//! A frame is `[u32 length, little endian][u8 kind][payload]`; the length counts kind and payload.
//! Integers are little endian, a byte string is a u32 length and its bytes, a list a u32 count and
//! its items. Kinds of requests are below 128, kinds of replies above, so a peer that mixes up the
//! directions is noticed at once.
//!
//! | request | answered by |
//! |---|---|
//! | `Subscribe` | `State`; then, as they happen, `Created` or `Failed` (the create, if `State` had pid 0) and `Exited` |
//! | `ReopenLog`, `Resize`, `CloseStdin` | `Ok` or `Failed` |
//! | `TakeExit` | `Ok`, then the monitor ends; `Failed` while the container lives |
//! | `Exec` | `ExecStarted`, later `ExecExited`; or `Failed` |
//! | `Kill` | nothing of its own: `ExecExited` (`Failed` if nothing was started yet) follows; `Ok` if `ExecExited` was sent before |
//!
//! An `Exec` has a connection to itself: it is the first request there and arrives together with
//! exactly three descriptors (`SCM_RIGHTS`: stdin, stdout, stderr), attached to any of the frame's
//! bytes. `Kill` ends the process and everything it has started, and is answered when all of that is
//! gone, or after five seconds if something cannot be killed. Closing the connection before
//! `ExecExited` does the same; after it, what the process has left behind lives on.
//!
//! A monitor outlives the daemon that started it, so kinds and payloads never change their meaning;
//! additions are new kinds. The monitor answers a kind it does not know with `Failed` and reads on.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::Exit;

pub mod attach;
mod fields;
use fields::{Reader, Writer};

/// The longest frame, its length field not counted. An exec's command line fits many times over
/// (its process is described in a file), and a monitor that holds one such frame per client stays
/// small.
pub const MAX_FRAME: usize = 64 * 1024;

/// The longest message of a [`Reply::Failed`]; what is longer is cut when encoding. It is room for
/// 4 KiB of the runtime's own words and ours around them.
pub const MAX_MESSAGE: usize = 8 * 1024;

/// The most arguments an [`Request::Exec`] may have.
pub const MAX_EXEC_ARGS: usize = 256;

/// What the daemon asks of a monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Tell the state now and every change from now on.
    Subscribe,
    /// Open the log file anew by its name; kubelet has renamed the old one.
    ReopenLog,
    /// Set the size of the container's terminal, in characters.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters per line.
        cols: u16,
    },
    /// The exit is recorded elsewhere: the monitor may end.
    TakeExit,
    /// Close the write end of the container's standard input.
    CloseStdin,
    /// Run the runtime's `exec` with the three descriptors that came along.
    Exec {
        /// The runtime's whole command line (`runc … exec --detach --pid-file F … ID`).
        argv: Vec<Vec<u8>>,
        /// Where that command line makes the runtime write the new process's pid.
        pid_file: PathBuf,
        /// How long the runtime program may take to start the process.
        timeout: Duration,
    },
    /// On an exec's connection: kill everything the exec started.
    Kill,
}

/// What a monitor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request was carried out.
    Ok,
    /// It was not.
    Failed {
        /// Why, in words for the operator; never longer than [`MAX_MESSAGE`].
        message: String,
    },
    /// The runtime has created the container.
    Created {
        /// The container's init as the monitor's pid namespace sees it.
        pid: i32,
        /// Field 22 of /proc/PID/stat, in clock ticks since boot: with the pid it is an identity.
        start_time: u64,
    },
    /// The answer to `Subscribe`.
    State {
        /// As in `Created`; 0 while the runtime has not finished.
        pid: i32,
        /// As in `Created`; 0 while the runtime has not finished.
        start_time: u64,
        /// Present once the container has ended; no `Exited` follows then.
        exit: Option<Exit>,
    },
    /// The container has ended and its log is complete.
    Exited(Exit),
    /// The runtime has started the exec's process.
    ExecStarted {
        /// Its pid as the monitor's pid namespace sees it.
        pid: i32,
    },
    /// The exec's process has ended.
    ExecExited {
        /// The exit status, or 128 + the signal's number if a signal ended it.
        code: u8,
        /// When, in nanoseconds since the Unix epoch.
        at_ns: i64,
    },
}

const SUBSCRIBE: u8 = 1;
const REOPEN_LOG: u8 = 2;
const RESIZE: u8 = 3;
const TAKE_EXIT: u8 = 4;
const CLOSE_STDIN: u8 = 5;
const EXEC: u8 = 6;
const KILL: u8 = 7;

const OK: u8 = 128;
const FAILED: u8 = 129;
const CREATED: u8 = 130;
const STATE: u8 = 131;
const EXITED: u8 = 132;
const EXEC_STARTED: u8 = 133;
const EXEC_EXITED: u8 = 134;

impl Request {
    /// The request as one frame. Only an `Exec` can be too long for one.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut frame = Writer::new(match self {
            Self::Subscribe => SUBSCRIBE,
            Self::ReopenLog => REOPEN_LOG,
            Self::Resize { .. } => RESIZE,
            Self::TakeExit => TAKE_EXIT,
            Self::CloseStdin => CLOSE_STDIN,
            Self::Exec { .. } => EXEC,
            Self::Kill => KILL,
        });
        match self {
            Self::Subscribe | Self::ReopenLog | Self::TakeExit | Self::CloseStdin | Self::Kill => {}
            Self::Resize { rows, cols } => {
                frame.put(&rows.to_le_bytes());
                frame.put(&cols.to_le_bytes());
            }
            Self::Exec { argv, pid_file, timeout } => {
                if argv.is_empty() || argv.len() > MAX_EXEC_ARGS {
                    return Err(WireError::Value("argv"));
                }
                frame.put_count(argv.len());
                argv.iter().for_each(|argument| frame.put_bytes(argument));
                frame.put_bytes(pid_file.as_os_str().as_bytes());
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                frame.put(&millis.to_le_bytes());
            }
        }
        frame.finish()
    }

    /// Takes the first whole frame out of `buffer`. None means: read more first.
    ///
    /// The frame is gone from the buffer also when it is in error, except for a length that no
    /// frame can have: after [`WireError::Length`] the stream cannot be read any further.
    pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Request>, WireError> {
        fields::take_frame(buffer, |kind, payload| {
            Ok(match kind {
                SUBSCRIBE => Self::Subscribe,
                REOPEN_LOG => Self::ReopenLog,
                RESIZE => Self::Resize { rows: payload.u16()?, cols: payload.u16()? },
                TAKE_EXIT => Self::TakeExit,
                CLOSE_STDIN => Self::CloseStdin,
                EXEC => Self::decode_exec(payload)?,
                KILL => Self::Kill,
                kind => return Err(WireError::Kind(kind)),
            })
        })
    }

    fn decode_exec(payload: &mut Reader<'_>) -> Result<Request, WireError> {
        let count = payload.u32()? as usize;
        if count == 0 || count > MAX_EXEC_ARGS {
            return Err(WireError::Value("argv"));
        }
        let mut argv = Vec::with_capacity(count);
        for _ in 0..count {
            let argument = payload.bytes()?;
            if argument.contains(&0) {
                return Err(WireError::Value("argv"));
            }
            argv.push(argument.to_vec());
        }
        let pid_file = PathBuf::from(OsString::from_vec(payload.bytes()?.to_vec()));
        if !pid_file.is_absolute() {
            return Err(WireError::Value("pid_file"));
        }
        Ok(Self::Exec { argv, pid_file, timeout: Duration::from_millis(payload.u64()?) })
    }
}

impl Reply {
    /// The reply as one frame. A message that is too long is cut at a character.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Writer::new(match self {
            Self::Ok => OK,
            Self::Failed { .. } => FAILED,
            Self::Created { .. } => CREATED,
            Self::State { .. } => STATE,
            Self::Exited(_) => EXITED,
            Self::ExecStarted { .. } => EXEC_STARTED,
            Self::ExecExited { .. } => EXEC_EXITED,
        });
        match self {
            Self::Ok => {}
            Self::Failed { message } => {
                let end = message.floor_char_boundary(MAX_MESSAGE);
                frame.put_bytes(&message.as_bytes()[..end]);
            }
            Self::Created { pid, start_time } => {
                frame.put(&pid.to_le_bytes());
                frame.put(&start_time.to_le_bytes());
            }
            Self::State { pid, start_time, exit } => {
                frame.put(&pid.to_le_bytes());
                frame.put(&start_time.to_le_bytes());
                frame.put(&[u8::from(exit.is_some())]);
                if let Some(exit) = exit {
                    put_exit(&mut frame, exit);
                }
            }
            Self::Exited(exit) => put_exit(&mut frame, exit),
            Self::ExecStarted { pid } => frame.put(&pid.to_le_bytes()),
            Self::ExecExited { code, at_ns } => {
                frame.put(&[*code]);
                frame.put(&at_ns.to_le_bytes());
            }
        }
        frame.finish().expect("every reply is far smaller than a frame may be")
    }

    /// Takes the first whole frame out of `buffer`, under the terms of [`Request::decode`].
    pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Reply>, WireError> {
        fields::take_frame(buffer, |kind, payload| {
            Ok(match kind {
                OK => Self::Ok,
                FAILED => {
                    let text = payload.bytes()?;
                    if text.len() > MAX_MESSAGE {
                        return Err(WireError::Value("message"));
                    }
                    Self::Failed { message: String::from_utf8_lossy(text).into_owned() }
                }
                CREATED => Self::Created { pid: payload.i32()?, start_time: payload.u64()? },
                STATE => Self::State {
                    pid: payload.i32()?,
                    start_time: payload.u64()?,
                    exit: if payload.flag("exit")? { Some(take_exit(payload)?) } else { None },
                },
                EXITED => Self::Exited(take_exit(payload)?),
                EXEC_STARTED => Self::ExecStarted { pid: payload.i32()? },
                EXEC_EXITED => Self::ExecExited { code: payload.u8()?, at_ns: payload.i64()? },
                kind => return Err(WireError::Kind(kind)),
            })
        })
    }
}

fn put_exit(frame: &mut Writer, exit: &Exit) {
    frame.put(&[exit.code]);
    frame.put(&exit.at_ns.to_le_bytes());
    frame.put(&[u8::from(exit.oom_killed)]);
    frame.put(&exit.lost_bytes.to_le_bytes());
}

fn take_exit(payload: &mut Reader<'_>) -> Result<Exit, WireError> {
    Ok(Exit {
        code: payload.u8()?,
        at_ns: payload.i64()?,
        oom_killed: payload.flag("oom_killed")?,
        lost_bytes: payload.u64()?,
    })
}

/// Why bytes are not a message, or a message does not fit in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// No frame has this length; the stream is lost.
    Length(u32),
    /// No message has this kind in this direction.
    Kind(u8),
    /// The payload ends before the message does, or goes on after it.
    Payload,
    /// This field's value is not allowed.
    Value(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "frame length {length} is not in 1..={MAX_FRAME}"),
            Self::Kind(kind) => write!(f, "message kind {kind} is unknown"),
            Self::Payload => f.write_str("message and payload differ in length"),
            Self::Value(field) => write!(f, "{field} has a value that is not allowed"),
        }
    }
}

impl Error for WireError {}

#[cfg(test)]
mod tests;
