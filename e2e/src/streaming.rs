//! A client of the streaming URLs that can misbehave: plain HTTP, and a WebSocket by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

/// How long one read or write may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Headers that ask for SPDY and version 4 of the streams.
pub const SPDY: &[&str] =
    &["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];

/// An answered HTTP request, and the connection behind it.
#[derive(Debug)]
pub struct Answered {
    /// The status code.
    pub status: u16,
    /// The whole head.
    pub head: String,
    /// What comes after it.
    pub stream: TcpStream,
}

/// Sends `METHOD url` with these headers and reads the head of the answer.
///
/// # Errors
/// If nobody answers.
pub fn request(method: &str, url: &str, headers: &[&str]) -> Result<Answered> {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .with_context(|| format!("{url} is not absolute"))?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n");
    headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "closed after {:?}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answered { status: status.with_context(|| head.clone())?, head, stream })
}

/// A WebSocket client.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    /// Upgrades a connection to `url` with a subprotocol.
    ///
    /// # Errors
    /// If the server does not agree.
    pub fn open(url: &str, protocol: &str) -> Result<Self> {
        let protocol = format!("Sec-WebSocket-Protocol: {protocol}");
        let headers = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            &protocol,
        ];
        let answered = request("GET", url, &headers)?;
        ensure!(answered.status == 101, "{}", answered.head);
        ensure!(
            answered.head.to_lowercase().contains(&protocol.to_lowercase()),
            "{}",
            answered.head
        );
        Ok(Self { stream: answered.stream })
    }

    /// Goes without a word of it in the protocol or in TCP: by a reset.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reset(self) -> Result<()> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        Ok(setsockopt(&self.stream, sockopt::Linger, &linger)?)
    }

    /// Sends bytes on a channel.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        // A mask of zeros masks nothing.
        let mut frame = vec![0x82];
        let length = bytes.len() + 1;
        match u16::try_from(length) {
            Ok(short @ 0..126) => frame.push(0x80 | short as u8),
            Ok(long) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&long.to_be_bytes());
            }
            Err(_) => bail!("{length} bytes in one message"),
        }
        frame.extend_from_slice(&[0; 4]);
        frame.push(channel);
        frame.extend_from_slice(bytes);
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next message: its channel and its bytes; none at the server's close.
    ///
    /// # Errors
    /// If the connection breaks without one.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u16::from_be_bytes(length).into()
            }
            127 => bail!("a message of more than 64 KiB"),
            short => usize::from(short),
        };
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message)?;
        match head[0] {
            0x82 => {
                let channel = *message.first().context("a message without a channel")?;
                Ok(Some((channel, message.split_off(1))))
            }
            0x88 => {
                ensure!(message.starts_with(&1000_u16.to_be_bytes()), "closed with {message:?}");
                Ok(None)
            }
            other => bail!("a frame that begins with {other:#x}"),
        }
    }

    /// Reads until a channel has said `wanted`; what it said.
    ///
    /// # Errors
    /// If it does not.
    pub fn receive_until(&mut self, channel: u8, wanted: &str) -> Result<String> {
        let (mut said, mut others) = (String::new(), String::new());
        while !said.contains(wanted) {
            let message = self.receive()?;
            let (from, bytes) =
                message.with_context(|| format!("closed after {said:?}, elsewhere {others:?}"))?;
            let to = if from == channel { &mut said } else { &mut others };
            to.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(said)
    }

    /// Everything until the close, by channel: output, errors, status.
    ///
    /// # Errors
    /// If the connection breaks without a close.
    pub fn rest(&mut self) -> Result<[Vec<u8>; 4]> {
        let mut all: [Vec<u8>; 4] = Default::default();
        while let Some((channel, bytes)) = self.receive()? {
            let all = all.get_mut(usize::from(channel)).context("a channel that nobody reads")?;
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
