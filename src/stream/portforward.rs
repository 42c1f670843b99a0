//! A port-forward session: connections into a pod's network, each on its own.
//!
//! One that is refused, or breaks, tells so on its error stream and ends alone.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::channel::{Gone, Inbox, Outbox, PIECE, Presence};
use super::forward::{self, Forward, Pairs};
use super::{Farewell, Until};
use crate::error::chain;
use crate::ids::PodId;
use crate::pod::Pods;

/// What PortForward asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Into which pod.
    pub pod: PodId,
    /// Ports, for clients that do not name them themselves.
    pub ports: Vec<u16>,
}

/// Where connections come from.
pub enum Forwards {
    /// The client opens them one by one.
    Pairs(Pairs),
    /// All at once.
    Listed(Vec<Forward>),
}

/// Serves a client until it is gone, or all listed connections have ended, or `until`.
pub async fn serve(
    pods: &Pods,
    request: Request,
    forwards: Forwards,
    mut client: Presence,
    until: Until,
) -> Farewell {
    let (stop, stopped) = watch::channel(None);
    let mut connections = JoinSet::new();
    let (mut pairs, endless) = match forwards {
        Forwards::Pairs(pairs) => (Some(pairs), true),
        Forwards::Listed(listed) => {
            for forward in listed {
                greet(&forward).await;
                connections.spawn(connect(pods.clone(), request.pod, forward, stopped.clone()));
            }
            (None, false)
        }
    };
    let mut until = std::pin::pin!(until);
    loop {
        tokio::select! {
            biased;
            () = client.gone() => return Farewell::Unlimited,
            why = &mut until => {
                stop.send_replace(Some(why));
                let ending = async { while connections.join_next().await.is_some() {} };
                super::within_farewell(ending).await;
                return Farewell::Short;
            }
            joined = connections.join_next(), if !connections.is_empty() => {
                if joined.is_some_and(|joined| joined.is_err()) {
                    tracing::error!(pod = %request.pod, "a forwarded connection panicked");
                }
                if connections.is_empty() && !endless {
                    return Farewell::Unlimited;
                }
            }
            forward = next(&mut pairs) => match forward {
                Some(forward) => {
                    drop(connections.spawn(connect(
                        pods.clone(),
                        request.pod,
                        forward,
                        stopped.clone(),
                    )));
                }
                None => return Farewell::Unlimited,
            },
        }
    }
}

async fn next(pairs: &mut Option<Pairs>) -> Option<Forward> {
    match pairs {
        Some(pairs) => pairs.next().await,
        None => std::future::pending().await,
    }
}

/// Sends a listed connection's port on both of its channels.
async fn greet(forward: &Forward) {
    let port = forward::greeting(forward.port.parse().unwrap_or(0));
    for outbox in [&forward.outbox, &forward.error] {
        // A client that is gone is noticed at once afterwards.
        outbox.send(port.clone()).await.ok();
    }
}

/// One connection, to its end.
async fn connect(
    pods: Pods,
    pod: PodId,
    forward: Forward,
    mut stopped: watch::Receiver<Option<String>>,
) {
    let Forward { port, inbox, outbox, error } = forward;
    let stop = async {
        let why = stopped.wait_for(Option::is_some).await;
        // Without a reason the session itself is gone.
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    };
    let connected = async {
        let number = port.parse::<u16>().ok().filter(|&number| number != 0);
        let number = number.ok_or_else(|| format!("port {port:?} is not one of 1 to 65535"))?;
        let connection = pods.dial(&pod, number).await.map_err(|error| chain(&*error))?;
        copy(connection, inbox, outbox.clone()).await.map_err(|broken| {
            format!("connection to port {number} of pod {}: {broken}", pod.short())
        })
    };
    let result = tokio::select! {
        result = connected => result,
        why = stop => Err(why),
    };
    if let Err(words) = result {
        tracing::debug!(%pod, port, words, "port-forward");
        error.send(Bytes::from(words)).await.ok();
        outbox.reset().await;
    }
    error.finish().await.ok();
}

/// Copies both ways to both ends.
async fn copy(connection: TcpStream, inbox: Inbox, outbox: Outbox) -> std::io::Result<()> {
    let (read, write) = connection.into_split();
    let mut up = std::pin::pin!(send(inbox, write));
    let mut down = std::pin::pin!(receive(read, outbox));
    tokio::select! {
        sent = &mut up => match sent {
            Ok(()) => down.await,
            // The client has reset the stream: nobody reads what the pod says.
            Err(Gone) => Ok(()),
        },
        received = &mut down => {
            received?;
            up.await.ok();
            Ok(())
        }
    }
}

/// From the client into the pod; an end of the one is an end of the other.
async fn send(mut inbox: Inbox, mut write: OwnedWriteHalf) -> Result<(), Gone> {
    while let Some(bytes) = inbox.next().await? {
        if write.write_all(&bytes).await.is_err() {
            // The pod does not read any more, but may have something to say.
            write.forget();
            return Ok(());
        }
    }
    write.shutdown().await.ok();
    write.forget();
    Ok(())
}

/// From the pod to the client.
async fn receive(mut read: OwnedReadHalf, outbox: Outbox) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let bytes = read.read(&mut buffer).await?;
        if bytes == 0 {
            outbox.finish().await.ok();
            return Ok(());
        }
        if outbox.send(Bytes::copy_from_slice(&buffer[..bytes])).await.is_err() {
            return Ok(());
        }
    }
}
