//! The sizes that a client gives its terminal: JSON objects, one behind the other.

use bytes::Bytes;

use super::channel::{Gone, Inbox};

/// An object has some thirty bytes; what is still none after as many is no size.
const MAX_OBJECT: usize = 1024;

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// What a client writes. Numbers that no terminal has are read, to be skipped.
#[derive(serde::Deserialize)]
struct Wire {
    #[serde(alias = "Width", default)]
    width: f64,
    #[serde(alias = "Height", default)]
    height: f64,
}

impl Wire {
    fn size(&self) -> Option<Size> {
        let number = |n: f64| (1.0..=65_535.0).contains(&n).then_some(n as u16);
        Some(Size { rows: number(self.height)?, cols: number(self.width)? })
    }
}

/// The sizes on one stream.
pub struct Sizes {
    inbox: Option<Inbox>,
    buffer: Vec<u8>,
    garbage: bool,
}

impl Sizes {
    /// The sizes that arrive in `inbox`, if there is one.
    pub fn new(inbox: Option<Inbox>) -> Self {
        Self { inbox, buffer: Vec::new(), garbage: false }
    }

    /// The next size; of several that have arrived, the last. Never, when there will be none. May
    /// be dropped while it waits.
    pub async fn next(&mut self) -> Size {
        loop {
            let Some(inbox) = &mut self.inbox else { return std::future::pending().await };
            match inbox.next().await {
                Ok(Some(bytes)) => {
                    if let Some(size) = self.read(&bytes) {
                        return size;
                    }
                }
                Ok(None) | Err(Gone) => self.inbox = None,
            }
        }
    }

    /// The last whole size in what has arrived.
    fn read(&mut self, bytes: &Bytes) -> Option<Size> {
        // After something that is no JSON, nobody knows where the next object begins.
        if self.garbage {
            return None;
        }
        let mut last = None;
        for piece in bytes.chunks(MAX_OBJECT) {
            self.buffer.extend_from_slice(piece);
            let mut objects =
                serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Wire>();
            let mut read = 0;
            loop {
                match objects.next() {
                    Some(Ok(wire)) => last = wire.size().or(last),
                    Some(Err(error)) if error.is_eof() => break,
                    Some(Err(_)) => {
                        self.garbage = true;
                        break;
                    }
                    None => break,
                }
                read = objects.byte_offset();
            }
            self.buffer.drain(..read);
            self.garbage |= self.buffer.len() > MAX_OBJECT;
        }
        if self.garbage {
            self.buffer = Vec::new();
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&str]) -> Vec<Option<(u16, u16)>> {
        let mut sizes = Sizes::new(None);
        let read = |piece: &&str| sizes.read(&Bytes::copy_from_slice(piece.as_bytes()));
        pieces.iter().map(read).map(|size| size.map(|size| (size.cols, size.rows))).collect()
    }

    #[test]
    fn sizes_come_whole_in_parts_and_several_at_once() {
        let whole = r#"{"Width":80,"Height":24}"#;
        assert_eq!(read(&[whole, "\n"]), [Some((80, 24)), None]);
        assert_eq!(read(&[&whole[..9], &whole[9..]]), [None, Some((80, 24))]);
        assert_eq!(read(&[&whole.repeat(1000)]), [Some((80, 24))]);
        let two = r#"{"width":1,"height":2} {"Width":3,"Height":4}"#;
        assert_eq!(read(&[two]), [Some((3, 4))]);
    }

    #[test]
    fn sizes_that_no_terminal_has_are_skipped() {
        for width in ["0", "-1", "65536", "1e300"] {
            let bad = format!(r#"{{"Width":{width},"Height":4}}"#);
            let good = r#"{"Width":65535,"Height":1}"#;
            assert_eq!(read(&[&bad, good]), [None, Some((65_535, 1))], "{width}");
        }
    }

    #[test]
    fn garbage_ends_the_sizes_and_is_not_kept() {
        let good = r#"{"Width":80,"Height":24}"#;
        assert_eq!(read(&["hello", good]), [None, None]);
        let mut sizes = Sizes::new(None);
        for _ in 0..100 {
            sizes.read(&Bytes::from_static(&[b'['; 1000]));
        }
        assert!(sizes.buffer.capacity() < 4 * MAX_OBJECT, "{}", sizes.buffer.capacity());
    }

    proptest! {
        #[test]
        fn any_bytes_are_sizes_or_nothing(pieces: Vec<Vec<u8>>) {
            let mut sizes = Sizes::new(None);
            for piece in pieces {
                sizes.read(&piece.into());
                prop_assert!(sizes.buffer.len() <= MAX_OBJECT);
            }
        }
    }
}
