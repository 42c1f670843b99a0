//! [`Source`]: the directory of one container's checkpoint, read without believing it.
//!
//! Files have the names that they must have; anything but a regular file is refused, and no link is
//! followed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags};

use crate::container::ContainerError;
use crate::container::checkpoint::IMAGES;

/// What the checkpoint says of its container.
const CONFIG: &str = "config.dump";

/// Longest such file.
const MAX_CONFIG: u64 = 1 << 20;

/// Files of images; a process has about twenty.
const MAX_IMAGES: usize = 200_000;

/// Bytes that copying leaves free on the file system: records still have to be written (R33).
const RESERVED: u64 = 64 << 20;

/// An open checkpoint.
pub(super) struct Source {
    dir: OwnedFd,
    path: PathBuf,
}

impl Source {
    /// Opens the checkpoint at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, ContainerError> {
        let opened = open_dir(CWD, path);
        let dir = opened.map_err(|error| refusal(path, error.to_string()))?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// That it cannot be used, and why.
    pub(super) fn refuse(&self, problem: String) -> ContainerError {
        refusal(&self.path, problem)
    }

    /// The id of the image that its container was made from, if it says so.
    pub(super) fn image(&self) -> Result<Option<String>, ContainerError> {
        #[derive(serde::Deserialize)]
        struct Config {
            #[serde(rename = "rootfsImageRef")]
            image: Option<String>,
        }
        let text = self.read(CONFIG, MAX_CONFIG)?;
        let config = serde_json::from_slice::<Config>(&text);
        let config = config.map_err(|error| self.refuse(format!("{CONFIG}: {error}")))?;
        Ok(config.image)
    }

    /// The whole of a file of at most `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ContainerError> {
        let mut text = Vec::new();
        let read = self.file(name)?.take(limit + 1).read_to_end(&mut text);
        read.map_err(|error| self.refuse(format!("{name}: {error}")))?;
        match text.len() as u64 > limit {
            true => Err(self.refuse(format!("{name}: is longer than {limit} bytes"))),
            false => Ok(text),
        }
    }

    /// A file of it.
    pub(super) fn file(&self, name: &str) -> Result<File, ContainerError> {
        regular(&self.dir, name.as_bytes()).map_err(|error| self.refuse(format!("{name}: {error}")))
    }

    /// Copies the images of the processes into the new directory `to`.
    pub(super) fn copy_images(&self, to: &Path) -> Result<(), ContainerError> {
        let refuse = |error: io::Error| self.refuse(format!("{IMAGES}: {error}"));
        let failed = |action, path: &Path, source| {
            let path = path.to_owned();
            ContainerError::File { action, path, source }
        };
        let made = DirBuilder::new().mode(0o700).create(to);
        made.map_err(|source| failed("make directory", to, source))?;
        let from = open_dir(&self.dir, Path::new(IMAGES)).map_err(refuse)?;
        let entries = Dir::read_from(&from).map_err(|error| refuse(error.into()))?;
        for (count, entry) in entries.enumerate() {
            let entry = entry.map_err(|error| refuse(error.into()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if count > MAX_IMAGES {
                return Err(self.refuse(format!("{IMAGES}: has more than {MAX_IMAGES} files")));
            }
            let shown = String::from_utf8_lossy(name.to_bytes()).into_owned();
            let image = regular(&from, name.to_bytes())
                .map_err(|error| self.refuse(format!("{IMAGES}/{shown:?}: {error}")))?;
            let path = to.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            copy(image, &path).map_err(|source| failed("write", &path, source))?;
        }
        Ok(())
    }
}

fn copy(mut image: File, to: &Path) -> io::Result<()> {
    let mut options = File::options();
    let mut copy = options.write(true).create_new(true).mode(0o600).open(to)?;
    let space = rustix::fs::fstatvfs(&copy)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < image.metadata()?.len().saturating_add(RESERVED) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    io::copy(&mut image, &mut copy).map(drop)
}

/// Names of directories in `path` that are checkpoints of containers, in order.
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let config = entry.path().join(CONFIG);
        if entry.file_type()?.is_dir()
            && config.symlink_metadata().is_ok_and(|found| found.is_file())
        {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn refusal(path: &Path, problem: String) -> ContainerError {
    ContainerError::Checkpoint { path: path.to_owned(), problem }
}

fn open_dir(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

/// Opens a regular file. O_NONBLOCK: opening a FIFO without a writer would wait forever, open(2).
fn regular(dir: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join(IMAGES)).expect("directory");
        fs::write(dir.path().join(IMAGES).join("pages-1.img"), "secret").expect("image");
        let config = r#"{"rootfsImageRef": "sha256:ab", "name": "x"}"#;
        fs::write(dir.path().join(CONFIG), config).expect("config");
        dir
    }

    #[test]
    fn images_are_copied_for_root_alone() {
        let (from, to) = (checkpoint(), tempfile::tempdir().expect("temporary directory"));
        let source = Source::open(from.path()).expect("checkpoint");
        assert_eq!(source.image().expect("image").as_deref(), Some("sha256:ab"));
        let to = to.path().join("images");
        source.copy_images(&to).expect("copied");
        let copy = to.join("pages-1.img");
        assert_eq!(fs::read_to_string(&copy).expect("copy"), "secret");
        for path in [&to, &copy] {
            let mode = fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        source.copy_images(&to).expect_err("it is there");
    }

    #[test]
    fn nothing_but_regular_files_is_read_and_no_link_is_followed() {
        let (from, to) = (checkpoint(), tempfile::tempdir().expect("temporary directory"));
        let images = from.path().join(IMAGES);
        let refused = |name: &str| {
            let source = Source::open(from.path()).expect("checkpoint");
            let error = source.copy_images(&to.path().join(name)).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
            fs::remove_file(images.join(name)).expect("remove");
        };
        symlink("/etc/shadow", images.join("link.img")).expect("link");
        refused("link.img");
        rustix::fs::mkfifoat(CWD, images.join("fifo.img"), Mode::RWXU).expect("fifo");
        refused("fifo.img");

        fs::remove_file(from.path().join(CONFIG)).expect("remove");
        symlink("/etc/passwd", from.path().join(CONFIG)).expect("link");
        let source = Source::open(from.path()).expect("checkpoint");
        source.image().expect_err("a link");
        assert!(names(from.path().parent().expect("parent")).expect("names").iter().all(|name| {
            Some(name.as_str()) != from.path().file_name().and_then(|name| name.to_str())
        }));
        symlink(from.path(), to.path().join("way")).expect("link");
        assert!(Source::open(&to.path().join("way")).is_err());
    }
}
