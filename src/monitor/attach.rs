//! The container's standard streams, through its monitor: attach, and the terminal's size.
//!
//! The contract is `conmon::wire::attach`. The monitor waits for nobody: who does not take output
//! fast enough is detached, which is an error here. So the output is to be read all the time, also
//! by those who only want to write.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use conmon::Request;
use conmon::wire::attach::{HEAD, Head, Hello, Kind, MAX_PAYLOAD};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ANSWER, MonitorError, ask, connect, done};

pub use conmon::wire::attach::Source;

/// Room for output that is read at once: some frames of a busy container.
const READ: usize = 2 * (HEAD + MAX_PAYLOAD);

/// Whether a client wants to write to the container's standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It does.
    Wanted,
    /// It only listens.
    None,
}

/// A connection to the container's standard streams.
pub struct Attached {
    /// What the container writes from now on.
    pub output: Output,
    /// What it reads. None if that was not wanted, and if the container has no standard input, or
    /// has it no more.
    pub input: Option<AttachInput>,
}

/// The container's output.
pub struct Output {
    stream: OwnedReadHalf,
    dir: PathBuf,
    buffer: BytesMut,
}

/// The container's standard input.
///
/// Writing waits while the container does not read, and fails with `BrokenPipe` when it has closed
/// its end. Shutting it down, or dropping it, ends this client's input: what was written before
/// still arrives.
pub struct AttachInput(OwnedWriteHalf);

/// Attaches to the container whose monitor is in `dir`.
///
/// # Errors
/// [`MonitorError::Older`] for a monitor that was started before there was such a thing;
/// [`MonitorError::Detached`] if too many are attached.
pub async fn attach(dir: &Path, input: Input) -> Result<Attached, MonitorError> {
    let attached = async {
        let (stream, mut write) = open(dir).await?.into_split();
        let hello = Hello { input: input == Input::Wanted }.encode();
        // If it has been turned away already, why that is can still be read.
        drop(write.write_all(&hello).await);
        let mut output = Output { stream, dir: dir.to_owned(), buffer: BytesMut::new() };
        let takes_input = output.greeting().await?;
        Ok(Attached { output, input: takes_input.then_some(AttachInput(write)) })
    };
    let timed_out = || MonitorError::TimedOut { dir: dir.to_owned(), within: ANSWER };
    tokio::time::timeout(ANSWER, attached).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Sets the size of the container's terminal, in characters.
///
/// # Errors
/// [`MonitorError::Refused`] if it has none.
pub async fn resize(dir: &Path, rows: u16, cols: u16) -> Result<(), MonitorError> {
    done(dir, ask(dir, &Request::Resize { rows, cols }, ANSWER).await?)
}

/// Connects to the attach socket, or finds out why there is none.
async fn open(dir: &Path) -> Result<UnixStream, MonitorError> {
    match connect(dir, conmon::ATTACH).await {
        Err(MonitorError::Connect { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // A monitor binds this socket first: one that answers on the other has none.
            connect(dir, conmon::SOCKET).await?;
            Err(MonitorError::Older { dir: dir.to_owned() })
        }
        other => other,
    }
}

impl Output {
    /// The next piece of output; none when the container's output has ended. May be dropped while
    /// it waits.
    ///
    /// # Errors
    /// [`MonitorError::Detached`] when it was read too slowly, [`MonitorError::Talk`] when the
    /// monitor is gone.
    pub async fn next(&mut self) -> Result<Option<(Source, Bytes)>, MonitorError> {
        match self.frame().await? {
            (Kind::Output(source), bytes) => Ok(Some((source, bytes))),
            (Kind::End, _) => Ok(None),
            (Kind::Detached, text) => Err(detached(&text)),
            (Kind::Attached, _) => Err(self.unexpected("Attached once more")),
        }
    }

    /// Whether the monitor takes the client's input.
    async fn greeting(&mut self) -> Result<bool, MonitorError> {
        match self.frame().await? {
            (Kind::Attached, taken) => Ok(*taken == [1]),
            (Kind::Detached, text) => Err(detached(&text)),
            (Kind::Output(_) | Kind::End, _) => Err(self.unexpected("before its greeting")),
        }
    }

    async fn frame(&mut self) -> Result<(Kind, Bytes), MonitorError> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<HEAD>() {
                let contract = |source| MonitorError::Contract { dir: self.dir.clone(), source };
                let Head { kind, payload } = Head::decode(head).map_err(contract)?;
                if self.buffer.len() >= HEAD + payload {
                    let frame = self.buffer.split_to(HEAD + payload).freeze();
                    return Ok((kind, frame.slice(HEAD..)));
                }
            }
            // Never less than the frame at hand needs, and no small reads after a large frame.
            self.buffer.reserve(READ.saturating_sub(self.buffer.len()));
            let talk = |source| MonitorError::Talk { dir: self.dir.clone(), source };
            if self.stream.read_buf(&mut self.buffer).await.map_err(talk)? == 0 {
                return Err(talk(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn unexpected(&self, what: &str) -> MonitorError {
        MonitorError::Unexpected { dir: self.dir.clone(), reply: what.to_owned() }
    }
}

fn detached(text: &[u8]) -> MonitorError {
    MonitorError::Detached { why: String::from_utf8_lossy(text).into_owned() }
}

impl AsyncWrite for AttachInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
