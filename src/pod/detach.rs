//! Gives a pod's network back, now or later.
//!
//! A DEL that fails is owed: the network namespace stays pinned outside the pod's directory, because
//! plugins find in it what to undo (the bridge plugin its packet filter rules), and the daemon tries
//! again until it succeeds. Nothing else of the pod waits for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::PodId;
use crate::steps::blocking;
use crate::sys::namespaces;

use super::Parts;

/// Calls CNI's DEL, or leaves it owed. A pod without a network is fine.
pub async fn detach(parts: &Arc<Parts>, id: PodId) -> Detached {
    let namespace = match netns(parts, id) {
        Ok(namespace) => namespace,
        Err(error) => {
            tracing::warn!(pod = %id, %error, "look for its network namespace; network is owed");
            keep(parts, id).await;
            return Detached::Owed;
        }
    };
    match parts.networks.del(&id.to_string(), namespace.as_deref()).await {
        Ok(()) => {
            let owed = parts.layout.owed_network(&id);
            if let Err(error) = blocking(move || namespaces::unpin_file(&owed)).await {
                tracing::warn!(pod = %id, %error, "unpin a network namespace that was owed");
            }
            Detached::Now
        }
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::warn!(pod = %id, error, "network is owed");
            keep(parts, id).await;
            Detached::Owed
        }
    }
}

/// Whether the network has been given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// It has.
    Now,
    /// It will be tried again.
    Owed,
}

/// The pod's network namespace, if it is still pinned anywhere.
fn netns(parts: &Parts, id: PodId) -> io::Result<Option<PathBuf>> {
    for pin in [parts.layout.pod_namespaces(&id).join("net"), parts.layout.owed_network(&id)] {
        if namespaces::is_pinned(&pin)? {
            return Ok(Some(pin));
        }
    }
    Ok(None)
}

/// Pins the namespace where it outlives the pod's directory.
async fn keep(parts: &Arc<Parts>, id: PodId) {
    let (from, to) = (parts.layout.pod_namespaces(&id).join("net"), parts.layout.owed_network(&id));
    let kept = blocking(move || {
        if namespaces::is_pinned(&to)? || !namespaces::is_pinned(&from)? {
            return Ok(());
        }
        namespaces::pin_existing(&from, &to).map_err(std::io::Error::other)
    });
    if let Err(error) = kept.await {
        // The DEL then runs without it, as CNI allows; plugins undo what they can.
        tracing::warn!(pod = %id, %error, "keep the network namespace of an owed network");
    }
}
