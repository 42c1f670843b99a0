//! The end: what is in flight is waited for, clients that do not read are not.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::cri::layer::Unanswered;
use crate::steps::Operations;

/// How long requests in flight may take to end when the daemon goes down.
const LONGEST: Duration = Duration::from_secs(20);

/// How long answers may take to reach their clients. The end of a stream reaches nobody who does not
/// read what came before it, and his connection stays open as long as he likes.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often is looked whether something is in flight.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until everything asked for is done and answered; both servers take nothing more.
pub(super) async fn drain<T>(
    operations: &Operations,
    unanswered: &Unanswered,
    mut server: JoinHandle<T>,
    streams: JoinHandle<()>,
) {
    let busy = || !unanswered.is_empty() || !operations.snapshot().is_empty();
    let drained = async {
        if !closed(&mut server, &busy).await {
            tracing::info!("a client does not read what it was sent; it is left");
        }
        streams.await.ok();
        while busy() {
            sleep(LOOK).await;
        }
    };
    if timeout(LONGEST, drained).await.is_err() {
        tracing::warn!("requests are still in flight; their records tell the next daemon");
    }
}

/// Waits until the server has closed its connections, or has had time to after its last answer;
/// whether it has.
async fn closed<T>(server: &mut JoinHandle<T>, busy: &impl Fn() -> bool) -> bool {
    let mut until = Instant::now() + FAREWELL;
    while Instant::now() < until {
        if timeout(LOOK, &mut *server).await.is_ok() {
            return true;
        }
        if busy() {
            until = Instant::now() + FAREWELL;
        }
    }
    false
}
