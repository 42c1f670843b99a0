//! Makes a pod and its containers from a checkpoint that [`checkpoint`](super::checkpoint) wrote.
//! The containers are created and do not run: the start of each restores its processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::container::restore;
use crate::container::spec::ContainerSpec;
use crate::ids::{ContainerId, PodId};
use crate::steps::blocking;

use super::checkpoint::DUMP;
use super::spec::PodSpec;
use super::{Made, PodError, Pods, Shared};

/// A pod that was made, and its containers by name in the order of the request.
pub type Restored = (PodId, Vec<(String, ContainerId)>);

impl Pods {
    /// Makes the pod of `spec`, with `containers` from their checkpoints below `checkpoint`, or
    /// joins what is made, or was made, by the same request.
    ///
    /// # Errors
    /// After one nothing is left that this call made.
    pub async fn restore(
        &self,
        mut spec: PodSpec,
        containers: Vec<ContainerSpec>,
        checkpoint: PathBuf,
    ) -> Result<Restored, Shared> {
        let handler = self.check(&spec)?;
        let able = self.containers().check_checkpoints(&handler);
        able.map_err(PodError::Container)?;
        if spec.user_namespace.is_some() {
            let field = "config.linux.security_context.namespace_options.userns_options".to_owned();
            let problem = "cannot be given to a pod that is restored".to_owned();
            return Err(PodError::Request { field, problem }.into());
        }
        blocking({
            let path = checkpoint.clone();
            let wanted = containers.iter().map(|container| container.name.clone()).collect();
            move || check(&path, wanted)
        })
        .await?;
        spec.restored_from = Some(checkpoint);
        let all = self.clone();
        // Of its own: a client that goes away leaves nothing half restored.
        let work =
            crate::steps::spawn("restore pod", async move { all.make(spec, containers).await });
        let panicked = PodError::Panicked { verb: "restore pod" };
        work.await.ok().flatten().unwrap_or_else(|| Err(panicked.into()))
    }

    async fn make(
        &self,
        spec: PodSpec,
        containers: Vec<ContainerSpec>,
    ) -> Result<Restored, Shared> {
        let checkpoint = spec.restored_from.clone().unwrap_or_default();
        let (id, made) = self.run_or_join(spec).await?;
        let query = (&id).into();
        let mut restored = Vec::new();
        for mut container in containers {
            let name = container.name.clone();
            container.restored_from = Some(checkpoint.join(&name));
            match self.create_container(&query, container).await {
                Ok(id) => restored.push((name, id)),
                Err(error) => {
                    // A pod that another call made is that call's to remove.
                    if made == Made::Anew
                        && let Err(error) = self.remove(&query).await
                    {
                        let error = crate::error::chain(&*error);
                        tracing::error!(pod = %id, error, "a half restored pod is left");
                    }
                    return Err(error);
                }
            }
        }
        Ok((id, restored))
    }
}

/// Whether `path` has a checkpoint of a pod with exactly these containers.
fn check(path: &Path, wanted: BTreeSet<String>) -> Result<(), PodError> {
    let refuse =
        |field: &str, problem: String| Err(PodError::Request { field: field.to_owned(), problem });
    let shown = path.display();
    if !path.join(DUMP).symlink_metadata().is_ok_and(|found| found.is_file()) {
        return refuse(
            "checkpoint_path",
            format!("{shown} has no {DUMP}: it is no checkpoint of a pod"),
        );
    }
    let names: BTreeSet<String> = match restore::names(path) {
        Ok(names) => names.into_iter().collect(),
        Err(error) => return refuse("checkpoint_path", format!("{shown}: {error}")),
    };
    if let Some(missing) = names.difference(&wanted).next() {
        return refuse("container_configs", format!("lacks {missing:?} of the checkpoint {shown}"));
    }
    match wanted.difference(&names).next() {
        Some(other) => {
            refuse("container_configs", format!("{other:?} is not in the checkpoint {shown}"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_containers_are_exactly_those_of_the_checkpoint() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path();
        let wanted = |names: &[&str]| check(path, names.iter().map(|&n| n.to_owned()).collect());
        for name in ["a", "b"] {
            fs::create_dir(path.join(name)).expect("directory");
            fs::write(path.join(name).join("config.dump"), "{}").expect("file");
        }
        fs::create_dir(path.join("other")).expect("directory");
        let said = |names: &[&str]| wanted(names).expect_err("wrong").to_string();
        assert!(said(&["a", "b"]).starts_with("checkpoint_path: "));
        fs::write(path.join(DUMP), "{}").expect("file");
        wanted(&["a", "b"]).expect("exactly");
        assert!(said(&["a"]).starts_with("container_configs: lacks \"b\""));
        assert!(said(&["a", "b", "other"]).contains("\"other\" is not in"));
    }
}
