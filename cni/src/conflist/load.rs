//! Configuration files: which there are, in what order, and which one is used.
//!
//! The first valid file by name wins. A file that is not valid is skipped and becomes a
//! [`LoadError`] that names it, so that nobody has to guess why a network is not the one expected.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Guard;

use super::{ConfigError, Inlined, NetworkConfig, PluginConfig, object};

/// Largest file that is read. A real one has a few hundred bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Most files that are looked at in one directory.
pub const MAX_FILES: usize = 256;

/// Why a file or a directory gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory could not be listed.
    #[error("list {path}", path = path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More files than [`MAX_FILES`]; the rest are not looked at.
    #[error("{path} holds more than {MAX_FILES} configuration files", path = path.display())]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may change it than whose files are believed.
    #[error("{path} is not used", path = path.display())]
    NotTrusted {
        /// The file or directory.
        path: PathBuf,
        /// What the caller's [`Guard`] says.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Its contents are wrong.
    #[error("{path} is not a valid network configuration", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
}

impl LoadError {
    /// The file or directory that it is about.
    pub fn path(&self) -> &Path {
        match self {
            LoadError::List { path, .. }
            | LoadError::TooManyFiles { path }
            | LoadError::Read { path, .. }
            | LoadError::NotTrusted { path, .. }
            | LoadError::NotAFile { path }
            | LoadError::TooLarge { path }
            | LoadError::Config { path, .. } => path,
        }
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Choice {
    /// The first valid configuration by file name.
    pub config: Option<NetworkConfig>,
    /// Everything that was not valid, in the same order.
    pub errors: Vec<LoadError>,
}

/// Chooses from a directory. A directory that does not exist holds nothing; that is no error.
pub fn choose(directory: &Path) -> Choice {
    choose_guarded(directory, |_| Ok(()))
}

/// The same, of a directory and files that `guard` lets be used.
pub fn choose_guarded(directory: &Path, guard: Guard) -> Choice {
    let mut choice = Choice::default();
    let mut files = match list(directory, &["conf", "json", "conflist"], guard) {
        Ok(files) => files,
        Err(error) => {
            choice.errors.push(error);
            return choice;
        }
    };
    if files.len() > MAX_FILES {
        files.truncate(MAX_FILES);
        choice.errors.push(LoadError::TooManyFiles { path: directory.to_owned() });
    }
    for file in files {
        match read_guarded(&file, guard) {
            // The later ones are read as well: a broken file is worth saying even when unused.
            Ok(config) => choice.config = choice.config.or(Some(config)),
            Err(error) => choice.errors.push(error),
        }
    }
    choice
}

/// Reads one file: a list if it is called so or has `plugins`, else a single plugin.
pub fn read(path: &Path) -> Result<NetworkConfig, LoadError> {
    read_guarded(path, |_| Ok(()))
}

fn read_guarded(path: &Path, guard: Guard) -> Result<NetworkConfig, LoadError> {
    let text = bounded(path, guard)?;
    let wrong = |source| LoadError::Config { path: path.to_owned(), source };
    let is_list = path.extension().is_some_and(|extension| extension == "conflist")
        || object(&text).map_err(wrong)?.contains_key("plugins");
    let mut config = if is_list {
        NetworkConfig::parse_incomplete_list(&text).map_err(wrong)?
    } else {
        NetworkConfig::parse_single(&text).map_err(wrong)?
    };
    if config.inlined == Inlined::AndOthers
        && let Some(parent) = path.parent()
    {
        for file in list(&parent.join(&config.name), &["conf"], guard)?.iter().take(MAX_FILES) {
            config.plugins.push(read_plugin(file, guard)?);
        }
    }
    config.file = Some(path.to_owned());
    config.complete().map_err(wrong)
}

/// A plugin from the directory with the network's name.
fn read_plugin(path: &Path, guard: Guard) -> Result<PluginConfig, LoadError> {
    let wrong = |source| LoadError::Config { path: path.to_owned(), source };
    let fields = object(&bounded(path, guard)?).map_err(wrong)?;
    PluginConfig::from_value(fields.into(), "the plugin").map_err(wrong)
}

/// Files with one of the extensions, sorted by name.
fn list(directory: &Path, extensions: &[&str], guard: Guard) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |source| LoadError::List { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    allowed(directory, guard)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let wanted = path.extension().and_then(|e| e.to_str());
        if wanted.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn allowed(path: &Path, guard: Guard) -> Result<(), LoadError> {
    guard(path).map_err(|source| LoadError::NotTrusted { path: path.to_owned(), source })
}

fn bounded(path: &Path, guard: Guard) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    // O_NONBLOCK: opening a pipe that somebody called x.conf must not wait for its writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File =
        OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    // After opening: whoever could put another file there is seen now.
    allowed(path, guard)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(LoadError::NotAFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}
