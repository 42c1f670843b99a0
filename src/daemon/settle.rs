//! When the image store may clear away what nobody needs.

use crate::container::Containers;
use crate::error::chain;
use crate::image::Images;
use crate::steps::blocking;

/// Has the image store read again what it could not read, and lets it clear away what nobody needs once
/// every container has said what it uses. Called at the start and now and then.
pub(super) async fn images(containers: &Containers, images: &Images) {
    let (containers, images) = (containers.clone(), images.clone());
    blocking(move || {
        images.look_again();
        match containers.are_all_known() {
            Ok(true) => {
                if let Err(error) = images.settle() {
                    tracing::warn!(error = chain(&error), "clear the image store");
                }
            }
            Ok(false) => {
                tracing::warn!("not every container is found: the image store is not cleared");
            }
            Err(error) => tracing::warn!(%error, "look for all containers"),
        }
    })
    .await;
}
