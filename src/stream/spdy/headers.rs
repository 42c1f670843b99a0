//! Header blocks: decompressed within a bound, then read as names and values.
//!
//! All blocks of a connection are one zlib stream, so each has to be read, even one that belongs to
//! a stream that is refused. What we send ourselves has no headers, and needs no compressor: zlib
//! allows stored blocks.

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary;
use super::frame::Fault;

/// Most bytes a block may have, inflated. Kubernetes' streams have three headers of some twenty
/// bytes.
pub const MAX_INFLATED: usize = 64 << 10;

/// Most headers of one block.
const MAX_HEADERS: usize = 64;

/// Longest name or value.
const MAX_FIELD: usize = 16 << 10;

/// An empty block as the first of a connection: zlib's header, a stored block with the number of
/// headers, and the empty stored block that flushes (RFC 1950, RFC 1951 section 3.2.4).
const FIRST_EMPTY: &[u8] = &[0x78, 0x01, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An empty block for a stream's answer; `first` of the connection or not.
pub(super) fn empty(first: bool) -> &'static [u8] {
    if first { FIRST_EMPTY } else { &FIRST_EMPTY[2..] }
}

/// The names and values of one block. Names are lower case, each is there once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of `name`, if it was sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Reads an inflated block.
    ///
    /// # Errors
    /// [`Fault::Headers`] if counts and lengths do not fit the bytes or the bounds, or if a name is
    /// empty, not lower case, or there twice. The connection is still in step then.
    pub(in crate::stream) fn parse(block: &[u8]) -> Result<Self, Fault> {
        let mut rest = block;
        let count = number(&mut rest)?;
        if count > MAX_HEADERS {
            return Err(Fault::Headers("too many headers"));
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let (name, value) = (field(&mut rest)?, field(&mut rest)?);
            if name.is_empty() || name.chars().any(|c| c.is_ascii_uppercase() || c == '\0') {
                return Err(Fault::Headers("a name that is empty or not lower case"));
            }
            if headers.iter().any(|(known, _)| *known == name) {
                return Err(Fault::Headers("a name that is there twice"));
            }
            headers.push((name, value));
        }
        if rest.is_empty() { Ok(Self(headers)) } else { Err(Fault::Headers("trailing bytes")) }
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, Fault> {
    let (number, behind) = rest.split_first_chunk::<4>().ok_or(Fault::Headers("cut short"))?;
    *rest = behind;
    Ok(u32::from_be_bytes(*number) as usize)
}

fn field(rest: &mut &[u8]) -> Result<String, Fault> {
    let length = number(rest)?;
    if length > MAX_FIELD {
        return Err(Fault::Headers("a name or value that is too long"));
    }
    let (text, behind) = rest.split_at_checked(length).ok_or(Fault::Headers("cut short"))?;
    *rest = behind;
    let text = std::str::from_utf8(text).map_err(|_| Fault::Headers("not UTF-8"))?;
    Ok(text.to_owned())
}

/// The receiving end of a connection's header compression.
pub(super) struct Inflater {
    zlib: Decompress,
    block: Vec<u8>,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true), block: Vec::new() }
    }

    /// Inflates one block.
    ///
    /// # Errors
    /// [`Fault::Compression`]: the stream cannot be followed any more.
    pub(super) fn inflate(&mut self, mut compressed: &[u8]) -> Result<&[u8], Fault> {
        self.block.clear();
        loop {
            if self.block.len() > MAX_INFLATED {
                return Err(Fault::Compression("a header block inflates past its bound"));
            }
            self.block.reserve(1024);
            let (was_in, was_out) = (self.zlib.total_in(), self.block.len());
            let step = self.zlib.decompress_vec(compressed, &mut self.block, FlushDecompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - was_in).unwrap_or(usize::MAX);
            compressed = compressed.get(taken..).unwrap_or_default();
            match step {
                Ok(Status::StreamEnd) => {
                    return Err(Fault::Compression("the compression has ended"));
                }
                Ok(Status::Ok | Status::BufError) => {
                    if compressed.is_empty() && self.block.len() < self.block.capacity() {
                        return Ok(&self.block);
                    }
                    if taken == 0 && self.block.len() == was_out {
                        return Err(Fault::Compression("the compressed bytes lead nowhere"));
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary::bytes())
                        .map_err(|_| Fault::Compression("compressed against another text"))?;
                }
                Err(_) => return Err(Fault::Compression("not compressed by zlib")),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
