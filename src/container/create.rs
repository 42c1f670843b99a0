//! Creates a container: one screen of named steps.
//!
//! What the request names is looked at first and costs nothing; then the record, then the first
//! resource. The runtime's `create` runs under the monitor, which holds the stdio from then on. A
//! container from a checkpoint has no process before its start.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conmon::Owner;
use oci_spec::runtime::Spec;

use crate::claim::Claim;
use crate::image::{Image, ImagePin};
use crate::nri::Told;
use crate::rootfs::{self, Mapping, RootfsDirs, RootfsOptions};
use crate::steps::{Operation, blocking};
use crate::undo::Undo;

use super::record::{ContainerRecord, ImageUsed};
use super::spec::{ContainerSpec, User};
use super::state::State;
use super::{
    ContainerError, Parts, PodPlace, bundle, cleanup, confine, launch, remove, restore, signal,
    targets, tell, user, volumes,
};

/// A container that exists.
pub struct Made {
    /// All that is known of it.
    pub record: ContainerRecord,
    /// The images it uses.
    pub pins: Vec<ImagePin>,
}

/// Creates the container of `record`; on failure everything is undone, and so it is when another
/// request takes the place of this one.
pub async fn create(
    parts: &Arc<Parts>,
    pod: &PodPlace,
    record: ContainerRecord,
    (claim, told): (&Claim, &Told),
) -> Result<Made, ContainerError> {
    let subject = format!("{}/{}/{}", pod.namespace, pod.name, record.spec.name);
    let operation = parts.operations.begin("create container", subject);
    let mut undo = Undo::default();
    let name = record.spec.name.clone();
    let made = match steps(parts, (pod, claim, told), record, &operation, &mut undo).await {
        Ok(_) if !claim.settle() => Err(ContainerError::Superseded { name }),
        made => made,
    };
    match made {
        Ok(made) => {
            undo.disarm();
            tracing::info!(container = %made.record.id, pod = %pod.id, name = made.record.spec.name, "created");
            Ok(made)
        }
        Err(error) => {
            tracing::debug!(step = operation.current(), "create failed, undoing");
            operation.step("undo");
            undo.run().await;
            Err(error)
        }
    }
}

async fn steps(
    parts: &Arc<Parts>,
    (pod, claim, told): (&PodPlace, &Claim, &Told),
    mut record: ContainerRecord,
    operation: &Operation,
    undo: &mut Undo,
) -> Result<Made, ContainerError> {
    let spec = record.spec.clone();
    operation.step("image");
    let (image, pin) = find_image(parts, &spec)?;
    let mut pins = vec![pin];
    record.image = Some(used(&image));
    record.layers = image.layer_names().collect();
    record.stop_signal = stop_signal(&spec, &image);
    if let Some(checkpoint) = &spec.restored_from {
        restore::check(parts, &record, checkpoint).await?;
    }

    operation.step("mount sources");
    volumes::check_sources(parts, &spec).await?;
    volumes::check_mappings(&spec, pod.user.as_ref()).await?;

    operation.step("apparmor");
    confine::confine(parts, &spec.security).await?;

    operation.step("record");
    undo.push("record and files", {
        let (parts, record) = (parts.clone(), record.clone());
        async move { remove::remove(&parts, &record).await }
    });
    parts.save(&record).await?;

    operation.step("rootfs");
    undo.push("runtime state and mounts", {
        let (parts, record) = (parts.clone(), record.clone());
        async move { cleanup::cleanup(&parts, &record).await }
    });
    blocking({
        let (parts, record, image) = (parts.clone(), record.clone(), image.clone());
        let mapping = pod.user.clone();
        move || mount_rootfs(&parts, &record, &image, mapping)
    })
    .await?;

    operation.step("image volumes");
    let mounted = volumes::mount_images(parts, &record, pod.user.as_ref(), undo).await?;
    record.image_volumes = mounted.volumes;
    record.layers.extend(mounted.pins.iter().flat_map(|pin| pin.image().layer_names()));
    pins.extend(mounted.pins);

    operation.step("user");
    let rootfs = parts.layout.rootfs(&record.id);
    let identity = blocking({
        let (spec, image, rootfs) = (spec.clone(), image.clone(), rootfs.clone());
        move || user::resolve(&rootfs, &spec.security, &image.config.user)
    })
    .await
    .map_err(|source| ContainerError::User { field: user_field(&spec), source })?;

    if let Some(checkpoint) = &spec.restored_from {
        operation.step("restored files");
        restore::prepare(parts, record.id, checkpoint).await?;
    }

    operation.step("bundle");
    record.user = Some(identity.clone());
    let config = blocking({
        let (parts, record, pod) = (parts.clone(), record.clone(), pod.clone());
        move || bundle::build(&parts, &record, &pod, &image, &identity, &mounted.resolved)
    })
    .await?;
    operation.step("plugins");
    let mut config = adjusted(parts, told, &mut record, config, undo).await?;
    blocking({
        let (parts, id, name) = (parts.clone(), record.id, spec.name.clone());
        move || {
            targets::settle(&name, &parts.layout.rootfs(&id), &mut config)?;
            bundle::write(&parts, &id, &config)
        }
    })
    .await?;
    parts.save(&record).await?;

    // The longest step is still to come, and nobody waits for it any more.
    if claim.is_lost() {
        return Err(ContainerError::Superseded { name: spec.name.clone() });
    }
    if spec.restored_from.is_none() {
        operation.step("runtime create");
        let launched = launch::create(parts, &record, owner(pod), operation);
        record.process = Some(launched.await?);
    }
    record.state = State::Created;
    parts.save(&record).await?;
    operation.step("plugins");
    parts.plugins.post_create_container(tell::container(parts, &record)).await;
    Ok(Made { record, pins })
}

/// The configuration as plugins of the node want it.
async fn adjusted(
    parts: &Arc<Parts>,
    told: &Told,
    record: &mut ContainerRecord,
    mut config: Spec,
    undo: &mut Undo,
) -> Result<Spec, ContainerError> {
    undo.push("plugins", {
        let (parts, record, told) = (parts.clone(), record.clone(), told.clone());
        async move {
            parts.plugins.stop_container(&told, tell::container(&parts, &record)).await;
            parts.plugins.remove_container(&told, tell::container(&parts, &record)).await;
            Ok::<(), ContainerError>(())
        }
    });
    let shown = async { tell::message(record, Some(&config)) };
    let asked = parts.plugins.create_container(told, shown).await;
    if let Some(wanted) = asked.map_err(ContainerError::Plugins)? {
        bundle::adjust(parts, record, &mut config, &wanted)?;
    }
    Ok(config)
}

fn find_image(
    parts: &Parts,
    spec: &ContainerSpec,
) -> Result<(Arc<Image>, ImagePin), ContainerError> {
    let reference = &spec.image.reference;
    let failed =
        |source| ContainerError::Image { reference: reference.clone(), source: Box::new(source) };
    let image = parts
        .images
        .find(reference)
        .map_err(failed)?
        .ok_or_else(|| ContainerError::NoImage { reference: reference.clone() })?;
    let pin = parts.images.pin(&image.id).map_err(failed)?;
    Ok((image, pin))
}

fn used(image: &Image) -> ImageUsed {
    let reference = image.repo_digests.first().cloned();
    ImageUsed {
        id: image.id,
        reference: reference.unwrap_or_else(|| format!("sha256:{}", image.id)),
    }
}

/// The signal that asks the container to end: the request's, else the image's, else SIGTERM.
fn stop_signal(spec: &ContainerSpec, image: &Image) -> u8 {
    let asked = spec.stop_signal.as_ref().and_then(|asked| signal::number(&asked.name));
    let of_image = image.config.stop_signal.as_deref().and_then(|name| {
        let number = signal::number(name);
        if number.is_none() {
            tracing::warn!(image = %image.id, signal = name, "the image's stop signal is unknown");
        }
        number
    });
    asked.or(of_image).unwrap_or(signal::TERM)
}

/// Where the user that could not be found comes from.
fn user_field(spec: &ContainerSpec) -> &'static str {
    match spec.security.user {
        Some(User::Name(_)) => "config.linux.security_context.run_as_username",
        Some(User::Id(_)) => "config.linux.security_context.run_as_user",
        None => "USER of the image",
    }
}

/// Makes the bundle's directories and mounts the container's root file system.
fn mount_rootfs(
    parts: &Parts,
    record: &ContainerRecord,
    image: &Image,
    mapping: Option<Mapping>,
) -> Result<(), ContainerError> {
    let layer = parts.layout.writable_layer(&record.id);
    let dirs = RootfsDirs {
        upper: layer.join("upper"),
        work: layer.join("work"),
        target: parts.layout.rootfs(&record.id),
    };
    bundle::directory(&parts.layout.bundle(&record.id), mapping.as_ref())?;
    directory(&layer, 0o700)?;
    let options = RootfsOptions { mapping, ..RootfsOptions::default() };
    rootfs::mount(&image.layers, &dirs, &options)
        .map_err(|source| ContainerError::Rootfs { id: record.id, source })
}

/// Where the log is: below the pod's directory, which the edge has checked.
pub fn log_path(pod: &PodPlace, spec: &ContainerSpec) -> Option<PathBuf> {
    Some(pod.log_directory.as_ref()?.join(spec.log_path.as_ref()?))
}

/// Who owns the standard streams: the root of the pod's user namespace.
fn owner(pod: &PodPlace) -> Option<Owner> {
    pod.user.as_ref().map(|user| {
        let (uid, gid) = user.owner((0, 0));
        Owner { uid, gid }
    })
}

fn directory(path: &Path, mode: u32) -> Result<(), ContainerError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| {
        ContainerError::File { action: "make directory", path: path.to_owned(), source }
    })
}
