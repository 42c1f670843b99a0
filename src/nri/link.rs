//! One plugin's socket: calls to it with their answers, its calls to us.
//!
//! One task reads and one writes, so nobody holds anything while the other side is slow: a call
//! waits for room in the writer's queue and for its answer within its own time. What breaks the
//! protocol closes the link, and everybody who waits hears of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::seldom::Seldom;

use super::error::CallError;
use super::mux::{self, Demux, TooLong};
use super::ttrpc::{self, Decoder, Malformed, Message, code};
use super::wire::ttrpc as envelope;

/// Messages that may wait for the writer. A plugin that does not read holds up its own calls only.
const OUTGOING: usize = 64;

/// Calls of one plugin that may wait for us; NRI's own library makes one at a time.
const INCOMING: usize = 8;

/// How long a plugin may take to read what was written to it before it was sent away.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// A connection to one plugin. Clones are the same one.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<Waiting>,
    closed: watch::Sender<bool>,
}

struct Waiting {
    /// Number of the next call's stream: odd.
    next: u32,
    /// None after the end.
    answers: Option<HashMap<u32, oneshot::Sender<envelope::Response>>>,
}

/// A call of the plugin.
pub(super) struct Incoming {
    /// What it calls.
    pub(super) method: String,
    /// The request's message.
    pub(super) payload: Vec<u8>,
    link: Link,
    stream: u32,
}

/// Why a link ended, for the log.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("read")]
    Io(#[from] std::io::Error),
    #[error("it broke the multiplexing")]
    Mux(#[from] TooLong),
    #[error("it broke the protocol")]
    Ttrpc(#[from] Malformed),
    #[error("it called more often than it waits for answers")]
    Flood,
}

impl Link {
    /// Speaks over `stream` from now on; the plugin's calls come out of the receiver.
    pub(super) fn open(stream: UnixStream) -> (Self, mpsc::Receiver<Incoming>) {
        let (read, write) = stream.into_split();
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (calls, incoming) = mpsc::channel(INCOMING);
        let waiting = Mutex::new(Waiting { next: 1, answers: Some(HashMap::new()) });
        let closed = watch::Sender::new(false);
        let link = Self(Arc::new(Shared { outgoing, waiting, closed }));
        drop(crate::steps::spawn("write to plugin", link.clone().write(write, queue)));
        drop(crate::steps::spawn("read from plugin", link.clone().read(read, calls)));
        (link, incoming)
    }

    /// Ends the link. Everybody who waits for an answer hears [`CallError::Closed`].
    pub(super) fn close(&self) {
        self.0.closed.send_replace(true);
        self.lock().answers = None;
    }

    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        *self.0.closed.borrow()
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
        self.0.closed.subscribe().wait_for(|closed| *closed).await.ok();
    }

    /// Calls a method of the plugin.
    pub(super) async fn call(
        &self,
        method: &str,
        payload: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = envelope::Request {
            service: super::PLUGIN_SERVICE.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(within.as_nanos()).unwrap_or(0),
            metadata: Vec::new(),
        };
        let exchange = async {
            let room = self.0.outgoing.reserve().await.map_err(|_| CallError::Closed)?;
            let (_awaited, answered) = self.send(room, request)?;
            answered.await.map_err(|_| CallError::Closed)
        };
        let exchange = tokio::time::timeout(within, exchange).await;
        let response = exchange.map_err(|_| CallError::TimedOut(within))??;
        match response.status {
            Some(envelope::Status { code, message }) if code != 0 => {
                Err(CallError::Status { code, message })
            }
            _ => Ok(response.payload),
        }
    }

    /// Gives the request its number and puts it into the queue, in one go: the numbers that a plugin
    /// sees must increase.
    fn send(
        &self,
        room: mpsc::Permit<'_, Vec<u8>>,
        request: envelope::Request,
    ) -> Result<(Awaited<'_>, oneshot::Receiver<envelope::Response>), CallError> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.lock();
        let stream = waiting.next;
        let message = ttrpc::encode(stream, &Message::Request(request));
        let message = message.ok_or(CallError::TooLong)?;
        waiting.answers.as_mut().ok_or(CallError::Closed)?.insert(stream, answer);
        waiting.next = stream.wrapping_add(2);
        room.send(mux::frames(mux::PLUGIN, &message));
        drop(waiting);
        Ok((Awaited { stream, link: self }, answered))
    }

    async fn write(self, mut half: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
        // What is queued goes out also when the link is being closed: it may say why.
        loop {
            let next = tokio::select! {
                biased;
                next = queue.recv() => next,
                () = self.ended() => None,
            };
            let Some(bytes) = next else { break };
            let closed = async {
                self.ended().await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                result = half.write_all(&bytes) => if let Err(error) = result {
                    tracing::debug!(%error, "write to a plugin");
                    break;
                },
                () = closed => break,
            }
        }
        self.close();
    }

    async fn read(self, mut half: OwnedReadHalf, calls: mpsc::Sender<Incoming>) {
        let reading = self.read_all(&mut half, &calls);
        tokio::select! {
            () = self.ended() => {}
            result = reading => if let Err(broken) = result {
                static BROKEN: Seldom = Seldom::new();
                if let Some(times) = BROKEN.again() {
                    let error = crate::error::chain(&broken);
                    tracing::warn!(error, times, "a plugin's connection");
                }
            }
        }
        self.close();
    }

    async fn read_all(
        &self,
        half: &mut OwnedReadHalf,
        calls: &mpsc::Sender<Incoming>,
    ) -> Result<(), Broken> {
        let (mut demux, mut answers, mut requests) =
            (Demux::default(), Decoder::default(), Decoder::default());
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = half.read(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            demux.push::<Broken>(&chunk[..length], |connection, bytes| {
                match connection {
                    mux::PLUGIN => {
                        for (stream, message) in answers.push(bytes)? {
                            if let Message::Response(response) = message {
                                self.answer(stream, response);
                            }
                        }
                    }
                    mux::RUNTIME => {
                        for (stream, message) in requests.push(bytes)? {
                            if let Message::Request(request) = message {
                                self.accept(stream, request, calls)?;
                            }
                        }
                    }
                    // Numbers beyond are for uses to come.
                    _ => {}
                }
                Ok(())
            })?;
        }
    }

    fn answer(&self, stream: u32, response: envelope::Response) {
        let answer = self.lock().answers.as_mut().and_then(|answers| answers.remove(&stream));
        // Nobody waits for an answer that comes too late.
        if let Some(answer) = answer {
            answer.send(response).ok();
        }
    }

    /// The reader never waits for anybody: the answers to our calls come through it as well.
    fn accept(
        &self,
        stream: u32,
        request: envelope::Request,
        calls: &mpsc::Sender<Incoming>,
    ) -> Result<(), Broken> {
        let envelope::Request { service, method, payload, .. } = request;
        let call = Incoming { method, payload, link: self.clone(), stream };
        let refused = if service == super::RUNTIME_SERVICE {
            let Err(error) = calls.try_send(call) else { return Ok(()) };
            (error.into_inner(), code::RESOURCE_EXHAUSTED, "too many calls at once".to_owned())
        } else {
            (call, code::UNIMPLEMENTED, format!("no service {service:?}"))
        };
        let (call, code, message) = refused;
        let bytes = call.reply(Err((code, message)));
        self.0.outgoing.try_send(bytes).map_err(|_| Broken::Flood)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call whose answer somebody waits for, or no longer.
struct Awaited<'a> {
    stream: u32,
    link: &'a Link,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(answers) = self.link.lock().answers.as_mut() {
            answers.remove(&self.stream);
        }
    }
}

impl Incoming {
    /// Answers the call, or tells why not.
    pub(super) async fn answer(self, result: Result<Vec<u8>, (i32, String)>) {
        let bytes = self.reply(result);
        self.link.0.outgoing.send(bytes).await.ok();
    }

    fn reply(&self, result: Result<Vec<u8>, (i32, String)>) -> Vec<u8> {
        let response = match result {
            Ok(payload) => envelope::Response { status: None, payload },
            Err((code, message)) => {
                let status = Some(envelope::Status { code, message });
                envelope::Response { status, payload: Vec::new() }
            }
        };
        let message = ttrpc::encode(self.stream, &Message::Response(response));
        let message = message.unwrap_or_else(|| {
            let message = "the answer is longer than 4 MiB".to_owned();
            let status = Some(envelope::Status { code: code::RESOURCE_EXHAUSTED, message });
            let response = envelope::Response { status, payload: Vec::new() };
            ttrpc::encode(self.stream, &Message::Response(response)).unwrap_or_default()
        });
        mux::frames(mux::RUNTIME, &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls at once; more than there is room for in the queue.
    const CALLS: u32 = 4 * OUTGOING as u32;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn calls_from_everywhere_reach_the_plugin_in_the_order_of_their_numbers() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let (link, _incoming) = Link::open(ours);
        let within = Duration::from_secs(30);
        for _ in 0..CALLS {
            let link = link.clone();
            tokio::spawn(async move { link.call("m", vec![0; 100], within).await });
        }
        let (mut demux, mut decoder) = (Demux::default(), Decoder::default());
        let (mut streams, mut chunk) = (Vec::new(), vec![0; CHUNK]);
        while streams.len() < CALLS as usize {
            let length = theirs.read(&mut chunk).await.expect("read");
            assert!(length > 0, "closed after {streams:?}");
            let read = demux.push::<Broken>(&chunk[..length], |_, bytes| {
                streams.extend(decoder.push(bytes)?.into_iter().map(|(stream, _)| stream));
                Ok(())
            });
            read.expect("well-formed");
        }
        let expected: Vec<u32> = (0..CALLS).map(|call| 2 * call + 1).collect();
        assert_eq!(streams, expected);
    }
}
