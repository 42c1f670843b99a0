//! The daemon's end of the control socket.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use conmon::{Exit, Reply, Request, SOCKET};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::waiting::PATIENCE;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    received: Vec<u8>,
}

/// Closed at once: a program that is just being started by another test has a copy of the descriptor
/// until it runs.
impl Drop for Client {
    fn drop(&mut self) {
        // Fails when the monitor has gone first.
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}

impl Client {
    /// Connects to the monitor of this directory, whose path may be longer than a socket's.
    pub(crate) fn connect(dir: &Path) -> Client {
        Client::try_connect(dir).unwrap()
    }

    pub(crate) fn try_connect(dir: &Path) -> std::io::Result<Client> {
        use std::os::fd::AsRawFd;
        let dir = std::fs::File::open(dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, received: Vec::new() })
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.stream.write_all(&request.encode().unwrap()).unwrap();
    }

    pub(crate) fn send_with_fds(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) {
        let frame = request.encode().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let slices = [std::io::IoSlice::new(&frame)];
        let flags = SendFlags::empty();
        let sent = rustix::net::sendmsg(&self.stream, &slices, &mut ancillary, flags).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The next reply. None: the monitor has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Reply> {
        loop {
            if let Some(reply) = Reply::decode(&mut self.received).unwrap() {
                return Some(reply);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("waiting for a reply: {error}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        self.receive().expect("the monitor answers")
    }

    /// Asks, and returns the message of the refusal.
    pub(crate) fn refused(&mut self, request: &Request) -> String {
        match self.ask(request) {
            Reply::Failed { message } => message,
            other => panic!("{request:?} was answered by {other:?}"),
        }
    }

    pub(crate) fn subscribe(dir: &Path) -> (Client, Reply) {
        let mut client = Client::connect(dir);
        let state = client.ask(&Request::Subscribe);
        (client, state)
    }

    /// Waits for the container's end, on a connection that has not subscribed yet.
    pub(crate) fn wait_for_exit(dir: &Path) -> Exit {
        let (mut client, state) = Client::subscribe(dir);
        match state {
            Reply::State { exit: Some(exit), .. } => exit,
            _ => client.exited(),
        }
    }

    /// Waits for the container's end, on a connection that has subscribed.
    pub(crate) fn exited(&mut self) -> Exit {
        match self.receive() {
            Some(Reply::Exited(exit)) => exit,
            other => panic!("{other:?}"),
        }
    }
}
