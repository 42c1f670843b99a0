//! [`Walk`]: one entry after the other, so that whoever looks can stop, rest and go on.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::{Identity, climb, enter, identity};

/// A walk through everything below a directory. What goes or moves meanwhile may be missed; nothing
/// outside is ever seen.
#[derive(Debug)]
pub struct Walk {
    top: OwnedFd,
    here: Dir,
    /// `here` has been read to its end.
    exhausted: bool,
    /// From the top to `here`.
    levels: Vec<Level>,
    /// The last entry was a directory that is to be entered.
    entered_last: bool,
}

#[derive(Debug)]
struct Level {
    /// Its name in the level above; the top has none.
    name: Vec<u8>,
    identity: Identity,
    /// Directories in it that are still to be entered.
    waiting: Vec<CString>,
}

/// What one step of a walk comes to.
#[derive(Debug)]
pub enum Step {
    /// Something below the top.
    Entry(Entry),
    /// A directory was entered or left. So many were opened for it: one, or, when somebody moves what
    /// is walked, as many as the walk is deep.
    Way(u32),
    /// Everything has been seen.
    End,
}

/// Something below the top.
#[derive(Debug)]
pub struct Entry {
    /// Its name in [`Walk::here`].
    pub name: CString,
    /// What it is; of a link, the link itself.
    pub stat: Stat,
}

impl Entry {
    /// What kind of file it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl Walk {
    /// A walk through the directory `top`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(top: OwnedFd) -> io::Result<Self> {
        let level = Level { name: Vec::new(), identity: identity(&top)?, waiting: Vec::new() };
        let here = Dir::new(enter(&top, b".")?)?;
        Ok(Self { top, here, exhausted: false, levels: vec![level], entered_last: false })
    }

    /// The next entry, which is in [`here`](Self::here); none at the end. Blocks. A directory comes
    /// before what is in it.
    ///
    /// # Errors
    /// Those of the file system; what is gone meanwhile or lies on another one is none.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            match self.step()? {
                Step::Entry(entry) => return Ok(Some(entry)),
                Step::Way(_) => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// The next entry, or as much of the way to it as one look at a directory takes: who has little
    /// time counts both. Blocks.
    ///
    /// # Errors
    /// Those of [`next_entry`](Self::next_entry).
    pub fn step(&mut self) -> io::Result<Step> {
        self.entered_last = false;
        loop {
            let entry = match self.exhausted {
                true => None,
                false => self.here.read().transpose()?,
            };
            let Some(entry) = entry else {
                self.exhausted = true;
                return self.advance();
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(self.here()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                // It has gone meanwhile.
                Err(Errno::NOENT) => return Ok(Step::Way(1)),
                stat => stat?,
            };
            let entry = Entry { name: name.to_owned(), stat };
            if entry.kind() == FileType::Directory
                && let Some(level) = self.levels.last_mut()
            {
                level.waiting.push(entry.name.clone());
                self.entered_last = true;
            }
            return Ok(Step::Entry(entry));
        }
    }

    /// Does not enter the directory that [`next_entry`](Self::next_entry) returned last.
    pub fn skip(&mut self) {
        if std::mem::take(&mut self.entered_last)
            && let Some(level) = self.levels.last_mut()
        {
            level.waiting.pop();
        }
    }

    /// The directory that the last entry is in.
    ///
    /// # Errors
    /// None in practice.
    pub fn here(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.here.fd()?)
    }

    /// The way from the top to [`here`](Self::here), without a slash at either end. It may be longer
    /// than the kernel takes paths.
    pub fn below(&self) -> Vec<u8> {
        let names: Vec<_> = self.levels.iter().skip(1).map(|level| level.name.as_slice()).collect();
        names.join(&b'/')
    }

    /// How many directories are between the top and [`here`](Self::here).
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Enters the next directory that waits here, or goes up one level.
    fn advance(&mut self) -> io::Result<Step> {
        let Some(level) = self.levels.last_mut() else { return Ok(Step::End) };
        let Some(name) = level.waiting.pop() else {
            if self.levels.len() == 1 {
                return Ok(Step::End);
            }
            self.levels.pop();
            return self.up().map(Step::Way);
        };
        match enter(self.here.fd()?, name.to_bytes()) {
            Ok(dir) => {
                let identity = identity(&dir)?;
                let name = name.into_bytes();
                self.levels.push(Level { name, identity, waiting: Vec::new() });
                self.here = Dir::new(dir)?;
                self.exhausted = false;
            }
            Err(error) if is_no_longer(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(Step::Way(1))
    }

    /// Goes back to the last level there is; the directory that was left is the one below it. How
    /// many were opened for it.
    fn up(&mut self) -> io::Result<u32> {
        let Some(level) = self.levels.last() else { return Ok(0) };
        let left = self.here.fd()?.try_clone_to_owned()?;
        let (above, opened) = match climb(&left, level.identity)? {
            Some(above) => (above, 1),
            None => self.back_from_top()?,
        };
        self.here = Dir::new(above)?;
        Ok(opened)
    }

    /// Somebody moved what was walked: goes as far along the remembered way as it is still there,
    /// and forgets the rest. Where that is, and how many directories were opened.
    fn back_from_top(&mut self) -> io::Result<(OwnedFd, u32)> {
        let mut here = enter(self.top.as_fd(), b".")?;
        let mut found = 1;
        for level in self.levels.iter().skip(1) {
            match enter(&here, &level.name) {
                Ok(dir) if identity(&dir)? == level.identity => here = dir,
                Ok(_) => break,
                Err(error) if is_no_longer(&error) => break,
                Err(error) => return Err(error),
            }
            found += 1;
        }
        self.levels.truncate(found);
        Ok((here, u32::try_from(found).unwrap_or(u32::MAX)))
    }
}

/// Whether a directory that was there is gone, is something else or is another file system's.
fn is_no_longer(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV]
        .iter()
        .any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}
