//! Whether `root` and `state` belong together: one random text, the same in both.
//!
//! What is in `state` (mounts, monitors and through them processes) is told apart from what nobody
//! wants any more by the records in `root`. So a `root` that is another one, because its disk is not
//! mounted or the configuration names another directory, must never be taken for one in which
//! everything was removed.
//!
//! A state in which nothing is (a reboot empties it) belongs to whoever comes. Directories of a crisol
//! that wrote no identity belong together if a record in `root` names something in `state`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Classify, Kind};
use crate::ids::Identity;
use crate::path::Layout;

/// Why a daemon must not work with these two directories.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What is in them could not be told.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// They do not belong together.
    #[error(
        "state {} holds {held}, but they are not of root {}: {why}", state.display(), root.display()
    )]
    Apart {
        /// The directory of the state.
        state: PathBuf,
        /// What is in it.
        held: Held,
        /// The directory of the root.
        root: PathBuf,
        /// How that was found.
        why: String,
    },
}

impl Classify for IdentityError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { source, .. } => Kind::of_io(source),
            Self::Apart { .. } => Kind::WrongState,
        }
    }
}

impl IdentityError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::File { path, .. } => format!("repair {} or its disk", path.display()),
            Self::Apart { state, root, .. } => format!(
                "mount the disk of {root}, or set `root` and `state` in the configuration to what \
                 they were; if that root is lost for good, reboot the node, which ends what is in \
                 {state}",
                root = root.display(),
                state = state.display()
            ),
        }
    }
}

/// How much is in the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pods: usize,
    containers: usize,
    networks: usize,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pods, containers, networks } = self;
        write!(f, "{pods} pods, {containers} containers and {networks} owed networks")
    }
}

/// Looks whether the two belong together. Writes nothing. Blocks.
///
/// # Errors
/// [`IdentityError`] if they do not, or if that cannot be told.
pub fn look(layout: &Layout) -> Result<(), IdentityError> {
    judge(layout).map(drop)
}

/// The same, and gives them an identity where they have none. Nobody else may do so at the same
/// time. Blocks.
///
/// That it cannot be written (the disk is full) keeps nobody from starting: it is tried again then,
/// and meanwhile nothing counts as an orphan.
///
/// # Errors
/// As [`look`].
pub fn settle(layout: &Layout) -> Result<(), IdentityError> {
    let identity = judge(layout)?.unwrap_or_else(Identity::random);
    for path in [layout.root_identity(), layout.state_identity()] {
        if !read(&path).is_ok_and(|found| found == Some(identity))
            && let Err(error) = write(&path, identity)
        {
            tracing::error!(error = %crate::error::chain(&error), "give root and state an identity");
            break;
        }
    }
    Ok(())
}

/// Whether both carry the same identity at this moment. Blocks.
///
/// # Errors
/// If that cannot be told.
pub fn is_same(layout: &Layout) -> Result<bool, IdentityError> {
    let root = read(&layout.root_identity())?;
    Ok(root.is_some() && root == read(&layout.state_identity())?)
}

/// The identity that both are to have; none if neither has one that counts.
fn judge(layout: &Layout) -> Result<Option<Identity>, IdentityError> {
    let root = read(&layout.root_identity());
    let (pods, containers) = (entries(&layout.pods())?, entries(&layout.bundles())?);
    let networks = entries(&layout.owed_networks())?;
    let held = Held { pods: pods.len(), containers: containers.len(), networks: networks.len() };
    if held == Held::default() {
        return match root {
            // What a power cut tore means as little as none.
            Err(error) if is_torn(&error) => Ok(None),
            root => root,
        };
    }
    let apart = |why: String| IdentityError::Apart {
        state: layout.state().to_owned(),
        held,
        root: layout.root().to_owned(),
        why,
    };
    match (root?, read(&layout.state_identity())?) {
        (Some(root), Some(state)) if root == state => Ok(Some(root)),
        (Some(root), Some(state)) => {
            Err(apart(format!("its identity is {root}, that of the state is {state}")))
        }
        (one, other) => {
            let known = names_one_of(&layout.pod_records(), &pods)?
                || names_one_of(&layout.container_records(), &containers)?;
            match known {
                true => Ok(one.or(other)),
                false => Err(apart("it has a record of none of them".to_owned())),
            }
        }
    }
}

/// Whether a record in `dir` names one of `ids`.
fn names_one_of(dir: &Path, ids: &[String]) -> Result<bool, IdentityError> {
    let recorded = entries(dir)?;
    let named = |id: &String| recorded.iter().any(|file| file.split('.').next() == Some(id));
    Ok(ids.iter().any(named))
}

/// The names in a directory; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<String>, IdentityError> {
    let failed = |source| IdentityError::File { action: "list", path: dir.to_owned(), source };
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    listing.map(name).collect::<io::Result<_>>().map_err(failed)
}

fn read(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let failed = |source| IdentityError::File { action: "read", path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => match text.map_err(failed)?.trim().parse() {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, error))),
        },
    }
}

fn is_torn(error: &IdentityError) -> bool {
    let IdentityError::File { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::InvalidData
}

/// Whole and on the disk, or not there: it is written once in the life of a root.
fn write(path: &Path, identity: Identity) -> Result<(), IdentityError> {
    let beside = path.with_extension("tmp");
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            writeln!(file, "{identity}")?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()));
    written.map_err(|source| IdentityError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, PodId};

    struct Place {
        _dir: tempfile::TempDir,
        layout: Layout,
    }

    /// Directories as a daemon makes them after it has settled their identity.
    fn place() -> Place {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(&dir.path().join("root"), &dir.path().join("state"));
        for dir in [
            layout.pods(),
            layout.bundles(),
            layout.owed_networks(),
            layout.pod_records(),
            layout.container_records(),
        ] {
            fs::create_dir_all(dir).expect("directory");
        }
        Place { _dir: dir, layout }
    }

    fn another_root(of: &Layout) -> Layout {
        let root = of.root().with_file_name("another");
        fs::create_dir(&root).expect("directory");
        Layout::new(&root, of.state())
    }

    fn refused(layout: &Layout) -> String {
        let before =
            [layout.root_identity(), layout.state_identity()].map(|file| fs::read(file).ok());
        let error = settle(layout).expect_err("they are apart");
        assert!(look(layout).is_err());
        let after =
            [layout.root_identity(), layout.state_identity()].map(|file| fs::read(file).ok());
        assert_eq!(before, after, "a refusal writes nothing");
        assert!(!error.remedy().is_empty());
        crate::error::chain(&error)
    }

    #[test]
    fn new_directories_get_one_identity_and_keep_it() {
        let Place { layout, _dir } = place();
        assert!(!is_same(&layout).expect("look"));
        look(&layout).expect("nothing is wrong with new ones");
        assert!(!layout.root_identity().exists(), "a look writes nothing");
        settle(&layout).expect("settle");
        let first = fs::read(layout.root_identity()).expect("read");
        settle(&layout).expect("settle again");
        assert_eq!(fs::read(layout.root_identity()).expect("read"), first);
        assert!(is_same(&layout).expect("look"));
    }

    #[test]
    fn an_empty_state_belongs_to_whoever_comes() {
        let Place { layout, _dir } = place();
        settle(&layout).expect("settle");
        let root = fs::read(layout.root_identity()).expect("read");
        fs::remove_file(layout.state_identity()).expect("a reboot");
        settle(&layout).expect("settle");
        assert_eq!(fs::read(layout.state_identity()).expect("read"), root);
        settle(&another_root(&layout)).expect("another root with nothing of this one in the state");
        assert_ne!(fs::read(layout.state_identity()).expect("read"), root);
        settle(&layout).expect("and back");
    }

    #[test]
    fn a_full_state_goes_with_its_own_root_alone() {
        type Fill = fn(&Layout) -> PathBuf;
        let fills: [Fill; 3] = [
            |layout| layout.pod(&PodId::random()),
            |layout| layout.bundle(&ContainerId::random()),
            |layout| layout.owed_network(&PodId::random()),
        ];
        for fill in fills {
            let Place { layout, _dir } = place();
            settle(&layout).expect("settle");
            fs::create_dir(fill(&layout)).expect("fill");
            settle(&layout).expect("its own root");
            let other = another_root(&layout);
            let told = refused(&other);
            assert!(told.contains("a record of none"), "{told}");
            for dir in [other.root(), other.state()] {
                assert!(told.contains(&dir.display().to_string()), "{told}");
            }
            fs::write(other.root_identity(), format!("{}\n", Identity::random())).expect("write");
            let told = refused(&other);
            assert!(told.contains("its identity is"), "{told}");
            settle(&layout).expect("put back");
        }
    }

    #[test]
    fn directories_of_before_get_an_identity_when_a_record_names_what_is_there() {
        let (pod, container) = (PodId::random(), ContainerId::random());
        for of_root in [false, true] {
            let Place { layout, _dir } = place();
            fs::create_dir(layout.pod(&pod)).expect("pod");
            fs::create_dir(layout.bundle(&container)).expect("container");
            if of_root {
                // Interrupted between the two files.
                write(&layout.root_identity(), Identity::random()).expect("write");
            }
            let told = refused(&layout);
            assert!(told.contains("a record of none"), "{told}");
            fs::write(layout.container_records().join(format!("{container}.json")), "{}")
                .expect("record");
            settle(&layout).expect("they agree");
            assert!(is_same(&layout).expect("look"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_refusal_and_never_absence() {
        let Place { layout, _dir } = place();
        fs::create_dir(layout.root_identity()).expect("a directory instead: EISDIR");
        assert!(refused(&layout).contains("read"));
        fs::remove_dir(layout.root_identity()).expect("remove");
        fs::remove_dir(layout.bundles()).expect("remove");
        fs::write(layout.bundles(), "").expect("a file instead: ENOTDIR");
        assert!(refused(&layout).contains("list"));
    }

    #[test]
    fn an_identity_that_cannot_be_written_keeps_nobody_from_starting() {
        let Place { layout, _dir } = place();
        let in_the_way = layout.root_identity().with_extension("tmp");
        fs::create_dir(&in_the_way).expect("a directory instead: EISDIR");
        settle(&layout).expect("settle");
        assert!(!is_same(&layout).expect("look"));
        assert!(!layout.state_identity().exists(), "the state's is never the only one");
        fs::remove_dir(&in_the_way).expect("remove");
        settle(&layout).expect("settle");
        assert!(is_same(&layout).expect("look"));
    }

    #[test]
    fn a_torn_identity_is_made_anew_only_where_nothing_is() {
        let Place { layout, _dir } = place();
        fs::write(layout.root_identity(), "12").expect("torn");
        fs::create_dir(layout.pod(&PodId::random())).expect("pod");
        assert!(refused(&layout).contains("read"));
        fs::remove_dir_all(layout.pods()).expect("a reboot");
        settle(&layout).expect("settle");
        assert!(is_same(&layout).expect("look"));
    }
}
