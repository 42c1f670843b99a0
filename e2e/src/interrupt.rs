//! Ctrl-C ends a process before anything in it is dropped: what it made is swept here instead.

use std::thread;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::node::sweep::sweep_all;

/// Sweeps everything and ends this process when it is asked to end (SIGINT, SIGTERM), unless
/// `handled` says that the main thread is on its way out already.
pub fn sweep_when_interrupted(handled: impl Fn() -> bool + Send + 'static) {
    thread::spawn(move || {
        // Without handlers the signals do what they always do.
        if wait().is_err() || handled() {
            return;
        }
        sweep_all();
        #[allow(
            clippy::disallowed_methods,
            reason = "the main thread is in the middle of something"
        )]
        std::process::exit(130);
    });
}

fn wait() -> Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
