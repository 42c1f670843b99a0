//! Connects to a port of a pod, from inside its network.
//!
//! A socket belongs to the network namespace in which it was made, wherever it is used afterwards:
//! a thread that ends at once makes it there, and no program has to run in the pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::container::spec::NamespaceMode;
use crate::ids::{IdQuery, PodId};
use crate::steps::blocking;
use crate::sys::namespaces;

use super::state::State;
use super::{PodError, PodRecord, Pods, Shared};

/// How long a connection to loopback may take: it is answered at once unless a filter swallows it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where programs of a pod listen, in the order in which they are tried.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl Pods {
    /// The pod that `query` means, if its ports can be reached now.
    pub fn to_forward(&self, query: &IdQuery) -> Result<PodId, Shared> {
        let record = self.record(query)?;
        match record.state {
            State::Ready => Ok(record.id),
            state => Err(Arc::new(PodError::NotReady { id: record.id, state })),
        }
    }

    /// Connects to a port on the pod's loopback, the node's if the pod has the node's network.
    pub async fn dial(&self, id: &PodId, port: u16) -> Result<TcpStream, Shared> {
        self.to_forward(&id.into())?;
        let record = self.record(&id.into())?;
        let mut first = None;
        for address in LOOPBACK.map(|ip| SocketAddr::new(ip, port)) {
            match self.connect(&record, address).await {
                Ok(stream) => return Ok(stream),
                // The first is the one that people know.
                Err(error) => first = first.or(Some(error)),
            }
        }
        let source = first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        Err(Arc::new(PodError::Dial { id: *id, port, source }))
    }

    async fn connect(&self, record: &PodRecord, address: SocketAddr) -> io::Result<TcpStream> {
        let make = move || match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = match record.spec.network {
            NamespaceMode::Node => make()?,
            _ => {
                let namespace = self.parts.layout.pod_namespaces(&record.id).join("net");
                let made = blocking(move || namespaces::run_in_netns(&namespace, make)).await;
                made.map_err(io::Error::other)??
            }
        };
        let connected = tokio::time::timeout(DEADLINE, socket.connect(address)).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Returns when the pod is being stopped, or is not there any more.
    pub async fn stopped(&self, id: &PodId) {
        let Ok(handle) = self.handle(&id.into()) else { return };
        let mut published = handle.published;
        // An error is the end of its owner.
        published.wait_for(|record| record.state != State::Ready).await.ok();
    }
}
