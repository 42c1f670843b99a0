//! Any RPC by its name, with any message: for tests of all of them, and of clients that hang up.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::connection::Connection;

/// A stream that is silent for this long, and has not failed, goes on: nothing more is waited for.
const SILENT: Duration = Duration::from_millis(300);

/// RPCs of the image service; all others are the runtime service's.
const IMAGES: [&str; 6] =
    ["ListImages", "StreamImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"];

/// When the client goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// When it has its answer.
    Enough,
    /// This soon after it asked.
    Only(Duration),
}

/// A client that knows no RPC by its type.
#[derive(Clone, Debug)]
pub struct Raw {
    connection: Connection,
    patience: Patience,
}

impl Raw {
    /// A client of the daemon that listens on `socket`.
    ///
    /// # Errors
    /// If this process is out of threads.
    pub fn new(socket: &Path) -> Result<Self> {
        let connection = Connection::new(socket, |endpoint| endpoint)?;
        Ok(Self { connection, patience: Patience::Enough })
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with(&self, patience: Patience) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Calls an RPC and drops what it answers; `()` is the empty message of every type. A client
    /// that goes away early has no status to tell of: that is success.
    ///
    /// # Errors
    /// With the status that the daemon answered.
    pub fn call<M: Message + 'static>(&self, rpc: &str, message: M) -> Result<(), Status> {
        let asked = self.ask(rpc, message);
        match self.patience {
            Patience::Enough => self.connection.wait(asked),
            Patience::Only(time) => self
                .connection
                .wait(async { tokio::time::timeout(time, asked).await })
                .unwrap_or(Ok(())),
        }
    }

    async fn ask<M: Message + 'static>(&self, rpc: &str, message: M) -> Result<(), Status> {
        let service = if IMAGES.contains(&rpc) { "ImageService" } else { "RuntimeService" };
        let path = PathAndQuery::try_from(format!("/runtime.v1.{service}/{rpc}"))
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut client = tonic::client::Grpc::new(self.connection.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        // One answer is a stream of one; unknown fields are skipped, and () knows none.
        let codec = ProstCodec::<M, ()>::default();
        let mut answers =
            client.server_streaming(Request::new(message), path, codec).await?.into_inner();
        while let Ok(answer) = tokio::time::timeout(SILENT, answers.message()).await {
            if answer?.is_none() {
                break;
            }
        }
        Ok(())
    }
}
