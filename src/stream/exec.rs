//! An exec session: bytes both ways between a client and a process, sizes, and the outcome.
//!
//! A client that does not read holds up its own process and nothing else. The process does not
//! outlive the session, and the session does not outlive the container.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::channel::{Gone, Inbox, Outbox, PIECE, Presence};
use super::remote::{Streams, Wanted};
use super::resize::Sizes;
use super::status::Outcome;
use super::{Farewell, Until};
use crate::container::Containers;
use crate::container::exec::{Ended, Input, Output, Process, Stdio, Terminal};
use crate::error::chain;
use crate::ids::ContainerId;

/// How long output may go on after the process has ended, when a child of it holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// What the process itself can have left in a pipe (pipe(7)) or a terminal when it ended.
const LEFT: usize = 64 << 10;

/// How long a process whose client is gone may take to end by itself. A monitor holds a bounded
/// number of execs, so clients that come and go fast are not to keep many of them.
const GRACE: Duration = Duration::from_secs(1);

/// What Exec asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where.
    pub container: ContainerId,
    /// The command line.
    pub command: Vec<String>,
    /// Which streams.
    pub wanted: Wanted,
}

/// Runs the command and serves its client to the end of either, or of `until`.
pub async fn serve(
    containers: &Containers,
    request: Request,
    mut streams: Streams,
    mut client: Presence,
    until: Until,
) -> Farewell {
    let stdio = match request.wanted.tty {
        true => Stdio::Terminal,
        false => Stdio::Pipes { stdin: request.wanted.stdin },
    };
    let process = tokio::select! {
        process = containers.exec(&request.container, request.command, stdio) => process,
        // What has been started by then is killed as soon as it is there.
        () = client.gone() => return Farewell::Unlimited,
    };
    let mut process = match process {
        Ok(process) => process,
        Err(error) => {
            streams.finish(Outcome::Failure(chain(&*error))).await;
            return Farewell::Unlimited;
        }
    };
    let sizes = std::mem::replace(&mut streams.sizes, Sizes::new(None));
    let end = {
        let input = process.stdin.take().filter(|_| request.wanted.stdin);
        let feeding = feed(streams.stdin.take(), input);
        let sizing = size(sizes, process.terminal.take());
        let working = work(&mut process, streams.stdout.as_ref(), streams.stderr.as_ref());
        tokio::select! {
            biased;
            ended = working => End::Ended(ended.map_err(|error| chain(&error))),
            () = client.gone() => End::ClientGone,
            why = until => End::Stopped(why),
            never = feeding => match never {},
            never = sizing => match never {},
        }
    };
    match end {
        End::Ended(Ok(ended)) => {
            streams.finish(ended.code.into()).await;
            Farewell::Unlimited
        }
        End::Ended(Err(message)) => {
            streams.finish(Outcome::Failure(message)).await;
            Farewell::Unlimited
        }
        End::ClientGone => {
            process.end(GRACE).await;
            Farewell::Unlimited
        }
        End::Stopped(why) => {
            drop(tokio::spawn(process.end(Duration::ZERO)));
            super::within_farewell(streams.finish(Outcome::Failure(why))).await;
            Farewell::Short
        }
    }
}

/// Why a session is over.
enum End {
    Ended(Result<Ended, String>),
    ClientGone,
    Stopped(String),
}

/// Waits for the process, and until all of its output has been sent.
async fn work(
    process: &mut Process,
    stdout: Option<&Outbox>,
    stderr: Option<&Outbox>,
) -> Result<Ended, crate::container::ContainerError> {
    let (exited, exit) = watch::channel(false);
    let outputs = (process.stdout.take(), process.stderr.take());
    let waiting = async {
        let ended = process.wait().await;
        exited.send_replace(true);
        ended
    };
    let (ended, (), ()) = tokio::join!(
        waiting,
        copy(outputs.0, stdout, exit.clone()),
        copy(outputs.1, stderr, exit.clone())
    );
    ended
}

/// Copies one output to its end; what nobody wants is read all the same.
async fn copy(output: Option<Output>, to: Option<&Outbox>, mut exit: watch::Receiver<bool>) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; PIECE];
    let mut deadline = None;
    let mut late = 0;
    loop {
        if deadline.is_none() && *exit.borrow() {
            deadline = Some(Instant::now() + DRAIN);
        }
        let read = tokio::select! {
            biased;
            read = output.read(&mut buffer) => read,
            Ok(()) = exit.changed(), if deadline.is_none() => continue,
            () = until(deadline), if deadline.is_some() => return,
        };
        let Ok(read @ 1..) = read else { return };
        if let Some(to) = to
            && to.send(bytes::Bytes::copy_from_slice(&buffer[..read])).await.is_err()
        {
            return;
        }
        // However long the client took for it: what was there at the end is sent, what a child goes
        // on writing is not.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            late += read;
            if late >= LEFT {
                return;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await;
}

/// Writes what the client sends to the process, and ends its input when the client does. Never
/// returns.
async fn feed(inbox: Option<Inbox>, input: Option<Input>) -> Infallible {
    if let (Some(mut inbox), Some(mut input)) = (inbox, input) {
        loop {
            match inbox.next().await {
                Ok(Some(bytes)) => {
                    if input.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Ok(None) => {
                    // A process that is gone reads no end.
                    input.end().await.ok();
                    break;
                }
                // The stream was reset: no end was said, so none is told.
                Err(Gone) => return hold(input).await,
            }
        }
    }
    std::future::pending().await
}

/// Keeps an input open.
async fn hold(input: Input) -> Infallible {
    let _held = input;
    std::future::pending().await
}

/// Gives the terminal the sizes that the client sends. Never returns.
async fn size(mut sizes: Sizes, terminal: Option<Terminal>) -> Infallible {
    let Some(terminal) = terminal else { return std::future::pending().await };
    loop {
        let size = sizes.next().await;
        // A terminal without a process has no use for a size.
        terminal.resize(size.rows, size.cols).ok();
    }
}
