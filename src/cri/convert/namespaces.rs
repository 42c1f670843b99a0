//! Namespaces of pods and containers, and ranges of ids.

use super::{Field, Mistakes};
use crate::container::spec::{IdMapping, NamespaceMode, UserNamespace};
use crate::cri::pb;
use crate::pod::spec::PodSpec;

/// Namespaces as both a pod and a container ask for them.
#[derive(Default)]
pub(super) struct Namespaces {
    pub(super) network: NamespaceMode,
    pub(super) pid: NamespaceMode,
    pub(super) ipc: NamespaceMode,
    pub(super) user: Option<UserNamespace>,
}

/// Whose request it is: only a container can ask for the processes of another one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Pod,
    Container,
}

/// Checks the namespaces. Absent options mean the pod's namespaces.
pub(super) fn namespaces(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    options: Option<pb::NamespaceOption>,
    asker: Asker,
) -> Namespaces {
    let Some(options) = options else { return Namespaces::default() };
    let network = pod_or_node(mistakes, &field.at("network"), options.network);
    let ipc = pod_or_node(mistakes, &field.at("ipc"), options.ipc);
    let pid = pid(mistakes, field, &options, asker);
    let here = field.at("userns_options");
    let user = user(mistakes, &here, options.userns_options);
    if user.is_some() && network == NamespaceMode::Node {
        // Nothing in a user namespace may mount sysfs of a network that is not its own.
        mistakes.add(&here, "is not possible with the node's network");
    }
    Namespaces { network, pid, ipc, user }
}

fn pod_or_node(mistakes: &mut Mistakes, field: &Field<'_>, number: i32) -> NamespaceMode {
    match pb::NamespaceMode::try_from(number) {
        Ok(pb::NamespaceMode::Pod) => NamespaceMode::Pod,
        Ok(pb::NamespaceMode::Node) => NamespaceMode::Node,
        Ok(other) => {
            mistakes.add(field, format_args!("is {}, not POD or NODE", other.as_str_name()));
            NamespaceMode::Pod
        }
        Err(_) => {
            mistakes.add(field, format_args!("{number} is not a namespace mode"));
            NamespaceMode::Pod
        }
    }
}

fn pid(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    options: &pb::NamespaceOption,
    asker: Asker,
) -> NamespaceMode {
    let here = field.at("pid");
    let mode = match pb::NamespaceMode::try_from(options.pid) {
        Ok(pb::NamespaceMode::Pod) => NamespaceMode::Pod,
        Ok(pb::NamespaceMode::Container) => NamespaceMode::Container,
        Ok(pb::NamespaceMode::Node) => NamespaceMode::Node,
        Ok(pb::NamespaceMode::Target) if asker == Asker::Pod => {
            mistakes.add(&here, "is TARGET, which only a container can ask for");
            return NamespaceMode::Pod;
        }
        Ok(pb::NamespaceMode::Target) => {
            if options.target_id.is_empty() {
                mistakes.add(&field.at("target_id"), "is missing, and pid is TARGET");
            } else if crate::ids::IdQuery::parse(&options.target_id).is_err() {
                mistakes.add(&field.at("target_id"), "is not an id");
            }
            return NamespaceMode::Target(options.target_id.clone());
        }
        Err(_) => {
            mistakes.add(&here, format_args!("{} is not a namespace mode", options.pid));
            return NamespaceMode::Pod;
        }
    };
    if !options.target_id.is_empty() {
        mistakes.add(&field.at("target_id"), "is given, but pid is not TARGET");
    }
    mode
}

fn user(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    options: Option<pb::UserNamespace>,
) -> Option<UserNamespace> {
    let options = options?;
    match pb::NamespaceMode::try_from(options.mode) {
        Ok(pb::NamespaceMode::Node) => {
            if !options.uids.is_empty() || !options.gids.is_empty() {
                mistakes.add(field, "has mappings, but the mode is NODE");
            }
            None
        }
        Ok(pb::NamespaceMode::Pod) => {
            let uids = whole_mapping(mistakes, &field.at("uids"), &options.uids);
            let gids = whole_mapping(mistakes, &field.at("gids"), &options.gids);
            if options.uids != options.gids {
                mistakes.add(field, "maps user ids and group ids differently");
            }
            Some(UserNamespace { uids, gids })
        }
        Ok(other) => {
            let name = other.as_str_name();
            mistakes.add(&field.at("mode"), format_args!("is {name}, not POD or NODE"));
            None
        }
        Err(_) => {
            let problem = format_args!("{} is not a namespace mode", options.mode);
            mistakes.add(&field.at("mode"), problem);
            None
        }
    }
}

/// The one range of a pod's user namespace. It begins with root, whom no container can do without.
fn whole_mapping(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    ranges: &[pb::IdMapping],
) -> Vec<IdMapping> {
    match ranges {
        [only] => {
            if only.container_id != 0 {
                mistakes.add(&field.index(0).at("container_id"), "is not 0: root is not mapped");
            }
            if only.host_id == 0 {
                let problem = "is 0: root in the pod would be root of the node";
                mistakes.add(&field.index(0).at("host_id"), problem);
            }
        }
        _ => mistakes.add(field, format_args!("has {} ranges, not one", ranges.len())),
    }
    id_mappings(mistakes, field, ranges)
}

/// Ranges of ids, each of them within the numbers there are.
pub(super) fn id_mappings(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    ranges: &[pb::IdMapping],
) -> Vec<IdMapping> {
    /// The kernel takes no more lines in `/proc/PID/uid_map` (user_namespaces(7)).
    const MAX_RANGES: usize = 340;
    super::text::at_most(mistakes, field, ranges, MAX_RANGES);
    for (n, range) in ranges.iter().enumerate() {
        let fits = |first: u32| first.checked_add(range.length).is_some();
        if range.length == 0 {
            mistakes.add(&field.index(n).at("length"), "is 0");
        } else if !fits(range.host_id) || !fits(range.container_id) {
            mistakes.add(&field.index(n), "goes beyond the last id");
        }
    }
    let ours = |range: &pb::IdMapping| IdMapping {
        host_id: range.host_id,
        container_id: range.container_id,
        length: range.length,
    };
    ranges.iter().take(MAX_RANGES).map(ours).collect()
}

/// Ranges as the wire has them.
pub(super) fn id_mappings_into_pb(ranges: &[IdMapping]) -> Vec<pb::IdMapping> {
    let wire = |range: &IdMapping| pb::IdMapping {
        host_id: range.host_id,
        container_id: range.container_id,
        length: range.length,
    };
    ranges.iter().map(wire).collect()
}

/// The namespaces of a pod, for its status.
pub fn namespace_options(pod: &PodSpec) -> pb::NamespaceOption {
    let number = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => pb::NamespaceMode::Pod.into(),
        NamespaceMode::Container => pb::NamespaceMode::Container.into(),
        NamespaceMode::Node => pb::NamespaceMode::Node.into(),
        NamespaceMode::Target(_) => pb::NamespaceMode::Target.into(),
    };
    let user = |user: &UserNamespace| pb::UserNamespace {
        mode: pb::NamespaceMode::Pod.into(),
        uids: id_mappings_into_pb(&user.uids),
        gids: id_mappings_into_pb(&user.gids),
    };
    pb::NamespaceOption {
        network: number(&pod.network),
        pid: number(&pod.pid),
        ipc: number(&pod.ipc),
        target_id: String::new(),
        userns_options: pod.user_namespace.as_ref().map(user),
    }
}
