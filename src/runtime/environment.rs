//! The environment of every runtime and monitor. The daemon's own has what is none of theirs: with
//! systemd's NOTIFY_SOCKET, runc would make every container's start wait for a readiness message.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::check::is_program;

/// A PATH, and nothing else.
#[derive(Clone, Debug)]
pub struct Environment(Arc<str>);

impl Environment {
    /// Programs are looked for in `search_path`, whose directories have no colon in their names.
    pub fn new(search_path: &[PathBuf]) -> Self {
        let dirs: Vec<_> = search_path.iter().map(|dir| dir.to_string_lossy()).collect();
        Self(dirs.join(":").into())
    }

    /// All variables.
    pub fn variables(&self) -> [(&str, &str); 1] {
        [("PATH", &self.0)]
    }

    /// The program that `name` means there.
    ///
    /// # Errors
    /// That there is none, in words.
    pub fn find(&self, name: &str) -> Result<PathBuf, String> {
        let mut found = self.0.split(':').map(|dir| Path::new(dir).join(name));
        found.find(|path| is_program(path)).ok_or_else(|| format!("{name} is not in {}", self.0))
    }
}
