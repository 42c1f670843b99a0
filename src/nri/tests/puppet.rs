//! A plugin that does as a test says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::nri::mux::{self, Demux, TooLong};
use crate::nri::ttrpc::{self, Decoder};
use crate::nri::wire::ttrpc as envelope;

/// What a plugin does about a call.
pub(super) enum Reaction {
    /// Answers.
    Answer(Vec<u8>),
    /// Answers later.
    After(Duration, Vec<u8>),
    /// Answers when it is told to.
    When(Arc<Notify>, Vec<u8>),
    /// Answers with an error.
    Refuse(i32, &'static str),
    /// Never answers.
    Silence,
    /// Closes its connection.
    HangUp,
    /// Writes these bytes as they are.
    Raw(Vec<u8>),
}

type Answers = Arc<Mutex<BTreeMap<u32, oneshot::Sender<envelope::Response>>>>;
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;
type React = Arc<dyn Fn(&str, &[u8]) -> Reaction + Send + Sync>;

/// The plugin.
pub(super) struct Puppet {
    heard: Heard,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    answers: Answers,
    next: Mutex<u32>,
    reader: tokio::task::JoinHandle<()>,
    ended: Arc<Notify>,
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Puppet {
    /// Connects, registers and waits for the picture.
    pub(super) async fn join(
        node: &Node,
        index: &str,
        name: &str,
        react: impl Fn(&str, &[u8]) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let before = node.plugins.lock().len();
        let puppet = Self::connect(node, react).await;
        puppet.register(index, name).await.unwrap();
        node.has_plugins(before + 1).await;
        puppet.hears("Synchronize").await;
        puppet
    }

    /// Connects.
    pub(super) async fn connect(
        node: &Node,
        react: impl Fn(&str, &[u8]) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let stream = UnixStream::connect(&node.socket).await.unwrap();
        let (mut read, write) = stream.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let (heard, answers, ended) =
            (Heard::default(), Answers::default(), Arc::new(Notify::new()));
        let react: React = Arc::new(react);
        let reader = tokio::spawn({
            let (heard, answers) = (heard.clone(), answers.clone());
            let (write, ended) = (write.clone(), ended.clone());
            async move {
                let (mut demux, mut calls, mut replies) =
                    (Demux::default(), Decoder::default(), Decoder::default());
                let mut chunk = vec![0; 64 << 10];
                loop {
                    let length = read.read(&mut chunk).await.unwrap_or(0);
                    if length == 0 {
                        break;
                    }
                    let mut requests = Vec::new();
                    let pushed = demux.push::<TooLong>(&chunk[..length], |connection, bytes| {
                        let decoder =
                            if connection == mux::PLUGIN { &mut calls } else { &mut replies };
                        for (stream, message) in decoder.push(bytes).unwrap() {
                            match message {
                                ttrpc::Message::Request(request) => {
                                    requests.push((stream, request))
                                }
                                ttrpc::Message::Response(response) => {
                                    let answer = answers.lock().unwrap().remove(&stream);
                                    answer.map(|answer| answer.send(response));
                                }
                            }
                        }
                        Ok(())
                    });
                    pushed.unwrap();
                    for (stream, request) in requests {
                        heard
                            .lock()
                            .unwrap()
                            .push((request.method.clone(), request.payload.clone()));
                        let reaction = react(&request.method, &request.payload);
                        tokio::spawn(answer(write.clone(), stream, reaction));
                    }
                }
                ended.notify_one();
            }
        });
        Self { heard, write, answers, next: Mutex::new(1), reader, ended }
    }

    /// Registers.
    pub(super) async fn register(&self, index: &str, name: &str) -> Result<Vec<u8>, (i32, String)> {
        let request = wire::RegisterRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            ..wire::RegisterRequest::default()
        };
        self.call("RegisterPlugin", request.encode_to_vec()).await
    }

    /// Calls the runtime.
    pub(super) async fn call(
        &self,
        method: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, (i32, String)> {
        let stream = {
            let mut next = self.next.lock().unwrap();
            *next += 2;
            *next
        };
        let (sender, answer) = oneshot::channel();
        self.answers.lock().unwrap().insert(stream, sender);
        let request = envelope::Request {
            service: crate::nri::RUNTIME_SERVICE.to_owned(),
            method: method.to_owned(),
            payload,
            ..envelope::Request::default()
        };
        let bytes = ttrpc::encode(stream, &ttrpc::Message::Request(request)).unwrap();
        self.write(&mux::frames(mux::RUNTIME, &bytes)).await;
        let response = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
        match response.status {
            Some(status) if status.code != 0 => Err((status.code, status.message)),
            _ => Ok(response.payload),
        }
    }

    /// Writes bytes as they are.
    pub(super) async fn write(&self, bytes: &[u8]) {
        self.write.lock().await.write_all(bytes).await.ok();
    }

    /// Waits until the other side has closed the connection.
    pub(super) async fn is_sent_away(&self) {
        tokio::time::timeout(SOON, self.ended.notified()).await.expect("the connection is closed");
    }

    /// Waits until it was called so.
    pub(super) async fn hears(&self, method: &str) {
        let wait = async {
            while !self.methods().iter().any(|heard| heard == method) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("the call comes");
    }

    /// All calls with their payloads, in order.
    pub(super) fn heard(&self) -> Vec<(String, Vec<u8>)> {
        self.heard.lock().unwrap().clone()
    }

    /// All calls, in order.
    pub(super) fn methods(&self) -> Vec<String> {
        self.heard().into_iter().map(|(method, _)| method).collect()
    }

    /// The payload of the last call of that name.
    pub(super) fn payload(&self, method: &str) -> Vec<u8> {
        self.heard().into_iter().rfind(|(heard, _)| heard == method).unwrap().1
    }
}

async fn answer(write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>, stream: u32, reaction: Reaction) {
    let response = match reaction {
        Reaction::Answer(payload) => envelope::Response { status: None, payload },
        Reaction::After(time, payload) => {
            tokio::time::sleep(time).await;
            envelope::Response { status: None, payload }
        }
        Reaction::When(notify, payload) => {
            notify.notified().await;
            envelope::Response { status: None, payload }
        }
        Reaction::Refuse(code, message) => {
            let status = Some(envelope::Status { code, message: message.to_owned() });
            envelope::Response { status, payload: Vec::new() }
        }
        Reaction::Silence => return,
        Reaction::HangUp => {
            write.lock().await.shutdown().await.ok();
            return;
        }
        Reaction::Raw(bytes) => {
            write.lock().await.write_all(&bytes).await.ok();
            return;
        }
    };
    let bytes = ttrpc::encode(stream, &ttrpc::Message::Response(response)).unwrap();
    write.lock().await.write_all(&mux::frames(mux::PLUGIN, &bytes)).await.ok();
}
