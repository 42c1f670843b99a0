//! The daemon's side against a socket that says what each test wants it to say.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use conmon::wire::WireError;
use tokio::net::UnixListener;

use super::*;

/// A monitor directory in which a task is the monitor.
struct Monitor {
    dir: tempfile::TempDir,
    listener: Arc<UnixListener>,
}

impl Monitor {
    fn listen(socket: &str) -> Monitor {
        let dir = tempfile::tempdir().unwrap();
        let listener = Arc::new(UnixListener::bind(dir.path().join(socket)).unwrap());
        Monitor { dir, listener }
    }

    /// Takes the next client and its hello, says `said` in pieces of `step` bytes, and hangs up
    /// when the client has; returns what the client wrote.
    fn say(&self, said: Vec<u8>, step: usize) -> tokio::task::JoinHandle<Vec<u8>> {
        let listener = self.listener.clone();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; Hello::LENGTH];
            stream.read_exact(&mut hello).await.unwrap();
            Hello::decode(&hello).unwrap();
            for piece in said.chunks(step) {
                stream.write_all(piece).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            let mut heard = hello[Hello::LENGTH - 1..].to_vec();
            stream.read_to_end(&mut heard).await.unwrap();
            heard
        })
    }
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&Head { kind, payload: payload.len() }.encode()[..], payload].concat()
}

/// Output of every length that matters, on both streams, then the end.
fn conversation() -> (Vec<u8>, Vec<(Source, Vec<u8>)>) {
    let mut bytes = frame(Kind::Attached, &[1]);
    let mut pieces = Vec::new();
    for (number, length) in [1, 2, 4095, MAX_PAYLOAD, 7, MAX_PAYLOAD - 1].into_iter().enumerate() {
        let source = if number % 2 == 0 { Source::Stdout } else { Source::Stderr };
        let piece: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
        bytes.extend(frame(Kind::Output(source), &piece));
        pieces.push((source, piece));
    }
    bytes.extend(frame(Kind::End, b""));
    (bytes, pieces)
}

#[tokio::test]
async fn output_is_read_back_however_it_is_cut() {
    let monitor = Monitor::listen(conmon::ATTACH);
    let (bytes, pieces) = conversation();
    for step in [1, 3, 5, 4096, HEAD + MAX_PAYLOAD, bytes.len()] {
        let said = monitor.say(bytes.clone(), step);
        let Attached { mut output, input } = attach(monitor.dir.path(), Input::None).await.unwrap();
        for (source, piece) in &pieces {
            let (heard_source, heard) = output.next().await.unwrap().unwrap();
            assert!(heard_source == *source && heard == piece, "{step}");
        }
        assert!(output.next().await.unwrap().is_none());
        drop((output, input));
        assert_eq!(said.await.unwrap(), [0]);
    }
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let monitor = Monitor::listen(conmon::ATTACH);
    let (bytes, pieces) = conversation();
    let said = monitor.say(bytes, 1000);
    let mut attached = attach(monitor.dir.path(), Input::Wanted).await.unwrap();
    for (source, piece) in &pieces {
        let (heard_source, heard) = loop {
            tokio::select! {
                biased;
                heard = attached.output.next() => break heard.unwrap().unwrap(),
                () = tokio::task::yield_now() => {}
            }
        };
        assert!(heard_source == *source && heard == piece);
    }
    attached.input.as_mut().unwrap().write_all(b"in").await.unwrap();
    attached.input.unwrap().shutdown().await.unwrap();
    assert!(attached.output.next().await.unwrap().is_none());
    drop(attached.output);
    assert_eq!(said.await.unwrap(), b"\x01in");
}

#[tokio::test]
async fn what_ends_the_connection_is_told_apart() {
    let monitor = Monitor::listen(conmon::ATTACH);
    let attached = frame(Kind::Attached, &[0]);
    let dir = monitor.dir.path();
    for (rest, expected) in [
        (frame(Kind::Detached, b"too slow"), "detached from the container: too slow"),
        (vec![], "talk to the monitor in "),
        (vec![9, 0, 0, 0, 129, 1], "talk to the monitor in "),
        (vec![1, 0, 0, 0, 99], "understand the monitor in "),
        (attached.clone(), "monitor in "),
    ] {
        let said = monitor.say([attached.clone(), rest].concat(), 100);
        let mut client = attach(dir, Input::Wanted).await.unwrap();
        assert!(client.input.is_none());
        let error = client.output.next().await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        drop(client);
        said.await.unwrap();
    }
    let said = monitor.say(frame(Kind::Detached, b"16 are attached"), 100);
    let error = attach(dir, Input::None).await.err().unwrap();
    assert_eq!(error.to_string(), "detached from the container: 16 are attached");
    said.await.unwrap();
    let said = monitor.say(vec![0; 5], 100);
    let error = attach(dir, Input::None).await.err().unwrap();
    assert!(matches!(error, MonitorError::Contract { source: WireError::Length(0), .. }));
    said.await.unwrap();
}

#[tokio::test]
async fn an_older_monitor_is_told_from_one_that_is_gone() {
    let monitor = Monitor::listen(conmon::SOCKET);
    let error = attach(monitor.dir.path(), Input::None).await.err().unwrap();
    assert!(error.to_string().contains("is of an older version"), "{error}");
    let dir = monitor.dir.path().to_owned();
    drop(monitor.listener);
    let error = attach(&dir, Input::None).await.err().unwrap();
    assert!(matches!(error, MonitorError::Connect { .. }), "{error}");
    drop(monitor.dir);
    let error = attach(&dir, Input::None).await.err().unwrap();
    assert!(matches!(error, MonitorError::Connect { .. }), "{error}");
}
