//! Pods whose record is not there, or not to be used: as with containers, only what certainly has no
//! record is ended, and everything else is left as it is and told of.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::chain;
use crate::identity;
use crate::ids::PodId;
use crate::pod::{Parts, PodError, PodRecord, Pods, detach, pause, remove};
use crate::record::{Found, RecordError, Trouble, Troubles};
use crate::steps::blocking;

/// What a record is of, in words.
const WHAT: &str = "pod";

impl Pods {
    /// What is wrong with records of pods now.
    pub fn troubles(&self) -> Troubles {
        self.parts.records.troubles().clone()
    }

    /// Has owners write records again that went or were damaged under them.
    pub(super) fn have_lost_records_written(&self, found: &Found<PodRecord>) {
        for handle in self.registry.list() {
            let is_whole = found.records.iter().any(|record| record.id == handle.id);
            if !is_whole && !found.is_unknown(&handle.id) {
                handle.rewrite.notify_one();
            }
        }
    }

    /// Sets damaged records aside, and gives all that cannot be used, of pods that nobody owns.
    pub(super) async fn set_unusable_records_aside(&self, found: Found<PodRecord>) -> Vec<Trouble> {
        let owned = |id: &String| self.registry.get(id).is_some();
        let (failed, aside) = (found.failed.into_iter(), found.aside.into_iter());
        let failed: Vec<_> = failed.filter(|(id, _)| !owned(id)).collect();
        let mut aside: Vec<_> = aside.filter(|id| !owned(id)).collect();
        let parts = self.parts.clone();
        blocking(move || {
            let mut troubles = Vec::new();
            for (id, error) in failed {
                if matches!(error, RecordError::Damaged { .. }) {
                    tracing::error!(error = %chain(&error), "a pod's record is set aside");
                    match parts.records.set_aside(&id) {
                        Ok(()) => {
                            aside.push(id);
                            continue;
                        }
                        Err(error) => tracing::error!(error = %chain(&error), "it stays"),
                    }
                }
                troubles.extend(Trouble::of(WHAT, &error));
            }
            aside.retain(|id| {
                id.parse().is_ok_and(|id| !matches!(is_there(&parts, &id), Ok(false)))
            });
            troubles.extend(aside.iter().map(|id| Trouble::aside(WHAT, parts.records.aside(id))));
            troubles
        })
        .await
    }

    /// Ends what has a run-time directory and certainly no record, with what is pinned in it. Gives
    /// what must not be ended all the same.
    pub(super) async fn end_orphans(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let parts = self.parts.clone();
        let ids = match blocking(move || ids(&parts)).await {
            Ok(ids) => ids,
            Err(error) => {
                tracing::error!(%error, "list the files of pods");
                return troubles;
            }
        };
        let mut left = 0;
        for id in ids {
            if self.registry.get(&id).is_some() {
                continue;
            }
            let found = match self.judge(id).await {
                Ok(Remains::Recorded) => Ok(()),
                Ok(Remains::WithContainers) => {
                    let problem = "there is no record of a pod that has containers".to_owned();
                    let path = self.parts.layout.pod(&id);
                    troubles.push(Trouble::unrecorded(WHAT, path, problem));
                    Ok(())
                }
                Ok(Remains::Orphan) => {
                    end_orphan(&self.parts, id).await.map_err(|error| chain(&error))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = found {
                tracing::error!(pod = %id, error, "files without an owner are left for now");
                left += 1;
            }
        }
        self.parts.metrics.set_leaks(WHAT, left);
        troubles
    }

    /// What the files of a pod without an owner are.
    async fn judge(&self, id: PodId) -> Result<Remains, String> {
        let parts = self.parts.clone();
        let is_orphan = blocking(move || {
            // RACE: it may have been removed since the listing; then its files are gone as well.
            Ok::<_, String>(is_unrecorded(&parts, &id)? && is_there(&parts, &id)?)
        });
        if !is_orphan.await? {
            return Ok(Remains::Recorded);
        }
        // Containers go before their pod does, so it was never removed.
        match self.containers().has_any_of(id).await {
            Ok(true) => Ok(Remains::WithContainers),
            Ok(false) => Ok(Remains::Orphan),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Whether a network of this pod belongs to nobody: the pod has neither an owner nor containers,
    /// and certainly no record, or no namespaces (a reboot ended it).
    ///
    /// # Errors
    /// If that cannot be told.
    pub(in crate::pod) async fn has_no_owner(&self, id: PodId) -> Result<bool, String> {
        if self.registry.get(&id).is_some()
            || self.containers().has_any_of(id).await.map_err(|error| chain(&error))?
        {
            return Ok(false);
        }
        let parts = self.parts.clone();
        blocking(move || {
            Ok(is_unrecorded(&parts, &id)? || is_of_this_root(&parts)? && !is_there(&parts, &id)?)
        })
        .await
    }
}

/// What files of a pod that nobody owns are.
enum Remains {
    /// There is a record, or they went meanwhile.
    Recorded,
    /// There is none, but there are containers.
    WithContainers,
    /// Nobody's.
    Orphan,
}

/// The ids of all that has files. Blocks.
fn ids(parts: &Parts) -> io::Result<Vec<PodId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(parts.layout.pods())? {
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<PodId>().ok()));
    }
    Ok(ids)
}

/// Whether a pod certainly has no record. Blocks.
fn is_unrecorded(parts: &Parts, id: &PodId) -> Result<bool, String> {
    Ok(parts.records.is_gone(id).map_err(|error| chain(&error))? && is_of_this_root(parts)?)
}

/// Whether the records are of the root that the state belongs to. Blocks.
fn is_of_this_root(parts: &Parts) -> Result<bool, String> {
    identity::is_same(&parts.layout).map_err(|error| chain(&error))
}

/// Whether a pod has files. Blocks.
fn is_there(parts: &Parts, id: &PodId) -> Result<bool, String> {
    parts.layout.pod(id).try_exists().map_err(|error| error.to_string())
}

async fn end_orphan(parts: &Arc<Parts>, id: PodId) -> Result<(), PodError> {
    tracing::warn!(pod = %id, "has files but no record; ending it");
    {
        let parts = parts.clone();
        let ending = blocking(move || {
            let failed = |error: io::Error| PodError::Pause { id, problem: error.to_string() };
            let pin = parts.layout.pod_namespaces(&id).join("pid");
            let groups = groups_in(&pin, &id).map_err(failed)?;
            pause::kill_all_in(&pin).map_err(failed)?;
            for group in groups {
                let ended = parts.cgroups.kill(&group).and_then(|()| parts.cgroups.remove(&group));
                ended.map_err(|source| PodError::Cgroup { id, source })?;
            }
            Ok::<_, PodError>(())
        });
        ending.await?;
    }
    // Before the namespace goes: plugins find in it what to undo.
    detach::detach(parts, id).await;
    let parts = parts.clone();
    blocking(move || remove::files(&parts.layout, &id)).await
}

/// The groups of a pod whose parent nobody knows, as the processes in its process namespace tell.
/// Those that systemd makes go with their last process. Blocks; an absent namespace has none.
fn groups_in(pin: &Path, id: &PodId) -> io::Result<BTreeSet<String>> {
    let namespace = match fs::metadata(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        namespace => namespace?,
    };
    let mut groups = BTreeSet::new();
    let name = format!("-{id}");
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        // A process that ends meanwhile is in no group; other entries are no processes.
        let Ok(of) = fs::metadata(process.join("ns/pid")) else { continue };
        if (of.dev(), of.ino()) == (namespace.dev(), namespace.ino()) {
            let lines = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            let paths = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2));
            groups.extend(paths.filter(|path| path.ends_with(&name)).map(str::to_owned));
        }
    }
    Ok(groups)
}
