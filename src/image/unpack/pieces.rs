//! [`Pieces`]: what arrives over a channel, as a reader that hashes and counts it.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

use crate::image::digest::Digest;

/// Reads pieces in order. The end of the channel is the end of the file; whether it came too
/// early, the count tells.
#[derive(Debug)]
pub(super) struct Pieces {
    channel: Receiver<Bytes>,
    here: Bytes,
    hash: Sha256,
    count: u64,
}

impl Pieces {
    pub(super) fn new(channel: Receiver<Bytes>) -> Self {
        Self { channel, here: Bytes::new(), hash: Sha256::new(), count: 0 }
    }

    fn receive(&mut self) -> Option<Bytes> {
        let piece = self.channel.blocking_recv()?;
        self.hash.update(&piece);
        self.count += piece.len() as u64;
        Some(piece)
    }

    /// The first `length` bytes, or all if there are fewer, without taking them.
    pub(super) fn peek(&mut self, length: usize) -> &[u8] {
        while self.here.len() < length {
            let Some(piece) = self.receive() else { break };
            let mut joined = BytesMut::from(&self.here[..]);
            joined.extend_from_slice(&piece);
            self.here = joined.freeze();
        }
        &self.here[..length.min(self.here.len())]
    }

    /// Takes everything that is still to come; then the number and digest of all bytes.
    pub(super) fn finish(&mut self) -> (u64, Digest) {
        while self.receive().is_some() {}
        self.here.clear();
        (self.count, Digest::finish(self.hash.clone()))
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.here.is_empty() {
            match self.receive() {
                Some(piece) => self.here = piece,
                None => break,
            }
        }
        Ok(&self.here)
    }

    fn consume(&mut self, amount: usize) {
        self.here.advance(amount);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
