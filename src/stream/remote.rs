//! The streams of an exec or attach by name, however they came: five SPDY streams with a
//! `streamtype`, or five channels of a WebSocket.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::channel::{Inbox, Out, Outbox, Part};
use super::resize::Sizes;
use super::spdy::Opened;
use super::status::{Form, Outcome};
use super::window::Window;

/// How long a client may take to open all its streams: what the kubelet and crictl allow.
pub const STREAMS_DEADLINE: Duration = Duration::from_secs(30);

/// Which streams the caller of Exec or Attach asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// What a protocol's version means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// How the outcome is told.
    pub form: Form,
    /// Whether there is a stream for sizes.
    pub resize: bool,
}

/// The streams of one client.
pub struct Streams {
    error: Outbox,
    form: Form,
    /// Standard input.
    pub stdin: Option<Inbox>,
    /// Standard output.
    pub stdout: Option<Outbox>,
    /// Standard error.
    pub stderr: Option<Outbox>,
    /// The terminal's sizes.
    pub sizes: Sizes,
}

impl Streams {
    /// Tells the outcome. The other streams end before it, so that all output is there first.
    pub async fn finish(self, outcome: Outcome) {
        // A client that is gone needs no outcome.
        for outbox in [self.stdout, self.stderr].into_iter().flatten() {
            outbox.finish().await.ok();
        }
        let told = outcome.encode(self.form);
        if self.error.send(told).await.is_ok() {
            self.error.finish().await.ok();
        }
    }
}

/// Takes the streams that a SPDY client opens until all are there.
///
/// None when it does not open them all in time, or goes away.
pub async fn from_spdy(
    opened: mpsc::Receiver<Opened>,
    wanted: Wanted,
    version: Version,
) -> Option<Streams> {
    let all = collect(opened, wanted, version);
    tokio::time::timeout(STREAMS_DEADLINE, all).await.ok().flatten()
}

/// Takes the streams that a SPDY client opens until all are there, or the client is gone.
async fn collect(
    mut opened: mpsc::Receiver<Opened>,
    wanted: Wanted,
    version: Version,
) -> Option<Streams> {
    let mut expected: Vec<&str> = vec!["error"];
    let optional = [
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr, "stderr"),
        (wanted.tty && version.resize, "resize"),
    ];
    expected.extend(optional.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name));
    let mut there: HashMap<&str, Opened> = HashMap::new();
    while there.len() < expected.len() {
        let stream = opened.recv().await?;
        let kind = stream.headers.get("streamtype").unwrap_or_default();
        match expected.iter().find(|&&expected| expected == kind) {
            Some(name) if !there.contains_key(name) => drop(there.insert(*name, stream)),
            // Unknown, there already, or not asked for.
            _ => stream.outbox.reset().await,
        }
    }
    let mut outbox = |name: &str| there.remove(name).map(|stream| stream.outbox);
    let (error, stdout, stderr) = (outbox("error")?, outbox("stdout"), outbox("stderr"));
    let mut inbox = |name: &str| there.remove(name).map(|stream| stream.inbox);
    Some(Streams {
        error,
        form: version.form,
        stdin: inbox("stdin"),
        stdout,
        stderr,
        sizes: Sizes::new(inbox("resize")),
    })
}

/// Numbers of the channels.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// The streams of a WebSocket client, and where the connection puts what arrives.
pub fn on_websocket(
    wanted: Wanted,
    version: Version,
    out: &mpsc::Sender<Out>,
) -> (HashMap<u8, mpsc::Sender<Part>>, Streams) {
    let mut inboxes = HashMap::new();
    let mut inbox = |wanted: bool, channel: u8| {
        wanted.then(|| {
            let (parts, inbox) = Inbox::new(channel.into(), out.clone());
            inboxes.insert(channel, parts);
            inbox
        })
    };
    let stdin = inbox(wanted.stdin, STDIN);
    let sizes = Sizes::new(inbox(wanted.tty && version.resize, RESIZE));
    let outbox = |channel: u8| Outbox::new(channel.into(), out.clone(), Window::unlimited());
    let streams = Streams {
        error: outbox(ERROR),
        form: version.form,
        stdin,
        stdout: wanted.stdout.then(|| outbox(STDOUT)),
        stderr: wanted.stderr.then(|| outbox(STDERR)),
        sizes,
    };
    (inboxes, streams)
}

/// The message that tells a client that its channels work, before anything is written: an empty one
/// on the first channel that it reads, as the reference server sends it.
pub fn greeting(wanted: Wanted) -> Out {
    let channel = match wanted {
        Wanted { stdout: true, .. } => STDOUT,
        Wanted { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    Out::Data(channel.into(), Bytes::new())
}

#[cfg(test)]
mod tests;
