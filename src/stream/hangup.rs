//! Notices that a client has hung up while nothing is read from its connection.
//!
//! A connection whose stream is not taken by the container is not read, and so would not show its
//! end; the kernel tells of it all the same (epoll(7), EPOLLRDHUP).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::readiness;

/// A watch on one connection.
#[derive(Clone, Debug)]
pub struct Hangup(Option<Arc<AsyncFd<OwnedFd>>>);

impl Hangup {
    /// Watches `socket`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let watched = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(Some(Arc::new(readiness::watch(watched, Interest::READABLE)?))))
    }

    /// No connection that could be watched.
    #[cfg(test)]
    pub fn never() -> Self {
        Self(None)
    }

    /// Returns when the client has closed the connection or it has broken.
    pub async fn wait(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        loop {
            // A failure is the runtime's end.
            let Ok(mut ready) = socket.readable().await else { return };
            if ready.ready().is_read_closed() {
                return;
            }
            // Bytes that nobody reads now; the next news is another event.
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_end_behind_unread_bytes_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).await.expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        let hangup = Hangup::of(&server).expect("a descriptor");
        client.write_all(b"unread").await.expect("room");
        let early = tokio::time::timeout(Duration::from_millis(50), hangup.wait()).await;
        assert!(early.is_err(), "bytes are no end");
        drop(client);
        tokio::time::timeout(Duration::from_secs(10), hangup.wait()).await.expect("noticed");
    }
}
