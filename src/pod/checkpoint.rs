//! Writes what a pod and its containers are, at one moment, into an empty directory of the caller's:
//! `pod.dump` and one directory a container. Nothing is written outside of it, and after a failure
//! it is empty again; it is never removed itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::container::checkpoint::DEFAULT_LIMIT;
use crate::ids::IdQuery;
use crate::steps::blocking;
use crate::sys::tree;

use super::record::PodRecord;
use super::{Parts, PodError};

/// What the pod was asked to be, in the caller's directory.
pub(super) const DUMP: &str = "pod.dump";

/// Writes the checkpoint.
pub async fn checkpoint(
    parts: &Arc<Parts>,
    record: &PodRecord,
    output: PathBuf,
    containers: Vec<IdQuery>,
) -> Result<(), PodError> {
    blocking({
        let output = output.clone();
        move || check_output(&output)
    })
    .await?;
    let written = write(parts, record, &output, &containers).await;
    if written.is_err() {
        let emptied = blocking({
            let output = output.clone();
            move || empty(&output)
        });
        if let Err(error) = emptied.await {
            tracing::warn!(output = %output.display(), %error, "a failed checkpoint is left");
        }
    }
    written
}

async fn write(
    parts: &Arc<Parts>,
    record: &PodRecord,
    output: &Path,
    containers: &[IdQuery],
) -> Result<(), PodError> {
    let all = parts.containers.checkpoint_together(
        record.id,
        containers,
        output.to_owned(),
        DEFAULT_LIMIT,
    );
    all.await.map_err(PodError::Container)?;
    let (dump, spec) = (output.join(DUMP), record.spec.clone());
    blocking(move || {
        let text = serde_json::to_vec(&*spec).map_err(io::Error::from);
        text.and_then(|text| fs::write(&dump, text)).map_err(|source| PodError::File {
            action: "write",
            path: dump,
            source,
        })
    })
    .await
}

fn check_output(output: &Path) -> Result<(), PodError> {
    let refuse = |problem: &str| {
        let problem = format!("{} {problem}", output.display());
        Err(PodError::Request { field: "output_path".to_owned(), problem })
    };
    match fs::symlink_metadata(output) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return refuse("is no directory"),
        Err(error) => return refuse(&format!("cannot be looked at: {error}")),
    }
    match fs::read_dir(output).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => refuse("is not empty"),
        Err(error) => refuse(&format!("cannot be read: {error}")),
    }
}

fn empty(output: &Path) -> io::Result<()> {
    for entry in fs::read_dir(output)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => tree::remove(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_an_empty_directory_and_is_emptied_but_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let output = dir.path().join("output");
        check_output(&output).expect_err("not there");
        fs::create_dir(&output).expect("directory");
        check_output(&output).expect("empty");
        fs::create_dir_all(output.join("name/checkpoint")).expect("directory");
        fs::write(output.join(DUMP), "x").expect("file");
        std::os::unix::fs::symlink("/", output.join("link")).expect("link");
        check_output(&output).expect_err("not empty");
        empty(&output).expect("emptied");
        check_output(&output).expect("empty again");
        std::os::unix::fs::symlink(&output, dir.path().join("link")).expect("link");
        check_output(&dir.path().join("link")).expect_err("a link");
    }
}
