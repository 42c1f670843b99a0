//! [`Inflated`]: the archive inside a blob, whatever it is compressed with, hashed and bounded.

use std::io::{self, BufRead, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::UnpackError;
use super::frames::Frames;
use super::line::Line;
use super::pieces::Pieces;
use super::wire::Windows;
use crate::image::digest::Digest;

/// Bytes inflated, hashed and written at a time.
const BUFFER: usize = 128 * 1024;

/// Reads the archive. What the blob begins with decides how it is compressed, not what the
/// manifest says: some builders mislabel layers, and the diff id tells whether all is well.
pub(super) struct Inflated {
    decoder: Decoder,
    buffer: Box<[u8]>,
    filled: usize,
    taken: usize,
    hash: Sha256,
    count: u64,
    limit: u64,
}

enum Decoder {
    Plain(Pieces),
    Gzip(Box<MultiGzDecoder<Pieces>>),
    Zstd(Box<Frames>),
    Unknown(&'static str),
}

impl Inflated {
    /// Looks at the first bytes. At most `limit` bytes will come out.
    pub(super) fn new(
        mut pieces: Pieces,
        limit: u64,
        windows: Windows,
        line: &Rc<Line>,
    ) -> io::Result<Self> {
        let decoder = match pieces.peek(6)? {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(pieces))),
            // A frame, or one of the sixteen kinds of frame to be skipped (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Decoder::Zstd(Box::new(Frames::new(pieces, windows, Rc::clone(line))))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Decoder::Unknown("xz compression"),
            [b'B', b'Z', b'h', ..] => Decoder::Unknown("bzip2 compression"),
            _ => Decoder::Plain(pieces),
        };
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { decoder, buffer, filled: 0, taken: 0, hash: Sha256::new(), count: 0, limit })
    }

    /// Digest of all that came out.
    pub(super) fn digest(&self) -> Digest {
        Digest::finish(self.hash.clone())
    }

    fn fill(&mut self) -> io::Result<()> {
        let length = match &mut self.decoder {
            Decoder::Plain(pieces) => pieces.read(&mut self.buffer),
            Decoder::Gzip(decoder) => decoder.read(&mut self.buffer),
            Decoder::Zstd(frames) => frames.read(&mut self.buffer),
            Decoder::Unknown(what) => {
                Err(io::Error::other(UnpackError::Unsupported((*what).into())))
            }
        }?;
        self.count += length as u64;
        if self.count > self.limit {
            return Err(io::Error::other(UnpackError::limit("bytes unpacked", self.limit)));
        }
        self.hash.update(&self.buffer[..length]);
        (self.taken, self.filled) = (0, length);
        Ok(())
    }
}

impl BufRead for Inflated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.filled {
            match self.fill() {
                Ok(()) if self.filled == 0 => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(&self.buffer[self.taken..self.filled])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
