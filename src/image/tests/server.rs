//! A small HTTP server that answers whatever it is told to, also what no server should.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;
use crate::image::store::lock;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    delay: Duration,
    gate: Option<Arc<Semaphore>>,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// Announces all of it, breaks off behind so many bytes.
    Cut(Vec<u8>, usize),
    /// Announces all of it, sends so many bytes and then nothing.
    Stuck(Vec<u8>, usize),
    /// Chunks for ever.
    Endless,
}

impl Answer {
    pub(super) fn ok(body: &[u8]) -> Self {
        Self::status(200).body(Body::Whole(body.to_vec()))
    }

    pub(super) fn status(status: u16) -> Self {
        let body = Body::Whole(Vec::new());
        Self { status, headers: Vec::new(), body, delay: Duration::ZERO, gate: None }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(super) fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Waits until `gate` is closed as a semaphore, which opens it.
    pub(super) fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Honours the request's `Range`.
    pub(super) fn ranged(mut self, asked: &Asked) -> Self {
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes="));
        let first = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
        if let (Some(first), Body::Whole(bytes)) = (first, &self.body) {
            let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
            let rest = bytes[first..].to_vec();
            self.status = 206;
            self = self.header("Content-Range", &range).body(Body::Whole(rest));
        }
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match &self.body {
            Body::Endless => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            Body::Whole(bytes) | Body::Cut(bytes, _) | Body::Stuck(bytes, _) => {
                format!("Content-Length: {}\r\n\r\n", bytes.len())
            }
        };
        head
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The server; stops when dropped.
pub(super) struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, handler): (_, Arc<Handler>) = (Arc::clone(&asked), Arc::new(handler));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                connections.spawn(async move {
                    // A client that goes away is none of our business.
                    serve(stream, &log, &*handler).await.ok();
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, asked, task }
    }

    /// `127.0.0.1:port`.
    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to an image in this registry.
    pub(super) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// All requests so far whose path contains `part`.
    pub(super) fn asked(&self, part: &str) -> Vec<Asked> {
        lock(&self.asked).iter().filter(|asked| asked.path.contains(part)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    handler: &Handler,
) -> io::Result<()> {
    let Some(asked) = read_request(&mut stream).await? else { return Ok(()) };
    lock(log).push(asked.clone());
    let answer = handler(&asked);
    tokio::time::sleep(answer.delay).await;
    if let Some(gate) = &answer.gate {
        gate.acquire().await.err();
    }
    stream.write_all(answer.head().as_bytes()).await?;
    match answer.body {
        Body::Whole(bytes) => stream.write_all(&bytes).await?,
        Body::Cut(bytes, length) => {
            stream.write_all(&bytes[..length]).await?;
            stream.flush().await?;
        }
        Body::Stuck(bytes, length) => {
            stream.write_all(&bytes[..length]).await?;
            // Until the client has had enough.
            stream.read_u8().await?;
        }
        Body::Endless => loop {
            stream.write_all(b"8000\r\n").await?;
            stream.write_all(&[b'x'; 0x8000]).await?;
            stream.write_all(b"\r\n").await?;
        },
    }
    stream.shutdown().await
}

/// None if it is not HTTP: a TLS greeting, for example.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..length]);
        if length == 0 || !bytes[0].is_ascii_uppercase() {
            return Ok(None);
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        body.push(stream.read_u8().await?);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Asked { method, path: path.to_owned(), query: query.to_owned(), headers, body }))
}
