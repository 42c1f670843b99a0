//! An attach session: the container's own streams, through its monitor.
//!
//! The monitor never waits for a client: one that is too slow is detached and told so. What the
//! container was made with decides whether there is a terminal and an input, not the request.
//!
//! COMPAT: who sits at a terminal and ends the input has left: the detach keys of crictl and kubectl
//! do only that, and then wait for the server to end the session, as containerd does.

use std::convert::Infallible;

use tokio::io::AsyncWriteExt;

use super::channel::{Gone, Inbox, Presence};
use super::remote::{Streams, Wanted};
use super::resize::Sizes;
use super::status::Outcome;
use super::{Farewell, Until};
use crate::container::Containers;
use crate::error::chain;
use crate::ids::ContainerId;
use crate::monitor::attach::{AttachInput, Input, Output, Source};

/// What Attach asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// To what.
    pub container: ContainerId,
    /// Which streams.
    pub wanted: Wanted,
}

/// Serves a client until the container's output has ended, or it is gone, or `until`.
pub async fn serve(
    containers: &Containers,
    request: Request,
    mut streams: Streams,
    mut client: Presence,
    until: Until,
) -> Farewell {
    let input = if request.wanted.stdin { Input::Wanted } else { Input::None };
    let attached = match containers.attach(&request.container, input).await {
        Ok(attached) => attached,
        Err(error) => {
            streams.finish(Outcome::Failure(chain(&*error))).await;
            return Farewell::Unlimited;
        }
    };
    if attached.tty != request.wanted.tty {
        tracing::info!(
            container = %request.container,
            asked = request.wanted.tty,
            is = attached.tty,
            "attach: the container's own terminal setting counts"
        );
    }
    let sizes = std::mem::replace(&mut streams.sizes, Sizes::new(None));
    let outcome = {
        let end = match attached.tty && request.wanted.tty {
            true => InputEnd::Leaves,
            false => InputEnd::Listens,
        };
        let feeding = feed(streams.stdin.take(), attached.streams.input, end);
        let sizing = size(containers, &request.container, sizes, attached.tty);
        tokio::select! {
            biased;
            outcome = copy(attached.streams.output, &streams) => Ok(outcome),
            () = client.gone() => return Farewell::Unlimited,
            why = until => Err(why),
            () = feeding => Ok(Outcome::Success),
            never = sizing => match never {},
        }
    };
    match outcome {
        Ok(outcome) => {
            streams.finish(outcome).await;
            Farewell::Unlimited
        }
        Err(why) => {
            super::within_farewell(streams.finish(Outcome::Failure(why))).await;
            Farewell::Short
        }
    }
}

/// Copies output to its end.
async fn copy(mut output: Output, streams: &Streams) -> Outcome {
    loop {
        let (source, bytes) = match output.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Outcome::Success,
            Err(error) => return Outcome::Failure(chain(&error)),
        };
        let outbox = match source {
            Source::Stdout => &streams.stdout,
            Source::Stderr => &streams.stderr,
        };
        if let Some(outbox) = outbox {
            // A client that has reset one stream may read the other.
            outbox.send(bytes).await.ok();
        }
    }
}

/// What a client does that has ended its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    /// It reads on.
    Listens,
    /// It is done.
    Leaves,
}

/// Writes what the client sends to the container; without an input there, it is read and dropped.
/// Returns when the client leaves.
async fn feed(inbox: Option<Inbox>, mut input: Option<AttachInput>, end: InputEnd) {
    let Some(mut inbox) = inbox else { return std::future::pending().await };
    loop {
        match inbox.next().await {
            Ok(Some(bytes)) => {
                if let Some(open) = &mut input
                    && open.write_all(&bytes).await.is_err()
                {
                    // The container has closed its input.
                    input = None;
                }
            }
            Ok(None) => {
                if let Some(open) = &mut input {
                    open.shutdown().await.ok();
                }
                if end == InputEnd::Leaves {
                    return;
                }
                match hold(input).await {}
            }
            Err(Gone) => match hold(input).await {},
        }
    }
}

/// Keeps the session's input as it is.
async fn hold(input: Option<AttachInput>) -> Infallible {
    let _held = input;
    std::future::pending().await
}

/// Gives the container's terminal the sizes that the client sends. Never returns.
async fn size(
    containers: &Containers,
    container: &ContainerId,
    mut sizes: Sizes,
    tty: bool,
) -> Infallible {
    if !tty {
        return std::future::pending().await;
    }
    loop {
        let size = sizes.next().await;
        if let Err(error) = containers.resize(container, size.rows, size.cols).await {
            tracing::debug!(%container, error = chain(&*error), "resize its terminal");
        }
    }
}
