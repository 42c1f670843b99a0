//! SPDY/3.1 frames as bytes: heads, control frames, and what is wrong with them.
//!
//! Pure. A frame's head says how long the rest is; what may follow is decided by [`Head::parse`]
//! before a byte of it is read, and counts inside are compared with that length before they are
//! used.

use bytes::{BufMut, Bytes, BytesMut};

/// Longest control frame, its head not counted: a header block that inflates to its bound.
pub const MAX_CONTROL: usize = 64 << 10;

/// Bytes of every frame's head.
pub const HEAD: usize = 8;

/// The frame ends its direction of the stream.
const FLAG_FIN: u8 = 1;
/// The other side may not answer on the stream.
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// The setting with the window that new streams begin with.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection cannot be read any further or has broken its rules.
    Protocol(&'static str),
    /// Header blocks cannot be inflated any more; all later ones are lost too.
    Compression(&'static str),
    /// The headers of one stream are wrong; the rest of the connection is not touched.
    Headers(&'static str),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protocol(what) => write!(f, "SPDY: {what}"),
            Self::Compression(what) => write!(f, "SPDY compression: {what}"),
            Self::Headers(what) => write!(f, "SPDY headers: {what}"),
        }
    }
}

/// Why a stream is ended at once (SPDY/3.1, section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Its frames break the rules.
    ProtocolError = 1,
    /// It is not open.
    InvalidStream = 2,
    /// There are too many already, or it is of a kind that is not taken.
    RefusedStream = 3,
    /// What it was for has ended.
    Cancel = 5,
    /// A window grew past what its type can count.
    FlowControlError = 7,
    /// Data after its end.
    StreamAlreadyClosed = 9,
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Bytes of a stream follow.
    Data {
        /// Whose.
        stream: u32,
        /// They are the last.
        fin: bool,
        /// How many.
        length: usize,
    },
    /// A control frame follows.
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// Its length, at most [`MAX_CONTROL`].
        length: usize,
    },
}

/// A control frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A new stream.
    SynStream {
        /// Its id.
        stream: u32,
        /// Nothing will follow from the client.
        fin: bool,
        /// Nothing may be answered.
        unidirectional: bool,
        /// Compressed.
        headers: Bytes,
    },
    /// An answer to a stream of ours; there are none.
    SynReply {
        /// Compressed.
        headers: Bytes,
    },
    /// A stream ends at once.
    Reset {
        /// Which.
        stream: u32,
    },
    /// The window that new streams begin with, if the frame sets it.
    Settings {
        /// In bytes.
        window: Option<u32>,
    },
    /// To be answered with the same number.
    Ping {
        /// Odd if the client asks.
        id: u32,
    },
    /// No further stream will come.
    GoAway,
    /// Further headers of a stream.
    Headers {
        /// Compressed.
        headers: Bytes,
    },
    /// More may be sent.
    WindowUpdate {
        /// On which stream; 0 = the connection.
        stream: u32,
        /// How many bytes more.
        delta: u32,
    },
    /// A kind that this version does not have; the protocol says to skip it.
    Unknown,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// [`Fault::Protocol`] for another version and for a control frame that is too long.
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, Fault> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let first = u32::from_be_bytes([a, b, c, d]);
        if first >> 31 == 0 {
            let stream = first;
            return Ok(Self::Data { stream, fin: flags & FLAG_FIN != 0, length });
        }
        if (first >> 16) & 0x7fff != 3 {
            return Err(Fault::Protocol("a frame of another version"));
        }
        if length > MAX_CONTROL {
            return Err(Fault::Protocol("a control frame that is too long"));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

impl Control {
    /// Reads the rest of a control frame.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if it is shorter or longer than its kind and its own counts say.
    pub fn parse(kind: u16, flags: u8, mut payload: Bytes) -> Result<Self, Fault> {
        let fixed = |length| match payload.len() == length {
            true => Ok(()),
            false => Err(Fault::Protocol("a control frame of the wrong length")),
        };
        Ok(match kind {
            1 => {
                let stream = take(&mut payload)?;
                // The stream it belongs to, its priority and a slot: nothing that is used here.
                let (_, _) = (take(&mut payload)?, take_u16(&mut payload)?);
                Self::SynStream {
                    stream,
                    fin: flags & FLAG_FIN != 0,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: payload,
                }
            }
            2 => {
                take(&mut payload)?;
                Self::SynReply { headers: payload }
            }
            3 => {
                fixed(8)?;
                Self::Reset { stream: take(&mut payload)? }
            }
            4 => Self::Settings { window: settings(payload)? },
            6 => {
                fixed(4)?;
                let id = payload.as_ref().try_into().map_or(0, u32::from_be_bytes);
                Self::Ping { id }
            }
            7 => {
                fixed(8)?;
                Self::GoAway
            }
            8 => {
                take(&mut payload)?;
                Self::Headers { headers: payload }
            }
            9 => {
                fixed(8)?;
                Self::WindowUpdate { stream: take(&mut payload)?, delta: take(&mut payload)? }
            }
            _ => Self::Unknown,
        })
    }
}

/// The initial window among settings, each of which has 24 bits of id and a value of 32.
fn settings(mut payload: Bytes) -> Result<Option<u32>, Fault> {
    let short = Fault::Protocol("settings of the wrong length");
    let (count, entries) = payload.split_first_chunk::<4>().ok_or(short)?;
    let count = u32::from_be_bytes(*count) as usize;
    if count.checked_mul(8) != Some(entries.len()) {
        return Err(short);
    }
    drop(payload.split_to(4));
    let mut window = None;
    for entry in payload.chunks_exact(8) {
        if let [_, a, b, c, value @ ..] = entry
            && u32::from_be_bytes([0, *a, *b, *c]) == INITIAL_WINDOW_SIZE
        {
            let value = value.try_into().map_or(0, u32::from_be_bytes);
            if value >> 31 != 0 {
                return Err(Fault::Protocol("an initial window that is too large"));
            }
            window = Some(value);
        }
    }
    Ok(window)
}

/// A number of 31 bits.
fn take(payload: &mut Bytes) -> Result<u32, Fault> {
    let number = *payload.first_chunk::<4>().ok_or(Fault::Protocol("a control frame cut short"))?;
    drop(payload.split_to(4));
    Ok(u32::from_be_bytes(number) & 0x7fff_ffff)
}

fn take_u16(payload: &mut Bytes) -> Result<u16, Fault> {
    let number = *payload.first_chunk::<2>().ok_or(Fault::Protocol("a control frame cut short"))?;
    drop(payload.split_to(2));
    Ok(u16::from_be_bytes(number))
}

fn control(into: &mut BytesMut, kind: u16, body: &[&[u8]]) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    into.put_u16(0x8003);
    into.put_u16(kind);
    // Our control frames have a few bytes.
    into.put_u32(length as u32);
    body.iter().for_each(|part| into.put_slice(part));
}

/// Takes a stream, without headers: `block` is an empty one.
pub fn syn_reply(into: &mut BytesMut, stream: u32, block: &[u8]) {
    control(into, 2, &[&stream.to_be_bytes(), block]);
}

/// Ends a stream at once.
pub fn reset(into: &mut BytesMut, stream: u32, reason: Reason) {
    control(into, 3, &[&stream.to_be_bytes(), &(reason as u32).to_be_bytes()]);
}

/// Answers a ping.
pub fn ping(into: &mut BytesMut, id: u32) {
    control(into, 6, &[&id.to_be_bytes()]);
}

/// Ends the connection; `last` is the last stream that was taken.
pub fn go_away(into: &mut BytesMut, last: u32, status: GoAwayStatus) {
    control(into, 7, &[&last.to_be_bytes(), &(status as u32).to_be_bytes()]);
}

/// Why a connection ends (SPDY/3.1, section 2.6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayStatus {
    /// All is done.
    Ok = 0,
    /// The client broke the rules.
    ProtocolError = 1,
}

/// Allows `delta` bytes more on a stream.
pub fn window_update(into: &mut BytesMut, stream: u32, delta: u32) {
    control(into, 9, &[&stream.to_be_bytes(), &delta.to_be_bytes()]);
}

/// The head of a data frame with `length` bytes, fewer than 16 MiB.
pub fn data(into: &mut BytesMut, stream: u32, length: usize, fin: bool) {
    into.put_u32(stream);
    into.put_u32(u32::from(fin) << 24 | length as u32);
}

#[cfg(test)]
mod tests;
