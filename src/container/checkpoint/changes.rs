//! What a container changed of its image: `rootfs-diff.tar`, the files that are new or other, and
//! `deleted.files`, the list of those that are gone.
//!
//! The writable layer is the container's own work: nothing in it is followed, and what no archive
//! can hold (sockets) is left out.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file;
use crate::container::{ContainerError, ContainerRecord, Parts};
use crate::image::{self, MAX_EXTENSION, MAX_XATTRS};
use crate::sys::tree::Walk;

/// Longest list of attributes, and longest attribute, that the kernel has (xattr(7)).
const XATTR_MAX: usize = 64 << 10;

/// What a record takes besides its key and value: its length as digits, a space, a `=`, a line end.
const MAX_PAX_RECORD: usize = 10;

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
    let mut deleted = Vec::new();
    let mut walk = Walk::new(File::open(upper)?.into())?;
    let mut last = None;
    while let Some(entry) = walk.next_entry()? {
        let below = PathBuf::from(OsString::from_vec(walk.below()));
        if last.as_ref() != Some(&below) {
            if is_opaque(walk.here()?) {
                deleted.extend(hidden(walk.here()?, layers, &below));
            }
            last = Some(below.clone());
        }
        let inside = below.join(OsStr::from_bytes(entry.name.as_bytes()));
        if entry.kind() == FileType::CharacterDevice && entry.stat.st_rdev == 0 {
            deleted.push(inside.to_string_lossy().into_owned());
        } else if entry.kind() != FileType::Socket {
            append(&mut tar, walk.here()?, &entry.name, &inside)?;
        }
    }
    tar.into_inner()?.flush()?;
    Ok(deleted)
}

/// Appends the file `name` of `dir`, whatever it is, with its attributes.
fn append(
    tar: &mut tar::Builder<impl Write>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    inside: &Path,
) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(dir, name, OFlags::PATH | flags, Mode::empty())?;
    let found = File::from(found);
    let metadata = found.metadata()?;
    let kept = xattrs(dir, name)?;
    restorable(inside, &kept)?;
    tar.append_pax_extensions(kept.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
    if metadata.is_file() {
        // O_NONBLOCK: opening a FIFO without a writer would wait forever, open(2).
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | flags;
        let mut file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        return match file.metadata()?.is_file() {
            true => tar.append_file(inside, &mut file),
            false => Err(io::Error::other(format!("{} changes", inside.display()))),
        };
    }
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_size(0);
    if metadata.is_symlink() {
        let target = rustix::fs::readlinkat(&found, c"", Vec::new())?;
        return tar.append_link(&mut header, inside, OsStr::from_bytes(target.as_bytes()));
    }
    tar.append_data(&mut header, inside, io::empty())
}

/// What a restore would refuse is refused now, while the container is there to be changed.
fn restorable(inside: &Path, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
    let refuse = |what: String| {
        let file = inside.display();
        Err(io::Error::other(format!("{file} has {what}: it could not be restored")))
    };
    let count = xattrs.len();
    if count > MAX_XATTRS {
        return refuse(format!("{count} extended attributes, more than {MAX_XATTRS}"));
    }
    let bytes: usize =
        xattrs.iter().map(|(key, value)| key.len() + value.len() + MAX_PAX_RECORD).sum();
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_EXTENSION => Ok(()),
        _ => refuse(format!("extended attributes of {bytes} bytes, more than {MAX_EXTENSION}")),
    }
}

/// The attributes of a file that are its own and that a restore gives it again: the kernel's and the
/// overlay's are not. A container's own `user.overlay.*` would steer an overlay inside of it, which
/// is mounted anew or not at all.
fn xattrs(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    // Neither a link nor a device can be opened for this; the way through /proc opens neither.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(OsStr::from_bytes(name.to_bytes()));
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::llistxattr(&path, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let is_kept = image::is_taken(name);
        let Some(text) = std::str::from_utf8(name).ok().filter(|_| is_kept) else { continue };
        let mut value = vec![0; XATTR_MAX];
        let length = match rustix::fs::lgetxattr(&path, name, value.as_mut_slice()) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        value.truncate(length);
        found.push((format!("SCHILY.xattr.{text}"), value));
    }
    Ok(found)
}

/// Whether a directory hides all of the image's below it (overlayfs: `trusted.overlay.opaque`).
fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(dir, c"trusted.overlay.opaque", &mut value), Ok(1))
        && value == *b"y"
}

/// What the image has in a directory that hides it, unless it is there again.
fn hidden(dir: BorrowedFd<'_>, layers: &[PathBuf], below: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for layer in layers {
        // A link of the image's is no directory that could be hidden.
        let Some(entries) = plain_directory(layer, below) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if !there && !matches!(name.to_bytes(), b"." | b"..") {
                let inside = below.join(OsStr::from_bytes(name.to_bytes()));
                names.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// A directory of a layer, if no link leads there.
fn plain_directory(layer: &Path, below: &Path) -> Option<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = File::open(layer).ok()?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let dir = rustix::fs::openat2(layer, below, flags, Mode::empty(), resolve).ok()?;
    Dir::new(dir).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::{RootfsDirs, RootfsOptions, mount, unmount};

    #[test]
    fn attributes_that_a_restore_would_refuse_are_an_error_that_names_the_file() {
        let pair =
            |number: usize, bytes| (format!("SCHILY.xattr.user.{number}"), vec![b'x'; bytes]);
        let some = |count, bytes| (0..count).map(|number| pair(number, bytes)).collect::<Vec<_>>();
        let judged =
            |xattrs: &[_]| restorable(Path::new("etc/marked"), xattrs).map_err(|e| e.to_string());
        assert_eq!(judged(&some(MAX_XATTRS, 1)), Ok(()));
        let many = judged(&some(MAX_XATTRS + 1, 1)).expect_err("one too many");
        assert!(many.contains("etc/marked has 1001 extended attributes"), "{many}");
        assert_eq!(judged(&some(15, XATTR_MAX)), Ok(()));
        let large = judged(&some(16, XATTR_MAX)).expect_err("too large");
        assert!(large.contains("etc/marked") && large.contains("1048576"), "{large}");
    }

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
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let set = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(target.join("etc/changed"), "security.capability", capability, set)
            .expect("capability");

        let mut archive = Vec::new();
        let mut deleted = changes(&upper, &[layer], &mut archive).expect("changes");
        unmount(&target).expect("unmount");
        deleted.sort();
        assert_eq!(deleted, ["etc/conf/old", "etc/gone"]);
        let mut reading = tar::Archive::new(archive.as_slice());
        let mut kept = Vec::new();
        for entry in reading.entries().expect("entries") {
            let mut entry = entry.expect("entry");
            for extension in entry.pax_extensions().expect("pax").into_iter().flatten() {
                let extension = extension.expect("extension");
                kept.push((
                    extension.key().expect("key").to_owned(),
                    extension.value_bytes().to_vec(),
                ));
            }
        }
        assert_eq!(kept, [("SCHILY.xattr.security.capability".to_owned(), capability.to_vec())]);
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
