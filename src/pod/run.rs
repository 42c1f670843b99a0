//! Runs a pod: one screen of named steps.
//!
//! The record comes before the first resource; each resource is pushed for undoing as it is taken.
//! CNI's ADD is pushed before it is called, because a plugin may fail half-way.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use crate::claim::Claim;
use crate::container::spec::{IdMapping, NamespaceMode};
use crate::error::{Classify, Kind};
use crate::network::{Attachment, Bandwidth, hostname as hostname_file, resolv_conf};
use crate::nri::Told;
use crate::rootfs::mapping;
use crate::steps::{Operation, blocking};
use crate::sys::namespaces::{self, Namespace, PinRequest};
use crate::sys::sysctl;
use crate::sys::tmpfs::{self, Tmpfs};
use crate::sys::user_namespace::Mappings;
use crate::undo::Undo;

use super::record::PodRecord;
use super::spec::PodSpec;
use super::state::State;
use super::{Parts, PodError, detach, etc, pause, remove, tell};

/// Size of a pod's /dev/shm, as every container engine has it.
const SHM_BYTES: u64 = 64 << 20;

/// Longest host name the kernel takes (sethostname(2), `HOST_NAME_MAX`).
const HOSTNAME_MAX: usize = 64;

/// Makes the pod of `record`; on failure everything is undone, and so it is when another request
/// takes the place of this one.
pub async fn run(
    parts: &Arc<Parts>,
    record: PodRecord,
    (claim, told): (&Claim, &Told),
) -> Result<PodRecord, PodError> {
    let key = &record.spec.key;
    let operation = parts.operations.begin("run pod", format!("{}/{}", key.namespace, key.name));
    let own_network = record.spec.network != NamespaceMode::Node;
    if own_network && let Err(why) = parts.networks.readiness() {
        return Err(PodError::NoNetwork { reason: format!("{}: {}", why.reason, why.message) });
    }
    let mut undo = Undo::default();
    let made = match steps(parts, record, &operation, &mut undo, (claim, told)).await {
        Ok(_) if !claim.settle() => Err(PodError::Superseded),
        made => made,
    };
    match made {
        Ok(record) => {
            undo.disarm();
            tracing::info!(
                pod = %record.id, namespace = record.spec.key.namespace, name = record.spec.key.name,
                "running"
            );
            Ok(record)
        }
        Err(error) => {
            tracing::debug!(step = operation.current(), "run pod failed, undoing");
            operation.step("undo");
            undo.run().await;
            Err(error)
        }
    }
}

async fn steps(
    parts: &Arc<Parts>,
    mut record: PodRecord,
    operation: &Operation,
    undo: &mut Undo,
    (claim, told): (&Claim, &Told),
) -> Result<PodRecord, PodError> {
    let id = record.id;

    operation.step("record");
    undo.push("record", {
        let parts = parts.clone();
        async move { blocking(move || parts.records.delete(&id)).await }
    });
    parts.save(&record).await?;

    operation.step("files");
    undo.push("files", {
        let parts = parts.clone();
        async move { blocking(move || remove::files(&parts.layout, &id)).await }
    });
    blocking({
        let (parts, record) = (parts.clone(), record.clone());
        move || files(&parts, &record)
    })
    .await?;

    operation.step("namespaces");
    blocking({
        let (parts, record) = (parts.clone(), record.clone());
        move || pin_namespaces(&parts, &record)
    })
    .await?;

    if record.spec.pid == NamespaceMode::Pod {
        operation.step("pause");
        undo.push("pause", {
            let (parts, record) = (parts.clone(), record.clone());
            async move { pause::kill(&parts, &record).await }
        });
        record.pause = Some(pause::start(parts, &record).await?);
        parts.save(&record).await?;
    }

    if record.spec.network != NamespaceMode::Node {
        operation.step("cni add");
        let attachment = attachment(parts, &record)?;
        undo.push("cni del", {
            let parts = parts.clone();
            async move {
                detach::detach(&parts, id).await;
                Ok::<(), PodError>(())
            }
        });
        let added = parts.networks.add(&attachment).await;
        record.addresses = added.map_err(|source| PodError::Network { id, source })?.ips;
        if !sysctls(&record.spec, OfInterface::Yes).is_empty() {
            operation.step("interface sysctls");
            blocking({
                let (parts, record) = (parts.clone(), record.clone());
                move || set_interface_sysctls(&parts, &record)
            })
            .await?;
        }
    }

    // What is still to come asks others, and nobody waits for it any more.
    if claim.is_lost() {
        return Err(PodError::Superseded);
    }
    operation.step("plugins");
    undo.push("plugins", {
        let (parts, record, told) = (parts.clone(), record.clone(), told.clone());
        async move {
            parts.plugins.stop_pod(&told, || tell::pod(&record)).await;
            parts.plugins.remove_pod(&told, || tell::pod(&record)).await;
            Ok::<(), PodError>(())
        }
    });
    parts.plugins.run_pod(told, || tell::pod(&record)).await.map_err(PodError::Plugins)?;

    operation.step("ready");
    record.state = State::Ready;
    parts.save(&record).await?;
    Ok(record)
}

/// The pod's directories and the files its containers see.
fn files(parts: &Parts, record: &PodRecord) -> Result<(), PodError> {
    let (layout, spec, id) = (&parts.layout, &record.spec, &record.id);
    let make = |path: &Path, mode| directory(path, mode);
    make(&layout.pod(id), 0o700)?;
    if let Some(logs) = &spec.log_directory {
        make(logs, 0o755)?;
    }
    let resolv = match &spec.dns {
        Some(dns) => resolv_conf::render(dns).into_bytes(),
        None => resolv_conf::node_copy().map_err(|source| PodError::File {
            action: "read",
            path: "/etc/resolv.conf".into(),
            source,
        })?,
    };
    let owner = owner(spec);
    let hostname = hostname_file::render(&record.hostname);
    let contents = etc::Contents { resolv_conf: &resolv, hostname: hostname.as_bytes() };
    etc::make(layout, id, &contents, owner)?;
    if spec.ipc != NamespaceMode::Node {
        let shm = layout.pod_shm(id);
        make(&shm, 0o755)?;
        // Writable for all in the pod.
        let options = Tmpfs { bytes: SHM_BYTES, inodes: None, mode: 0o1777, owner };
        tmpfs::mount(&shm, "shm", &options).map_err(|source| PodError::File {
            action: "mount tmpfs on",
            path: shm,
            source,
        })?;
    }
    Ok(())
}

/// Who owns what the pod's containers share: the root of their user namespace.
fn owner(spec: &PodSpec) -> (u32, u32) {
    let root = |ranges: &[IdMapping]| mapping::on_node(ranges, 0);
    spec.user_namespace.as_ref().map_or((0, 0), |ids| (root(&ids.uids), root(&ids.gids)))
}

fn pin_namespaces(parts: &Parts, record: &PodRecord) -> Result<(), PodError> {
    let spec = &record.spec;
    let mut own = Vec::new();
    // With the node's network the node's name is the right one, too.
    let network = spec.network != NamespaceMode::Node;
    if network {
        own.extend([Namespace::Network, Namespace::Uts]);
    }
    if spec.ipc != NamespaceMode::Node {
        own.push(Namespace::Ipc);
    }
    let ids = spec.user_namespace.as_ref();
    let ids = ids.map(|ids| [&ids.uids, &ids.gids].map(|ranges| mapping::kernel_ranges(ranges)));
    let request = PinRequest {
        user: ids.as_ref().map(|[uids, gids]| Mappings { uids, gids }),
        namespaces: &own,
        hostname: network.then_some(record.hostname.as_str()),
        sysctls: &sysctls(spec, OfInterface::No),
    };
    namespaces::pin(&parts.layout.pod_namespaces(&record.id), &request).map_err(|source| {
        match source.kind() {
            Kind::Invalid => PodError::Sysctl(source),
            _ => PodError::Namespaces { id: record.id, source },
        }
    })
}

/// Kernel parameters of an interface exist when the interface does: after CNI's ADD.
fn set_interface_sysctls(parts: &Parts, record: &PodRecord) -> Result<(), PodError> {
    let of_interface = sysctls(&record.spec, OfInterface::Yes);
    namespaces::write_sysctls(&parts.layout.pod_namespaces(&record.id), &of_interface)
        .map_err(PodError::Sysctl)
}

#[derive(PartialEq, Eq)]
enum OfInterface {
    Yes,
    No,
}

fn sysctls(spec: &PodSpec, which: OfInterface) -> BTreeMap<String, String> {
    let wanted = which == OfInterface::Yes;
    let all = spec.sysctls.iter().filter(|(key, _)| sysctl::is_of_interface(key) == wanted);
    all.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What CNI is told of the pod.
fn attachment(parts: &Parts, record: &PodRecord) -> Result<Attachment, PodError> {
    let spec = &record.spec;
    let bandwidth = Bandwidth::from_annotations(&spec.annotations).map_err(|error| {
        let (field, problem) = ("config.annotations".to_owned(), crate::error::chain(&error));
        PodError::Request { field, problem }
    })?;
    Ok(Attachment {
        pod: record.id.to_string(),
        netns: parts.layout.pod_namespaces(&record.id).join("net"),
        namespace: spec.key.namespace.clone(),
        name: spec.key.name.clone(),
        uid: spec.key.uid.clone(),
        port_mappings: spec.port_mappings.clone(),
        bandwidth,
        dns: spec.dns.clone(),
    })
}

/// The host name inside a pod: as asked, else the node's with the node's network, else the pod's
/// name as far as the kernel takes it.
pub fn hostname(spec: &PodSpec) -> String {
    if let Some(asked) = &spec.hostname
        && spec.network != NamespaceMode::Node
    {
        return asked.clone();
    }
    if spec.network == NamespaceMode::Node {
        let node = rustix::system::uname();
        return node.nodename().to_string_lossy().into_owned();
    }
    let end = spec.key.name.floor_char_boundary(HOSTNAME_MAX - 1);
    spec.key.name[..end].trim_end_matches(['-', '.']).to_owned()
}

fn directory(path: &Path, mode: u32) -> Result<(), PodError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| PodError::File {
        action: "make directory",
        path: path.to_owned(),
        source,
    })
}
