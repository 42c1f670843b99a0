//! [`Tree`]: the directory a layer is unpacked into.
//!
//! Every name is resolved below the layer's root by openat2(2), everything else is done relative
//! to the directory that gave. Links of the archive are followed inside the root when they are in
//! the way, and replaced when they are in the place of an entry (CVE-2021-32760).
//!
//! One directory is kept open at a time. Making something in a directory changes its time, so the
//! time it had is put back when the directory is left; no list of directories is needed (G24).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use super::UnpackError;
use super::archive::{Archive, Member, MemberKind};
use super::line::Line;
use super::node;
use super::place::{MAX_PATH, Place, components, is_no_way};
use super::room::Room;
use super::whiteout::{Meaning, meaning};
use super::wire::MAX_IMPLIED;
use crate::sys;
use crate::sys::in_root;

/// A directory that is being filled.
pub(super) struct Tree {
    root: OwnedFd,
    line: Rc<Line>,
    here: Option<Here>,
    room: Room,
    opaque: bool,
    implied: BTreeSet<Vec<u8>>,
    implied_bytes: usize,
}

/// What such a directory has come to.
#[derive(Debug)]
pub(super) struct Filled {
    /// Bytes that its files take.
    pub bytes: u64,
    /// Inodes that they take.
    pub inodes: u64,
    /// Whether the root is opaque.
    pub opaque: bool,
    /// Directories that only occur in the paths of others, those above first.
    pub implied: BTreeSet<Vec<u8>>,
}

/// The directory that was last made something in.
struct Here {
    path: Vec<u8>,
    dir: OwnedFd,
    times: Timestamps,
}

impl Tree {
    /// An empty directory.
    pub(super) fn open(root: OwnedFd, line: &Rc<Line>) -> Result<Self, UnpackError> {
        let tree = Self::over(root, line)?;
        // It was made for us alone; as a root directory it is everybody's.
        rustix::fs::fchmod(&tree.root, Mode::from_raw_mode(0o755))
            .map_err(|error| UnpackError::file("open", b"/", error))?;
        Ok(tree)
    }

    /// A directory that others have filled.
    pub(super) fn over(root: OwnedFd, line: &Rc<Line>) -> Result<Self, UnpackError> {
        Ok(Self {
            room: Room::open(&root)?,
            root,
            line: Rc::clone(line),
            here: None,
            opaque: false,
            implied: BTreeSet::from([Vec::new()]),
            implied_bytes: 0,
        })
    }

    /// What it has come to.
    pub(super) fn finish(mut self) -> Result<Filled, UnpackError> {
        self.leave()?;
        Ok(Filled {
            bytes: self.room.bytes,
            inodes: self.room.inodes,
            opaque: self.opaque,
            implied: self.implied,
        })
    }

    /// Adds one member, taking its data from the archive.
    pub(super) fn add(
        &mut self,
        member: &Member,
        archive: &mut Archive<'_>,
    ) -> Result<(), UnpackError> {
        let components = components(&member.path)?;
        let meaning = meaning(&components)?;
        let Some((name, dir)) = components.split_last() else { return self.add_root(member) };
        let place = Place { dir: dir.join(&b'/'), name };
        match meaning {
            Meaning::Ignored => Ok(()),
            Meaning::Opaque => self.add_opaque(&place),
            Meaning::Hides(name) => self.add_whiteout(&Place { name, ..place }),
            Meaning::Plain => match member.kind {
                MemberKind::Directory => self.add_dir(member, &place),
                MemberKind::File => self.add_file(member, &place, archive),
                MemberKind::HardLink => self.add_hard_link(member, &place),
                _ => self.add_special(member, &place),
            },
        }
    }

    fn add_root(&mut self, member: &Member) -> Result<(), UnpackError> {
        if member.kind != MemberKind::Directory {
            return Err(UnpackError::entry(&member.path, "has no name"));
        }
        self.implied.remove(&Vec::new());
        node::describe(self.root.as_fd(), member)?;
        self.keep_times(b"", member);
        Ok(())
    }

    fn add_dir(&mut self, member: &Member, place: &Place<'_>) -> Result<(), UnpackError> {
        let failed = |what| move |error: Errno| UnpackError::file(what, &member.path, error);
        let parent = self.enter(&place.dir)?;
        let found = node::stat(parent, place.name).map_err(failed("look at"))?;
        let hidden = found.as_ref().is_some_and(node::is_whiteout);
        let present = found.as_ref().is_some_and(node::is_dir);
        if !present {
            if found.is_some() {
                self.clear(place)?;
            }
            let parent = self.enter(&place.dir)?;
            rustix::fs::mkdirat(parent, place.name, Mode::RWXU)
                .map_err(failed("make directory"))?;
            self.room.add_inode(&self.root)?;
        }
        let parent = self.enter(&place.dir)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, place.name, flags, Mode::empty())
            .map_err(failed("open directory"))?;
        if hidden {
            // The name was hidden in this layer, in whichever order the archive says it.
            self.line.make_opaque(&place.path()).map_err(failed("make opaque"))?;
        }
        node::describe(dir.as_fd(), member)?;
        let path = place.path();
        self.implied.remove(&path);
        self.keep_times(&path, member);
        Ok(())
    }

    fn add_file(
        &mut self,
        member: &Member,
        place: &Place<'_>,
        archive: &mut Archive<'_>,
    ) -> Result<(), UnpackError> {
        self.clear(place)?;
        let parent = self.enter(&place.dir)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(parent, place.name, flags | OFlags::CLOEXEC, Mode::RUSR)
            .map_err(|error| UnpackError::file("make file", &member.path, error))?;
        let mut file = File::from(file);
        self.room.add_inode(&self.root)?;
        let pieces = member.sparse.as_deref().unwrap_or(&[(0, u64::MAX)]);
        for (offset, length) in pieces {
            if member.sparse.is_some() {
                let sought = file.seek(SeekFrom::Start(*offset));
                sought.map_err(|error| UnpackError::file("write", &member.path, error))?;
            }
            self.write(&mut file, member, archive, *length)?;
        }
        if member.sparse.is_some() {
            let grown = file.set_len(member.length);
            grown.map_err(|error| UnpackError::file("write", &member.path, error))?;
        }
        node::describe(file.as_fd(), member)
    }

    /// Writes the next `length` bytes of a member's data, or what is left of it.
    fn write(
        &mut self,
        file: &mut File,
        member: &Member,
        archive: &mut Archive<'_>,
        mut length: u64,
    ) -> Result<(), UnpackError> {
        while length > 0 {
            let data = archive.data()?;
            let step = usize::try_from(length).unwrap_or(usize::MAX).min(data.len());
            if step == 0 {
                return Ok(());
            }
            let written = file.write_all(&data[..step]);
            written.map_err(|error| UnpackError::file("write", &member.path, error))?;
            archive.consume(step);
            length -= step as u64;
            self.room.add_bytes(step as u64, &self.root)?;
        }
        Ok(())
    }

    fn add_hard_link(&mut self, member: &Member, place: &Place<'_>) -> Result<(), UnpackError> {
        let refuse = |why| UnpackError::entry(&member.path, why);
        let failed = |error: Errno| UnpackError::file("link", &member.path, error);
        let target = components(&member.link)?;
        let Some((name, dir)) = target.split_last() else {
            return Err(refuse("is a hard link to nothing"));
        };
        let gone = "is a hard link to what is not in the layer";
        let dir = match in_root::open_dir(&self.root, &dir.join(&b'/')) {
            Ok(dir) => dir,
            Err(error) if is_no_way(&error) => return Err(refuse(gone)),
            Err(error) => return Err(UnpackError::file("open directory of", &member.link, error)),
        };
        let found = node::stat(&dir, name).map_err(failed)?;
        let found = found.filter(|stat| !node::is_whiteout(stat)).ok_or_else(|| refuse(gone))?;
        if node::is_dir(&found) {
            return Err(refuse("is a hard link to a directory"));
        }
        let parent = self.enter(&place.dir)?;
        if let Some(old) = node::stat(parent, place.name).map_err(failed)?
            && (old.st_dev, old.st_ino) == (found.st_dev, found.st_ino)
        {
            let itself = target.join(&b'/') == place.path();
            return if itself { Err(refuse("is a hard link to itself")) } else { Ok(()) };
        }
        self.clear(place)?;
        let parent = self.enter(&place.dir)?;
        match rustix::fs::linkat(&dir, *name, parent, place.name, AtFlags::empty()) {
            // What was cleared away had the target in it.
            Err(Errno::NOENT) => Err(refuse(gone)),
            other => other.map_err(failed),
        }
    }

    fn add_special(&mut self, member: &Member, place: &Place<'_>) -> Result<(), UnpackError> {
        let refuse = |why| Err(UnpackError::entry(&member.path, why));
        let kind = match member.kind {
            MemberKind::CharacterDevice => FileType::CharacterDevice,
            MemberKind::BlockDevice => FileType::BlockDevice,
            MemberKind::Fifo => FileType::Fifo,
            _ => FileType::Symlink,
        };
        if kind == FileType::CharacterDevice && member.device == (0, 0) {
            return refuse("is a whiteout in overlayfs's own form");
        }
        let bad_target =
            member.link.is_empty() || member.link.len() > MAX_PATH || member.link.contains(&0);
        if kind == FileType::Symlink && bad_target {
            return refuse("is a symbolic link to nothing");
        }
        self.clear(place)?;
        let parent = self.enter(&place.dir)?;
        let made = if kind == FileType::Symlink {
            rustix::fs::symlinkat(member.link.as_slice(), parent, place.name)
        } else {
            let (major, minor) = member.device;
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(parent, place.name, kind, Mode::RUSR | Mode::WUSR, device)
        };
        made.map_err(|error| UnpackError::file("make", &member.path, error))?;
        node::describe_at(parent.as_fd(), place.name, member)?;
        self.room.add_inode(&self.root)
    }

    fn add_opaque(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        self.enter(&place.dir)?;
        self.mark_opaque().map_err(|error| UnpackError::file("make opaque", &place.dir, error))?;
        self.opaque |= place.dir.is_empty();
        Ok(())
    }

    /// Hides a name of the layers below. What this layer has of that name stays, whether it came
    /// before or comes later.
    fn add_whiteout(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        let failed = |error: Errno| UnpackError::file("hide", &place.path(), error);
        let parent = self.enter(&place.dir)?;
        match node::stat(parent, place.name).map_err(failed)? {
            None => {
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(parent, place.name, kind, Mode::empty(), 0).map_err(failed)?;
                self.room.add_inode(&self.root)
            }
            Some(found) if node::is_dir(&found) => {
                self.enter(&place.path())?;
                self.mark_opaque().map_err(failed)
            }
            Some(_) => Ok(()),
        }
    }

    /// Marks the open directory.
    fn mark_opaque(&self) -> Result<(), Errno> {
        let here = self.here.as_ref().expect("it was entered");
        self.line.make_opaque(&here.path)
    }

    /// Removes whatever has the place of an entry; of two entries the later one wins.
    fn clear(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        let parent = self.enter(&place.dir)?;
        let failed = |error: io::Error| UnpackError::file("replace", &place.path(), error);
        let Some(found) = node::stat(parent, place.name).map_err(|e| failed(e.into()))? else {
            return Ok(());
        };
        sys::tree::remove_at(parent, place.name).map_err(failed)?;
        if node::is_dir(&found) {
            let below = [place.path(), b"/".to_vec()].concat();
            self.implied.retain(|path| !path.starts_with(&below));
            self.implied.remove(&place.path());
        }
        // The open directory may have been reached through what is gone.
        self.leave()
    }

    /// Makes `path` the directory that is open, making it first if need be.
    fn enter(&mut self, path: &[u8]) -> Result<&OwnedFd, UnpackError> {
        if self.here.as_ref().is_none_or(|here| here.path != path) {
            self.leave()?;
            let dir = match in_root::open_dir(&self.root, path) {
                Ok(dir) => dir,
                Err(error) if is_no_way(&error) => self.make_way(path)?,
                Err(error) => return Err(UnpackError::file("open directory", path, error)),
            };
            let stat = rustix::fs::fstat(&dir)
                .map_err(|error| UnpackError::file("look at", path, error))?;
            self.here = Some(Here { path: path.to_vec(), dir, times: node::times_of(&stat) });
        }
        Ok(&self.here.as_ref().expect("it was set above").dir)
    }

    /// Leaves the open directory and puts its times back.
    fn leave(&mut self) -> Result<(), UnpackError> {
        match self.here.take() {
            None => Ok(()),
            Some(here) => rustix::fs::futimens(&here.dir, &here.times)
                .map_err(|error| UnpackError::file("set times of", &here.path, error)),
        }
    }

    /// The open directory, if it is this one, has new times to go back to.
    fn keep_times(&mut self, path: &[u8], member: &Member) {
        if let Some(here) = self.here.as_mut().filter(|here| here.path == path) {
            here.times = node::times(member);
        }
    }

    /// Makes the directories of a path that are missing. They are only implied: the layers below
    /// may know more about them.
    fn make_way(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let mut above = in_root::open_dir(&self.root, b"")
            .map_err(|error| UnpackError::file("open directory", b"/", error))?;
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += usize::from(end > 0) + name.len();
            let prefix = &path[..end];
            above = match in_root::open_dir(&self.root, prefix) {
                Ok(dir) => dir,
                Err(error) if is_no_way(&error) => self.make_implied(&above, name, prefix)?,
                Err(error) => return Err(UnpackError::file("open directory", prefix, error)),
            };
        }
        Ok(above)
    }

    fn make_implied(
        &mut self,
        above: &OwnedFd,
        name: &[u8],
        prefix: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let failed = |error: Errno| UnpackError::file("make directory", prefix, error);
        let before = rustix::fs::fstat(above).map_err(failed)?;
        let hidden = match node::stat(above, name).map_err(failed)? {
            None => false,
            Some(found) if node::is_whiteout(&found) => {
                rustix::fs::unlinkat(above, name, AtFlags::empty()).map_err(failed)?;
                true
            }
            Some(_) => return Err(UnpackError::entry(prefix, "is in the way of another")),
        };
        rustix::fs::mkdirat(above, name, Mode::RWXU).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(above, name, flags, Mode::empty()).map_err(failed)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(failed)?;
        rustix::fs::futimens(above, &node::times_of(&before)).map_err(failed)?;
        if hidden {
            self.line.make_opaque(prefix).map_err(failed)?;
        }
        self.implied_bytes += prefix.len() + 1;
        if self.implied_bytes > MAX_IMPLIED {
            let limit = MAX_IMPLIED as u64;
            return Err(UnpackError::limit("bytes of undescribed directories", limit));
        }
        self.implied.insert(prefix.to_vec());
        self.room.add_inode(&self.root)?;
        Ok(dir)
    }
}
