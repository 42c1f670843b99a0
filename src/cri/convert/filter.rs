//! Filters of the list requests.
//!
//! All conditions of a filter must hold; an empty filter matches everything. A filter for what
//! does not exist, such as a state of a newer interface, matches nothing and is no error.

use std::collections::BTreeMap;

use super::{Field, Invalid, Mistakes, shown};
use crate::cri::pb;
use crate::ids::{ContainerId, IdQuery, PodId};

/// A condition on one property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want<T> {
    Any,
    Exactly(T),
    /// A value that nothing has.
    Nothing,
}

impl<T: PartialEq> Want<T> {
    fn accepts(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => wanted == value,
            Self::Nothing => false,
        }
    }
}

/// Which pods.
#[derive(Clone, Debug)]
pub struct PodFilter {
    id: Option<IdQuery>,
    state: Want<pb::PodSandboxState>,
    labels: BTreeMap<String, String>,
}

impl PodFilter {
    /// From ListPodSandbox and StreamPodSandboxes.
    pub fn from_pb(filter: Option<pb::PodSandboxFilter>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        let state = match filter.state.map(|wanted| wanted.state) {
            None => Want::Any,
            Some(number) => {
                pb::PodSandboxState::try_from(number).map_or(Want::Nothing, Want::Exactly)
            }
        };
        let id = Ids::check(&filter.id, "")?.0;
        Ok(Self { id, state, labels: filter.label_selector })
    }

    /// From ListPodSandboxStats and StreamPodSandboxStats.
    pub fn from_stats_pb(filter: Option<pb::PodSandboxStatsFilter>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        let id = Ids::check(&filter.id, "")?.0;
        Ok(Self { id, state: Want::Any, labels: filter.label_selector })
    }

    /// Whether a pod fulfils all conditions.
    pub fn matches(
        &self,
        id: &PodId,
        state: pb::PodSandboxState,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        self.state.accepts(&state) && begins(id, self.id.as_ref()) && has(labels, &self.labels)
    }
}

/// Which containers.
#[derive(Clone, Debug)]
pub struct ContainerFilter {
    id: Option<IdQuery>,
    pod: Option<IdQuery>,
    state: Want<pb::ContainerState>,
    labels: BTreeMap<String, String>,
}

impl ContainerFilter {
    /// From ListContainers and StreamContainers.
    pub fn from_pb(filter: Option<pb::ContainerFilter>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        let state = match filter.state.map(|wanted| wanted.state) {
            None => Want::Any,
            Some(number) => {
                pb::ContainerState::try_from(number).map_or(Want::Nothing, Want::Exactly)
            }
        };
        let Ids(id, pod) = Ids::check(&filter.id, &filter.pod_sandbox_id)?;
        Ok(Self { id, pod, state, labels: filter.label_selector })
    }

    /// From ListContainerStats and StreamContainerStats.
    pub fn from_stats_pb(filter: Option<pb::ContainerStatsFilter>) -> Result<Self, Invalid> {
        let filter = filter.unwrap_or_default();
        let Ids(id, pod) = Ids::check(&filter.id, &filter.pod_sandbox_id)?;
        Ok(Self { id, pod, state: Want::Any, labels: filter.label_selector })
    }

    /// Whether a container fulfils all conditions.
    pub fn matches(
        &self,
        id: &ContainerId,
        pod: &PodId,
        state: pb::ContainerState,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        self.state.accepts(&state)
            && begins(id, self.id.as_ref())
            && begins(pod, self.pod.as_ref())
            && has(labels, &self.labels)
    }
}

/// The ids of a filter; an empty text is no condition.
struct Ids(Option<IdQuery>, Option<IdQuery>);

impl Ids {
    fn check(id: &str, pod: &str) -> Result<Self, Invalid> {
        let mut mistakes = Mistakes::default();
        let field = Field::root("filter");
        let mut parse = |name, text: &str| match IdQuery::parse(text) {
            _ if text.is_empty() => None,
            Ok(query) => Some(query),
            Err(_) => {
                mistakes.add(&field.at(name), format_args!("{} is not an id", shown(text)));
                None
            }
        };
        let ids = Self(parse("id", id), parse("pod_sandbox_id", pod));
        mistakes.finish(ids)
    }
}

fn begins(id: &impl ToString, query: Option<&IdQuery>) -> bool {
    query.is_none_or(|query| id.to_string().starts_with(query.as_str()))
}

fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::pb::ContainerState::{ContainerExited, ContainerRunning};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_empty_filter_matches_everything() {
        let (id, pod) = (ContainerId::random(), PodId::random());
        for filter in [None, Some(pb::ContainerFilter::default())] {
            let filter = ContainerFilter::from_pb(filter).unwrap();
            assert!(filter.matches(&id, &pod, ContainerExited, &map(&[])));
        }
        let filter = PodFilter::from_stats_pb(None).unwrap();
        assert!(filter.matches(&pod, pb::PodSandboxState::SandboxNotready, &map(&[("a", "b")])));
    }

    #[test]
    fn all_conditions_must_hold() {
        let (id, pod) = (ContainerId::random(), PodId::random());
        let filter = pb::ContainerFilter {
            id: id.short(),
            state: Some(pb::ContainerStateValue { state: ContainerRunning.into() }),
            pod_sandbox_id: pod.to_string(),
            label_selector: map(&[("a", "1")]),
        };
        let filter = ContainerFilter::from_pb(Some(filter)).unwrap();
        let labels = map(&[("a", "1"), ("b", "2")]);
        assert!(filter.matches(&id, &pod, ContainerRunning, &labels));
        assert!(!filter.matches(&ContainerId::random(), &pod, ContainerRunning, &labels));
        assert!(!filter.matches(&id, &PodId::random(), ContainerRunning, &labels));
        assert!(!filter.matches(&id, &pod, ContainerExited, &labels));
        assert!(!filter.matches(&id, &pod, ContainerRunning, &map(&[("a", "2")])));
    }

    #[test]
    fn an_unknown_state_matches_nothing_and_a_malformed_id_is_refused() {
        let state = Some(pb::PodSandboxStateValue { state: 9 });
        let filter = pb::PodSandboxFilter { state, ..pb::PodSandboxFilter::default() };
        let filter = PodFilter::from_pb(Some(filter)).unwrap();
        let (pod, ready) = (PodId::random(), pb::PodSandboxState::SandboxReady);
        assert!(!filter.matches(&pod, ready, &map(&[])));

        for bad in ["../x", "-f", "a b"] {
            let filter =
                pb::PodSandboxFilter { id: bad.to_owned(), ..pb::PodSandboxFilter::default() };
            assert!(PodFilter::from_pb(Some(filter)).is_err(), "{bad}");
        }
        let foreign = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".to_owned();
        let filter = pb::PodSandboxFilter { id: foreign, ..pb::PodSandboxFilter::default() };
        assert!(!PodFilter::from_pb(Some(filter)).unwrap().matches(&pod, ready, &map(&[])));
    }
}
