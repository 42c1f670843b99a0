//! What the plugins want of one request, collected in their order. Pure.
//!
//! Each plugin is shown the container as the ones before it left it. Two that set the same field, or
//! the same key of it, are a conflict; a plugin may remove what another set (a key with `-` in
//! front) and then set it anew.

use std::collections::{BTreeMap, BTreeSet};

use super::NriError;
use super::owners::{Claims, Field, Owners};
use super::wire::{
    Container, ContainerAdjustment, ContainerUpdate, CreateContainerResponse, Hooks, KeyValue,
    LinuxContainerAdjustment, LinuxRdt, LinuxResources,
};

mod resources;

#[cfg(test)]
mod tests;

use resources::overlay;

/// The answers to one creation.
#[derive(Debug, Default)]
pub(super) struct Creation {
    /// The container as the next plugin is shown it.
    pub(super) container: Container,
    /// All that plugins changed of it.
    pub(super) adjust: ContainerAdjustment,
    /// What they want of other containers.
    pub(super) updates: Updates,
    /// Who set what.
    pub(super) owners: Owners,
}

impl Creation {
    /// Nobody was asked yet.
    pub(super) fn of(container: Container) -> Self {
        let updates = Updates { creating: Some(container.id.clone()), ..Updates::default() };
        Self { container, updates, ..Self::default() }
    }

    /// Adds one plugin's answer.
    ///
    /// # Errors
    /// A conflict with an earlier plugin, or an update of the container that is being created.
    pub(super) fn add(
        &mut self,
        plugin: &str,
        answer: CreateContainerResponse,
    ) -> Result<(), NriError> {
        if let Some(eviction) = answer.evict.first() {
            return Err(no_eviction(plugin, &eviction.container_id));
        }
        if let Some(adjust) = answer.adjust {
            self.adjust(plugin, adjust)?;
        }
        self.updates.add(&mut self.owners, plugin, answer.update)
    }

    fn adjust(&mut self, plugin: &str, wanted: ContainerAdjustment) -> Result<(), NriError> {
        let id = self.container.id.clone();
        let claims = &mut Claims { owners: &mut self.owners, container: &id, plugin };
        let (shown, all) = (&mut self.container, &mut self.adjust);
        map(
            claims,
            Field::Annotations,
            wanted.annotations,
            &mut shown.annotations,
            &mut all.annotations,
        )?;
        list(
            claims,
            Field::Mounts,
            wanted.mounts,
            |m| &m.destination,
            (&mut shown.mounts, &mut all.mounts),
        )?;
        env(claims, wanted.env, &mut shown.env, &mut all.env)?;
        if let Some((first, rest)) = wanted.args.split_first() {
            let args = match first.as_str() {
                "" => {
                    claims.remove(Field::Args, "");
                    rest
                }
                _ => &wanted.args[..],
            };
            claims.claim(Field::Args, "")?;
            shown.args = args.to_vec();
            all.args = args.to_vec();
        }
        if let Some(wanted) = wanted.hooks {
            claims.share(Field::Hooks);
            add_hooks(shown.hooks.get_or_insert_default(), &wanted);
            add_hooks(all.hooks.get_or_insert_default(), &wanted);
        }
        for limit in wanted.rlimits {
            claims.claim(Field::Rlimits, &limit.r#type)?;
            shown.rlimits.retain(|old| old.r#type != limit.r#type);
            shown.rlimits.push(limit.clone());
            all.rlimits.push(limit);
        }
        for device in wanted.cdi_devices {
            claims.claim(Field::CdiDevices, &device.name)?;
            all.cdi_devices.push(device);
        }
        if let Some(wanted) = wanted.linux {
            let all = all.linux.get_or_insert_default();
            linux(claims, wanted, shown.linux.get_or_insert_default(), all)?;
        }
        Ok(())
    }
}

/// The answers about updating one container, or what plugins want of others on other occasions.
#[derive(Debug, Default)]
pub(super) struct Updates {
    /// The container that is being created; it cannot be updated.
    creating: Option<String>,
    /// One update a container, in the order of the first mention.
    pub(super) all: Vec<ContainerUpdate>,
}

impl Updates {
    /// A request that sets these limits of a container.
    pub(super) fn asked(container: &str, resources: LinuxResources) -> Self {
        Self { creating: None, all: vec![update(container, resources, false)] }
    }

    /// Adds one plugin's wishes.
    ///
    /// # Errors
    /// A conflict with an earlier plugin, or an update of the container that is being created.
    pub(super) fn add(
        &mut self,
        owners: &mut Owners,
        plugin: &str,
        wanted: Vec<ContainerUpdate>,
    ) -> Result<(), NriError> {
        for one in wanted {
            let id = &one.container_id;
            if self.creating.as_ref() == Some(id) {
                let problem = format!("updates container {id}, which is being created");
                return Err(NriError::Nonsense { plugin: plugin.to_owned(), problem });
            }
            let position = self.all.iter().position(|known| known.container_id == *id);
            let mut merged = match position {
                Some(position) => self.all[position].clone(),
                None => update(id, LinuxResources::default(), one.ignore_failure),
            };
            merged.ignore_failure &= one.ignore_failure;
            // Tried on copies: an update whose failure may be ignored leaves nothing behind.
            let mut tried = owners.clone();
            let claims = &mut Claims { owners: &mut tried, container: id, plugin };
            let wanted = one.linux.and_then(|linux| linux.resources).unwrap_or_default();
            let into = merged.linux.get_or_insert_default().resources.get_or_insert_default();
            match overlay(Some(claims), &wanted, into) {
                Ok(()) => *owners = tried,
                Err(_) if one.ignore_failure => continue,
                Err(error) => return Err(error),
            }
            match position {
                Some(position) => self.all[position] = merged,
                None => self.all.push(merged),
            }
        }
        Ok(())
    }
}

fn update(container: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = super::wire::LinuxContainerUpdate { resources: Some(resources) };
    ContainerUpdate { container_id: container.to_owned(), linux: Some(linux), ignore_failure }
}

/// Evictions are in the protocol, but no runtime does them: that is the kubelet's decision.
pub(super) fn no_eviction(plugin: &str, container: &str) -> NriError {
    let problem = format!("asks to evict container {container}, which is not supported");
    NriError::Nonsense { plugin: plugin.to_owned(), problem }
}

fn linux(
    claims: &mut Claims<'_>,
    wanted: LinuxContainerAdjustment,
    shown: &mut super::wire::LinuxContainer,
    all: &mut LinuxContainerAdjustment,
) -> Result<(), NriError> {
    list(
        claims,
        Field::Devices,
        wanted.devices,
        |d| &d.path,
        (&mut shown.devices, &mut all.devices),
    )?;
    if let Some(wanted) = &wanted.resources {
        overlay(Some(claims), wanted, all.resources.get_or_insert_default())?;
        overlay(None, wanted, shown.resources.get_or_insert_default())?;
    }
    if !wanted.cgroups_path.is_empty() {
        claims.claim(Field::CgroupsPath, "")?;
        shown.cgroups_path.clone_from(&wanted.cgroups_path);
        all.cgroups_path = wanted.cgroups_path;
    }
    one(
        claims,
        Field::OomScoreAdj,
        wanted.oom_score_adj,
        &mut shown.oom_score_adj,
        &mut all.oom_score_adj,
    )?;
    one(
        claims,
        Field::IoPriority,
        wanted.io_priority,
        &mut shown.io_priority,
        &mut all.io_priority,
    )?;
    one(
        claims,
        Field::SeccompPolicy,
        wanted.seccomp_policy,
        &mut shown.seccomp_policy,
        &mut all.seccomp_policy,
    )?;
    for namespace in wanted.namespaces {
        let kind = namespace.r#type.strip_prefix('-').unwrap_or(&namespace.r#type).to_owned();
        claims.claim(Field::Namespaces, &kind)?;
        shown.namespaces.retain(|old| old.r#type != kind);
        if kind == namespace.r#type {
            shown.namespaces.push(namespace.clone());
        }
        all.namespaces.push(namespace);
    }
    map(claims, Field::Sysctl, wanted.sysctl, &mut shown.sysctl, &mut all.sysctl)?;
    map(
        claims,
        Field::NetDevices,
        wanted.net_devices,
        &mut shown.net_devices,
        &mut all.net_devices,
    )?;
    one(claims, Field::Scheduler, wanted.scheduler, &mut shown.scheduler, &mut all.scheduler)?;
    if let Some(wanted) = wanted.rdt {
        rdt(claims, wanted, shown.rdt.get_or_insert_default(), all.rdt.get_or_insert_default())?;
    }
    if wanted.memory_policy.is_some() {
        claims.claim(Field::MemoryPolicy, "")?;
        all.memory_policy = wanted.memory_policy;
    }
    Ok(())
}

fn one<T: Clone>(
    claims: &mut Claims<'_>,
    field: Field,
    wanted: Option<T>,
    shown: &mut Option<T>,
    all: &mut Option<T>,
) -> Result<(), NriError> {
    if wanted.is_some() {
        claims.claim(field, "")?;
        shown.clone_from(&wanted);
        *all = wanted;
    }
    Ok(())
}

fn rdt(
    claims: &mut Claims<'_>,
    wanted: LinuxRdt,
    shown: &mut LinuxRdt,
    all: &mut LinuxRdt,
) -> Result<(), NriError> {
    if wanted.remove {
        for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
            claims.remove(field, "");
        }
        *all = LinuxRdt { remove: true, ..LinuxRdt::default() };
        *shown = LinuxRdt::default();
    }
    one(claims, Field::RdtClosId, wanted.clos_id, &mut shown.clos_id, &mut all.clos_id)?;
    one(claims, Field::RdtSchemata, wanted.schemata, &mut shown.schemata, &mut all.schemata)?;
    let monitoring = (&mut shown.enable_monitoring, &mut all.enable_monitoring);
    one(claims, Field::RdtEnableMonitoring, wanted.enable_monitoring, monitoring.0, monitoring.1)?;
    all.remove &=
        all.clos_id.is_none() && all.schemata.is_none() && all.enable_monitoring.is_none();
    Ok(())
}

/// A map whose keys belong to plugins.
fn map<V: Clone>(
    claims: &mut Claims<'_>,
    field: Field,
    wanted: BTreeMap<String, V>,
    shown: &mut BTreeMap<String, V>,
    all: &mut BTreeMap<String, V>,
) -> Result<(), NriError> {
    // `-` sorts before any name, so removals come first.
    let added: BTreeSet<String> =
        wanted.keys().filter(|key| !key.starts_with('-')).cloned().collect();
    for (key, value) in wanted {
        match key.strip_prefix('-') {
            Some(removed) => {
                shown.remove(removed);
                if all.remove(removed).is_some() || added.contains(removed) {
                    claims.remove(field, removed);
                }
                if !added.contains(removed) {
                    all.insert(key, value);
                }
            }
            None => {
                claims.claim(field, &key)?;
                shown.insert(key.clone(), value.clone());
                all.insert(key, value);
            }
        }
    }
    Ok(())
}

/// A list whose items have a key that belongs to plugins.
fn list<T: Clone>(
    claims: &mut Claims<'_>,
    field: Field,
    wanted: Vec<T>,
    key: impl Fn(&T) -> &str,
    (shown, all): (&mut Vec<T>, &mut Vec<T>),
) -> Result<(), NriError> {
    let removed: BTreeSet<String> =
        wanted.iter().filter_map(|item| key(item).strip_prefix('-')).map(str::to_owned).collect();
    let added: BTreeSet<String> =
        wanted.iter().map(&key).filter(|key| !key.starts_with('-')).map(str::to_owned).collect();
    all.retain(|item| {
        let goes = removed.contains(key(item));
        if goes {
            claims.remove(field, key(item));
        }
        !goes
    });
    shown.retain(|item| !removed.contains(key(item)) && !added.contains(key(item)));
    for item in wanted {
        match key(&item).strip_prefix('-') {
            Some(removed) if added.contains(removed) => {}
            Some(_) => all.push(item),
            None => {
                claims.claim(field, key(&item))?;
                shown.push(item.clone());
                all.push(item);
            }
        }
    }
    Ok(())
}

/// Variables are `NAME=value` in a container and pairs in an adjustment.
fn env(
    claims: &mut Claims<'_>,
    wanted: Vec<KeyValue>,
    shown: &mut Vec<String>,
    all: &mut Vec<KeyValue>,
) -> Result<(), NriError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut pairs: Vec<KeyValue> = shown
        .iter()
        .map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            KeyValue { key: key.to_owned(), value: value.to_owned() }
        })
        .collect();
    list(claims, Field::Env, wanted, |pair| &pair.key, (&mut pairs, all))?;
    *shown = pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    Ok(())
}

fn add_hooks(all: &mut Hooks, more: &Hooks) {
    all.prestart.extend_from_slice(&more.prestart);
    all.create_runtime.extend_from_slice(&more.create_runtime);
    all.create_container.extend_from_slice(&more.create_container);
    all.start_container.extend_from_slice(&more.start_container);
    all.poststart.extend_from_slice(&more.poststart);
    all.poststop.extend_from_slice(&more.poststop);
}
