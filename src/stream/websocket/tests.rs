use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::stream::channel::{Inbox, outgoing};

const STDIN: u8 = 0;

struct Served {
    client: DuplexStream,
    stdin: Inbox,
    out: mpsc::Sender<Out>,
}

async fn serve(coding: Coding, half_close: HalfClose) -> Served {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (out, queue) = outgoing();
    let (parts, stdin) = Inbox::new(STDIN.into(), out.clone());
    let channels = Channels { coding, half_close, inboxes: HashMap::from([(STDIN, parts)]) };
    let (here, _) = watch::channel(true);
    let socket = accepted(server).await;
    drop(tokio::spawn(run(socket, Hangup::never(), channels, queue, here)));
    Served { client, stdin, out }
}

/// A frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..126 => vec![0x80 | short as u8],
        long => [&[0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
    };
    [&[first][..], &length, &[0; 4], payload].concat()
}

impl Served {
    async fn write(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("the server reads");
    }

    /// The next frame: its first byte and its payload.
    async fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.client.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; usize::from(head[1])];
        self.client.read_exact(&mut payload).await.expect("a frame");
        (head[0], payload)
    }

    /// The code of the server's close.
    async fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.read().await;
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

#[tokio::test]
async fn a_message_goes_to_the_channel_in_front_of_it() {
    let mut served = serve(Coding::Binary, HalfClose::Told).await;
    served.write(&frame(0x82, b"\0hello")).await;
    assert_eq!(served.stdin.next().await, Ok(Some(Bytes::from_static(b"hello"))));
    // In fragments, with a ping between them.
    served.write(&frame(0x02, b"\0hel")).await;
    served.write(&frame(0x89, b"?")).await;
    served.write(&frame(0x80, b"lo")).await;
    assert_eq!(served.stdin.next().await, Ok(Some(Bytes::from_static(b"hello"))));
    assert_eq!(served.read().await, (0x8a, b"?".to_vec()));
    // Nothing to say, channels that nobody has, channels that are not the client's to write.
    for payload in [&b""[..], b"\0", b"\x09x", b"\x01x", b"\xff", b"\xff\x07", b"\xff\x01more"] {
        served.write(&frame(0x82, payload)).await;
    }
    served.write(&frame(0x82, b"\xff\0")).await;
    served.write(&frame(0x82, b"\xff\0")).await;
    served.write(&frame(0x82, b"\0late")).await;
    assert_eq!(served.stdin.next().await, Ok(None), "the end of one channel");
    served.out.send(Out::Data(1, Bytes::from_static(b"out"))).await.expect("here");
    served.out.send(Out::Finish(1)).await.expect("here");
    served.out.send(Out::Close).await.expect("here");
    assert_eq!(served.read().await, (0x82, b"\x01out".to_vec()));
    assert_eq!(served.closed().await, 1000);
}

#[tokio::test]
async fn without_half_close_the_number_is_an_ordinary_channel() {
    let mut served = serve(Coding::Binary, HalfClose::None).await;
    served.write(&frame(0x82, b"\xff\0")).await;
    served.write(&frame(0x82, b"\0more")).await;
    assert_eq!(served.stdin.next().await, Ok(Some(Bytes::from_static(b"more"))));
}

#[tokio::test]
async fn base64_travels_in_text_behind_a_digit() {
    let mut served = serve(Coding::Base64, HalfClose::None).await;
    served.write(&frame(0x81, b"0Zm9vCg==")).await;
    assert_eq!(served.stdin.next().await, Ok(Some(Bytes::from_static(b"foo\n"))));
    served.out.send(Out::Data(1, Bytes::from_static(b"\n"))).await.expect("here");
    assert_eq!(served.read().await, (0x81, b"1Cg==".to_vec()));
    served.write(&frame(0x81, b"0Zm9v*")).await;
    assert_eq!(served.closed().await, 1007);
}

#[tokio::test]
async fn what_rfc_6455_forbids_is_closed_with_its_code() {
    let long = |declared: u64| [&[0x82, 0x80 | 127][..], &declared.to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [
        // Unmasked, reserved bits, a reserved opcode, a control frame in parts or too long.
        (vec![0x82, 1, 0], 1002),
        (frame(0xc2, b"\0x"), 1002),
        (frame(0x83, b"\0x"), 1002),
        (frame(0x09, b"x"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        // A continuation of nothing; a message inside another.
        (frame(0x80, b"x"), 1002),
        ([frame(0x02, b"\0x"), frame(0x82, b"\0y")].concat(), 1002),
        // Text that is none; more than a message may have, by its declaration alone.
        (frame(0x81, b"0\xff"), 1007),
        (long(1 << 62), 1009),
        (long(MAX_MESSAGE as u64 + 1), 1009),
    ] {
        let mut served = serve(Coding::Binary, HalfClose::Told).await;
        served.write(&bytes).await;
        assert_eq!(served.closed().await, code, "{bytes:?}");
    }
}

#[tokio::test]
async fn floods_of_nothing_are_read_and_cost_nothing() {
    let mut served = serve(Coding::Binary, HalfClose::Told).await;
    let empty = frame(0x82, b"").repeat(1000);
    for _ in 0..100 {
        served.write(&empty).await;
    }
    served.write(&frame(0x82, b"\0still here")).await;
    assert_eq!(served.stdin.next().await, Ok(Some(Bytes::from_static(b"still here"))));
}

#[tokio::test]
async fn a_tunnel_is_a_stream_of_bytes() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut tunnel = tunnel::Tunnel::new(accepted(server).await);
    client.write_all(&frame(0x82, b"ab")).await.expect("room");
    client.write_all(&frame(0x82, b"")).await.expect("room");
    client.write_all(&frame(0x82, b"cd")).await.expect("room");
    let mut read = [0; 4];
    tunnel.read_exact(&mut read).await.expect("four bytes");
    assert_eq!(&read, b"abcd");
    tunnel.write_all(b"back").await.expect("room");
    tunnel.flush().await.expect("room");
    let mut message = [0; 6];
    client.read_exact(&mut message).await.expect("a message");
    assert_eq!(&message, b"\x82\x04back");
    client.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await.expect("room");
    assert_eq!(tunnel.read(&mut read).await.expect("an end"), 0);
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut tunnel = tunnel::Tunnel::new(accepted(server).await);
    client.write_all(&frame(0x81, b"text")).await.expect("room");
    assert!(tunnel.read(&mut read).await.is_err());
}

proptest! {
    #[test]
    fn any_message_is_understood_or_refused(message: Vec<u8>, told: bool, base64: bool) {
        let half_close = if told { HalfClose::Told } else { HalfClose::None };
        let coding = if base64 { Coding::Base64 } else { Coding::Binary };
        decode(coding, half_close, message.into()).ok();
    }

    #[test]
    fn what_is_encoded_is_decoded(channel in 0_u8..10, bytes: Vec<u8>, base64: bool) {
        let coding = if base64 { Coding::Base64 } else { Coding::Binary };
        let message = encode(coding, channel, &bytes).into_data();
        let said = decode(coding, HalfClose::Told, message);
        prop_assert_eq!(said, Ok(Said::Bytes(channel, bytes.into())));
    }
}
