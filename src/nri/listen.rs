//! The socket for plugins that start by themselves.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;

use super::{NriError, Plugins, join};
use crate::seldom::Seldom;
use crate::sys::listen::listen;

/// After a failed accept: descriptors may be short for a while.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens for root alone.
pub(super) fn bind(path: &Path) -> Result<UnixListener, NriError> {
    let failed = |action: &'static str| {
        move |source| NriError::Socket { action, path: path.to_owned(), source }
    };
    if let Some(parent) = path.parent() {
        // Who reaches the socket may change every container of the node.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(failed("make the directory of"))?;
    }
    let listener = listen(path, 0o600).map_err(failed("listen on"))?;
    UnixListener::from_std(listener).map_err(failed("listen on"))
}

/// Takes plugins in for as long as the daemon lives.
pub(super) async fn accept(plugins: Plugins, listener: UnixListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                static FAILED: Seldom = Seldom::new();
                if let Some(times) = FAILED.again() {
                    tracing::warn!(%error, times, "accept an NRI plugin");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match plugins.0.places.clone().try_acquire_owned() {
            Ok(place) => {
                let joining = join::join(plugins.clone(), stream, None, None);
                drop(crate::steps::spawn("plugin", async move {
                    joining.await;
                    drop(place);
                }));
            }
            Err(_) => {
                static FULL: Seldom = Seldom::new();
                if let Some(times) = FULL.again() {
                    tracing::warn!(limit = super::MAX_PLUGINS, times, "too many NRI plugins");
                }
            }
        }
    }
}
