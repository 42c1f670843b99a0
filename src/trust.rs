//! Whether root alone may change what the daemon believes or runs: a file or directory, and every
//! directory and link on the way to it.
//!
//! What is not there is not judged, but the way to it is: who may write there may put it there.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::config::Config;
use crate::error::{Classify, Kind};

/// As many links as the kernel follows on one way (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Entries of one directory that are looked at: plugins are dozens.
const MAX_ENTRIES: usize = 1000;

/// Who else may change something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It belongs to somebody.
    #[error("{path} belongs to user {uid}, not to root")]
    Owner {
        /// What.
        path: PathBuf,
        /// To whom.
        uid: u32,
    },
    /// Its mode lets others write.
    #[error("{path} can be written by others than root (mode {mode:o}, group {gid})")]
    Mode {
        /// What.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its group.
        gid: u32,
    },
}

impl Classify for Untrusted {
    fn kind(&self) -> Kind {
        Kind::Denied
    }
}

/// Whose files are read and whose programs are run, at the start and for as long as the daemon lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those that root alone may change.
    #[default]
    RootAlone,
    /// All: `accept_writable_files`.
    Everybody,
}

impl Trust {
    /// Whether what is at `path` may be used now. Blocks for as long as a few looks take.
    ///
    /// # Errors
    /// `PermissionDenied` with [`Untrusted`].
    pub fn check(self, path: &Path) -> io::Result<()> {
        match self {
            Self::RootAlone => check(path).map_err(denied),
            Self::Everybody => Ok(()),
        }
    }

    /// Opens a file to read it, without waiting for the other end of a FIFO in its place.
    ///
    /// The way is judged after the file is open, and the mode is that of the open file: what others
    /// could have put there is not read, whenever they did.
    ///
    /// # Errors
    /// What the system says, and those of [`check`](Self::check), also of a file that is absent: whoever
    /// may remove a file could change what it says.
    pub fn open(self, path: &Path) -> io::Result<File> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        self.check(path)?;
        let file = file?;
        if self == Self::RootAlone {
            judge(path, &file.metadata()?, Sticky::IsNotEnough).map_err(denied)?;
        }
        Ok(file)
    }
}

fn denied(why: Untrusted) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// A program that is run again and again; each time it is looked at whether it still may be.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    trust: Trust,
}

impl Program {
    /// The program at `path`.
    pub fn new(path: &Path, trust: Trust) -> Self {
        Self { path: path.to_owned(), trust }
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, to be run.
    ///
    /// # Errors
    /// Those of [`Trust::check`].
    pub fn to_run(&self) -> io::Result<&Path> {
        self.trust.check(&self.path).map(|()| &*self.path)
    }
}

/// Whether root alone may change what `path` means.
///
/// # Errors
/// The first thing on the way that others may change.
pub fn check(path: &Path) -> Result<(), Untrusted> {
    let mut way = Way { at: PathBuf::from("/"), rest: Vec::new(), links: 0 };
    way.add(path);
    way.root()?;
    while let Some(name) = way.rest.pop() {
        if !way.step(&name)? {
            break;
        }
    }
    Ok(())
}

/// A way through the file system, as the kernel goes it.
struct Way {
    at: PathBuf,
    /// What is still to come, the next one last.
    rest: Vec<OsString>,
    links: usize,
}

impl Way {
    fn add(&mut self, path: &Path) {
        if path.is_absolute() {
            self.at = PathBuf::from("/");
        }
        let parts: Vec<OsString> = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
            .map(|part| part.as_os_str().to_owned())
            .collect();
        self.rest.extend(parts.into_iter().rev());
    }

    fn root(&self) -> Result<(), Untrusted> {
        match self.at.symlink_metadata() {
            Ok(meta) => judge(&self.at, &meta, Sticky::Suffices),
            Err(_) => Ok(()),
        }
    }

    /// Goes on to `name`; false if there is nothing.
    fn step(&mut self, name: &OsStr) -> Result<bool, Untrusted> {
        if name == ".." {
            self.at.pop();
            return Ok(true);
        }
        let next = self.at.join(name);
        // Whoever reads it says what is wrong with it.
        let Ok(meta) = next.symlink_metadata() else { return Ok(false) };
        if meta.is_symlink() {
            owner(&next, &meta)?;
            self.links += 1;
            let Ok(target) = next.read_link() else { return Ok(false) };
            if self.links > MAX_LINKS {
                // Nobody can open it.
                return Ok(false);
            }
            self.add(&target);
            return Ok(true);
        }
        // In a sticky directory nobody can replace what is root's, but anybody can add something.
        let on_the_way = meta.is_dir() && !self.rest.is_empty();
        judge(&next, &meta, if on_the_way { Sticky::Suffices } else { Sticky::IsNotEnough })?;
        self.at = next;
        Ok(true)
    }
}

/// What the sticky bit of a directory means for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sticky {
    Suffices,
    IsNotEnough,
}

fn owner(path: &Path, meta: &Metadata) -> Result<(), Untrusted> {
    let uid = meta.uid();
    // Who the daemon is may do as the daemon anyway.
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(Untrusted::Owner { path: path.to_owned(), uid })
}

fn judge(path: &Path, meta: &Metadata, sticky: Sticky) -> Result<(), Untrusted> {
    owner(path, meta)?;
    let (mode, gid) = (meta.mode() & 0o7777, meta.gid());
    if mode & 0o1000 != 0 && sticky == Sticky::Suffices {
        return Ok(());
    }
    let others = mode & 0o002 != 0 || mode & 0o020 != 0 && !is_roots_alone(gid);
    if others { Err(Untrusted::Mode { path: path.to_owned(), mode, gid }) } else { Ok(()) }
}

/// Whether nobody but root is in a group, as far as the files of this host say. Debian's /usr/local
/// belongs to such a one.
fn is_roots_alone(gid: u32) -> bool {
    if gid == 0 {
        return true;
    }
    let files = ["/etc/group", "/etc/passwd"].map(std::fs::read_to_string);
    match files {
        [Ok(groups), Ok(users)] => has_no_members(gid, &groups, &users),
        _ => false,
    }
}

/// group(5) and passwd(5).
fn has_no_members(gid: u32, groups: &str, users: &str) -> bool {
    let number = gid.to_string();
    let field = |line: &str, n: usize| line.split(':').nth(n).unwrap_or_default().to_owned();
    let mut known = false;
    for line in groups.lines().filter(|line| field(line, 2) == number) {
        known = true;
        if field(line, 3).split(',').any(|member| !matches!(member.trim(), "" | "root")) {
            return false;
        }
    }
    known && !users.lines().any(|line| field(line, 3) == number && field(line, 2) != "0")
}

/// The daemon does not start with these.
#[derive(Debug, thiserror::Error)]
#[error("{}: make it root's alone, or see the key accept_writable_files", all(.0))]
pub struct Refused(Vec<Untrusted>);

impl Classify for Refused {
    fn kind(&self) -> Kind {
        Kind::Denied
    }
}

fn all(mistrusted: &[Untrusted]) -> String {
    mistrusted.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A configuration with which nothing is believed or run that others than root may change, or one
/// that accepts it.
///
/// # Errors
/// What others may change, except for directories of the search path: they are left out.
pub fn only_trusted(mut config: Config) -> Result<Config, Refused> {
    let mistrusted = mistrusted(&config);
    if config.accept_writable_files {
        mistrusted.iter().for_each(|why| tracing::warn!(%why, "accepted"));
        return Ok(config);
    }
    if !mistrusted.is_empty() {
        return Err(Refused(mistrusted));
    }
    for (dir, why) in left_out(&config.runtime.search_path) {
        tracing::warn!(%why, "left out of runtime.search_path");
        config.runtime.search_path.retain(|other| *other != dir);
    }
    Ok(config)
}

/// Everything that is wrong with the files and programs that a configuration names, one line each;
/// not with the files of the configuration, nor with its search path.
pub fn mistrusted(config: &Config) -> Vec<Untrusted> {
    believed(config).iter().filter_map(|path| check(path).err()).collect()
}

/// The directories of the search path that others may fill, and why. They are left out.
pub fn left_out(search_path: &[PathBuf]) -> Vec<(PathBuf, Untrusted)> {
    let judged = search_path.iter().filter_map(|dir| Some((dir.clone(), check(dir).err()?)));
    judged.collect()
}

/// What the daemon believes or runs.
fn believed(config: &Config) -> Vec<PathBuf> {
    let (image, network, stream) = (&config.image, &config.network, &config.stream);
    let mut drop_ins = image.registries_conf.clone().into_os_string();
    drop_ins.push(".d");
    let mut paths = vec![image.registries_conf.clone(), image.policy.clone()];
    let optional = [
        &image.auth_file,
        &stream.tls_cert,
        &stream.tls_key,
        &stream.tls_client_ca,
        &network.conf_template,
    ];
    paths.extend(optional.into_iter().flatten().cloned());
    paths.push(config.runtime.monitor.clone());
    paths.extend(config.runtime.handlers.values().map(|handler| handler.path.clone()));
    let mut dirs = vec![PathBuf::from(drop_ins), network.conf_dir.clone()];
    dirs.extend(network.plugin_dirs.iter().cloned());
    if config.nri.enable {
        dirs.extend([config.nri.plugin_dir.clone(), config.nri.plugin_config_dir.clone()]);
    }
    for dir in dirs {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let visible = entries.filter(|entry| !entry.file_name().as_bytes().starts_with(b"."));
        let files: Vec<_> = visible.take(MAX_ENTRIES).map(|entry| entry.path()).collect();
        paths.push(dir);
        paths.extend(files);
    }
    paths
}

#[cfg(test)]
mod tests;
