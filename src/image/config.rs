//! [`ImageConfig`]: what an image says about running it, checked before the image is stored.
//!
//! Everything in it was written by whoever made the image and only ever describes the inside of
//! the container (R28).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::digest::Digest;
use super::manifest::Platform;
use crate::error::{Classify, Kind};

/// Environment entries; the kernel's limit on arguments and environment ends far below this.
const MAX_ENV: usize = 10_000;

/// Volumes; each becomes a mount.
const MAX_VOLUMES: usize = 1_000;

/// Labels.
const MAX_LABELS: usize = 10_000;

/// Longest path or user: `PATH_MAX`.
const MAX_TEXT: usize = 4096;

/// Why an image's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON it should be.
    #[error("read image configuration")]
    Json(#[source] serde_json::Error),
    /// A field has a value no container could be started with.
    #[error("image configuration: {field} {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// `rootfs.diff_ids` and the manifest's layers are not the same in number.
    #[error("image configuration lists {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// Number in the configuration.
        diff_ids: usize,
        /// Number in the manifest.
        layers: usize,
    },
}

impl Classify for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// What an image says about running it (OCI image spec, `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, or all of it.
    pub cmd: Vec<String>,
    /// `NAME=value` each, in order.
    pub env: Vec<String>,
    /// Working directory; may be empty.
    pub working_dir: String,
    /// User, and after a colon group, by name or number; may be empty.
    pub user: String,
    /// Signal that stops it, by name or number.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths that should be volumes, sorted.
    pub volumes: Vec<String>,
    /// Architecture in Go's words.
    pub architecture: String,
    /// Operating system in Go's words.
    pub os: String,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
}

/// Parses a configuration; the second part are the diff ids of its layers, bottom first.
///
/// # Errors
/// [`ConfigError`] if it is not a configuration, or not one that could ever run here.
pub(super) fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ConfigError> {
    let raw: RawImage = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    let diff_ids = raw.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let given = raw.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: given.entrypoint.unwrap_or_default(),
        cmd: given.cmd.unwrap_or_default(),
        env: given.env.unwrap_or_default(),
        working_dir: given.working_dir.unwrap_or_default(),
        user: given.user.unwrap_or_default(),
        stop_signal: given.stop_signal.filter(|signal| !signal.is_empty()),
        labels: given.labels.unwrap_or_default(),
        volumes: given.volumes.unwrap_or_default().into_keys().collect(),
        architecture: raw.architecture.unwrap_or_default(),
        os: raw.os.unwrap_or_default(),
    };
    config.check()?;
    Ok((config, diff_ids))
}

impl ImageConfig {
    /// Whether the image was built for another architecture than this machine's. It may still run
    /// (binfmt_misc), and images with a careless builder name the wrong one.
    pub fn is_foreign(&self) -> bool {
        !self.architecture.is_empty() && self.architecture != Platform::host().architecture
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, why| Err(ConfigError::Field { field, why });
        if !self.os.is_empty() && self.os != "linux" {
            return refuse("os", "is not linux");
        }
        if self.env.len() > MAX_ENV {
            return refuse("Env", "has more than 10000 entries");
        }
        if self.env.iter().any(|entry| entry.find('=').is_none_or(|at| at == 0)) {
            return refuse("Env", "has an entry that is not NAME=value");
        }
        if self.volumes.len() > MAX_VOLUMES {
            return refuse("Volumes", "has more than 1000 entries");
        }
        if self.labels.len() > MAX_LABELS {
            return refuse("Labels", "has more than 10000 entries");
        }
        let stop_signal = self.stop_signal.as_deref().unwrap_or_default();
        let short = [
            ("WorkingDir", self.working_dir.as_str()),
            ("User", &self.user),
            ("StopSignal", stop_signal),
        ];
        let volumes = self.volumes.iter().map(|volume| ("Volumes", volume.as_str()));
        for (field, text) in short.into_iter().chain(volumes) {
            if text.len() > MAX_TEXT {
                return refuse(field, "is longer than 4096 bytes");
            }
            if text.chars().any(char::is_control) {
                return refuse(field, "has a control character");
            }
        }
        let words = [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd), ("Env", &self.env)];
        for (field, texts) in words {
            if texts.iter().any(|text| text.contains('\0')) {
                return refuse(field, "has a NUL");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_config(config: &str) -> Result<ImageConfig, ConfigError> {
        let text = format!(r#"{{"architecture":"amd64","os":"linux","config":{config}}}"#);
        parse(text.as_bytes()).map(|(config, _)| config)
    }

    #[test]
    fn all_fields_may_be_null_or_absent() {
        let all = r#"{"Entrypoint":null,"Cmd":null,"Env":null,"WorkingDir":null,"User":null,
            "StopSignal":null,"Labels":null,"Volumes":null,"Unknown":[1]}"#;
        assert_eq!(parse_config(all).expect("nulls"), parse_config("null").expect("null"));
        assert!(parse(b"{}").expect("empty").1.is_empty());
    }

    #[test]
    fn fields_are_read() {
        let config = parse_config(
            r#"{"Entrypoint":["/e"],"Cmd":["c"],"Env":["A=b=c"],"WorkingDir":"/w","User":"u:g",
                "StopSignal":"SIGQUIT","Labels":{"k":"v"},"Volumes":{"/b":{},"/a":{}}}"#,
        )
        .expect("a configuration");
        assert_eq!(config.volumes, ["/a", "/b"]);
        assert_eq!(config.env, ["A=b=c"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
    }

    #[test]
    fn what_could_never_run_is_invalid() {
        let many_env = format!("[{}]", vec![r#""A=b""#; MAX_ENV + 1].join(","));
        for bad in [
            r#"{"Entrypoint":"/bin/sh"}"#.to_owned(),
            r#"{"Env":["NOVALUE"]}"#.into(),
            r#"{"Env":["=x"]}"#.into(),
            r#"{"Env":["A=\u0000"]}"#.into(),
            r#"{"User":"a\u0007"}"#.into(),
            format!(r#"{{"User":"{}"}}"#, "u".repeat(MAX_TEXT + 1)),
            format!(r#"{{"Env":{many_env}}}"#),
            r#"{"Labels":{"a":1}}"#.into(),
        ] {
            assert!(parse_config(&bad).is_err(), "{bad:.60}");
        }
        assert!(parse(br#"{"os":"windows"}"#).is_err());
        assert!(parse(br#"{"rootfs":{"diff_ids":["sha256:zz"]}}"#).is_err());
    }
}
