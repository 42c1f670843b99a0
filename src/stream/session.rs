//! A session from the upgraded connection to its end: builds the transport, hands its streams to
//! exec, attach or port-forward, and says goodbye.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::channel::{self, Out, Presence};
use super::forward::{self, Pairs};
use super::hangup::Hangup;
use super::portforward::Forwards;
use super::remote::{self, Streams, Wanted};
use super::spdy::{self, Opened};
use super::upgrade::Transport;
use super::websocket::tunnel::Tunnel;
use super::websocket::{self, Channels};
use super::{FAREWELL, Farewell, Parts, Session, Until, attach, exec, portforward};

/// Streams that a SPDY client has opened and nobody has looked at.
const OPENED: usize = 16;

/// A connection's task; it ends with this.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves `session` on `io` to its end.
pub async fn serve<I>(parts: &Parts, session: Session, transport: Transport, io: (I, Hangup))
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let until = parts.until(&session);
    let (out, outgoing) = channel::outgoing();
    let (here, client) = Presence::new();
    let (io, hangup) = io;
    let queue = (out.clone(), outgoing);
    let (mut connection, farewell) = match transport {
        Transport::Spdy(version) => {
            let (opener, opened) = mpsc::channel(OPENED);
            let connection = spawn(spdy::run(io, hangup, opener, queue, here));
            let streams = Arriving::Spdy { opened, version };
            (connection, run(parts, session, streams, client, until).await)
        }
        Transport::Tunnel => {
            let (opener, opened) = mpsc::channel(OPENED);
            let io = Tunnel::new(websocket::accepted(io).await);
            let connection = spawn(spdy::run(io, hangup, opener, queue, here));
            let version = remote::Version { form: super::status::Form::Json, resize: true };
            let streams = Arriving::Spdy { opened, version };
            (connection, run(parts, session, streams, client, until).await)
        }
        Transport::WebSocket { coding, half_close, version } => {
            let socket = websocket::accepted(io).await;
            let (inboxes, streams) = on_websocket(&session, version, &out).await;
            let channels = Channels { coding, half_close, inboxes };
            let connection = spawn(websocket::run(socket, hangup, channels, queue.1, here));
            (connection, run(parts, session, streams, client, until).await)
        }
    };
    let closing = async {
        out.send(Out::Close).await.ok();
        drop(out);
        // What is wrong with it has been logged by the connection.
        (&mut connection.0).await.ok();
    };
    match farewell {
        Farewell::Unlimited => closing.await,
        Farewell::Short => drop(tokio::time::timeout(FAREWELL, closing).await),
    }
}

fn spawn(connection: impl Future<Output = ()> + Send + 'static) -> Connection {
    Connection(tokio::spawn(connection))
}

/// The streams of a client, there or on their way.
enum Arriving {
    Spdy { opened: mpsc::Receiver<Opened>, version: remote::Version },
    Remote(Box<Streams>),
    Forwards(Vec<forward::Forward>),
}

type Inboxes = std::collections::HashMap<u8, mpsc::Sender<channel::Part>>;

/// The channels of a WebSocket for what the session is.
async fn on_websocket(
    session: &Session,
    version: remote::Version,
    out: &mpsc::Sender<Out>,
) -> (Inboxes, Arriving) {
    match session {
        Session::PortForward(request) => {
            let (inboxes, forwards) = forward::on_websocket(&request.ports, out);
            (inboxes, Arriving::Forwards(forwards))
        }
        Session::Exec(exec::Request { wanted, .. })
        | Session::Attach(attach::Request { wanted, .. }) => {
            // The queue is new: there is room.
            out.send(remote::greeting(*wanted)).await.ok();
            let (inboxes, streams) = remote::on_websocket(*wanted, version, out);
            (inboxes, Arriving::Remote(Box::new(streams)))
        }
    }
}

/// Serves the session with the streams that its client has.
async fn run(
    parts: &Parts,
    session: Session,
    streams: Arriving,
    client: Presence,
    until: Until,
) -> Farewell {
    match session {
        Session::Exec(request) => match named(streams, request.wanted).await {
            Some(streams) => exec::serve(&parts.containers, request, streams, client, until).await,
            None => Farewell::Short,
        },
        Session::Attach(request) => match named(streams, request.wanted).await {
            Some(streams) => {
                attach::serve(&parts.containers, request, streams, client, until).await
            }
            None => Farewell::Short,
        },
        Session::PortForward(request) => {
            let forwards = match streams {
                Arriving::Spdy { opened, .. } => Forwards::Pairs(Pairs::new(opened)),
                Arriving::Forwards(forwards) => Forwards::Listed(forwards),
                Arriving::Remote(_) => return Farewell::Short,
            };
            portforward::serve(&parts.pods, request, forwards, client, until).await
        }
    }
}

/// The streams of an exec or attach; none if the client does not open them.
async fn named(streams: Arriving, wanted: Wanted) -> Option<Streams> {
    match streams {
        Arriving::Spdy { opened, version } => remote::from_spdy(opened, wanted, version).await,
        Arriving::Remote(streams) => Some(*streams),
        Arriving::Forwards(_) => None,
    }
}
