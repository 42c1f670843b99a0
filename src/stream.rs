//! The HTTP server for exec, attach and port-forward, and the URLs that lead to it.
//!
//! ```text
//!  Exec, Attach, PortForward (cri/) ─► token ─► URL          minutes at most pass
//!                                        │
//!  client ─► server (HTTP, TLS) ─► upgrade ─► session ─► exec, attach, portforward
//!                                                │              │
//!                            spdy, websocket ◄───┘              ▼
//!                                   └──► channel (inbox, outbox) ◄┘
//! ```
//!
//! `exec`, `attach` and `portforward` know inboxes and outboxes; which transport carries them is
//! decided in `session` and known below it. A session ends when its client goes, when its container
//! or pod does, or when the daemon goes down; bytes never pass through a container's owner, so
//! whatever a client does, a stop is not held up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::container::{self, Containers};
use crate::error::{Classify, Kind};
use crate::ids::IdQuery;
use crate::pod::{self, Pods};

pub mod attach;
pub mod channel;
pub mod exec;
pub mod forward;
pub mod hangup;
pub mod portforward;
pub mod remote;
pub mod resize;
pub mod server;
pub mod session;
pub mod spdy;
pub mod status;
pub mod tls;
pub mod token;
pub mod upgrade;
pub mod websocket;
pub mod window;

pub use remote::Wanted;
pub use server::{Server, ServerError};

/// How long a session that was ended from this side may take to tell its client.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a process may take to be seen as ended after its container: its own end says more.
const OWN_END: Duration = Duration::from_millis(300);

/// When a session has to end, and why.
pub type Until = Pin<Box<dyn Future<Output = String> + Send>>;

/// How long a client is waited for when a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// For as long as it is there: it may read slowly.
    Unlimited,
    /// [`FAREWELL`].
    Short,
}

async fn within_farewell(work: impl Future<Output = ()>) {
    // What a client does not take is not waited for.
    tokio::time::timeout(FAREWELL, work).await.ok();
}

/// What was allowed, and waits for its client.
#[derive(Clone, Debug)]
pub enum Session {
    /// A command.
    Exec(exec::Request),
    /// A container's own streams.
    Attach(attach::Request),
    /// Ports of a pod.
    PortForward(portforward::Request),
}

/// Why there is no URL.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The container cannot be talked to.
    #[error(transparent)]
    Container(container::Shared),
    /// The pod has no network to forward into.
    #[error(transparent)]
    Pod(pod::Shared),
    /// Too many clients have not come.
    #[error("too many streaming requests are waiting for their clients; try again in a minute")]
    Full,
}

impl Classify for StreamError {
    fn kind(&self) -> Kind {
        match self {
            Self::Container(error) => error.kind(),
            Self::Pod(error) => error.kind(),
            Self::Full => Kind::Exhausted,
        }
    }
}

/// What sessions work on.
pub struct Parts {
    pods: Pods,
    containers: Containers,
    stopping: watch::Receiver<bool>,
    tokens: token::Tokens,
    /// Places of sessions.
    places: Arc<Semaphore>,
}

/// Gives out URLs.
#[derive(Clone)]
pub struct Streaming {
    parts: Arc<Parts>,
    /// `https://127.0.0.1:1234`
    base: Arc<str>,
}

impl Streaming {
    /// A URL under which a command can be run once.
    ///
    /// # Errors
    /// When the container is absent or does not run.
    pub fn exec(
        &self,
        query: &IdQuery,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<String, StreamError> {
        let container = self.parts.containers.to_exec(query).map_err(StreamError::Container)?;
        self.url("exec", Session::Exec(exec::Request { container, command, wanted }))
    }

    /// A URL under which a container's own streams can be had once.
    ///
    /// # Errors
    /// As [`Streaming::exec`].
    pub fn attach(&self, query: &IdQuery, wanted: Wanted) -> Result<String, StreamError> {
        let container = self.parts.containers.to_attach(query).map_err(StreamError::Container)?;
        self.url("attach", Session::Attach(attach::Request { container, wanted }))
    }

    /// A URL under which ports of a pod can be reached, by one client.
    ///
    /// # Errors
    /// When the pod is absent or not ready.
    pub fn port_forward(&self, query: &IdQuery, ports: Vec<u16>) -> Result<String, StreamError> {
        let pod = self.parts.pods.to_forward(query).map_err(StreamError::Pod)?;
        self.url("portforward", Session::PortForward(portforward::Request { pod, ports }))
    }

    fn url(&self, path: &str, session: Session) -> Result<String, StreamError> {
        let token = self.parts.tokens.issue(session).map_err(|token::Full| StreamError::Full)?;
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

impl Parts {
    /// When a session of `session` has to end.
    fn until(&self, session: &Session) -> Until {
        let mut stopping = self.stopping.clone();
        let (pods, containers, session) =
            (self.pods.clone(), self.containers.clone(), session.clone());
        let ended = async move {
            match &session {
                Session::Exec(exec::Request { container, .. })
                | Session::Attach(attach::Request { container, .. }) => {
                    containers.ended(container).await;
                    tokio::time::sleep(OWN_END).await;
                    format!("container {} has ended", container.short())
                }
                Session::PortForward(request) => {
                    pods.stopped(&request.pod).await;
                    format!("pod {} is stopped", request.pod.short())
                }
            }
        };
        Box::pin(async move {
            tokio::select! {
                why = ended => why,
                _ = stopping.wait_for(|stopping| *stopping) => {
                    "the container runtime is going down".to_owned()
                }
            }
        })
    }
}

/// The address that URLs name: for one that stands for all, loopback, for only the kubelet of this
/// node is to call.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_an_address_that_can_be_reached() {
        for (bound, named) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:1234", "127.0.0.1:1234"),
            ("[::]:1234", "[::1]:1234"),
            ("10.0.0.7:1", "10.0.0.7:1"),
        ] {
            let bound: SocketAddr = bound.parse().expect("an address");
            assert_eq!(reachable(bound).to_string(), named);
        }
    }
}
