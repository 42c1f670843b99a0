//! A connection to a daemon's unix socket, and the threads that it needs: tests call and wait.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::wait::note;

/// It connects when first used, and again after a restart of the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    tokio: Arc<Runtime>,
    pub(crate) channel: Channel,
}

impl Connection {
    /// To the daemon that listens on `socket`; `endpoint` may set limits.
    pub(crate) fn new(socket: &Path, limits: impl FnOnce(Endpoint) -> Endpoint) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start tokio")?;
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = {
            let _inside = tokio.enter();
            // The authority that the kubelet sends.
            limits(Endpoint::from_static("http://localhost")).connect_with_connector_lazy(connect)
        };
        Ok(Self { tokio: Arc::new(tokio), channel })
    }

    /// Waits for an answer.
    #[track_caller]
    pub(crate) fn wait<F: Future>(&self, answer: F) -> F::Output {
        let call = std::panic::Location::caller();
        let _note = note(format!("an answer, {}:{}", call.file(), call.line()));
        self.tokio.block_on(answer)
    }
}
