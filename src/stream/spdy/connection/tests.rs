use proptest::prelude::*;
use tokio::io::DuplexStream;

use super::super::headers::tests::{Deflater, block};
use super::*;
use crate::stream::channel::{Gone, outgoing};

/// A client that writes what it wants, and reads frames as kind and payload.
struct Client {
    io: DuplexStream,
    deflater: Deflater,
}

/// The server's side as its users see it.
struct Served {
    opened: mpsc::Receiver<Opened>,
    out: mpsc::Sender<Out>,
    gone: watch::Receiver<bool>,
}

fn connect() -> (Client, Served) {
    let (io, server) = tokio::io::duplex(1 << 20);
    let (opener, opened) = mpsc::channel(4);
    let (here, gone) = watch::channel(true);
    let (out, queue) = outgoing();
    let queues = (out.clone(), queue);
    drop(tokio::spawn(run(server, Hangup::never(), opener, queues, here)));
    (Client { io, deflater: Deflater::new() }, Served { opened, out, gone })
}

fn control(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[0x80, 3, 0, kind, flags][..], &length[1..], body].concat()
}

impl Client {
    async fn write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("the server reads");
    }

    fn syn(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let compressed = self.deflater.deflate(&block(headers));
        control(1, 0, &[&stream.to_be_bytes()[..], &[0; 6], &compressed].concat())
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let syn = self.syn(stream, &[("streamtype", kind)]);
        self.write(&syn).await;
    }

    async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        let mut frame = BytesMut::new();
        frame::data(&mut frame, stream, bytes.len(), fin);
        frame.extend_from_slice(bytes);
        self.write(&frame).await;
    }

    /// Kind (0 = data), stream or first number, and the whole payload. None at the end.
    async fn read(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; HEAD];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        Some(match head[0] & 0x80 {
            0 => (0, number(&head), payload),
            _ => (head[3], number(&payload), payload),
        })
    }

    /// Reads up to the connection's end, which has to come with GOAWAY and this status.
    async fn expect_end(mut self, status: u32) {
        let mut last = None;
        while let Some(frame) = self.read().await {
            last = Some(frame);
        }
        let (kind, _, payload) = last.expect("a last frame");
        assert_eq!((kind, &payload[4..]), (7, &status.to_be_bytes()[..]));
    }
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways() {
    let (mut client, mut served) = connect();
    client.open(1, "stdin").await;
    client.data(1, false, b"hel").await;
    client.data(1, true, b"lo").await;
    let mut stream = served.opened.recv().await.expect("opened");
    assert_eq!((stream.stream, stream.headers.get("streamtype")), (1, Some("stdin")));
    let mut said = Vec::new();
    while let Some(bytes) = stream.inbox.next().await.expect("here") {
        said.extend_from_slice(&bytes);
    }
    assert_eq!(said, b"hello");
    stream.outbox.send(Bytes::from_static(b"back")).await.expect("here");
    stream.outbox.finish().await.expect("here");
    assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((2, 1)), "the reply comes first");
    assert_eq!(client.read().await, Some((0, 1, b"back".to_vec())));
    assert_eq!(client.read().await, Some((0, 1, Vec::new())));
    served.out.send(Out::Close).await.expect("here");
    client.expect_end(0).await;
}

#[tokio::test]
async fn a_reset_of_one_stream_leaves_the_others() {
    let (mut client, mut served) = connect();
    client.open(1, "data").await;
    client.open(3, "data").await;
    let mut first = served.opened.recv().await.expect("opened");
    let second = served.opened.recv().await.expect("opened");
    client.write(&control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5])).await;
    assert_eq!(first.inbox.next().await, Err(Gone));
    assert_eq!(first.outbox.send(Bytes::from_static(b"x")).await, Err(Gone));
    second.outbox.send(Bytes::from_static(b"y")).await.expect("still here");
    while client.read().await != Some((0, 3, b"y".to_vec())) {}
}

#[tokio::test]
async fn pings_are_answered_and_strange_frames_skipped() {
    let (mut client, _served) = connect();
    client.write(&control(6, 0, &[0, 0, 0, 2])).await;
    client.write(&control(200, 0, b"whatever")).await;
    client.write(&control(10, 0, &[0; 4])).await;
    for id in [1_u32, 77] {
        client.write(&control(6, 0, &id.to_be_bytes())).await;
        assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((6, id)));
    }
}

#[tokio::test]
async fn what_breaks_the_connection_ends_it_with_a_reason() {
    for bytes in [
        // Settings with more entries than bytes; another version; a frame that is too long.
        control(4, 0, &u32::MAX.to_be_bytes()),
        vec![0x80, 2, 0, 1, 0, 0, 0, 0],
        vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        // Lengths that are not those of the kind; data without a stream.
        control(6, 0, &[0; 5]),
        control(9, 0, &[0; 4]),
        vec![0, 0, 0, 0, 0, 0, 0, 0],
        // The connection's window grows past what can be counted.
        control(9, 0, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
        // No zlib; a bomb.
        control(1, 0, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"GET / HTTP/1.1"].concat()),
        control(
            1,
            0,
            &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &Deflater::new().deflate(&[0; 1 << 20])[..]]
                .concat(),
        ),
    ] {
        let (mut client, mut served) = connect();
        client.write(&bytes).await;
        client.expect_end(1).await;
        assert!(served.opened.recv().await.is_none(), "{bytes:?}");
    }
}

#[tokio::test]
async fn stream_numbers_are_odd_and_grow() {
    for (first, second) in [(1, 1), (3, 1), (1, 2)] {
        let (mut client, _served) = connect();
        client.open(first, "error").await;
        client.open(second, "error").await;
        client.expect_end(1).await;
    }
}

#[tokio::test]
async fn a_faulty_stream_is_reset_alone() {
    let (mut client, mut served) = connect();
    let syn = client.syn(1, &[("StreamType", "error")]);
    client.write(&syn).await;
    assert_eq!(client.read().await.map(|f| (f.0, f.1, f.2[7])), Some((3, 1, 1)));
    let mut twice = client.syn(3, &[("a", "b")]);
    twice[4] = 2;
    client.write(&twice).await;
    assert_eq!(client.read().await.map(|f| (f.0, f.1, f.2[7])), Some((3, 3, 3)), "one-way");
    client.data(5, false, b"before it is opened").await;
    assert_eq!(client.read().await.map(|f| (f.0, f.1, f.2[7])), Some((3, 5, 2)));
    assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((9, 0)), "room for what was dropped");
    client.open(5, "stdin").await;
    client.data(5, true, b"").await;
    client.data(5, false, b"after its end").await;
    assert!(served.opened.recv().await.is_some_and(|opened| opened.stream == 5));
    assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((2, 5)));
    assert_eq!(client.read().await.map(|f| (f.0, f.1, f.2[7])), Some((3, 5, 9)));
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_later_ones_taken() {
    let (mut client, mut served) = connect();
    let mut kept = Vec::new();
    for number in 0..MAX_STREAMS as u32 {
        client.open(2 * number + 1, "data").await;
        kept.push(served.opened.recv().await.expect("taken"));
        assert_eq!(client.read().await.map(|f| f.0), Some(2));
    }
    for number in MAX_STREAMS as u32..MAX_STREAMS as u32 + 1000 {
        client.open(2 * number + 1, "data").await;
        let refused = client.read().await.map(|f| (f.0, f.1, f.2[7]));
        assert_eq!(refused, Some((3, 2 * number + 1, 3)));
    }
    kept.pop().expect("some").outbox.reset().await;
    assert_eq!(client.read().await.map(|f| f.0), Some(3));
    client.open(10_001, "data").await;
    assert!(served.opened.recv().await.is_some_and(|opened| opened.stream == 10_001));
}

#[tokio::test]
async fn a_hundred_thousand_streams_that_are_reset_at_once_leave_nothing() {
    let (mut client, mut served) = connect();
    let taking = tokio::spawn(async move {
        let mut taken = 0;
        while let Some(mut opened) = served.opened.recv().await {
            assert_eq!(opened.inbox.next().await, Err(Gone));
            taken += 1;
        }
        taken
    });
    for stream in (1..200_000_u32).step_by(2) {
        let syn = client.syn(stream, &[("streamtype", "data")]);
        let reset = control(3, 0, &[stream.to_be_bytes(), 5_u32.to_be_bytes()].concat());
        client.write(&[syn, reset].concat()).await;
        assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((2, stream)));
    }
    // There is room, and the connection is in step.
    client.write(&control(6, 0, &7_u32.to_be_bytes())).await;
    assert_eq!(client.read().await.map(|f| (f.0, f.1)), Some((6, 7)));
    drop(client);
    assert_eq!(taking.await.expect("no panic"), 100_000);
}

#[tokio::test]
async fn a_client_that_counts_is_not_sent_more_than_it_allows() {
    let (mut client, mut served) = connect();
    // An initial window of 10 bytes.
    client.write(&control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 10])).await;
    client.open(1, "stdout").await;
    let stream = served.opened.recv().await.expect("opened");
    let sending = tokio::spawn(async move { stream.outbox.send(vec![7; 15].into()).await });
    assert_eq!(client.read().await.map(|f| f.0), Some(2));
    assert_eq!(client.read().await.map(|f| (f.0, f.2.len())), Some((0, 10)));
    client.write(&control(9, 0, &[0, 0, 0, 1, 0, 0, 0, 100])).await;
    assert_eq!(client.read().await.map(|f| (f.0, f.2.len())), Some((0, 5)));
    sending.await.expect("no panic").expect("sent");
    // Too much for one stream ends that stream.
    client.write(&control(9, 0, &[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff])).await;
    assert_eq!(client.read().await.map(|f| (f.0, f.1, f.2[7])), Some((3, 1, 7)));
}

#[tokio::test]
async fn what_is_taken_is_told_and_a_full_inbox_stops_the_reading() {
    let (mut client, mut served) = connect();
    client.open(1, "stdin").await;
    assert_eq!(client.read().await.map(|f| f.0), Some(2));
    client.data(1, false, &[1; 96 << 10]).await;
    let mut stream = served.opened.recv().await.expect("opened");
    let mut taken = 0;
    while taken < 96 << 10 {
        taken += stream.inbox.next().await.expect("here").expect("more").len();
    }
    let (kind, number, payload) = client.read().await.expect("an update");
    assert_eq!((kind, number), (9, 1));
    assert!(u32::from_be_bytes(payload[4..].try_into().expect("a number")) >= INITIAL / 2);
    client.data(1, true, b"").await;
    assert_eq!(stream.inbox.next().await, Ok(None));
    // A stream that nobody reads takes what its inbox holds and no more.
    client.open(3, "stdin").await;
    let _unread = served.opened.recv().await.expect("opened");
    let flood = async {
        loop {
            client.data(3, false, &[2; PIECE]).await;
        }
    };
    let stopped = tokio::time::timeout(Duration::from_millis(300), flood).await;
    assert!(stopped.is_err(), "the flood goes on until the pipe is full");
}

#[tokio::test]
async fn the_end_of_the_client_is_the_end_of_its_streams() {
    let (mut client, mut served) = connect();
    client.open(1, "stdin").await;
    let mut stream = served.opened.recv().await.expect("opened");
    client.write(&control(7, 0, &[0; 8])).await;
    client.open(3, "stdin").await;
    while client.read().await.map(|f| (f.0, f.1, f.2[7])) != Some((3, 3, 3)) {}
    drop(client);
    assert_eq!(stream.inbox.next().await, Err(Gone));
    assert!(served.gone.changed().await.is_err(), "the sender is dropped");
    assert_eq!(stream.outbox.send(Bytes::from_static(b"x")).await, Err(Gone));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_end_in_peace(frames in prop::collection::vec(any_frame(), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (mut client, mut served) = connect();
            let reading = tokio::spawn(async move {
                while let Some(mut opened) = served.opened.recv().await {
                    opened.inbox.next().await.ok();
                }
            });
            for frame in frames {
                // It may have ended already.
                client.io.write_all(&frame).await.ok();
            }
            client.io.shutdown().await.expect("an end");
            while client.read().await.is_some() {}
            reading.await.expect("no panic");
        });
    }
}

/// Frames that are right in part, and bytes that are none.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..40);
    let known = (0_u8..12, any::<u8>(), body).prop_map(|(kind, flags, b)| control(kind, flags, &b));
    let data = (0_u32..8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(stream, fin, bytes)| {
            let mut frame = BytesMut::new();
            frame::data(&mut frame, stream, bytes.len(), fin);
            [&frame[..], &bytes].concat()
        },
    );
    let syn = (0_u32..16).prop_map(|stream| {
        let compressed = Deflater::new().deflate(&block(&[("streamtype", "stdin")]));
        control(1, 0, &[&stream.to_be_bytes()[..], &[0; 6], &compressed].concat())
    });
    prop_oneof![known, data, syn, prop::collection::vec(any::<u8>(), 0..40)]
}
