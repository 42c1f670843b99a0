//! One direction of one stream, whatever carries it: [`Inbox`] from the client, [`Outbox`] to it.
//!
//! A connection has one task that reads frames into inboxes and writes what outboxes were given.
//! All queues are short, so what the client does not take is not read from the container, and what
//! the container does not take is not read from the client.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

pub use super::window::Gone;
use super::window::Window;

/// Longest piece in which bytes travel: half of what a pipe holds.
pub const PIECE: usize = 32 << 10;

/// Pieces of one stream that wait for the container: a quarter of a mebibyte.
const INBOX: usize = 8;

/// Pieces of all streams of a connection that wait for the client.
const OUTGOING: usize = 8;

/// The number of a stream: SPDY's id, or a WebSocket channel.
pub type StreamId = u32;

/// What arrived on a stream.
#[derive(Debug)]
pub enum Part {
    /// Bytes, never none.
    Data(Bytes),
    /// The client will send nothing more.
    End,
}

/// What a connection is to write.
#[derive(Debug)]
pub enum Out {
    /// Bytes, at most [`PIECE`].
    Data(StreamId, Bytes),
    /// Nothing more will be sent on the stream.
    Finish(StreamId),
    /// The stream is of no use any more.
    Reset(StreamId),
    /// The container has taken as many bytes.
    Taken(StreamId, u32),
    /// Everything is sent: the connection ends.
    Close,
}

/// The queue of what a connection is to write.
pub fn outgoing() -> (mpsc::Sender<Out>, mpsc::Receiver<Out>) {
    mpsc::channel(OUTGOING)
}

/// What a client sends on one stream.
#[derive(Debug)]
pub struct Inbox {
    stream: StreamId,
    parts: mpsc::Receiver<Part>,
    out: mpsc::Sender<Out>,
    /// Bytes that were taken and of which the client has not been told.
    taken: u32,
    ended: bool,
}

impl Inbox {
    /// An inbox, and where the connection puts what arrives. Taken bytes are told to `out`.
    pub fn new(stream: StreamId, out: mpsc::Sender<Out>) -> (mpsc::Sender<Part>, Self) {
        let (sender, parts) = mpsc::channel(INBOX);
        (sender, Self { stream, parts, out, taken: 0, ended: false })
    }

    /// The next bytes; none when the client will send nothing more. May be dropped while it waits.
    ///
    /// # Errors
    /// When the connection or the stream ended without that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Gone> {
        loop {
            if self.ended {
                return Ok(None);
            }
            tokio::select! {
                biased;
                // Half of the window that a client has which counts at all.
                permit = self.out.reserve(), if self.taken >= super::window::INITIAL / 2 => {
                    permit.map_err(|_| Gone)?.send(Out::Taken(self.stream, self.taken));
                    self.taken = 0;
                }
                part = self.parts.recv() => match part {
                    Some(Part::Data(bytes)) => {
                        self.taken = self.taken.saturating_add(bytes.len() as u32);
                        return Ok(Some(bytes));
                    }
                    Some(Part::End) => self.ended = true,
                    None => return Err(Gone),
                }
            }
        }
    }
}

/// What goes to a client on one stream.
#[derive(Clone, Debug)]
pub struct Outbox {
    stream: StreamId,
    out: mpsc::Sender<Out>,
    window: Window,
}

impl Outbox {
    /// An outbox of a stream whose client allows what `window` says.
    pub fn new(stream: StreamId, out: mpsc::Sender<Out>, window: Window) -> Self {
        Self { stream, out, window }
    }

    /// Sends bytes; waits while the client does not read.
    ///
    /// # Errors
    /// When the connection or the stream has ended.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let allowed = self.window.take(bytes.len().min(PIECE)).await?;
            let piece = bytes.split_to(allowed);
            self.out.send(Out::Data(self.stream, piece)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Nothing more will be sent.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn finish(self) -> Result<(), Gone> {
        self.out.send(Out::Finish(self.stream)).await.map_err(|_| Gone)
    }

    /// The stream is of no use any more, in both directions.
    pub async fn reset(self) {
        // A connection that has ended has no stream either.
        self.out.send(Out::Reset(self.stream)).await.ok();
    }
}

/// Whether the client of a connection is still there.
#[derive(Clone, Debug)]
pub struct Presence(watch::Receiver<bool>);

impl Presence {
    /// A client that is there until the sender is dropped.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (here, presence) = watch::channel(true);
        (here, Self(presence))
    }

    /// Returns when the client is gone.
    pub async fn gone(&mut self) {
        // An error is the end of the connection's task.
        self.0.wait_for(|here| !here).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_from_a_loss() {
        let (out, _outgoing) = outgoing();
        let (parts, mut inbox) = Inbox::new(1, out.clone());
        parts.send(Part::Data(Bytes::from_static(b"x"))).await.expect("room");
        parts.send(Part::End).await.expect("room");
        assert_eq!(inbox.next().await, Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(inbox.next().await, Ok(None));
        assert_eq!(inbox.next().await, Ok(None));
        let (parts, mut inbox) = Inbox::new(1, out);
        drop(parts);
        assert_eq!(inbox.next().await, Err(Gone));
    }

    #[tokio::test]
    async fn long_output_goes_in_pieces_and_taken_input_is_told() {
        let (out, mut outgoing) = outgoing();
        let outbox = Outbox::new(3, out.clone(), Window::unlimited());
        outbox.send(vec![7; PIECE + 1].into()).await.expect("room");
        let lengths = [outgoing.recv().await, outgoing.recv().await].map(|sent| match sent {
            Some(Out::Data(3, bytes)) => bytes.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(lengths, [PIECE, 1]);
        let (parts, mut inbox) = Inbox::new(3, out);
        parts.send(Part::Data(vec![1; PIECE].into())).await.expect("room");
        parts.send(Part::End).await.expect("room");
        assert_eq!(inbox.next().await.map(|bytes| bytes.map_or(0, |b| b.len())), Ok(PIECE));
        assert_eq!(inbox.next().await, Ok(None));
        assert!(
            matches!(outgoing.recv().await, Some(Out::Taken(3, taken)) if taken == PIECE as u32)
        );
    }
}
