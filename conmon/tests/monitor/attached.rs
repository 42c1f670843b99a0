//! A client of the attach socket.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use conmon::ATTACH;
use conmon::wire::attach::{HEAD, Head, Hello, Kind, Source};

use crate::waiting::PATIENCE;

pub(crate) struct Attached {
    pub(crate) stream: UnixStream,
}

/// What a client hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Attached {
        input: bool,
    },
    Output(Source, Vec<u8>),
    End,
    Detached(String),
    /// The connection has ended within the conversation.
    Lost,
}

/// Everything a client heard to the end of its connection.
#[derive(Debug)]
pub(crate) struct All {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) last: Heard,
}

/// Closed at once, as that of the control socket.
impl Drop for Attached {
    fn drop(&mut self) {
        self.stream.shutdown(Shutdown::Both).ok();
    }
}

impl Attached {
    pub(crate) fn connect(dir: &Path) -> Attached {
        let dir = File::open(dir).unwrap();
        let path = format!("/proc/self/fd/{}/{ATTACH}", dir.as_raw_fd());
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Attached { stream }
    }

    /// Attaches for output only.
    pub(crate) fn watch(dir: &Path) -> Attached {
        Attached::greet(dir, false, false)
    }

    /// Attaches with input, which the monitor is to take.
    pub(crate) fn with_input(dir: &Path) -> Attached {
        Attached::greet(dir, true, true)
    }

    pub(crate) fn greet(dir: &Path, input: bool, taken: bool) -> Attached {
        let mut client = Attached::connect(dir);
        client.stream.write_all(&Hello { input }.encode()).unwrap();
        assert_eq!(client.next(), Heard::Attached { input: taken });
        client
    }

    pub(crate) fn next(&mut self) -> Heard {
        let mut head = [0; HEAD];
        if self.stream.read_exact(&mut head).is_err() {
            return Heard::Lost;
        }
        let Head { kind, payload } = Head::decode(&head).unwrap();
        let mut bytes = vec![0; payload];
        if self.stream.read_exact(&mut bytes).is_err() {
            return Heard::Lost;
        }
        match kind {
            Kind::Attached => Heard::Attached { input: bytes == [1] },
            Kind::Output(source) => Heard::Output(source, bytes),
            Kind::End => Heard::End,
            Kind::Detached => Heard::Detached(String::from_utf8(bytes).unwrap()),
        }
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Writes until nothing more goes, and returns how many bytes that were.
    pub(crate) fn say_what_goes(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).unwrap();
        let mut said = 0;
        let mut refusals = 0;
        // The monitor takes what it can in its own time: refused several times is refused.
        while said < bytes.len() && refusals < 50 {
            match self.stream.write(&bytes[said..]) {
                Ok(count) => (said, refusals) = (said + count, 0),
                Err(_) => {
                    refusals += 1;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        self.stream.set_nonblocking(false).unwrap();
        said
    }

    /// Listens until standard output has had `text`, counted from now.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(text) {
            match self.next() {
                Heard::Output(Source::Stdout, bytes) => {
                    heard.push_str(&String::from_utf8(bytes).unwrap());
                }
                other => panic!("{other:?} instead of {text:?} after {heard:?}"),
            }
        }
        heard
    }

    /// Listens to the end.
    pub(crate) fn all(&mut self) -> All {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                Heard::Output(Source::Stdout, bytes) => stdout.extend(bytes),
                Heard::Output(Source::Stderr, bytes) => stderr.extend(bytes),
                last => return All { stdout, stderr, last },
            }
        }
    }
}
