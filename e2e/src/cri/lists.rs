//! Lists that come one by one.

use std::future::Future;

use crisol::cri::pb;
use tonic::codec::Streaming;
use tonic::{Response, Status};

use super::{Answer, Cri};

impl Cri {
    /// All pods, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_pods(&self) -> Answer<Vec<pb::PodSandbox>> {
        let mut client = self.pods.clone();
        let request = pb::StreamPodSandboxesRequest::default();
        let messages = self.all(async { client.stream_pod_sandboxes(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.pod_sandboxes).collect())
    }

    /// All containers, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_containers(&self) -> Answer<Vec<pb::Container>> {
        let mut client = self.pods.clone();
        let request = pb::StreamContainersRequest::default();
        let messages = self.all(async { client.stream_containers(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.containers).collect())
    }

    /// All images, one by one.
    ///
    /// # Errors
    /// With the daemon's status.
    pub fn stream_images(&self) -> Answer<Vec<pb::Image>> {
        let mut client = self.images.clone();
        let request = pb::StreamImagesRequest::default();
        let messages = self.all(async { client.stream_images(request).await })?;
        Ok(messages.into_iter().flat_map(|message| message.images).collect())
    }

    /// Every message of a stream that ends by itself.
    pub(super) fn all<T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Answer<Vec<T>> {
        self.connection.wait(async {
            let mut stream = call.await?.into_inner();
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok(messages)
        })
    }
}
