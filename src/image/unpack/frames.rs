//! [`Frames`]: decompresses zstd frame by frame, each in memory that was asked for before.
//!
//! A frame's header says how far back its data refers, and so what its decoder has to keep: up to
//! gigabytes. Every header is looked at before the decoder sees it (RFC 8878, section 3.1).

use std::io::{self, BufRead, Read};
use std::rc::Rc;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::UnpackError;
use super::line::Line;
use super::pieces::Pieces;
use super::wire::Windows;

/// The longest header that matters: magic, descriptor, dictionary id and length of the content.
const HEADER: usize = 4 + 1 + 4 + 8;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads what is in the frames.
pub(super) struct Frames {
    pieces: Pieces,
    windows: Windows,
    line: Rc<Line>,
    /// The decoder, and the largest window that it may have.
    decoder: Option<(Decoder<'static>, u64)>,
    /// Whether the next byte begins a frame.
    between: bool,
}

impl Frames {
    pub(super) fn new(pieces: Pieces, windows: Windows, line: Rc<Line>) -> Self {
        Self { pieces, windows, line, decoder: None, between: true }
    }

    /// Makes ready for the next frame; false if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        let head = self.pieces.peek(HEADER)?;
        if head.is_empty() {
            return Ok(false);
        }
        let window = window(head);
        if window > self.windows.limit {
            let limit = self.windows.limit >> 20;
            return Err(io::Error::other(UnpackError::Window { window, limit }));
        }
        if self.decoder.as_ref().is_none_or(|(_, largest)| *largest < window) {
            // Its memory goes before more is asked for, and what a small one has any frame may use.
            self.decoder = None;
            let largest = window.max(self.windows.own).max(1 << 10);
            self.line.take_memory(largest - self.windows.own.min(largest))?;
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(log2(largest)))?;
            self.decoder = Some((decoder, largest));
        }
        self.between = false;
        Ok(true)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.between && !self.begin()? {
                return Ok(0);
            }
            let Some((decoder, _)) = &mut self.decoder else {
                return Err(io::Error::other("a frame without a decoder"));
            };
            let piece = self.pieces.fill_buf()?;
            let (mut input, mut output) = (InBuffer::around(piece), OutBuffer::around(buffer));
            let left = decoder.run(&mut input, &mut output)?;
            let (taken, given, at_end) = (input.pos, output.pos(), piece.is_empty());
            self.pieces.consume(taken);
            self.between = left == 0;
            if given > 0 {
                return Ok(given);
            }
            if at_end && !self.between {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The window that a frame which begins so needs, in bytes; 0 for a frame that is skipped, and for
/// what is none, which the decoder will say.
fn window(head: &[u8]) -> u64 {
    let Some((&descriptor, rest)) = head.strip_prefix(&MAGIC).and_then(<[u8]>::split_first) else {
        return 0;
    };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(&byte) = rest.first() else { return 0 };
        let base = 1_u64 << (10 + (byte >> 3));
        return base + base / 8 * u64::from(byte & 7);
    }
    // All of the content is its window.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let Some(field) = rest.get(dictionary..dictionary + length) else { return 0 };
    let number = field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if length == 2 { number + 256 } else { number }
}

/// The power of two that is at least `bytes`.
fn log2(bytes: u64) -> u32 {
    bytes.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_its_window() {
        let of = |rest: &[u8]| window(&[&MAGIC[..], rest].concat());
        assert_eq!(of(&[0x00, 0]), 1 << 10);
        assert_eq!(of(&[0x00, 13 << 3]), 8 << 20);
        assert_eq!(of(&[0x00, 13 << 3 | 4]), 12 << 20);
        assert_eq!(of(&[0x00, 31 << 3 | 7]), (1 << 41) + 7 * (1 << 38));
        // One segment: the length of the content, behind the number of a dictionary.
        assert_eq!(of(&[0x20, 77]), 77);
        assert_eq!(of(&[0x60, 0, 1]), 512);
        assert_eq!(of(&[0xa1, 9, 0, 0, 0, 2]), 32 << 20);
        assert_eq!(of(&[0xe3, 9, 9, 9, 9, 0, 0, 0, 0, 1, 0, 0, 0]), 1 << 32);
        // Cut off, to be skipped, or nothing at all.
        assert_eq!(of(&[0x00]), 0);
        assert_eq!(of(&[0xe3, 9, 9, 9, 9, 0, 0]), 0);
        assert_eq!(window(&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0]), 0);
        assert_eq!(window(b""), 0);
    }
}
