//! containers-auth.json(5): credentials by registry or namespace, from one file.
//!
//! Read again for every pull. Credential helpers are programs; none is run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::credentials::{Credentials, CredentialsError};
use super::reference::Reference;
use crate::error::{Classify, Kind};
use crate::trust::Trust;

/// Longest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Why the file cannot be used. None repeats any of its content.
#[derive(Debug, thiserror::Error)]
pub enum AuthFileError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("parse {} at line {line}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where. What is there might be a secret.
        line: usize,
    },
    /// The credentials that apply are not usable.
    #[error("{}: credentials for {scope}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The key.
        scope: String,
        /// Why.
        source: CredentialsError,
    },
}

impl Classify for AuthFileError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

#[derive(Default, Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// The credentials for `reference`, if there are any. Blocks.
///
/// # Errors
/// [`AuthFileError`] names the file. A file that does not exist has no credentials.
pub(super) fn find(
    path: &Path,
    trust: Trust,
    reference: &Reference,
) -> Result<Option<Credentials>, AuthFileError> {
    let text = super::read_config_file(path, trust, MAX_FILE)
        .map_err(|source| AuthFileError::Read { path: path.to_owned(), source })?;
    let Some(text) = text else { return Ok(None) };
    let file: AuthFile = serde_json::from_str(&text)
        .map_err(|error| AuthFileError::Parse { path: path.to_owned(), line: error.line() })?;
    for scope in scopes_of(reference) {
        let entry = file.auths.iter().find(|(key, _)| normalize(key) == scope);
        let Some((key, entry)) = entry.filter(|(_, entry)| !entry.is_empty()) else { continue };
        let refuse = |source| {
            let (path, scope) = (path.to_owned(), key.clone());
            AuthFileError::Entry { path, scope, source }
        };
        return entry.credentials().map(Some).map_err(refuse);
    }
    Ok(None)
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.auth.is_empty() && self.identity_token.is_empty()
    }

    fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut credentials = match self.auth.as_str() {
            "" => Credentials::default(),
            auth => Credentials::from_auth_field(auth)?,
        };
        if !self.identity_token.is_empty() {
            credentials.identity_token.clone_from(&self.identity_token);
        }
        credentials.check()?;
        Ok(credentials)
    }
}

/// The repository and all above it, the narrowest first.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.repository()];
    while let Some(at) = scopes.last().and_then(|scope| scope.rfind('/')) {
        scopes.push(scopes[scopes.len() - 1][..at].to_owned());
    }
    scopes
}

/// Docker writes registries as URLs with an API version: `https://index.docker.io/v1/`.
fn normalize(key: &str) -> String {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let versioned = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2"));
    let bare = versioned.filter(|_| key.contains("://")).unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        bare => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::Name;

    fn user(file: &str, name: &str) -> Result<Option<String>, AuthFileError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("auth.json");
        std::fs::write(&path, file).expect("write");
        let found =
            find(&path, Trust::RootAlone, &name.parse::<Name>().expect("reference").qualify())?;
        Ok(found.map(|credentials| credentials.username))
    }

    #[test]
    fn the_narrowest_entry_wins() {
        let file = r#"{"auths":{
            "quay.io":{"auth":"aG9zdDpw"},
            "quay.io/team":{"auth":"dGVhbTpw"},
            "https://index.docker.io/v1/":{"auth":"aHViOnA="},
            "empty.io":{}
        }}"#;
        for (name, expected) in [
            ("quay.io/team/x", Some("team")),
            ("quay.io/teams/x", Some("host")),
            ("busybox", Some("hub")),
            ("empty.io/x", None),
            ("other.io/x", None),
        ] {
            assert_eq!(user(file, name).expect("file").as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn an_absent_file_has_none_and_a_broken_one_never_shows_its_content() {
        let reference = "quay.io/x".parse::<Name>().expect("reference").qualify();
        assert_eq!(
            find(Path::new("/nonexistent/auth.json"), Trust::RootAlone, &reference)
                .expect("absent"),
            None
        );
        for broken in [
            r#"{"auths":{"quay.io":{"auth":"s3cret"#,
            r#"{"auths":{"quay.io":{"auth":"s3cret!"}}}"#,
        ] {
            let error = crate::error::chain(&user(broken, "quay.io/x").expect_err("broken"));
            assert!(error.contains("auth.json") && !error.contains("s3cret"), "{error}");
        }
    }
}
