//! What a container's mounts come from: paths of the host, looked at without trusting them to
//! answer, and images mounted read-only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::mounts;
use crate::ids::ContainerId;
use crate::image::ImagePin;
use crate::rootfs::{self, Mapping, mapping};
use crate::steps::blocking;
use crate::sys::{foreign, real_path};
use crate::undo::Undo;

use super::record::{ContainerRecord, ImageVolume};
use super::spec::{ContainerSpec, ImageRequest, MountSource, Propagation};
use super::{ContainerError, Parts};

/// Image volumes, mounted.
#[derive(Default)]
pub struct Mounted {
    /// For the record.
    pub volumes: Vec<ImageVolume>,
    /// So that they stay.
    pub pins: Vec<ImagePin>,
    /// One per mount of the request: the host path of an image volume's content.
    pub resolved: Vec<Option<PathBuf>>,
}

/// Checks that every host path exists and is none of ours.
///
/// A path on a file system that does not answer fails after a deadline; the thread that asks is
/// given up, not waited for.
pub async fn check_sources(parts: &Parts, spec: &ContainerSpec) -> Result<(), ContainerError> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        let MountSource::Host(path) = &mount.source else { continue };
        let refuse = |problem: String| ContainerError::Request {
            field: format!("config.mounts[{index}].host_path"),
            problem: format!("{}: {problem}", path.display()),
        };
        let real = foreign::canonicalize(path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("does not exist".to_owned()),
            io::ErrorKind::TimedOut => {
                ContainerError::File { action: "look at", path: path.clone(), source: error }
            }
            _ => refuse(error.to_string()),
        })?;
        if is_ours(parts, &real) {
            return Err(refuse("belongs to the container runtime".to_owned()));
        }
        if let Some(needed) = cannot_travel(mount.propagation, &real) {
            return Err(ContainerError::Propagation { index, path: path.clone(), needed });
        }
    }
    Ok(())
}

/// What the node's mount under `path` would have to be for a propagation, if it is not. A mount
/// that the kernel does not list is the runtime's to complain about.
fn cannot_travel(propagation: Propagation, path: &Path) -> Option<&'static str> {
    if propagation == Propagation::Private {
        return None;
    }
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let peers = mounts::peers(&table, path)?;
    match propagation {
        Propagation::HostToContainer if !peers.shared && !peers.slave => Some("shared or a slave"),
        Propagation::Bidirectional if !peers.shared => Some("shared"),
        _ => None,
    }
}

/// Tries whether each volume that asks for the ids of the pod can have them. One that cannot is an
/// error: its files are never chowned, and never shown with the wrong owners.
pub async fn check_mappings(
    spec: &ContainerSpec,
    user: Option<&Mapping>,
) -> Result<(), ContainerError> {
    let Some(user) = user else { return Ok(()) };
    for (index, mount) in spec.mounts.iter().enumerate() {
        let MountSource::Host(path) = &mount.source else { continue };
        if mount.uid_mappings.is_empty() {
            continue;
        }
        let (volume, namespace) = (path.clone(), user.namespace.clone());
        let tried = foreign::ask(move || mapping::try_volume(&volume, &namespace)).await;
        tried.map_err(|source| ContainerError::Unmappable {
            field: format!("config.mounts[{index}].uidMappings"),
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Whether a path is what a container must not see: our directories themselves and what we keep in
/// them. Other things below them (a test set-up keeps its logs there) are no secret.
fn is_ours(parts: &Parts, path: &Path) -> bool {
    let layout = &parts.layout;
    let kept = [
        layout.images(),
        layout.writable_layers(),
        layout.pod_records(),
        layout.container_records(),
        layout.pods(),
        layout.bundles(),
    ];
    [layout.root(), layout.state()].contains(&path) || kept.iter().any(|dir| path.starts_with(dir))
}

/// Where the image volumes of a container are mounted, each under its number.
fn volumes(parts: &Parts, id: &ContainerId) -> PathBuf {
    parts.layout.bundle(id).join("volumes")
}

/// All that may be mounted for a container: its image volumes, as the directories tell, and its
/// root file system. Blocks.
pub fn targets(parts: &Parts, id: &ContainerId) -> Result<Vec<PathBuf>, ContainerError> {
    let dir = volumes(parts, id);
    let mut targets = vec![parts.layout.rootfs(id)];
    let failed = |source| ContainerError::File { action: "list", path: dir.clone(), source };
    match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        volumes => {
            for volume in volumes.map_err(failed)? {
                targets.push(volume.map_err(failed)?.path());
            }
        }
    }
    Ok(targets)
}

/// Mounts the image volumes of a container read-only below its bundle.
pub async fn mount_images(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    user: Option<&Mapping>,
    undo: &mut Undo,
) -> Result<Mounted, ContainerError> {
    let mut mounted = Mounted::default();
    for (index, mount) in record.spec.mounts.iter().enumerate() {
        let MountSource::Image { image, sub_path } = &mount.source else {
            mounted.resolved.push(None);
            continue;
        };
        let target = volumes(parts, &record.id).join(index.to_string());
        undo.push("image volume", {
            let target = target.clone();
            async move { blocking(move || rootfs::unmount(&target)).await }
        });
        let (volume, pin) = mount_image(parts, image, target.clone(), user.cloned()).await?;
        let content = content(image, &target, sub_path).await?;
        mounted.volumes.push(volume);
        mounted.pins.push(pin);
        mounted.resolved.push(Some(content));
    }
    Ok(mounted)
}

async fn mount_image(
    parts: &Arc<Parts>,
    request: &ImageRequest,
    target: PathBuf,
    user: Option<Mapping>,
) -> Result<(ImageVolume, ImagePin), ContainerError> {
    let reference = &request.reference;
    let failed =
        |problem: String| ContainerError::ImageVolume { reference: reference.clone(), problem };
    let chained = |error: &(dyn std::error::Error + 'static)| failed(crate::error::chain(error));
    let image = parts.images.find(reference).map_err(|error| chained(&error))?;
    let image = image.ok_or_else(|| failed("is not here".to_owned()))?;
    let pin = parts.images.pin(&image.id).map_err(|error| chained(&error))?;
    let volume = ImageVolume { id: image.id, target: target.clone() };
    blocking(move || rootfs::mount_readonly(&image.layers, &target, user.as_ref()))
        .await
        .map_err(|error| chained(&error))?;
    Ok((volume, pin))
}

/// The real path of `sub_path` inside the mounted image, which no symbolic link leaves.
async fn content(
    request: &ImageRequest,
    target: &Path,
    sub_path: &Path,
) -> Result<PathBuf, ContainerError> {
    if sub_path.as_os_str().is_empty() {
        return Ok(target.to_owned());
    }
    let (root, inside) = (target.to_owned(), sub_path.to_owned());
    blocking(move || real_path::inside(&root, &inside)).await.map_err(|error| {
        ContainerError::ImageVolume {
            reference: request.reference.clone(),
            problem: format!("has no {}: {error}", sub_path.display()),
        }
    })
}
