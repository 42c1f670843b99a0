//! What is said on the attach socket: one greeting, the client's input as it is, framed output.
//!
//! ```text
//!  client                                  monitor
//!    ├── Hello{input} ─────────────────────► │
//!    │ ◄───────────────── Attached{input} ───┤  or Detached, and the end of the connection
//!    ├── bytes ────────────────────────────► │  to the container's standard input, unframed
//!    │ ◄──── Stdout bytes, Stderr bytes, … ──┤  everything from `Attached` on
//!    ├── end of the client's side ─────────► │  this client's input has ended
//!    │ ◄─────────────────────────── End ─────┤  the container's output has
//! ```
//!
//! A frame is that of the control socket, `[u32 length][u8 kind][payload]`, so its first five bytes
//! ([`Head`]) say all about it. A connection that ends without `End` or `Detached` has lost its
//! monitor. With a terminal all output is `Stdout`.
//!
//! - **Input.** `Attached` says whether the client's bytes are taken: it asked for that, and the
//!   container has a standard input that is open. If they are not, or the container closes its end
//!   later, writing to the socket fails with EPIPE. While the container does not read, the monitor
//!   does not either: the client's socket fills. What was written before the end of the client's
//!   side, or before it closed the connection, still arrives.
//! - **`--stdin-once`.** The end of the input of the first client that has input is the end of the
//!   container's, for all clients and for good; but a terminal's input never ends.
//! - **Output.** A client that does not keep up is not waited for. When it is too far behind it gets
//!   what was put by for it until then, and `Detached`.

use super::WireError;

/// Bytes of a frame before its payload.
pub const HEAD: usize = 5;

/// The longest payload: what the monitor reads of the container's output at once.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Which stream of the container output is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The kinds of frames that a monitor sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client is attached. The payload is one byte: 1 if its input is taken, else 0.
    Attached,
    /// The payload is output of the container.
    Output(Source),
    /// All output has been sent. No payload; the connection ends.
    End,
    /// The client gets no more. The payload says why, in words for the operator; the connection
    /// ends.
    Detached,
}

const HELLO: u8 = 1;

const ATTACHED: u8 = 128;
const STDOUT: u8 = 129;
const STDERR: u8 = 130;
const END: u8 = 131;
const DETACHED: u8 = 132;

/// The client's first and only frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Whether bytes for the container's standard input follow.
    pub input: bool,
}

impl Hello {
    /// Bytes of a whole hello. What follows is input.
    pub const LENGTH: usize = HEAD + 1;

    /// The hello as one frame.
    pub fn encode(self) -> [u8; Hello::LENGTH] {
        let [a, b, c, d] = 2u32.to_le_bytes();
        [a, b, c, d, HELLO, u8::from(self.input)]
    }

    /// Reads a hello. There is only one form of it, so anything else is an error.
    pub fn decode(frame: &[u8; Hello::LENGTH]) -> Result<Hello, WireError> {
        match *frame {
            [2, 0, 0, 0, HELLO, input @ (0 | 1)] => Ok(Hello { input: input == 1 }),
            [2, 0, 0, 0, HELLO, _] => Err(WireError::Value("input")),
            [2, 0, 0, 0, kind, _] => Err(WireError::Kind(kind)),
            [a, b, c, d, ..] => Err(WireError::Length(u32::from_le_bytes([a, b, c, d]))),
        }
    }
}

/// The beginning of a frame: what its payload is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the payload is.
    pub kind: Kind,
    /// Its bytes; at most [`MAX_PAYLOAD`].
    pub payload: usize,
}

impl Head {
    /// The head's own bytes. The payload follows them.
    pub fn encode(self) -> [u8; HEAD] {
        let kind = match self.kind {
            Kind::Attached => ATTACHED,
            Kind::Output(Source::Stdout) => STDOUT,
            Kind::Output(Source::Stderr) => STDERR,
            Kind::End => END,
            Kind::Detached => DETACHED,
        };
        debug_assert!(self.payload <= MAX_PAYLOAD);
        let [a, b, c, d] = u32::try_from(self.payload + 1).unwrap_or(u32::MAX).to_le_bytes();
        [a, b, c, d, kind]
    }

    /// Reads the head of a frame. After an error the stream cannot be read any further.
    pub fn decode(head: &[u8; HEAD]) -> Result<Head, WireError> {
        let [a, b, c, d, kind] = *head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let payload = (length as usize).wrapping_sub(1);
        if payload > MAX_PAYLOAD {
            return Err(WireError::Length(length));
        }
        let (kind, payload_fits) = match kind {
            ATTACHED => (Kind::Attached, payload == 1),
            STDOUT => (Kind::Output(Source::Stdout), payload > 0),
            STDERR => (Kind::Output(Source::Stderr), payload > 0),
            END => (Kind::End, payload == 0),
            DETACHED => (Kind::Detached, true),
            kind => return Err(WireError::Kind(kind)),
        };
        if payload_fits { Ok(Head { kind, payload }) } else { Err(WireError::Payload) }
    }
}

#[cfg(test)]
mod tests;
