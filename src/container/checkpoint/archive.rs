//! The archive of a checkpoint: written under another name and renamed when it is whole, so that
//! its name never stands for a part of it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{IMAGES, file};
use crate::container::ContainerError;

/// What goes into an archive, in this order: the small files that tools look for come first.
const FILES: [&str; 4] = ["config.dump", "spec.dump", "deleted.files", "rootfs-diff.tar"];

/// Whether a new file can be made at `location`.
pub(super) fn check_location(location: &Path) -> Result<(), ContainerError> {
    let refuse = |problem: &str| {
        let problem = format!("{} {problem}", location.display());
        Err(ContainerError::Request { field: "location".to_owned(), problem })
    };
    let climbs = location.components().any(|part| part == Component::ParentDir);
    if !location.is_absolute() || climbs || location.file_name().is_none() {
        return refuse("is not the absolute path of a file");
    }
    if location.symlink_metadata().is_ok() {
        return refuse("is there already");
    }
    if !location.parent().is_some_and(Path::is_dir) {
        return refuse("is in no directory");
    }
    Ok(())
}

/// Packs what was captured in `stage` as the new file `location`. Blocks; on failure nothing is
/// left of it.
pub(super) fn place(stage: &Path, location: &Path) -> Result<(), ContainerError> {
    let mut name = OsString::from(".");
    name.push(location.file_name().unwrap_or_default());
    name.push(format!(".partial-{}", std::process::id()));
    let partial = Partial(location.with_file_name(name));
    let mut options = File::options();
    // Memory is full of secrets.
    let made = options.write(true).create_new(true).mode(0o600).open(&partial.0);
    let failed = |source| file("write", &partial.0, source);
    let archive = made.map_err(failed)?;
    pack(stage, &archive).and_then(|()| archive.sync_all()).map_err(failed)?;
    renameat_with(CWD, &partial.0, CWD, location, RenameFlags::NOREPLACE)
        .map_err(|error| file("rename to", location, error.into()))
}

/// Writes what was captured in `stage` as an archive.
fn pack(stage: &Path, archive: &File) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::new(archive));
    tar.follow_symlinks(false);
    for name in FILES {
        tar.append_path_with_name(stage.join(name), name)?;
    }
    tar.append_dir(IMAGES, stage.join(IMAGES))?;
    let mut images: Vec<_> = fs::read_dir(stage.join(IMAGES))?.collect::<io::Result<_>>()?;
    images.sort_by_key(fs::DirEntry::file_name);
    for image in images {
        let inside = Path::new(IMAGES).join(image.file_name());
        tar.append_path_with_name(image.path(), inside)?;
    }
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error).map(drop)
}

/// A file that goes when it is dropped, unless it has another name by then.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_file_in_a_directory_is_a_location() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| check_location(&dir.path().join(name));
        fs::write(dir.path().join("there"), "x").expect("file");
        assert!(at("new.tar").is_ok());
        for wrong in ["there", "none/new.tar", "x/../new.tar", "."] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "relative.tar", "/"] {
            assert!(check_location(Path::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (stage, location) = (dir.path().join("stage"), dir.path().join("c.tar"));
        fs::create_dir_all(stage.join(IMAGES)).expect("stage");
        fs::write(stage.join(IMAGES).join("pages-1.img"), "memory").expect("image");
        place(&stage, &location).expect_err("it lacks most of it");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        for name in FILES {
            fs::write(stage.join(name), name).expect("file");
        }
        place(&stage, &location).expect("archive");
        place(&stage, &location).expect_err("it is there already");
        let mut archive = tar::Archive::new(File::open(&location).expect("open"));
        let entries = archive.entries().expect("entries");
        let names: Vec<String> = entries
            .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
            .collect();
        let expected =
            ["config.dump", "spec.dump", "deleted.files", "rootfs-diff.tar", "checkpoint"];
        assert_eq!(
            names[..5].iter().map(|n| n.trim_end_matches('/')).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(names[5..], ["checkpoint/pages-1.img"]);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 2);
    }
}
