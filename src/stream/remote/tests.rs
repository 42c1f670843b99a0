use super::*;
use crate::stream::channel::{Gone, outgoing};
use crate::stream::hangup::Hangup;
use crate::stream::spdy;
use crate::stream::spdy::headers::tests::{Deflater, block};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

const JSON: Version = Version { form: Form::Json, resize: true };
const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

/// Far more than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

/// After this nothing more comes.
const SILENCE: Duration = Duration::from_millis(500);

/// The streams that a SPDY client with these `streamtype`s gets, and what it reads then. They are
/// waited for so long.
async fn opened(kinds: &[&str], wanted: Wanted, patience: Duration) -> (Option<Streams>, Vec<u8>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (opener, streams) = mpsc::channel(4);
    let (here, _presence) = watch::channel(true);
    let (out, queue) = outgoing();
    drop(tokio::spawn(spdy::run(server, Hangup::never(), opener, (out, queue), here)));
    let mut deflater = Deflater::new();
    for (number, kind) in (0_u32..).zip(kinds) {
        let compressed = deflater.deflate(&block(&[("streamtype", kind)]));
        let body = [&(2 * number + 1).to_be_bytes()[..], &[0; 6], &compressed].concat();
        let head = [&[0x80, 3, 0, 1][..], &(body.len() as u32).to_be_bytes()].concat();
        client.write_all(&[head, body].concat()).await.expect("the server reads");
    }
    let all = tokio::time::timeout(patience, from_spdy(streams, wanted, JSON)).await.ok().flatten();
    // A ping is answered after all that was there to be said.
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    client.write_all(&ping).await.expect("the server reads");
    let mut answers = Vec::new();
    while !answers.windows(ping.len()).any(|frame| frame == ping) {
        let read = tokio::time::timeout(PATIENCE, client.read_buf(&mut answers)).await;
        assert!(read.expect("an answer").expect("answers") > 0, "{answers:?}");
    }
    (all, answers)
}

#[tokio::test]
async fn streams_are_found_by_their_type_in_any_order() {
    let (streams, _) = opened(&["stderr", "stdin", "error", "stdout"], ALL, PATIENCE).await;
    let streams = streams.expect("all are there");
    assert!(streams.stdin.is_some() && streams.stdout.is_some() && streams.stderr.is_some());
    let only = Wanted { stdin: false, stdout: true, stderr: false, tty: true };
    let (streams, _) = opened(&["error", "stdout", "resize"], only, PATIENCE).await;
    let streams = streams.expect("all are there");
    assert!(streams.stdin.is_none() && streams.stderr.is_none());
}

#[tokio::test]
async fn a_stream_too_many_is_reset_and_one_too_few_is_waited_for() {
    let reset = [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5];
    let only = Wanted { stdin: false, stdout: true, stderr: false, tty: false };
    for second in ["nonsense", "error", "stdin", "STDOUT", ""] {
        let (streams, answers) = opened(&["error", second, "stdout"], only, PATIENCE).await;
        assert!(streams.is_some(), "{second}");
        assert!(answers.windows(16).any(|frame| frame == reset), "{second}: {answers:?}");
    }
    for kinds in [&["stdout"][..], &["error"], &["error", "error"]] {
        assert!(opened(kinds, only, SILENCE).await.0.is_none(), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_before_its_streams_are_open_is_given_up() {
    let (opener, streams) = mpsc::channel(1);
    let collecting = tokio::spawn(from_spdy(streams, ALL, JSON));
    drop(opener);
    assert!(collecting.await.expect("no panic").is_none());
}

#[tokio::test]
async fn output_ends_before_the_outcome_is_told() {
    let (out, mut queue) = outgoing();
    let (inboxes, streams) = on_websocket(ALL, JSON, &out);
    assert_eq!(inboxes.keys().collect::<Vec<_>>(), [&STDIN]);
    let streams = Streams { stdin: None, ..streams };
    streams.finish(Outcome::Exit(3)).await;
    let mut sent = Vec::new();
    while let Ok(message) = queue.try_recv() {
        sent.push(match message {
            Out::Finish(channel) => (channel, 0),
            Out::Data(channel, bytes) => (channel, bytes.len()),
            other => panic!("{other:?}"),
        });
    }
    let error = u32::from(ERROR);
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert_eq!(sent[..2], [(STDOUT.into(), 0), (STDERR.into(), 0)]);
    assert!(sent[2].0 == error && sent[2].1 > 0 && sent[3] == (error, 0), "{sent:?}");
}

#[tokio::test]
async fn a_lost_connection_is_no_end_of_the_input() {
    let (out, _queue) = outgoing();
    let (inboxes, mut streams) = on_websocket(ALL, JSON, &out);
    drop(inboxes);
    let mut stdin = streams.stdin.take().expect("wanted");
    assert_eq!(stdin.next().await, Err(Gone));
}

#[test]
fn the_greeting_is_on_the_first_channel_that_the_client_reads() {
    let on = |stdout, stderr| match greeting(Wanted { stdin: true, stdout, stderr, tty: false }) {
        Out::Data(channel, bytes) if bytes.is_empty() => channel,
        other => panic!("{other:?}"),
    };
    assert_eq!([on(true, true), on(false, true), on(false, false)], [1, 2, 3]);
}
