use super::*;
use crate::stream::channel::{self, outgoing};
use crate::stream::spdy::headers::Headers;
use crate::stream::spdy::headers::tests::block;

struct Client {
    opener: mpsc::Sender<Opened>,
    out: mpsc::Sender<Out>,
    queue: mpsc::Receiver<Out>,
}

fn client() -> (Client, Pairs) {
    let (opener, opened) = mpsc::channel(16);
    let (out, queue) = outgoing();
    (Client { opener, out, queue }, Pairs::new(opened))
}

impl Client {
    async fn open(&self, stream: u32, headers: &[(&str, &str)]) {
        let headers = Headers::parse(&block(headers)).expect("headers");
        let (_parts, inbox) = Inbox::new(stream, self.out.clone());
        let outbox = Outbox::new(stream, self.out.clone(), Window::unlimited());
        let opened = Opened { stream, headers, inbox, outbox };
        self.opener.send(opened).await.expect("room");
    }

    fn resets(&mut self) -> Vec<channel::StreamId> {
        let mut resets = Vec::new();
        while let Ok(out) = self.queue.try_recv() {
            match out {
                Out::Reset(stream) => resets.push(stream),
                other => panic!("{other:?}"),
            }
        }
        resets
    }
}

const DATA: (&str, &str) = ("streamtype", "data");
const ERROR: (&str, &str) = ("streamtype", "error");

#[tokio::test]
async fn streams_of_one_request_are_a_pair_in_any_order() {
    let (client, mut pairs) = client();
    client.open(1, &[ERROR, ("port", "80"), ("requestid", "0")]).await;
    client.open(3, &[DATA, ("port", "81"), ("requestid", "1")]).await;
    client.open(5, &[ERROR, ("port", "81"), ("requestid", "1")]).await;
    client.open(7, &[DATA, ("port", "80"), ("requestid", "0")]).await;
    let ports = [pairs.next().await, pairs.next().await].map(|pair| pair.map(|pair| pair.port));
    assert_eq!(ports, [Some("81".to_owned()), Some("80".to_owned())]);
    drop(client);
    assert!(pairs.next().await.is_none());
}

#[tokio::test]
async fn without_a_request_the_numbers_tell() {
    let (client, mut pairs) = client();
    client.open(1, &[ERROR, ("port", "80")]).await;
    client.open(3, &[DATA, ("port", "80")]).await;
    assert!(pairs.next().await.is_some_and(|pair| pair.port == "80"));
    // A port that is missing or none is told on the error stream later, not here.
    client.open(5, &[ERROR]).await;
    client.open(7, &[DATA]).await;
    assert!(pairs.next().await.is_some_and(|pair| pair.port.is_empty()));
}

#[tokio::test]
async fn what_is_no_pair_is_reset_and_the_rest_goes_on() {
    let (mut client, mut pairs) = client();
    pairs.patience = Duration::from_secs(1);
    client.open(1, &[("port", "80"), ("requestid", "0")]).await;
    client.open(3, &[("streamtype", "stdin")]).await;
    client.open(5, &[DATA, ("requestid", "7"), ("port", "1")]).await;
    client.open(7, &[DATA, ("requestid", "7"), ("port", "2")]).await;
    client.open(9, &[DATA, ("requestid", "alone")]).await;
    client.open(11, &[ERROR, ("requestid", "7")]).await;
    assert!(pairs.next().await.is_some_and(|pair| pair.port == "1"));
    assert_eq!(client.resets(), [1, 3, 7]);
    let Client { opener, queue, .. } = &mut client;
    tokio::select! {
        _ = pairs.next() => panic!("a pair of one"),
        reset = queue.recv() => assert!(matches!(reset, Some(Out::Reset(9))), "{reset:?}"),
    }
    assert!(!opener.is_closed());
}

#[tokio::test]
async fn listed_ports_have_two_channels_each() {
    let (out, _queue) = outgoing();
    let (inboxes, forwards) = on_websocket(&[80, 443, 80], &out);
    let mut channels: Vec<u8> = inboxes.keys().copied().collect();
    channels.sort_unstable();
    assert_eq!(channels, [0, 2, 4]);
    let ports: Vec<&str> = forwards.iter().map(|forward| forward.port.as_str()).collect();
    assert_eq!(ports, ["80", "443", "80"]);
    assert_eq!(greeting(8080)[..], [0x90, 0x1f]);
    let (inboxes, forwards) = on_websocket(&[1; 1000], &out);
    assert_eq!((inboxes.len(), forwards.len()), (128, 128), "as many as a byte can number");
}
