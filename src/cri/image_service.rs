//! `ImageService`: one method per RPC, convert, call, convert.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Request, Status};

use crate::image::{Image, ImageError, Images, PullRequest};
use crate::stats::WritableLayers;

use super::answer::{Replies, Reply, answer, each, list};
use super::convert::{self, view};
use super::pb;
use super::pb::image_service_server::ImageService;
use super::status::status;

/// The service.
pub struct ImageStore {
    images: Images,
    layers: WritableLayers,
}

impl ImageStore {
    /// A service for this store, and for the file system of containers' writable layers.
    pub fn new(images: Images, layers: WritableLayers) -> Self {
        Self { images, layers }
    }

    fn images_that_match(
        &self,
        filter: Option<pb::ImageFilter>,
    ) -> Result<Vec<Arc<Image>>, Status> {
        match convert::image::image_filter(filter).map_err(|error| status(&error))? {
            None => Ok(self.images.list()),
            // A name that is not here is an empty list (CRI `ImageFilter`).
            Some(reference) => {
                let found = self.images.find(&reference).map_err(|error| status(&error))?;
                Ok(found.into_iter().collect())
            }
        }
    }
}

fn reference(image: Option<pb::ImageSpec>) -> Result<String, Status> {
    let request = convert::image::image_request("image", image).map_err(|error| status(&error))?;
    Ok(request.reference)
}

#[tonic::async_trait]
impl ImageService for ImageStore {
    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Reply<pb::ListImagesResponse> {
        let images = self.images_that_match(request.into_inner().filter)?;
        let images = images.iter().map(|image| view::image(image)).collect();
        list(pb::ListImagesResponse { images }, "StreamImages")
    }

    type StreamImagesStream = Replies<pb::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<pb::StreamImagesRequest>,
    ) -> Reply<Self::StreamImagesStream> {
        let images = self.images_that_match(request.into_inner().filter)?;
        each(
            images
                .iter()
                .map(|image| pb::StreamImagesResponse { images: vec![view::image(image)] }),
        )
    }

    async fn image_status(
        &self,
        request: Request<pb::ImageStatusRequest>,
    ) -> Reply<pb::ImageStatusResponse> {
        let request = request.into_inner();
        let found = self.images.find(&reference(request.image)?).map_err(|e| status(&e))?;
        // An absent image is no error (CRI `ImageStatus`).
        let info = found.as_ref().filter(|_| request.verbose).map(|image| view::image_info(image));
        answer(pb::ImageStatusResponse {
            image: found.map(|image| view::image(&image)),
            info: info.unwrap_or_default(),
        })
    }

    async fn pull_image(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Reply<pb::PullImageResponse> {
        let request = request.into_inner();
        let reference = reference(request.image)?;
        let credentials = convert::image::credentials(request.auth).map_err(|e| status(&e))?;
        let pulled = self.images.pull(PullRequest { reference, credentials }).await;
        let image = pulled.map_err(|error| status(&error))?;
        answer(pb::PullImageResponse { image_ref: format!("sha256:{}", image.id) })
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Reply<pb::RemoveImageResponse> {
        let reference = reference(request.into_inner().image)?;
        let images = self.images.clone();
        let removal = async move { images.remove(&reference).await };
        match crate::steps::spawn("remove image", removal).await {
            Ok(Some(removed)) => removed.map_err(|error| status(&error))?,
            _ => return Err(status(&ImageError::Panicked)),
        }
        answer(pb::RemoveImageResponse {})
    }

    async fn image_fs_info(
        &self,
        _: Request<pb::ImageFsInfoRequest>,
    ) -> Reply<pb::ImageFsInfoResponse> {
        let images = self.images.usage();
        let layers = self.layers.usage();
        let usage = |mountpoint: &std::path::Path, bytes, inodes, at: SystemTime| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            pb::FilesystemUsage {
                timestamp: i64::try_from(at).unwrap_or(i64::MAX),
                fs_id: Some(pb::FilesystemIdentifier {
                    mountpoint: mountpoint.display().to_string(),
                }),
                used_bytes: Some(pb::UInt64Value { value: bytes }),
                inodes_used: Some(pb::UInt64Value { value: inodes }),
            }
        };
        answer(pb::ImageFsInfoResponse {
            image_filesystems: vec![usage(
                &images.mountpoint,
                images.used_bytes,
                images.inodes_used,
                images.at,
            )],
            container_filesystems: vec![usage(
                &layers.mountpoint,
                layers.used_bytes,
                layers.inodes_used,
                layers.at,
            )],
        })
    }
}
