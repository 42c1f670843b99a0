//! What an OCI runtime can do, from its `features` command (runtime-spec, features.md), or safe old
//! defaults for one that has no such command.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::probe::{self, ProbeError};

/// The newest version of the runtime specification whose fields we use.
const NEWEST_OCI_VERSION: [u64; 3] = [1, 2, 0];

/// What every runtime in use accepts: crun 1.8 refuses anything that is not 1.0.x.
const OLDEST_OCI_VERSION: [u64; 3] = [1, 0, 2];

/// What one runtime can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The `ociVersion` to write into its `config.json`.
    pub oci_version: String,
    /// Mount option `rro`: read-only for the mounts below as well.
    pub recursive_read_only: bool,
    /// Id-mapped mounts, which user namespaces need.
    pub idmapped_mounts: bool,
    /// Checkpoints of containers, which need CRIU besides.
    pub checkpoint: bool,
    /// Filters of system calls; unknown of runtimes without `features`.
    pub seccomp: Option<bool>,
    /// Whether the runtime said so itself.
    pub reported: bool,
}

impl Features {
    /// For runtimes that cannot be asked.
    pub fn unknown() -> Self {
        Self {
            oci_version: text(OLDEST_OCI_VERSION),
            recursive_read_only: false,
            idmapped_mounts: false,
            checkpoint: false,
            seccomp: None,
            reported: false,
        }
    }

    /// From the output of `features`; none if that is not what the specification says.
    fn parse(answer: &str) -> Option<Self> {
        let reported: Reported = serde_json::from_str(answer).ok()?;
        let linux = reported.linux.unwrap_or_default();
        let idmap = linux.mount_extensions.and_then(|extensions| extensions.idmap);
        Some(Self {
            oci_version: oci_version(&reported.oci_version_max),
            recursive_read_only: reported.mount_options.unwrap_or_default().contains(&"rro".into()),
            idmapped_mounts: idmap.and_then(|idmap| idmap.enabled).unwrap_or(false),
            // The key is runc's; crun has it, too.
            checkpoint: reported.annotations.is_some_and(|annotations| {
                annotations
                    .get("org.opencontainers.runc.checkpoint.enabled")
                    .is_some_and(|is| is == "true")
            }),
            seccomp: linux.seccomp.and_then(|seccomp| seccomp.enabled),
            reported: true,
        })
    }
}

/// Runs `program features`. A program that has no such command gets [`Features::unknown`].
///
/// # Errors
///
/// If the program cannot be run or does not answer in time.
pub async fn features(program: &Path) -> Result<Features, ProbeError> {
    match probe::ask(program, "features").await {
        Ok(answer) => Ok(Features::parse(&answer).unwrap_or_else(Features::unknown)),
        Err(ProbeError::Failed { .. }) => Ok(Features::unknown()),
        Err(error) => Err(error),
    }
}

/// The lower of what the runtime takes and what we use.
fn oci_version(max: &str) -> String {
    // A suffix is a state of development after that version: runc 1.1 says `1.0.2-dev`.
    let release = max.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u64> = release.split('.').filter_map(|number| number.parse().ok()).collect();
    match <[u64; 3]>::try_from(numbers) {
        Ok(max) => text(max.min(NEWEST_OCI_VERSION)),
        Err(_) => text(OLDEST_OCI_VERSION),
    }
}

fn text([major, minor, patch]: [u64; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}

// Go writes `null` for empty lists and leaves out whole structures, so everything is optional.

#[derive(Deserialize)]
struct Reported {
    #[serde(rename = "ociVersionMax")]
    oci_version_max: String,
    #[serde(rename = "mountOptions")]
    mount_options: Option<Vec<String>>,
    annotations: Option<BTreeMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
struct Linux {
    seccomp: Option<Enabled>,
    #[serde(rename = "mountExtensions")]
    mount_extensions: Option<MountExtensions>,
}

#[derive(Deserialize)]
struct MountExtensions {
    idmap: Option<Enabled>,
}

#[derive(Deserialize)]
struct Enabled {
    enabled: Option<bool>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_oci_version_is_one_that_both_sides_know() {
        for (max, written) in [
            ("1.0.2-dev", "1.0.2"),
            ("1.2.0", "1.2.0"),
            ("1.3.0", "1.2.0"),
            ("1.1.0+dev", "1.1.0"),
            ("1.0.0", "1.0.0"),
            ("", "1.0.2"),
            ("latest", "1.0.2"),
        ] {
            assert_eq!(oci_version(max), written, "{max}");
        }
    }

    #[test]
    fn a_full_answer_is_understood() {
        let answer = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1","hooks":null,
            "mountOptions":["bind","rro"],
            "annotations":{"org.opencontainers.runc.checkpoint.enabled":"true"},
            "linux":{"seccomp":{"enabled":true,"actions":null},
                     "mountExtensions":{"idmap":{"enabled":true}}}}"#;
        let features = Features::parse(answer).unwrap();
        let expected = Features {
            oci_version: "1.2.0".to_owned(),
            recursive_read_only: true,
            idmapped_mounts: true,
            checkpoint: true,
            seccomp: Some(true),
            reported: true,
        };
        assert_eq!(features, expected);
    }

    #[test]
    fn what_is_left_out_is_not_there() {
        let features = Features::parse(r#"{"ociVersionMax":"1.0.2","mountOptions":null}"#).unwrap();
        assert!(!features.recursive_read_only && !features.idmapped_mounts);
        assert!(!features.checkpoint);
        assert_eq!(features.seccomp, None);
        assert_eq!(Features::parse("usage"), None);
    }

    #[tokio::test]
    async fn a_program_without_the_command_gets_safe_defaults() {
        let features = features(Path::new("/bin/false")).await.unwrap();
        assert_eq!(features, Features::unknown());
        assert_eq!(features.oci_version, "1.0.2");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        assert!(features(Path::new("/nonexistent/runc")).await.is_err());
    }
}
