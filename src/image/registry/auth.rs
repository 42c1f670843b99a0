//! Authorization: what is sent along with requests to one registry, and how it is got.
//!
//! Credentials go to the registry they are for (basic) or to the token server it names (bearer),
//! and nowhere else. What the registry asks for beyond pulling is not asked for.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderValue, InvalidHeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::http::{Ask, Flow, Http, Origin};
use super::{Pace, RegistryError};
use crate::image::credentials::Credentials;
use crate::image::registries_conf::Access;

/// Longest answer of a token server.
const MAX_TOKEN_BODY: u64 = 1 << 20;

/// Longest token; a header has to take it.
const MAX_TOKEN: usize = 64 * 1024;

/// How long a token is good for if its server does not say, or says nonsense (distribution
/// specification, token authentication).
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Longest life that is believed.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// What to send with requests to one registry.
#[derive(Debug)]
pub(super) struct Authorizer {
    credentials: Option<Credentials>,
    /// What the tokens have to allow.
    scope: String,
    grant: Mutex<Grant>,
}

/// What is sent at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Grant {
    pub header: Option<HeaderValue>,
    expires: Option<Instant>,
    /// Counts renewals, so that of many requests refused at once only the first renews.
    serial: u64,
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Authorizer {
    /// For pulls of one repository.
    pub(super) fn new(repository: &str, credentials: Option<Credentials>) -> Self {
        let credentials = credentials.filter(|credentials| !credentials.is_empty());
        let given = credentials.as_ref().map(|credentials| credentials.registry_token.as_str());
        // A registry token that is no header value was refused with the request already.
        let header = given.filter(|token| !token.is_empty()).and_then(|token| bearer(token).ok());
        let grant = Mutex::new(Grant { header, expires: None, serial: 0 });
        Self { credentials, scope: format!("repository:{repository}:pull"), grant }
    }

    /// What to send now.
    pub(super) async fn current(&self) -> Grant {
        let mut grant = self.grant.lock().await;
        if grant.expires.is_some_and(|expires| expires <= Instant::now()) {
            grant.header = None;
            grant.expires = None;
        }
        grant.clone()
    }

    /// Gets something else to send, after `refused` was.
    pub(super) async fn renew(
        &self,
        challenges: &[Challenge],
        refused: &Grant,
        channel: Channel<'_>,
    ) -> Result<(), RegistryError> {
        let mut grant = self.grant.lock().await;
        if grant.serial != refused.serial {
            return Ok(());
        }
        let denied = |why| RegistryError::Denied { host: channel.origin.authority.clone(), why };
        let registry_token =
            self.credentials.as_ref().is_some_and(|given| !given.registry_token.is_empty());
        if registry_token {
            return Err(denied("the registry token of the request was refused"));
        }
        let serial = grant.serial + 1;
        for challenge in challenges {
            if let Challenge::Bearer { realm, service, scope } = challenge {
                let ask = self.token_ask(realm, service.as_deref(), scope.as_deref(), channel)?;
                let (header, life) = fetch_token(ask, channel).await?;
                let expires = Some(Instant::now() + life);
                *grant = Grant { header: Some(header), expires, serial };
                return Ok(());
            }
        }
        if !challenges.contains(&Challenge::Basic) {
            return Err(denied("no way of authentication that is understood is offered"));
        }
        let credentials = self.credentials.as_ref().filter(|given| !given.username.is_empty());
        let credentials = credentials.ok_or_else(|| denied("credentials are needed"))?;
        let header = basic(credentials);
        if grant.header.as_ref() == Some(&header) {
            return Err(denied("user name or password was refused"));
        }
        *grant = Grant { header: Some(header), expires: None, serial };
        Ok(())
    }

    fn token_ask(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        channel: Channel<'_>,
    ) -> Result<Ask, RegistryError> {
        let host = channel.origin.authority.clone();
        let refuse = |why| RegistryError::Realm { host: host.clone(), why };
        let mut url = Url::parse(realm).map_err(|_| refuse("no URL"))?;
        channel.origin.check(&url).map_err(refuse)?;
        let own =
            channel.origin.access == Access::Insecure && url.host_str() == channel.url.host_str();
        if url.scheme() != "https" && !own {
            return Err(refuse("plain http"));
        }
        let mut fields: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = service {
            fields.push(("service", service));
        }
        fields.push(("scope", self.scope_for(scope)));
        let credentials = self.credentials.as_ref();
        if let Some(token) =
            credentials.map(|given| &given.identity_token).filter(|t| !t.is_empty())
        {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "crisol"),
                ("refresh_token", token),
            ]);
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(&fields);
            let form = form.query().unwrap_or_default().to_owned();
            return Ok(Ask { form: Some(form), ..Ask::get(url) });
        }
        let named = credentials.filter(|given| !given.username.is_empty());
        if let Some(named) = named {
            fields.push(("account", &named.username));
        }
        url.query_pairs_mut().extend_pairs(&fields);
        Ok(Ask { authorization: named.map(basic), ..Ask::get(url) })
    }

    /// The registry's own idea of the scope if it only concerns pulling one repository (proxies
    /// know repositories by other names), else ours.
    fn scope_for<'a>(&'a self, offered: Option<&'a str>) -> &'a str {
        let only_pull = |scope: &&str| {
            let repository =
                scope.strip_prefix("repository:").and_then(|s| s.strip_suffix(":pull"));
            repository.is_some_and(|name| !name.is_empty() && !name.contains([' ', ',']))
        };
        offered.filter(only_pull).unwrap_or(&self.scope)
    }
}

/// How to reach the token server on behalf of a registry.
#[derive(Clone, Copy)]
pub(super) struct Channel<'a> {
    pub http: &'a Http,
    pub origin: &'a Origin,
    /// What was asked of the registry.
    pub url: &'a Url,
    pub pace: &'a Pace,
}

async fn fetch_token(
    ask: Ask,
    channel: Channel<'_>,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let host = ask.url.host_str().unwrap_or_default().to_owned();
    let response = channel.http.exchange(ask, channel.origin, channel.pace).await?;
    let status = response.status();
    let flow = Flow::new(response, channel.pace);
    if !status.is_success() {
        let text = flow.explanation().await;
        return Err(RegistryError::Status { host, what: "token".into(), status, text });
    }
    let body = flow.all(MAX_TOKEN_BODY).await?;
    let bad = |why| RegistryError::Token { host: host.clone(), why };
    let body: TokenBody = serde_json::from_slice(&body).map_err(|_| bad("no JSON"))?;
    let given = |token: Option<String>| token.filter(|token| !token.is_empty());
    let token = given(body.token).or_else(|| given(body.access_token));
    let token = token.ok_or_else(|| bad("no token"))?;
    let header = bearer(&token).map_err(|_| bad("a token that is no header value"))?;
    let life = body.expires_in.as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Ok((header, life.unwrap_or(TOKEN_LIFE).min(MAX_TOKEN_LIFE)))
}

/// `Authorization: Bearer`. A token with a line break, or any other byte that is not a visible
/// character, is refused rather than sent.
fn bearer(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let visible = token.len() <= MAX_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
    let text = if visible { format!("Bearer {token}") } else { "\n".to_owned() };
    let mut header = HeaderValue::try_from(text)?;
    header.set_sensitive(true);
    Ok(header)
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let text = format!("Basic {}", STANDARD.encode(pair));
    let mut header = HeaderValue::try_from(text).expect("base64 is a header value");
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_cannot_add_a_header_line() {
        assert!(bearer("abc.def-1").is_ok());
        for bad in ["a\nb", "a\r\nX: y", "a b", "\u{e9}", &"x".repeat(MAX_TOKEN + 1)] {
            assert!(bearer(bad).is_err(), "{bad:.20}");
        }
        assert!(!format!("{:?}", bearer("s3cret")).contains("s3cret"));
    }

    #[test]
    fn nothing_beyond_pulling_is_asked_for() {
        let authorizer = Authorizer::new("a/b", None);
        for (offered, expected) in [
            (None, "repository:a/b:pull"),
            (Some("repository:proxy/a/b:pull"), "repository:proxy/a/b:pull"),
            (Some("repository:a/b:pull,push"), "repository:a/b:pull"),
            (Some("repository:a:pull repository:b:pull"), "repository:a/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull"),
        ] {
            assert_eq!(authorizer.scope_for(offered), expected, "{offered:?}");
        }
    }
}
