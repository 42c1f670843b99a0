//! Writing and reading the fields of a frame, with every length checked against what is there.

use super::{MAX_FRAME, WireError};

/// Bytes of the length field.
const LENGTH: usize = 4;

/// A frame being written.
pub(super) struct Writer {
    frame: Vec<u8>,
}

impl Writer {
    pub(super) fn new(kind: u8) -> Writer {
        Writer { frame: vec![0, 0, 0, 0, kind] }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.frame.extend_from_slice(bytes);
    }

    /// A count or length that does not fit in 32 bits makes the frame too long in any case.
    pub(super) fn put_count(&mut self, count: usize) {
        self.put(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, WireError> {
        let length = u32::try_from(self.frame.len() - LENGTH).unwrap_or(u32::MAX);
        if length as usize > MAX_FRAME {
            return Err(WireError::Length(length));
        }
        self.frame[..LENGTH].copy_from_slice(&length.to_le_bytes());
        Ok(self.frame)
    }
}

/// The payload of a frame being read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(WireError::Payload)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Payload)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value(field)),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}

/// Takes the first whole frame out of `buffer` and has `message` read its payload to the end.
pub(super) fn take_frame<T>(
    buffer: &mut Vec<u8>,
    message: impl FnOnce(u8, &mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Option<T>, WireError> {
    let Some((length, rest)) = buffer.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length);
    if length == 0 || length as usize > MAX_FRAME {
        return Err(WireError::Length(length));
    }
    let Some((&[kind, ref payload @ ..], _)) = rest.split_at_checked(length as usize) else {
        return Ok(None);
    };
    let mut payload = Reader { rest: payload };
    let message = message(kind, &mut payload).and_then(|message| {
        if payload.rest.is_empty() { Ok(message) } else { Err(WireError::Payload) }
    });
    buffer.drain(..LENGTH + length as usize);
    message.map(Some)
}
