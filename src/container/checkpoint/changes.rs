//! What a container changed of its image: `rootfs-diff.tar`, the files that are new or other, and
//! `deleted.files`, the list of those that are gone.
//!
//! The writable layer is the container's own work: nothing in it is followed, and what no archive
//! can hold (sockets) is left out.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file;
use crate::container::{ContainerError, ContainerRecord, Parts};

/// Writes both into `stage`.
pub(super) fn write(
    parts: &Parts,
    record: &ContainerRecord,
    stage: &Path,
) -> Result<(), ContainerError> {
    let upper = parts.layout.writable_layer(&record.id).join("upper");
    let image = record.image.as_ref().map(|image| format!("sha256:{}", image.id));
    let image = image.and_then(|reference| parts.images.find(&reference).ok().flatten());
    let layers = image.map(|image| image.layers.clone()).unwrap_or_default();

    let path = stage.join("rootfs-diff.tar");
    let failed = |source| file("write", &path, source);
    let archive = BufWriter::new(File::create(&path).map_err(failed)?);
    let deleted = changes(&upper, &layers, archive).map_err(failed)?;
    let path = stage.join("deleted.files");
    let list = serde_json::to_vec(&deleted).map_err(io::Error::from);
    list.and_then(|list| fs::write(&path, list)).map_err(|source| file("write", &path, source))
}

/// Archives the new and changed files of `upper`; returns what is gone.
fn changes(upper: &Path, layers: &[PathBuf], archive: impl Write) -> io::Result<Vec<String>> {
    let mut tar = tar::Builder::new(archive);
    tar.follow_symlinks(false);
    let (mut deleted, mut todo) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = todo.pop() {
        let mut names: Vec<_> =
            fs::read_dir(upper.join(&below))?.collect::<io::Result<Vec<_>>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        if is_opaque(&upper.join(&below)) {
            deleted.extend(hidden(upper, layers, &below));
        }
        for name in names {
            let inside = below.join(name.file_name());
            let found = name.metadata()?;
            let kind = found.file_type();
            if kind.is_char_device() && found.rdev() == 0 {
                deleted.push(inside.to_string_lossy().into_owned());
            } else if !kind.is_socket() {
                tar.append_path_with_name(name.path(), &inside)?;
                if kind.is_dir() {
                    todo.push(inside);
                }
            }
        }
    }
    tar.into_inner()?.flush()?;
    Ok(deleted)
}

/// Whether a directory hides all of the image's below it (overlayfs: `trusted.overlay.opaque`).
fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::lgetxattr(dir, c"trusted.overlay.opaque", &mut value), Ok(1))
        && value == *b"y"
}

/// What the image has in a directory that hides it, unless it is there again.
fn hidden(upper: &Path, layers: &[PathBuf], below: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for layer in layers {
        let Ok(entries) = fs::read_dir(layer.join(below)) else { continue };
        for entry in entries.flatten() {
            let inside = below.join(entry.file_name());
            if upper.join(&inside).symlink_metadata().is_err() {
                names.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::{RootfsDirs, RootfsOptions, mount, unmount};

    #[test]
    fn new_changed_and_deleted_files_are_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("etc/conf")).expect("layer");
        for name in ["etc/kept", "etc/gone", "etc/changed", "etc/conf/old", "etc/conf/same"] {
            fs::write(layer.join(name), "x").expect("file");
        }
        let [upper, work, target] = ["upper", "work", "rootfs"].map(|name| dir.path().join(name));
        let dirs = RootfsDirs { upper: upper.clone(), work, target: target.clone() };
        mount(std::slice::from_ref(&layer), &dirs, &RootfsOptions::default()).expect("mount");
        fs::remove_file(target.join("etc/gone")).expect("remove");
        fs::write(target.join("etc/changed"), "y").expect("change");
        fs::remove_dir_all(target.join("etc/conf")).expect("remove");
        fs::create_dir(target.join("etc/conf")).expect("make again");
        fs::write(target.join("etc/conf/same"), "z").expect("write");
        std::os::unix::fs::symlink("/etc/shadow", target.join("link")).expect("link");
        std::os::unix::net::UnixListener::bind(target.join("socket")).expect("socket");

        let mut archive = Vec::new();
        let mut deleted = changes(&upper, &[layer], &mut archive).expect("changes");
        unmount(&target).expect("unmount");
        deleted.sort();
        assert_eq!(deleted, ["etc/conf/old", "etc/gone"]);
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut names: Vec<_> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
            .collect();
        names.sort();
        let expected = ["etc/", "etc/changed", "etc/conf/", "etc/conf/same", "link"];
        assert_eq!(
            names.iter().map(|n| n.trim_end_matches('/')).collect::<Vec<_>>(),
            expected.map(|n| n.trim_end_matches('/'))
        );
    }
}
