//! The HTTP server behind `[metrics] listen`: `GET /metrics` and nothing else.
//!
//! It is open to whoever reaches the address, so everything about a connection is bounded: how many
//! there are, how long the head of a request may take, how long the whole connection lives.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::TEXT_FORMAT;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Metrics;
use crate::error::{Classify, Kind};
use crate::lobby::Lobby;
use crate::seldom::Seldom;

/// When one more comes, the oldest goes: a scrape takes milliseconds, so that is one that only holds
/// its place. Prometheus needs two; the others are so many that a crowd does not reach them in time.
const MAX_CONNECTIONS: usize = 256;

/// A scraper sends its few headers at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// For one request and its answer, some 20 KiB; nobody may hold one of the few connections.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15);

/// Requests have no body and few headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// After accept(2) failed (out of descriptors), so that it is not retried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for metrics")]
pub struct ListenError {
    /// From the configuration.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

impl Classify for ListenError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// Listens on `address`, so that an address that is taken stops the start of the daemon.
///
/// # Errors
///
/// If it is taken or not of this host.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves until `stop` resolves, then drops all connections: a scrape can be repeated.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let (mut connections, lobby) = (JoinSet::new(), Lobby::new(MAX_CONNECTIONS));
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let (place, shown_out) = lobby.enter(from.ip()).0.split();
                    let metrics = Arc::clone(&metrics);
                    connections.spawn(async move {
                        let _place = place;
                        tokio::select! {
                            () = shown_out => {}
                            () = connection(stream, metrics) => {}
                        }
                    });
                }
                Err(error) => {
                    static FAILED: Seldom = Seldom::new();
                    if let Some(times) = FAILED.again() {
                        tracing::warn!(%error, times, "accept a metrics connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, metrics: Arc<Metrics>) {
    let service = service_fn(move |request| {
        let metrics = Arc::clone(&metrics);
        async move { Ok::<_, Infallible>(answer(&request, &metrics)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
        Ok(Ok(())) | Err(_) => {}
        // A client that does not speak HTTP or goes away is its own trouble, not the node's.
        Ok(Err(error)) => tracing::debug!(%error, "metrics connection"),
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match metrics.to_text() {
        Ok(text) => {
            let mut response = Response::new(Full::from(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
            response
        }
        Err(error) => {
            static FAILED: Seldom = Seldom::new();
            if let Some(times) = FAILED.again() {
                tracing::error!(error = crate::error::chain(&error), times, "metrics");
            }
            plain(StatusCode::INTERNAL_SERVER_ERROR, "see the log of crisol\n")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
