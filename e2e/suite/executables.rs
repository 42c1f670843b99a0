//! The test executables that cargo has built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Executable {
    /// `package target`, for people.
    pub(crate) name: String,
    path: PathBuf,
    /// Where cargo would run it: the package's directory.
    dir: PathBuf,
}

/// What cargo says of an artifact, as far as it matters here (`cargo help build`,
/// `--message-format`).
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Executable {
    fn of(line: &str) -> Option<Self> {
        // Lines about other things have other fields.
        let artifact: Artifact = serde_json::from_str(line).ok()?;
        let dir = artifact.manifest_path.parent()?.to_owned();
        let package = dir.file_name()?.to_string_lossy().into_owned();
        let Target { name, kind } = artifact.target;
        let name = format!("{package}: {name} ({})", kind.join(", "));
        let path = artifact.executable.filter(|_| artifact.profile.test)?;
        Some(Self { name, path, dir })
    }

    /// The command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.dir);
        command
    }
}

/// Those in a file of cargo's messages.
///
/// # Errors
/// If it cannot be read or names none.
pub(crate) fn read(messages: &Path) -> Result<Vec<Executable>> {
    let text = fs::read_to_string(messages).with_context(|| messages.display().to_string())?;
    let executables: Vec<Executable> = text.lines().filter_map(Executable::of).collect();
    ensure!(!executables.is_empty(), "{} names no test executable", messages.display());
    Ok(executables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_executables_are_told_from_everything_else() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/src/cni/Cargo.toml","target":{{"name":"real","kind":["test"]}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = Executable::of(&artifact(true, "\"/t/real-1\"")).expect("one");
        assert_eq!(
            (found.name.as_str(), found.dir.as_path()),
            ("cni: real (test)", Path::new("/src/cni"))
        );
        for other in [artifact(false, "\"/t/real\""), artifact(true, "null"), "{}".to_owned()] {
            assert!(Executable::of(&other).is_none(), "{other}");
        }
    }
}
