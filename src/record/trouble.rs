//! What is wrong with records, for people: each is told once in the log, and stands in `Status` and
//! in a metric for as long as it lasts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RecordError;

/// A record that cannot be used. What it names is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Trouble {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub remedy: String,
}

impl Trouble {
    /// Of a record that could not be loaded, for an object called `what` that nobody owns.
    pub fn of(what: &str, error: &RecordError) -> Option<Self> {
        let problem = crate::error::chain(error);
        let (path, remedy) = match error {
            RecordError::File { path, .. } => {
                (path, "repair the disk or the file; it is tried again at every sweep".to_owned())
            }
            RecordError::Foreign { path, .. } => {
                (path, "install the newer crisol again, which knows it".to_owned())
            }
            RecordError::Damaged { path, .. } => (path, end(what, path)),
            RecordError::Directory { .. } | RecordError::Encode { .. } => return None,
        };
        Some(Self { path: path.clone(), problem, remedy })
    }

    /// Of a record that was set aside as `path`.
    pub fn aside(what: &str, path: PathBuf) -> Self {
        let problem = format!("the record of a {what} is damaged and was set aside");
        Self { remedy: end(what, &path), path, problem }
    }

    /// Of files of a `what` that has no record.
    pub fn unrecorded(what: &str, path: PathBuf, problem: String) -> Self {
        let remedy = format!("see why; the {what} is left as it is meanwhile");
        Self { path, problem, remedy }
    }
}

fn end(what: &str, path: &std::path::Path) -> String {
    let path = path.display();
    format!("the {what} is left as it is and runs on, if it ran; to have it ended, delete {path}")
}

/// What is wrong now with records of one kind.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<PathBuf, Trouble>>>);

impl Troubles {
    /// Takes what a look has found; what is new or different is logged.
    pub fn replace(&self, found: Vec<Trouble>) {
        let mut known = self.lock();
        let found = found.into_iter().map(|trouble| (trouble.path.clone(), trouble));
        let before = std::mem::replace(&mut *known, found.collect());
        for (path, trouble) in known.iter().filter(|(path, now)| before.get(*path) != Some(now)) {
            let Trouble { problem, remedy, .. } = trouble;
            tracing::error!(path = %path.display(), problem, remedy, "a record cannot be used");
        }
        for path in before.keys().filter(|path| !known.contains_key(*path)) {
            tracing::info!(path = %path.display(), "nothing is wrong with the record any more");
        }
    }

    /// All of them, by path.
    pub fn list(&self) -> Vec<Trouble> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
