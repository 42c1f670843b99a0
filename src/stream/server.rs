//! Listens, speaks HTTP/1.1 and TLS, and hands what is upgraded to its session.
//!
//! Reachable by whoever reaches the address, so everything before a valid token is bounded: how many
//! connections there are, how long a handshake and a request's head may take and be, and what is
//! logged of it. Connections without a token wait in a lobby of their own and never take the places
//! of sessions. A token is used up by the request that is upgraded, not by one that asks for it in
//! the wrong way.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::hangup::Hangup;
use super::tls::{Tls, TlsError};
use super::token::Tokens;
use super::upgrade::{self, Purpose, Refusal, Transport};
use super::{FAREWELL, Parts, Session, Streaming, reachable, session};
use crate::config;
use crate::container::Containers;
use crate::error::{Classify, Kind};
use crate::lobby::{Lobby, Place};
use crate::pod::Pods;
use crate::seldom::Seldom;

/// Sessions at once: more than a node's kubelet has, fewer than descriptors (a session has some
/// six).
const MAX_SESSIONS: usize = 1024;

/// Connections at once that have not shown a token (each has two descriptors). Who has one shows it
/// within milliseconds, so this many more have to come meanwhile before his place is taken.
const MAX_STRANGERS: usize = 512;

/// A client sends its request at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Handshake, request and answer together.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// A request's head: proxies add headers, but not so many.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// After accept(2) failed (out of descriptors), so that it is not retried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A connection that has been silent for so long is asked whether the other side lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How often it is asked again without an answer.
const KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(10);
/// See `KEEP_ALIVE_PAUSE`.
const KEEP_ALIVE_TRIES: u32 = 3;
/// The same for bytes that are not acknowledged, in milliseconds.
const USER_TIMEOUT_MS: u32 = 60_000;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not of this host.
    #[error("listen on {address} for exec, attach and port-forward")]
    Listen {
        /// From the configuration.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("TLS for exec, attach and port-forward")]
    Tls(#[source] TlsError),
}

impl Classify for ServerError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// A server that listens and does not serve yet.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    streaming: Streaming,
}

impl Server {
    /// Listens where `config` says. Sessions end when `stopping` becomes true.
    ///
    /// # Errors
    /// If the address is taken, or the certificate cannot be read.
    pub async fn listen(
        config: &config::Stream,
        pods: Pods,
        containers: Containers,
        stopping: watch::Receiver<bool>,
    ) -> Result<Self, ServerError> {
        let tls = Tls::load(config).map_err(ServerError::Tls)?.map(Arc::new);
        let address = SocketAddr::new(config.address, config.port);
        let failed = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = reachable(listener.local_addr().map_err(failed)?);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let places = Arc::new(Semaphore::new(MAX_SESSIONS));
        let tokens = Tokens::default();
        let parts = Arc::new(Parts { pods, containers, stopping, tokens, places });
        let streaming = Streaming { parts, base: format!("{scheme}://{bound}").into() };
        Ok(Self { listener, tls, streaming })
    }

    /// Where URLs that lead here come from.
    pub fn streaming(&self) -> Streaming {
        self.streaming.clone()
    }

    /// Serves until the daemon goes down, then ends all sessions.
    pub async fn serve(self) {
        let mut stopping = self.streaming.parts.stopping.clone();
        let stop = async { stopping.wait_for(|stopping| *stopping).await.is_ok() };
        let mut stop = std::pin::pin!(stop);
        let (mut connections, lobby) = (JoinSet::new(), Lobby::new(MAX_STRANGERS));
        let reload = self.tls.clone().map(|tls| tokio::spawn(tls.follow()));
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let (tls, parts) = (self.tls.clone(), self.streaming.parts.clone());
                        let (place, shown_out) = enter(&lobby, from);
                        connections.spawn(async move {
                            tokio::select! {
                                () = shown_out => {}
                                () = connection(stream, tls, parts, place) => {}
                            }
                        });
                    }
                    Err(error) => {
                        static FAILED: Seldom = Seldom::new();
                        if let Some(times) = FAILED.again() {
                            tracing::warn!(%error, times, "accept a streaming connection");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        if let Some(reload) = reload {
            reload.abort();
        }
        // Each tells its client; what has not done so by then is cut off.
        let ending = async { while connections.join_next().await.is_some() {} };
        tokio::time::timeout(2 * FAREWELL, ending).await.ok();
    }
}

/// A place in the lobby, and the word that it has to be left.
fn enter(lobby: &Lobby, from: SocketAddr) -> (Place, impl Future<Output = ()> + Send + use<>) {
    static CROWDED: Seldom = Seldom::new();
    let (visitor, crowded) = lobby.enter(from.ip());
    if crowded && let Some(times) = CROWDED.again() {
        tracing::warn!(%from, times, "too many streaming connections without a request: an old one is closed");
    }
    visitor.split()
}

/// One connection to its end.
async fn connection(stream: TcpStream, tls: Option<Arc<Tls>>, parts: Arc<Parts>, place: Place) {
    let watched = watch_over(&stream).and_then(|()| Hangup::of(&stream));
    let hangup = match watched {
        Ok(hangup) => hangup,
        Err(error) => {
            static FAILED: Seldom = Seldom::new();
            if let Some(times) = FAILED.again() {
                tracing::warn!(%error, times, "set up a streaming connection");
            }
            return;
        }
    };
    match tls {
        None => speak(stream, hangup, parts, place).await,
        Some(tls) => {
            let handshake = tls.acceptor().accept(stream);
            match tokio::time::timeout(HEAD_DEADLINE, handshake).await {
                Ok(Ok(stream)) => speak(stream, hangup, parts, place).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS of a streaming connection"),
                Err(_) => {}
            }
        }
    }
}

/// Lets the kernel notice a peer that is gone without a word, and send small pieces at once.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    let socket = stream.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_TRIES)?;
    Ok(sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MS)?)
}

/// What a request was upgraded to.
struct Upgraded {
    session: Session,
    transport: Transport,
    connection: OnUpgrade,
    /// Its place among the sessions.
    place: OwnedSemaphorePermit,
}

/// Answers one request; if that upgrades the connection, serves its session.
async fn speak<I>(io: I, hangup: Hangup, parts: Arc<Parts>, place: Place)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, mut upgraded) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let answering = parts.clone();
    let service = service_fn(move |request| {
        let mut sender = sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let response = answer(request, &answering, &place, &mut sender);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    match tokio::time::timeout(REQUEST_DEADLINE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return tracing::debug!(%error, "streaming connection"),
        Err(_) => return,
    }
    let Ok(Upgraded { session, transport, connection, place: _place }) = upgraded.try_recv() else {
        return;
    };
    match connection.await {
        Ok(io) => session::serve(&parts, session, transport, (TokioIo::new(io), hangup)).await,
        Err(error) => tracing::debug!(%error, "upgrade a streaming connection"),
    }
}

/// The answer to a request.
fn answer(
    mut request: Request<Incoming>,
    parts: &Parts,
    stranger: &Place,
    sender: &mut Option<oneshot::Sender<Upgraded>>,
) -> Response<Full<Bytes>> {
    match upgrade_of(&request, parts) {
        Ok((session, transport, place, answer)) => {
            stranger.leave();
            let connection = hyper::upgrade::on(&mut request);
            if let Some(sender) = sender.take() {
                sender.send(Upgraded { session, transport, connection, place }).ok();
            }
            answer.map(|()| Full::default())
        }
        Err(Refusal { status, words, hint }) => {
            let mut response = Response::new(Full::from(words + "\n"));
            *response.status_mut() = status;
            // COMPAT: not by a setting of the server's, which would say `close` in an upgrade too;
            // Go's client then sees no upgrade.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            if let Some((name, value)) = hint {
                response.headers_mut().insert(name, value);
            }
            response
        }
    }
}

/// Whether a request leads to a session; if so, its token is used up and it has a place.
fn upgrade_of(
    request: &Request<Incoming>,
    parts: &Parts,
) -> Result<(Session, Transport, OwnedSemaphorePermit, Response<()>), Refusal> {
    let refuse = |status, words: &str, hint: Option<(HeaderName, HeaderValue)>| Refusal {
        status,
        words: words.to_owned(),
        hint,
    };
    let unknown =
        || refuse(StatusCode::NOT_FOUND, "no such URL: each works once, for a minute", None);
    let (verb, token) = split(request.uri().path()).ok_or_else(unknown)?;
    if request.method() != Method::GET && request.method() != Method::POST {
        let allow = (ALLOW, HeaderValue::from_static("GET, POST"));
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST", Some(allow)));
    }
    let session = parts.tokens.find(token).ok_or_else(unknown)?;
    let purpose = match (&session, verb) {
        (Session::Exec(_), "exec") | (Session::Attach(_), "attach") => Purpose::Remote,
        (Session::PortForward(_), "portforward") => Purpose::PortForward,
        _ => return Err(unknown()),
    };
    if !request.body().is_end_stream() {
        return Err(refuse(StatusCode::BAD_REQUEST, "a request with a body is not upgraded", None));
    }
    let (transport, answer) = upgrade::negotiate(request.headers(), purpose)?;
    if let (Session::PortForward(request), Transport::WebSocket { .. }) = (&session, transport)
        && request.ports.is_empty()
    {
        let words = "channels of a WebSocket need the ports in the request";
        return Err(refuse(StatusCode::BAD_REQUEST, words, None));
    }
    let full = || {
        // Only who has a token comes here, but he may come again for a minute.
        static FULL: Seldom = Seldom::new();
        if let Some(times) = FULL.again() {
            tracing::warn!(limit = MAX_SESSIONS, times, "too many streaming sessions: refused");
        }
        refuse(StatusCode::SERVICE_UNAVAILABLE, "too many streaming sessions", None)
    };
    let place = parts.places.clone().try_acquire_owned().map_err(|_| full())?;
    if !parts.tokens.take(token) {
        return Err(unknown());
    }
    Ok((session, transport, place, answer))
}

/// `/exec/TOKEN` → `exec`, `TOKEN`.
fn split(path: &str) -> Option<(&str, &str)> {
    let (verb, token) = path.strip_prefix('/')?.split_once('/')?;
    (!token.is_empty() && !token.contains('/')).then_some((verb, token))
}

#[cfg(test)]
mod tests;
