//! The connections that a port-forward client asks for, however they came: pairs of SPDY streams, or
//! pairs of WebSocket channels.
//!
//! A pair has a data stream, both ways, and an error stream, to the client alone.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::{Inbox, Out, Outbox, Part};
use super::spdy::Opened;
use super::window::Window;

/// How long the second stream of a pair may take.
pub const PAIR_DEADLINE: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Forward {
    /// The port in the pod, as the client wrote it.
    pub port: String,
    /// From the client.
    pub inbox: Inbox,
    /// To the client.
    pub outbox: Outbox,
    /// What went wrong, in words.
    pub error: Outbox,
}

/// One stream whose other half has not come yet.
struct Half {
    stream: Opened,
    kind: Kind,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Puts the streams that a SPDY client opens together.
pub struct Pairs {
    opened: mpsc::Receiver<Opened>,
    /// How long the second stream of a pair may take.
    patience: Duration,
    halves: HashMap<String, Half>,
}

impl Pairs {
    /// Pairs of what is opened.
    pub fn new(opened: mpsc::Receiver<Opened>) -> Self {
        Self { opened, patience: PAIR_DEADLINE, halves: HashMap::new() }
    }

    /// The next pair; none when the client is gone. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Forward> {
        loop {
            let first = self.halves.values().map(|half| half.until).min();
            let alarm = first.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                opened = self.opened.recv() => {
                    if let Some(forward) = self.add(opened?).await {
                        return Some(forward);
                    }
                }
                () = tokio::time::sleep_until(alarm), if first.is_some() => self.expire().await,
            }
        }
    }

    async fn add(&mut self, stream: Opened) -> Option<Forward> {
        let kind = match stream.headers.get("streamtype") {
            Some("data") => Kind::Data,
            Some("error") => Kind::Error,
            _ => {
                stream.outbox.reset().await;
                return None;
            }
        };
        let request = match (stream.headers.get("requestid"), kind) {
            (Some(request), _) => request.to_owned(),
            // COMPAT: clients before Kubernetes 1.6 send none, but open the error stream just
            // before the data stream.
            (None, Kind::Error) => format!("stream {}", stream.stream),
            (None, Kind::Data) => format!("stream {}", stream.stream.wrapping_sub(2)),
        };
        match self.halves.remove(&request) {
            None => {
                let until = Instant::now() + self.patience;
                self.halves.insert(request, Half { stream, kind, until });
                None
            }
            Some(half) if half.kind == kind => {
                stream.outbox.reset().await;
                self.halves.insert(request, half);
                None
            }
            Some(half) => {
                let (data, error) = match kind {
                    Kind::Data => (stream, half.stream),
                    Kind::Error => (half.stream, stream),
                };
                let port = data.headers.get("port").unwrap_or_default().to_owned();
                let Opened { inbox, outbox, .. } = data;
                Some(Forward { port, inbox, outbox, error: error.outbox })
            }
        }
    }

    async fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<String> = self
            .halves
            .iter()
            .filter(|(_, half)| half.until <= now)
            .map(|(request, _)| request.clone())
            .collect();
        for request in late {
            if let Some(half) = self.halves.remove(&request) {
                half.stream.outbox.reset().await;
            }
        }
    }
}

/// The connections of a WebSocket client: two channels for each port, in their order, and where the
/// connection puts what arrives.
pub fn on_websocket(
    ports: &[u16],
    out: &mpsc::Sender<Out>,
) -> (HashMap<u8, mpsc::Sender<Part>>, Vec<Forward>) {
    let mut inboxes = HashMap::new();
    let pairs = ports.iter().zip((0_u8..=254).step_by(2)).map(|(port, channel)| {
        let outbox = |channel: u8| Outbox::new(channel.into(), out.clone(), Window::unlimited());
        let (parts, inbox) = Inbox::new(channel.into(), out.clone());
        inboxes.insert(channel, parts);
        let (outbox, error) = (outbox(channel), outbox(channel + 1));
        Forward { port: port.to_string(), inbox, outbox, error }
    });
    let forwards = pairs.collect();
    (inboxes, forwards)
}

/// What is sent on each channel of `port` before anything else: its number, low byte first.
pub fn greeting(port: u16) -> Bytes {
    Bytes::copy_from_slice(&port.to_le_bytes())
}

#[cfg(test)]
mod tests;
