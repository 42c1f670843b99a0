//! WebSocket (RFC 6455), the server's half: Kubernetes' channels, one byte in front of each message.
//!
//! The framing is tungstenite's, with bounds on messages; this is the handshake's answer and the
//! layer above it: which channel a message is for, base64 where the protocol has it, and the close
//! codes. A channel that the client may not write to is ignored, as the reference server does.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::channel::{Out, PIECE, Part};
use super::hangup::Hangup;

pub mod tunnel;

/// Longest message. Clients send a few dozen KiB at once; what is longer is theirs to split.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Bytes read at once; the library takes as many for each connection.
const READ: usize = 8 << 10;

/// The channel number that speaks of channels (v5): the next byte names one that has ended.
const CLOSE: u8 = 255;

/// How long the client may take to answer our close.
const LINGER: Duration = Duration::from_secs(10);

/// How long the reason for a sudden end may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the bytes of a message are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// A number and the bytes, in binary messages.
    Binary,
    /// A digit and base64, in text messages.
    Base64,
}

/// Whether a client can end one channel alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// By a message on channel 255.
    Told,
    /// Only by ending the connection.
    None,
}

/// A connection after its handshake.
pub async fn accepted<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The channels of a connection that the client may write to.
pub struct Channels {
    /// How messages are written.
    pub coding: Coding,
    /// Whether channels can end alone.
    pub half_close: HalfClose,
    /// Where what arrives goes, by channel.
    pub inboxes: HashMap<u8, mpsc::Sender<Part>>,
}

/// Serves one connection to its end; `here` is dropped when the client is gone.
pub async fn run<I: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<I>,
    hangup: Hangup,
    channels: Channels,
    outgoing: mpsc::Receiver<Out>,
    here: watch::Sender<bool>,
) {
    let (mut sink, stream) = socket.split();
    let coding = channels.coding;
    let mut code = None;
    {
        let mut reading = std::pin::pin!(channels.read(stream, hangup));
        let mut writing = std::pin::pin!(write(&mut sink, coding, outgoing));
        let done = tokio::select! {
            end = &mut reading => {
                code = end.err();
                false
            }
            result = &mut writing => result.is_ok(),
        };
        if done {
            tokio::time::timeout(LINGER, reading).await.ok();
        }
    }
    drop(here);
    if let Some(code) = code {
        tracing::debug!(%code, "a client breaks the rules of its WebSocket");
        tokio::time::timeout(LAST_WORDS, close(&mut sink, code)).await.ok();
    }
}

async fn close<I: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<I>, Message>,
    code: CloseCode,
) -> Result<(), Error> {
    let frame = CloseFrame { code, reason: "".into() };
    sink.send(Message::Close(Some(frame))).await?;
    sink.close().await
}

async fn write<I: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<I>, Message>,
    coding: Coding,
    mut outgoing: mpsc::Receiver<Out>,
) -> Result<(), Error> {
    while let Some(out) = outgoing.recv().await {
        match out {
            Out::Data(channel, bytes) => {
                // Channels come from our own table.
                sink.send(encode(coding, channel as u8, &bytes)).await?;
            }
            // The client learns of an end by the close of the connection; there are no windows.
            Out::Finish(_) | Out::Reset(_) | Out::Taken(..) => {}
            Out::Close => break,
        }
    }
    close(sink, CloseCode::Normal).await
}

/// One message on a channel.
fn encode(coding: Coding, channel: u8, bytes: &[u8]) -> Message {
    match coding {
        Coding::Binary => {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(channel);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        }
        Coding::Base64 => {
            let mut text = String::from(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut text);
            Message::Text(text.into())
        }
    }
}

/// What a message of a client's says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Bytes on a channel.
    Bytes(u8, Bytes),
    /// A channel has ended.
    End(u8),
    /// Nothing.
    Nothing,
}

/// Reads one message.
///
/// # Errors
/// The code to close with.
fn decode(coding: Coding, half_close: HalfClose, message: Bytes) -> Result<Said, CloseCode> {
    let Some(&first) = message.first() else { return Ok(Said::Nothing) };
    let bytes = message.slice(1..);
    match coding {
        Coding::Binary if first == CLOSE && half_close == HalfClose::Told => {
            Ok(bytes.first().map_or(Said::Nothing, |&channel| Said::End(channel)))
        }
        Coding::Binary => Ok(Said::Bytes(first, bytes)),
        Coding::Base64 => {
            let channel = first.checked_sub(b'0').ok_or(CloseCode::Invalid)?;
            let bytes = STANDARD.decode(&bytes).map_err(|_| CloseCode::Invalid)?;
            Ok(Said::Bytes(channel, bytes.into()))
        }
    }
}

impl Channels {
    /// Reads to the client's close.
    async fn read<I: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        mut stream: SplitStream<WebSocketStream<I>>,
        hangup: Hangup,
    ) -> Result<(), CloseCode> {
        while let Some(message) = stream.next().await {
            let message = match message {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Text(text)) => text.into(),
                // Pings are answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(_)) => return Ok(()),
                Err(Error::Capacity(_)) => return Err(CloseCode::Size),
                Err(Error::Utf8(_)) => return Err(CloseCode::Invalid),
                Err(Error::Protocol(_)) => return Err(CloseCode::Protocol),
                Err(_) => return Ok(()),
            };
            match decode(self.coding, self.half_close, message)? {
                Said::Bytes(channel, bytes) => {
                    if !self.deliver(channel, bytes, &hangup).await {
                        return Ok(());
                    }
                }
                Said::End(channel) => {
                    if let Some(inbox) = self.inboxes.remove(&channel) {
                        tokio::select! {
                            biased;
                            _ = inbox.send(Part::End) => {}
                            () = hangup.wait() => return Ok(()),
                        }
                    }
                }
                Said::Nothing => {}
            }
        }
        Ok(())
    }

    /// Puts bytes into a channel's inbox as it has room; false when the client has hung up.
    async fn deliver(&mut self, channel: u8, mut bytes: Bytes, hangup: &Hangup) -> bool {
        let Some(inbox) = self.inboxes.get(&channel) else { return true };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            tokio::select! {
                biased;
                sent = inbox.send(Part::Data(piece)) => if sent.is_err() {
                    // Nobody takes it any more.
                    self.inboxes.remove(&channel);
                    return true;
                },
                () = hangup.wait() => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
