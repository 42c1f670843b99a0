//! A registry that lies: each of its repositories is one [`Lie`].
//!
//! It serves what a registry needs for a pull over plain HTTP/1.1, one connection a request, and
//! counts what it was asked and what it sent, so that a test can tell a client that gave up from
//! one that swallowed everything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub mod image;

use image::Image;

/// Longest request head that is read.
const HEAD: usize = 64 << 10;
/// An endless body ends here after all: a client that swallows as much has failed the test.
const ENDLESS: u64 = 4 << 30;
/// A client that neither reads nor hangs up is let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with a repository; its name in a reference is [`Lie::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing: the others fail for their lie and not for something else.
    None,
    /// Nothing, behind bearer tokens.
    Token,
    /// A manifest asked for by digest is another one.
    ManifestDigest,
    /// The configuration is another one of the same size.
    ConfigDigest,
    /// The layer differs in its last byte.
    LayerDigest,
    /// The layer is right, but the configuration's diffID is of something else.
    DiffId,
    /// The layer is one byte shorter than its descriptor says.
    Shorter,
    /// The layer is one byte longer than its descriptor says.
    Longer,
    /// The layer never ends.
    EndlessLayer,
    /// The manifest never ends.
    EndlessManifest,
    /// Every token is given and refused.
    TokenLoop,
    /// 10 MiB of gzip that unpack to 10 GiB.
    Bomb,
    /// A file named `../../…/tmp/NAME`.
    Traversal,
    /// A symbolic link to a directory of the host, and a file "in" it.
    LinkedParent,
    /// A hard link to `/etc/passwd`.
    HardLink,
    /// A hard link to `../../…/etc/passwd`.
    HardLinkUp,
    /// Nothing, but the second half of the layer comes when [`Liar::go_on`] says so. Not among
    /// [`Lie::ALL`].
    Halting,
}

impl Lie {
    /// All repositories.
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::Token,
        Self::ManifestDigest,
        Self::ConfigDigest,
        Self::LayerDigest,
        Self::DiffId,
        Self::Shorter,
        Self::Longer,
        Self::EndlessLayer,
        Self::EndlessManifest,
        Self::TokenLoop,
        Self::Bomb,
        Self::Traversal,
        Self::LinkedParent,
        Self::HardLink,
        Self::HardLinkUp,
    ];

    /// The repository's name.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The running registry; stops when dropped.
#[derive(Debug)]
pub struct Liar {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    images: Vec<(Lie, Image)>,
    stop: AtomicBool,
    requests: AtomicU64,
    sent: AtomicU64,
    /// Whether second halves are sent.
    goes_on: Mutex<bool>,
    told: Condvar,
}

impl Liar {
    /// Starts on a free port of loopback. `target` is the directory of the host that the escaping
    /// images try to write to.
    ///
    /// # Errors
    /// If the images cannot be built or no port is free.
    pub fn start(target: &std::path::Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let images = Lie::ALL
            .iter()
            .chain([&Lie::Halting])
            .map(|&lie| Ok((lie, Image::of(lie, target)?)))
            .collect::<Result<_>>()?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            images,
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            goes_on: Mutex::new(false),
            told: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&theirs);
                thread::spawn(move || {
                    // A client that hangs up in the middle is what most lies are for.
                    shared.serve(stream).ok();
                });
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Its `host:port`.
    pub fn address(&self) -> String {
        self.shared.address.to_string()
    }

    /// Reference of the image with that lie, by digest where the lie needs it.
    pub fn image(&self, lie: Lie) -> String {
        let image = self.shared.image(lie);
        match (lie, image) {
            (Lie::ManifestDigest, Some(image)) => {
                format!("{}/{}@{}", self.address(), lie.name(), image.manifest_digest())
            }
            _ => format!("{}/{}:latest", self.address(), lie.name()),
        }
    }

    /// Has the second halves of layers sent, from now on.
    pub fn go_on(&self) {
        *self.shared.goes_on.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.told.notify_all();
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Body bytes that clients took so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.go_on();
        // Wakes the accepting thread, which then sees the flag.
        TcpStream::connect(self.shared.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What goes back.
struct Reply {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Bytes(Vec<u8>),
    /// The second half when the test says so.
    Halting(Vec<u8>),
    /// Zeros without a length.
    Endless,
}

impl Reply {
    fn ok(kind: &str, body: Body) -> Self {
        Self { status: "200 OK", headers: vec![("content-type", kind.to_owned())], body }
    }

    fn not_found() -> Self {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#.to_vec();
        Self { status: "404 Not Found", headers: Vec::new(), body: Body::Bytes(body) }
    }
}

impl Shared {
    fn image(&self, lie: Lie) -> Option<&Image> {
        self.images.iter().find(|(of, _)| *of == lie).map(|(_, image)| image)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = read_head(&mut stream)?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut words = head.split_whitespace();
        let method = words.next().context("no method")?;
        let target = words.next().context("no target")?;
        let path = target.split('?').next().unwrap_or(target);
        let authorized = head.lines().any(|line| {
            line.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("authorization:"))
                && line.contains("Bearer good-token")
        });
        let reply = self.reply(path, authorized);
        self.send(&mut stream, method, reply)
    }

    fn send(&self, stream: &mut TcpStream, method: &str, reply: Reply) -> Result<()> {
        write!(stream, "HTTP/1.1 {}\r\nconnection: close\r\n", reply.status)?;
        for (name, value) in &reply.headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        if let Body::Bytes(bytes) | Body::Halting(bytes) = &reply.body {
            write!(stream, "content-length: {}\r\n", bytes.len())?;
        }
        write!(stream, "\r\n")?;
        if method == "HEAD" {
            return Ok(());
        }
        match reply.body {
            Body::Bytes(bytes) => {
                stream.write_all(&bytes)?;
                self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            Body::Halting(bytes) => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                stream.write_all(first)?;
                let goes_on = self.goes_on.lock().unwrap_or_else(PoisonError::into_inner);
                let told = self.told.wait_while(goes_on, |goes_on| !*goes_on);
                drop(told.unwrap_or_else(PoisonError::into_inner));
                stream.write_all(second)?;
                self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            Body::Endless => {
                let chunk = vec![0; 1 << 16];
                let mut left = ENDLESS;
                while left > 0 && !self.stop.load(Ordering::SeqCst) {
                    stream.write_all(&chunk)?;
                    self.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                    left -= chunk.len() as u64;
                }
            }
        }
        Ok(())
    }

    fn reply(&self, path: &str, authorized: bool) -> Reply {
        if path == "/token" {
            let token = br#"{"token":"good-token","expires_in":300}"#.to_vec();
            return Reply::ok("application/json", Body::Bytes(token));
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (name, kind, which) = match parts[..] {
            // Some clients decide here whether they need a token at all.
            ["v2"] if !authorized => return self.challenge("none"),
            ["v2"] => return Reply::ok("application/json", Body::Bytes(b"{}".to_vec())),
            ["v2", name, kind, which] => (name, kind, which),
            _ => return Reply::not_found(),
        };
        let Some((lie, image)) = self.images.iter().find(|(lie, _)| lie.name() == name) else {
            return Reply::not_found();
        };
        let refused = match lie {
            Lie::Token => !authorized,
            Lie::TokenLoop => true,
            _ => false,
        };
        if refused {
            return self.challenge(name);
        }
        let body = match (kind, lie) {
            ("manifests", Lie::EndlessManifest) | ("blobs", Lie::EndlessLayer)
                if kind == "manifests" || which == image.layer_digest() =>
            {
                Body::Endless
            }
            ("manifests", _) => Body::Bytes(image.served_manifest()),
            ("blobs", Lie::Halting) if which == image.layer_digest() => {
                Body::Halting(image.served_blob(which).unwrap_or_default())
            }
            ("blobs", _) => match image.served_blob(which) {
                Some(bytes) => Body::Bytes(bytes),
                None => return Reply::not_found(),
            },
            _ => return Reply::not_found(),
        };
        match kind {
            "manifests" => Reply::ok(image::MANIFEST, body),
            _ => Reply::ok("application/octet-stream", body),
        }
    }

    fn challenge(&self, name: &str) -> Reply {
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"liar\",scope=\"repository:{name}:pull\"",
            self.address
        );
        Reply {
            status: "401 Unauthorized",
            headers: vec![("www-authenticate", realm)],
            body: Body::Bytes(br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.to_vec()),
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while head.len() < HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => break,
            // A client that tries TLS first is told at once, as a real server does.
            _ if head.is_empty() && !chunk[0].is_ascii_uppercase() => bail!("not HTTP"),
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8(head).context("request head is not text")
}
