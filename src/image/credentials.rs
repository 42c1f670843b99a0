//! [`Credentials`]: who we are to a registry. They never print themselves.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::reference::Reference;
use crate::error::{Classify, Kind};

/// Longest single field: cloud providers' tokens reach a few KiB, never this.
const MAX_FIELD: usize = 64 * 1024;

/// User name that means "the password is an identity token" (Docker's convention).
const TOKEN_USER: &str = "<token>";

/// Why credentials cannot be used. No variant repeats any part of them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// The `auth` field is not base64 of UTF-8.
    #[error("credentials: auth is not base64 of text")]
    NotBase64,
    /// The `auth` field has no colon between user name and password.
    #[error("credentials: auth has no colon after the user name")]
    NoColon,
    /// A field could smuggle a header line, or the user name has a colon (RFC 7617).
    #[error("credentials: {field} has a character that HTTP cannot carry")]
    Character {
        /// Which field.
        field: &'static str,
    },
    /// A field is longer than any real one.
    #[error("credentials: {field} is longer than 65536 bytes")]
    TooLong {
        /// Which field.
        field: &'static str,
    },
}

impl Classify for CredentialsError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Credentials for one registry (CRI `AuthConfig`). Empty strings mean "not given".
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name for basic authentication.
    pub username: String,
    /// Password for basic authentication.
    pub password: String,
    /// A refresh token for the token server.
    pub identity_token: String,
    /// A bearer token for the registry itself.
    pub registry_token: String,
    /// The registry these are for; empty = the one that is pulled from.
    pub server_address: String,
}

impl Credentials {
    /// Credentials from the `auth` field of a CRI `AuthConfig` or of a containers-auth.json(5)
    /// entry: base64 of `user:password`.
    ///
    /// # Errors
    /// [`CredentialsError`] if it is not that.
    pub fn from_auth_field(auth: &str) -> Result<Self, CredentialsError> {
        let auth = auth.trim_end_matches(['\r', '\n', '\0']);
        if auth.len() > MAX_FIELD {
            return Err(CredentialsError::TooLong { field: "auth" });
        }
        let decoded = STANDARD
            .decode(auth)
            .or_else(|_| STANDARD_NO_PAD.decode(auth))
            .map_err(|_| CredentialsError::NotBase64)?;
        let text = String::from_utf8(decoded).map_err(|_| CredentialsError::NotBase64)?;
        let (username, password) = text.split_once(':').ok_or(CredentialsError::NoColon)?;
        // Docker pads with NUL bytes in old files.
        let password = password.trim_matches('\0');
        let mut credentials = Self { username: username.to_owned(), ..Self::default() };
        if username == TOKEN_USER {
            credentials.identity_token = password.to_owned();
        } else {
            credentials.password = password.to_owned();
        }
        credentials.check()?;
        Ok(credentials)
    }

    /// Refuses what could not be sent, before anything is sent.
    ///
    /// # Errors
    /// [`CredentialsError`] names the field, never its content.
    pub fn check(&self) -> Result<(), CredentialsError> {
        for (field, text) in [
            ("username", &self.username),
            ("password", &self.password),
            ("identity_token", &self.identity_token),
            ("registry_token", &self.registry_token),
            ("server_address", &self.server_address),
        ] {
            if text.len() > MAX_FIELD {
                return Err(CredentialsError::TooLong { field });
            }
            if text.chars().any(char::is_control) {
                return Err(CredentialsError::Character { field });
            }
        }
        if self.username.contains(':') {
            return Err(CredentialsError::Character { field: "username" });
        }
        let token = [&self.identity_token, &self.registry_token];
        if token.into_iter().any(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(CredentialsError::Character { field: "token" });
        }
        Ok(())
    }

    /// True when there is nothing in them to authenticate with.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }

    /// Whether these are for the registry of `reference`.
    ///
    /// `server_address` may be a host, a URL (`https://index.docker.io/v1/`) or a pattern with
    /// `*` in its labels as the kubelet's credential providers use it.
    pub fn are_for(&self, reference: &Reference) -> bool {
        let address = self.server_address.as_str();
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host = address.split('/').next().unwrap_or_default().to_ascii_lowercase();
        match host.as_str() {
            "" => true,
            "index.docker.io" | "registry-1.docker.io" => reference.host() == "docker.io",
            pattern => host_matches(pattern, reference.host()),
        }
    }
}

/// Label by label, `*` standing for any characters of one label.
fn host_matches(pattern: &str, host: &str) -> bool {
    pattern.split('.').count() == host.split('.').count()
        && pattern.split('.').zip(host.split('.')).all(|(p, h)| label_matches(p, h))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut left) = label.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::Name;

    fn reference(text: &str) -> Reference {
        text.parse::<Name>().expect("reference").qualify()
    }

    #[test]
    fn the_auth_field_is_user_and_password() {
        let credentials = Credentials::from_auth_field("dTpwOnc=").expect("decodes");
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("u", "p:w"));
        assert_eq!(Credentials::from_auth_field("%%%"), Err(CredentialsError::NotBase64));
        assert_eq!(Credentials::from_auth_field("dXA="), Err(CredentialsError::NoColon));
        let token = Credentials::from_auth_field("PHRva2VuPjphYmM=").expect("decodes");
        assert_eq!(token.identity_token, "abc");
    }

    #[test]
    fn a_line_break_cannot_reach_a_header() {
        let password = Credentials { password: "a\nb".into(), ..Credentials::default() };
        assert_eq!(password.check(), Err(CredentialsError::Character { field: "password" }));
        let token = Credentials { registry_token: "a b".into(), ..Credentials::default() };
        assert_eq!(token.check(), Err(CredentialsError::Character { field: "token" }));
    }

    #[test]
    fn credentials_are_for_their_own_registry_only() {
        for (address, name, expected) in [
            ("", "quay.io/x", true),
            ("quay.io", "quay.io/x", true),
            ("https://quay.io/v2/", "quay.io/x", true),
            ("https://index.docker.io/v1/", "busybox", true),
            ("quay.io", "evil.io/x", false),
            ("quay.io", "quay.io:5000/x", false),
            ("*.azurecr.io", "team.azurecr.io/x", true),
            ("*.azurecr.io", "a.b.azurecr.io/x", false),
            ("1.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-1.amazonaws.com/x", true),
            ("*.azurecr.io", "azurecr.io/x", false),
        ] {
            let credentials =
                Credentials { server_address: address.into(), ..Credentials::default() };
            assert_eq!(credentials.are_for(&reference(name)), expected, "{address} {name}");
        }
    }

    #[test]
    fn no_secret_is_ever_printed() {
        let credentials = Credentials {
            username: "user-s3cret".into(),
            password: "pass-s3cret".into(),
            identity_token: "id-s3cret".into(),
            registry_token: "reg-s3cret".into(),
            server_address: String::new(),
        };
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }
}
