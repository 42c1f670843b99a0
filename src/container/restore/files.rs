//! What the container changed of its image, laid over the image again: first what was deleted, then
//! what is new or other. Nothing leads outside the container's root.

use std::fs::File;
use std::path::{Component, Path};

use super::source::Source;
use crate::container::ContainerError;
use crate::image;
use crate::sys::{in_root, tree};

/// Longest list of deleted files.
const MAX_LIST: u64 = 64 << 20;

const DELETED: &str = "deleted.files";
const CHANGED: &str = "rootfs-diff.tar";

/// Changes the root file system mounted at `rootfs` as the checkpoint says.
pub(super) fn apply(source: &Source, rootfs: &Path) -> Result<(), ContainerError> {
    let list = source.read(DELETED, MAX_LIST)?;
    let deleted: Vec<String> = serde_json::from_slice(&list)
        .map_err(|error| source.refuse(format!("{DELETED}: {error}")))?;
    delete(&deleted, rootfs).map_err(|problem| source.refuse(format!("{DELETED}: {problem}")))?;
    let archive = source.file(CHANGED)?;
    image::lay_over(&archive, rootfs)
        .map_err(|error| source.refuse(format!("{CHANGED}: {}", crate::error::chain(&error))))
}

fn delete(names: &[String], rootfs: &Path) -> Result<(), String> {
    let root = File::open(rootfs).map_err(|error| error.to_string())?;
    for name in names {
        let path = Path::new(name);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(parent), Some(last), true) = (path.parent(), path.file_name(), plain) else {
            return Err(format!("{name:?} is not the name of a file"));
        };
        // What is not there need not be deleted.
        let Ok(dir) = in_root::open_dir(&root, parent.as_os_str().as_encoded_bytes()) else {
            continue;
        };
        tree::remove_at(dir, last.as_encoded_bytes())
            .map_err(|error| format!("{name:?}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn deletions_stay_inside_and_need_nothing_to_be_there() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc/conf")).expect("directories");
        fs::create_dir(dir.path().join("out")).expect("directory");
        for file in ["root/etc/passwd", "root/etc/conf/a", "out/precious"] {
            fs::write(dir.path().join(file), "x").expect("file");
        }
        symlink(dir.path().join("out"), root.join("way")).expect("link");
        symlink("../../out", root.join("up")).expect("link");
        let names = ["etc/passwd", "etc/conf", "no/such", "way/precious", "up/precious"];
        delete(&names.map(str::to_owned), &root).expect("deleted");
        assert!(!root.join("etc/passwd").exists() && !root.join("etc/conf").exists());
        assert!(dir.path().join("out/precious").exists());
        for wrong in ["", "/etc/passwd", "../out/precious", "etc/../../out", "."] {
            assert!(delete(&[wrong.to_owned()], &root).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_archive_is_laid_over_what_is_there_and_leads_nowhere_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).expect("directory");
        fs::create_dir(dir.path().join("out")).expect("directory");
        fs::write(root.join("etc/kept"), "kept").expect("file");
        fs::write(root.join("etc/changed"), "old").expect("file");
        symlink(dir.path().join("out"), root.join("way")).expect("link");
        let mut tar = tar::Builder::new(File::create(dir.path().join("diff")).expect("archive"));
        for (name, text) in [("etc/changed", "new"), ("etc/new", "new"), ("way/evil", "evil")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o640);
            tar.append_data(&mut header, name, text.as_bytes()).expect("member");
        }
        tar.finish().expect("archive");
        let archive = || File::open(dir.path().join("diff")).expect("archive");
        image::lay_over(&archive(), &root).ok();
        let text = |name: &str| fs::read_to_string(root.join(name)).expect("file");
        assert_eq!((text("etc/kept"), text("etc/changed")), ("kept".to_owned(), "new".to_owned()));
        assert_eq!(text("etc/new"), "new");
        assert!(fs::read_dir(dir.path().join("out")).expect("list").next().is_none());
        archive().set_len(100).ok();
        fs::write(dir.path().join("diff"), [1; 700]).expect("garbage");
        image::lay_over(&archive(), &root).expect_err("garbage");
    }
}
