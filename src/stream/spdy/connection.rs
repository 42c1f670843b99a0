//! One SPDY connection: reads frames into inboxes, writes what outboxes were given.
//!
//! Reading stops while a stream's inbox is full, for the clients do not let themselves be told to
//! send less on one stream alone (see `window`); that the client has hung up is noticed all the
//! same. Writing never waits for reading nor the other way round, except that an answer to a frame
//! (a reply, a ping) waits for room to write.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, watch};

use super::frame::{self, Control, Fault, GoAwayStatus, HEAD, Head, Reason};
use super::headers::{Headers, Inflater, empty};
use crate::stream::channel::{Inbox, Out, Outbox, PIECE, Part};
use crate::stream::hangup::Hangup;
use crate::stream::window::{INITIAL, Room, Window};

/// Streams that may be open at once: an exec has five, a forwarded connection two.
pub const MAX_STREAMS: usize = 128;

/// Bytes read at once from the connection, for heads and small frames.
const READ: usize = 8 << 10;

/// Answers to frames that wait to be written.
const ANSWERS: usize = 32;

/// Bytes that are gathered before they are written.
const GATHERED: usize = 2 * PIECE;

/// How long the client may take to hang up after everything was sent. Hanging up first, with its
/// last bytes unread, would make the kernel throw away what it has not read yet.
const LINGER: Duration = Duration::from_secs(10);

/// How long the reason for a sudden end may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A stream that a client has opened.
#[derive(Debug)]
pub struct Opened {
    /// Its number; odd, growing.
    pub stream: u32,
    /// What it is for.
    pub headers: Headers,
    /// From the client.
    pub inbox: Inbox,
    /// To the client.
    pub outbox: Outbox,
}

/// Serves one connection to its end. New streams go to `opened`, what is to be written comes from
/// `out`; `here` is dropped when the client is gone.
pub async fn run<I: AsyncRead + AsyncWrite>(
    io: I,
    hangup: Hangup,
    opened: mpsc::Sender<Opened>,
    (out, outgoing): (mpsc::Sender<Out>, mpsc::Receiver<Out>),
    here: watch::Sender<bool>,
) {
    let (read, mut write) = tokio::io::split(io);
    let (answers, answering) = mpsc::channel(ANSWERS);
    let shared = Arc::new(Shared { streams: Mutex::default(), room: Room::new(INITIAL, false) });
    let reader = Reader {
        io: BufReader::with_capacity(READ, read),
        inflater: Inflater::new(),
        shared: shared.clone(),
        hangup,
        opened,
        out,
        answers,
        last: 0,
        initial: INITIAL,
        counts: false,
        leaving: false,
    };
    let mut buffer = BytesMut::new();
    let mut last_words = None;
    {
        let mut reading = std::pin::pin!(reader.read());
        let mut writing =
            std::pin::pin!(shared.write(&mut write, &mut buffer, answering, outgoing));
        let done = tokio::select! {
            end = &mut reading => {
                if let Err(End::Fault(fault)) = end {
                    tracing::debug!(%fault, "a client breaks the rules of SPDY");
                    last_words = Some(fault);
                }
                false
            }
            result = &mut writing => result.is_ok(),
        };
        shared.close();
        if done {
            tokio::time::timeout(LINGER, reading).await.ok();
        }
    }
    drop(here);
    if last_words.is_some() {
        frame::go_away(&mut buffer, 0, GoAwayStatus::ProtocolError);
        let telling = async {
            write.write_all_buf(&mut buffer).await?;
            write.shutdown().await
        };
        tokio::time::timeout(LAST_WORDS, telling).await.ok();
    }
}

/// Why reading ended.
enum End {
    /// The connection broke, or the client closed it.
    Lost,
    /// The client broke the rules.
    Fault(Fault),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a frame of the client's is answered.
enum Answer {
    Reply(u32),
    Ping(u32),
    Reset(u32, Reason),
    /// Bytes of no stream were read: the connection has room for as many.
    Discarded(u32),
}

/// An open stream.
struct Stream {
    /// Where its bytes go; none after the client's end of it.
    parts: Option<mpsc::Sender<Part>>,
    room: Arc<Room>,
    /// We have ended our direction.
    finished: bool,
}

/// What reading and writing both know.
struct Shared {
    streams: Mutex<HashMap<u32, Stream>>,
    room: Arc<Room>,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a stream; whoever waits on it is woken. Whether it was open.
    fn forget(&self, stream: u32) -> bool {
        let forgotten = self.streams().remove(&stream);
        forgotten.inspect(|stream| stream.room.close()).is_some()
    }

    fn close(&self) {
        self.room.close();
        for (_, stream) in self.streams().drain() {
            stream.room.close();
        }
    }

    /// Takes note that one direction of a stream has ended, by `end`.
    fn half_close(&self, stream: u32, end: impl FnOnce(&mut Stream)) {
        let mut streams = self.streams();
        let Some(open) = streams.get_mut(&stream) else { return };
        end(open);
        if open.finished && open.parts.is_none() {
            streams.remove(&stream);
        }
    }

    /// Writes until everything is sent.
    async fn write<W: AsyncWrite>(
        &self,
        io: &mut WriteHalf<W>,
        buffer: &mut BytesMut,
        mut answers: mpsc::Receiver<Answer>,
        mut outgoing: mpsc::Receiver<Out>,
    ) -> io::Result<()> {
        let mut first_reply = true;
        let mut open = true;
        while open {
            tokio::select! {
                biased;
                Some(answer) = answers.recv() => encode_answer(buffer, answer, &mut first_reply),
                out = outgoing.recv() => open = self.encode(buffer, out.unwrap_or(Out::Close)),
            }
            // A stream's reply is always queued before whoever writes on it knows of it.
            while open && buffer.len() < GATHERED {
                if let Ok(answer) = answers.try_recv() {
                    encode_answer(buffer, answer, &mut first_reply);
                } else if let Ok(out) = outgoing.try_recv() {
                    open = self.encode(buffer, out);
                } else {
                    break;
                }
            }
            io.write_all_buf(buffer).await?;
            io.flush().await?;
        }
        io.shutdown().await
    }

    /// Adds a message to what will be written; false after the last one.
    fn encode(&self, buffer: &mut BytesMut, out: Out) -> bool {
        let open = |stream: &u32| self.streams().get(stream).is_some_and(|open| !open.finished);
        match out {
            Out::Data(stream, bytes) => {
                if open(&stream) {
                    frame::data(buffer, stream, bytes.len(), false);
                    buffer.extend_from_slice(&bytes);
                }
            }
            Out::Finish(stream) => {
                if open(&stream) {
                    frame::data(buffer, stream, 0, true);
                    self.half_close(stream, |open| open.finished = true);
                }
            }
            Out::Reset(stream) => {
                if self.forget(stream) {
                    frame::reset(buffer, stream, Reason::Cancel);
                }
            }
            Out::Taken(stream, bytes) => {
                if self.streams().get(&stream).is_some_and(|open| open.parts.is_some()) {
                    frame::window_update(buffer, stream, bytes);
                }
                frame::window_update(buffer, 0, bytes);
            }
            Out::Close => {
                frame::go_away(buffer, 0, GoAwayStatus::Ok);
                return false;
            }
        }
        true
    }
}

fn encode_answer(buffer: &mut BytesMut, answer: Answer, first_reply: &mut bool) {
    match answer {
        Answer::Reply(stream) => {
            frame::syn_reply(buffer, stream, empty(std::mem::take(first_reply)));
        }
        Answer::Ping(id) => frame::ping(buffer, id),
        Answer::Reset(stream, reason) => frame::reset(buffer, stream, reason),
        Answer::Discarded(bytes) => frame::window_update(buffer, 0, bytes),
    }
}

/// The reading half of a connection.
struct Reader<R> {
    io: BufReader<ReadHalf<R>>,
    inflater: Inflater,
    shared: Arc<Shared>,
    hangup: Hangup,
    opened: mpsc::Sender<Opened>,
    out: mpsc::Sender<Out>,
    answers: mpsc::Sender<Answer>,
    /// The last stream that the client opened.
    last: u32,
    /// The window that new streams begin with.
    initial: u32,
    /// The client uses flow control.
    counts: bool,
    /// The client has said that it opens no more streams.
    leaving: bool,
}

impl<R: AsyncRead> Reader<R> {
    async fn read(mut self) -> Result<(), End> {
        loop {
            let mut head = [0; HEAD];
            self.io.read_exact(&mut head).await?;
            match Head::parse(head)? {
                Head::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = BytesMut::zeroed(length);
                    self.io.read_exact(&mut payload).await?;
                    let control = Control::parse(kind, flags, payload.freeze())?;
                    self.control(control).await?;
                }
            }
        }
    }

    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<(), End> {
        if stream == 0 {
            return Err(Fault::Protocol("data without a stream").into());
        }
        // RACE: a stream that we have just ended is not known here any more while the client still
        // sends on it; so only what was never opened is a mistake of the client's.
        let known = stream <= self.last;
        let parts = match self.shared.streams().get(&stream) {
            Some(open) if open.parts.is_none() => Err(Reason::StreamAlreadyClosed),
            Some(open) => Ok(open.parts.clone()),
            None if known => Ok(None),
            None => Err(Reason::InvalidStream),
        };
        if let Err(reason) = parts {
            self.answer(Answer::Reset(stream, reason)).await;
        }
        let mut parts = parts.ok().flatten();
        let mut left = length;
        while left > 0 {
            let piece = self.piece(left).await?;
            left -= piece.len();
            // The length of a piece is bounded by PIECE.
            let bytes = piece.len() as u32;
            let delivered = match &parts {
                Some(inbox) => self.deliver(inbox, Part::Data(piece)).await?,
                None => false,
            };
            if !delivered {
                parts = None;
                self.answer(Answer::Discarded(bytes)).await;
            }
        }
        if fin {
            if let Some(inbox) = parts {
                self.deliver(&inbox, Part::End).await?;
            }
            self.shared.half_close(stream, |open| open.parts = None);
        }
        Ok(())
    }

    /// Some of the next `left` bytes, as many as have arrived.
    async fn piece(&mut self, left: usize) -> Result<Bytes, End> {
        let mut piece = BytesMut::zeroed(left.min(PIECE));
        let read = self.io.read(&mut piece).await?;
        if read == 0 {
            return Err(End::Lost);
        }
        piece.truncate(read);
        Ok(piece.freeze())
    }

    /// Puts a part into an inbox when it has room; false when nobody takes it any more.
    async fn deliver(&mut self, inbox: &mpsc::Sender<Part>, part: Part) -> Result<bool, End> {
        tokio::select! {
            biased;
            sent = inbox.send(part) => Ok(sent.is_ok()),
            () = self.hangup.wait() => Err(End::Lost),
        }
    }

    /// Queues an answer. After everything was sent nobody takes it, and none is needed.
    async fn answer(&mut self, answer: Answer) {
        self.answers.send(answer).await.ok();
    }

    async fn control(&mut self, control: Control) -> Result<(), End> {
        match control {
            Control::SynStream { stream, fin, unidirectional, headers } => {
                let inflated = self.inflater.inflate(&headers)?;
                let headers = Headers::parse(inflated);
                if stream % 2 == 0 || stream <= self.last {
                    return Err(Fault::Protocol("a stream id that is even or not new").into());
                }
                self.last = stream;
                let full = self.shared.streams().len() >= MAX_STREAMS;
                let refused = match &headers {
                    Err(_) => Some(Reason::ProtocolError),
                    Ok(_) if full || unidirectional || self.leaving => Some(Reason::RefusedStream),
                    Ok(_) => None,
                };
                match (headers, refused) {
                    (Ok(headers), None) => self.open(stream, headers, fin).await?,
                    (_, refused) => {
                        let reason = refused.unwrap_or(Reason::ProtocolError);
                        self.answer(Answer::Reset(stream, reason)).await;
                    }
                }
            }
            // Blocks that nobody needs are inflated all the same: they are part of the one zlib
            // stream.
            Control::SynReply { headers } | Control::Headers { headers } => {
                self.inflater.inflate(&headers)?;
            }
            Control::Reset { stream } => {
                self.shared.forget(stream);
            }
            Control::Settings { window } => {
                if let Some(window) = window {
                    self.set_initial(window).await;
                }
            }
            // Even numbers would answer pings of ours.
            Control::Ping { id } if id % 2 == 1 => self.answer(Answer::Ping(id)).await,
            Control::GoAway => self.leaving = true,
            Control::WindowUpdate { stream: 0, delta } => {
                self.start_counting();
                let grown = self.shared.room.grow(i64::from(delta));
                grown.map_err(|_| Fault::Protocol("the connection's window overflows"))?;
            }
            Control::WindowUpdate { stream, delta } => {
                self.start_counting();
                let room = self.shared.streams().get(&stream).map(|open| open.room.clone());
                if room.is_some_and(|room| room.grow(i64::from(delta)).is_err()) {
                    self.shared.forget(stream);
                    self.answer(Answer::Reset(stream, Reason::FlowControlError)).await;
                }
            }
            Control::Ping { .. } | Control::Unknown => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, headers: Headers, fin: bool) -> Result<(), End> {
        let room = Room::new(self.initial, self.counts);
        let window = Window::new(room.clone(), self.shared.room.clone());
        let (parts, inbox) = Inbox::new(stream, self.out.clone());
        if fin {
            // The inbox is new: there is room.
            parts.try_send(Part::End).ok();
        }
        let open = Stream { parts: (!fin).then_some(parts), room, finished: false };
        self.shared.streams().insert(stream, open);
        self.answer(Answer::Reply(stream)).await;
        let outbox = Outbox::new(stream, self.out.clone(), window);
        let opened = Opened { stream, headers, inbox, outbox };
        let taken = tokio::select! {
            biased;
            sent = self.opened.send(opened) => sent.is_ok(),
            () = self.hangup.wait() => return Err(End::Lost),
        };
        if !taken {
            self.shared.forget(stream);
            self.answer(Answer::Reset(stream, Reason::RefusedStream)).await;
        }
        Ok(())
    }

    /// A client that speaks of windows wants them kept, on all streams.
    fn start_counting(&mut self) {
        if !std::mem::replace(&mut self.counts, true) {
            self.shared.room.count();
            self.shared.streams().values().for_each(|open| open.room.count());
        }
    }

    async fn set_initial(&mut self, window: u32) {
        self.start_counting();
        let difference = i64::from(window) - i64::from(self.initial);
        self.initial = window;
        let overflowing: Vec<u32> = self
            .shared
            .streams()
            .iter()
            .filter(|(_, open)| open.room.grow(difference).is_err())
            .map(|(stream, _)| *stream)
            .collect();
        for stream in overflowing {
            self.shared.forget(stream);
            self.answer(Answer::Reset(stream, Reason::FlowControlError)).await;
        }
    }
}

#[cfg(test)]
mod tests;
