//! The conversation with a running plugin: its input in, its answer out, until it exits.

use std::io;
use std::process::ExitStatus;

use rustix::fd::AsFd;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};

use super::{MAX_OUTPUT_BYTES, MAX_STDERR_BYTES};

/// Bytes taken from a pipe at once.
const CHUNK: usize = 8 << 10;

/// Most that is taken from a pipe after the plugin's end; pipes hold 64 KiB where nobody enlarged
/// them, and 1 MiB at most (pipe(7)).
const LEFT_OVER: usize = 1 << 20;

/// How a conversation ended.
pub(super) enum Answer {
    /// The plugin exited.
    Ended {
        /// How.
        status: ExitStatus,
        /// All that it wrote.
        stdout: Vec<u8>,
        /// The last part of what it said beside its answer.
        stderr: Vec<u8>,
    },
    /// The plugin still runs and has written more than fits.
    TooLong,
}

/// Feeds the plugin and collects its answer until its main process has exited.
pub(super) async fn with(child: &mut Child, input: &[u8]) -> io::Result<Answer> {
    let gone = || io::Error::other("a pipe is already taken");
    let stdin = child.stdin.take().ok_or_else(gone)?;
    let mut stdout = child.stdout.take().ok_or_else(gone)?;
    let mut stderr = child.stderr.take().ok_or_else(gone)?;
    let mut out = Head { bytes: Vec::new(), most: MAX_OUTPUT_BYTES };
    let mut err = Tail { bytes: Vec::new(), most: MAX_STDERR_BYTES };

    let mut exited = None;
    {
        let pipes = async {
            let out = read_all(&mut stdout, |chunk| {
                out.keep(chunk);
                // The answer is useless already: do not wait for its end.
                if out.is_over() { Err(Stop::TooLong) } else { Ok(()) }
            });
            let err = read_all(&mut stderr, |chunk| {
                err.keep(chunk);
                Ok(())
            });
            tokio::try_join!(out, err, feed(stdin, input)).map(drop)
        };
        tokio::select! {
            done = pipes => match done {
                Ok(()) => {}
                Err(Stop::TooLong) => return Ok(Answer::TooLong),
                Err(Stop::Io(error)) => return Err(error),
            },
            status = child.wait() => exited = Some(status?),
        }
    }
    let status = match exited {
        Some(status) => status,
        None => child.wait().await?,
    };
    // What the plugin wrote last may still be in the pipes. tokio's readiness may not know of it
    // yet, so the pipes (which tokio made non-blocking) are read directly until they are empty.
    read_what_is_there(&stdout, |chunk| out.keep(chunk))?;
    read_what_is_there(&stderr, |chunk| err.keep(chunk))?;
    if out.is_over() {
        return Ok(Answer::TooLong);
    }
    Ok(Answer::Ended { status, stdout: out.bytes, stderr: err.bytes })
}

enum Stop {
    TooLong,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

/// A plugin need not read its input: one that closes it has heard enough.
async fn feed(mut stdin: ChildStdin, input: &[u8]) -> Result<(), Stop> {
    match stdin.write_all(input).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The first bytes of a stream: one more than allowed at most, so that excess shows.
struct Head {
    bytes: Vec<u8>,
    most: usize,
}

impl Head {
    fn is_over(&self) -> bool {
        self.bytes.len() > self.most
    }

    fn keep(&mut self, chunk: &[u8]) {
        let room = (self.most + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
}

/// The last bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    most: usize,
}

impl Tail {
    fn keep(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        let excess = self.bytes.len().saturating_sub(self.most);
        self.bytes.drain(..excess);
    }
}

/// Reads to the end, or until `keep` wants no more.
async fn read_all(
    from: &mut (impl AsyncRead + Unpin),
    mut keep: impl FnMut(&[u8]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut chunk = [0; CHUNK];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(()),
            length => keep(&chunk[..length])?,
        }
    }
}

/// Reads what is in a pipe now. `LEFT_OVER` bounds it: a child that the plugin left behind may
/// write without end.
fn read_what_is_there(from: impl AsFd, mut keep: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    let mut total = 0;
    while total < LEFT_OVER {
        match rustix::io::read(&from, &mut chunk) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => {
                keep(&chunk[..length]);
                total += length;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
