//! [`Pieces`]: what arrives over a pipe, or is in a file, as a reader that can look ahead.

use std::fs::File;
use std::io::{self, BufRead, Read};

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// Reads to the end of the file. Whether it came too early, its reader cannot tell.
#[derive(Debug)]
pub(super) struct Pieces {
    file: File,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Pieces {
    pub(super) fn new(file: File) -> Self {
        Self { file, buffer: vec![0; BUFFER].into_boxed_slice(), begin: 0, end: 0 }
    }

    /// The first `length` bytes, or all if there are fewer, without taking them. At most as many as
    /// the buffer has.
    pub(super) fn peek(&mut self, length: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.begin < length {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        while self.end - self.begin < length {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let there = length.min(self.end - self.begin);
        Ok(&self.buffer[self.begin..self.begin + there])
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            self.peek(1)?;
        }
        Ok(&self.buffer[self.begin..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.begin += amount;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::thread;

    #[test]
    fn looking_ahead_takes_nothing_wherever_the_buffer_is() {
        let (mut writer, reader) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let all: Vec<u8> = (0..3 * BUFFER).map(|n| (n % 251) as u8).collect();
        let sent = all.clone();
        let sending = thread::spawn(move || {
            for piece in sent.chunks(1000) {
                io::Write::write_all(&mut writer, piece).expect("sent");
            }
        });
        let mut pieces = Pieces::new(OwnedFd::from(reader).into());
        let mut read = Vec::new();
        loop {
            let ahead = pieces.peek(17).expect("read").to_vec();
            let mut some = vec![0; 777];
            let length = pieces.read(&mut some).expect("read");
            let both = ahead.len().min(length);
            assert_eq!(ahead[..both], some[..both]);
            if length == 0 {
                break;
            }
            read.extend_from_slice(&some[..length]);
        }
        assert!(read == all, "{} bytes of {}", read.len(), all.len());
        sending.join().expect("it ends");
    }
}
