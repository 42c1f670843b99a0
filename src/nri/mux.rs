//! Two connections over one socket: every frame has the number of its connection and its length,
//! four bytes each, the most significant first. Pure.

/// Carries our requests to the plugin and its answers.
pub(super) const PLUGIN: u32 = 1;

/// Carries the plugin's requests to us and our answers.
pub(super) const RUNTIME: u32 = 2;

const HEADER: usize = 8;

/// The longest payload of one frame: the longest ttrpc message with its header.
pub(super) const MAX_PAYLOAD: usize = super::ttrpc::MAX_BODY + super::ttrpc::HEADER;

/// The Go implementation reads a message through a buffer of this size, takes one frame a read, and
/// gives up on a frame that is longer than the buffer while that is empty. What is beyond the first
/// buffer is read straight into the message, whatever its length. So the first frame of a message
/// has at most this many bytes, and one more has the rest: a row of small frames would overrun the
/// queue on the other side, which is 256 frames long.
const FIRST: usize = 4096;

/// The frames of one whole message.
pub(super) fn frames(connection: u32, message: &[u8]) -> Vec<u8> {
    let (first, rest) = message.split_at(message.len().min(FIRST));
    let mut bytes = Vec::with_capacity(message.len() + 2 * HEADER);
    for payload in [first, rest] {
        if payload.is_empty() {
            continue;
        }
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&connection.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A frame that claims to be longer than any message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a frame of {length} bytes on connection {connection}")]
pub(super) struct TooLong {
    /// Its connection.
    connection: u32,
    /// What its header says.
    length: u32,
}

/// Takes a stream of bytes apart, however it arrives. Keeps nothing but an unfinished header.
#[derive(Debug, Default)]
pub(super) struct Demux {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    filled: usize,
    connection: u32,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Demux {
    /// Takes the next bytes; `each` gets the pieces of payload with their connection, in order.
    pub(super) fn push<E: From<TooLong>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (piece, rest) = bytes.split_at(bytes.len().min(self.left));
                self.left -= piece.len();
                bytes = rest;
                each(self.connection, piece)?;
                continue;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(HEADER - self.filled));
            self.header[self.filled..self.filled + piece.len()].copy_from_slice(piece);
            self.filled += piece.len();
            bytes = rest;
            if self.filled == HEADER {
                let [a, b, c, d, e, f, g, h] = self.header;
                let length = u32::from_be_bytes([e, f, g, h]);
                (self.filled, self.connection) = (0, u32::from_be_bytes([a, b, c, d]));
                self.left = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= MAX_PAYLOAD)
                    .ok_or(TooLong { connection: self.connection, length })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The payload of each connection, after the stream arrived in pieces of these lengths.
    fn received(stream: &[u8], pieces: &[usize]) -> Result<Vec<(u32, Vec<u8>)>, TooLong> {
        let (mut demux, mut got) = (Demux::default(), Vec::<(u32, Vec<u8>)>::new());
        let (mut rest, mut turn) = (stream, 0);
        while !rest.is_empty() {
            let length = pieces.get(turn % pieces.len().max(1)).copied().unwrap_or(1).max(1);
            let (piece, after) = rest.split_at(rest.len().min(length));
            (rest, turn) = (after, turn + 1);
            demux.push::<TooLong>(piece, |connection, bytes| {
                match got.iter_mut().find(|(of, _)| *of == connection) {
                    Some((_, all)) => all.extend_from_slice(bytes),
                    None => got.push((connection, bytes.to_vec())),
                }
                Ok(())
            })?;
        }
        got.sort();
        Ok(got)
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives_however_the_stream_is_cut(
            messages in prop::collection::vec((1u32..3, prop::collection::vec(any::<u8>(), 0..9000)), 0..6),
            pieces in prop::collection::vec(1usize..5000, 1..5),
        ) {
            let stream: Vec<u8> =
                messages.iter().flat_map(|(connection, m)| frames(*connection, m)).collect();
            let mut expected: Vec<(u32, Vec<u8>)> = Vec::new();
            for connection in [PLUGIN, RUNTIME] {
                let of: Vec<u8> = messages.iter().filter(|(c, _)| *c == connection)
                    .flat_map(|(_, m)| m.clone()).collect();
                if !of.is_empty() {
                    expected.push((connection, of));
                }
            }
            prop_assert_eq!(received(&stream, &pieces).expect("lengths are fine"), expected);
        }

        #[test]
        fn any_bytes_are_payload_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            received(&bytes, &[7]).ok();
        }
    }

    #[test]
    fn the_first_frame_fits_the_other_sides_buffer_and_the_second_has_the_rest() {
        assert_eq!(frames(1, &[7; FIRST]).len(), FIRST + HEADER);
        let two = frames(1, &[7; 3 * FIRST]);
        assert_eq!(two[4..8], 4096u32.to_be_bytes());
        assert_eq!(two[HEADER + FIRST + 4..HEADER + FIRST + 8], 8192u32.to_be_bytes());
    }

    #[test]
    fn a_frame_longer_than_any_message_is_refused_before_it_is_read() {
        let mut header = 2u32.to_be_bytes().to_vec();
        header.extend(u32::MAX.to_be_bytes());
        let error = received(&header, &[3]).expect_err("too long");
        assert_eq!(error, TooLong { connection: 2, length: u32::MAX });
    }
}
