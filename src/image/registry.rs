//! A registry, spoken to by the OCI distribution API: manifests, and blobs in pieces.
//!
//! Bytes are bounded here and verified where they are whole: manifests and configurations in this
//! file, layers by whoever takes the pieces. Short failures are waited out; which registry is
//! asked instead of one that stays silent, `pull` decides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep};

mod auth;
mod blob;
mod challenge;
mod error;
mod http;

use auth::{Authorizer, Channel};
pub(super) use error::RegistryError;
use http::{Ask, Flow, Http, Origin};

use super::credentials::Credentials;
use super::digest::Digest;
use super::manifest::Descriptor;
use super::registries_conf::{Access, Endpoint};
use super::store::lock;

/// Longest manifest or index (distribution specification, "should accept at least 4 MiB").
const MAX_MANIFEST: u64 = 4 << 20;

/// Requests at one registry at a time, so that a node full of new pods is no attack.
const REQUESTS: usize = 16;

/// Layers from one registry at a time.
const BLOBS: usize = 6;

/// Authentications for one request: one because there was none, one because it had run out.
const AUTH_ROUNDS: usize = 2;

/// Kinds of manifest that are understood; schema 1 is left out, so that no registry converts to it.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How long to wait for what.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// From a request to the head of its answer.
    pub headers: Duration,
    /// Window of time spent waiting for a body …
    pub window: Duration,
    /// … in which at least so many bytes have to come.
    pub least: u64,
    /// Tries of one request, and of one blob without progress.
    pub tries: u32,
    /// Before the second try; doubles with every further one.
    pub backoff: Duration,
    /// Longest `Retry-After` that is honoured.
    pub longest_wait: Duration,
    /// Longest time all tries of one request take together.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(60),
            window: Duration::from_secs(60),
            least: 60 * 1024,
            tries: 5,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(60),
            patience: Duration::from_secs(300),
        }
    }
}

/// What all registries share: HTTP clients, and how much of each registry is used at a time.
#[derive(Debug, Default)]
pub(super) struct Network {
    http: Http,
    pace: Pace,
    shares: Mutex<HashMap<String, Arc<Share>>>,
}

#[derive(Debug)]
struct Share {
    requests: Semaphore,
    blobs: Semaphore,
}

impl Network {
    /// With other waiting times than usual.
    #[cfg(test)]
    pub(super) fn with_pace(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    fn share(&self, authority: &str) -> Arc<Share> {
        let mut shares = lock(&self.shares);
        // What nobody else holds is not in use, and made again when needed.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let new = || Share { requests: Semaphore::new(REQUESTS), blobs: Semaphore::new(BLOBS) };
        Arc::clone(shares.entry(authority.to_owned()).or_insert_with(|| Arc::new(new())))
    }
}

/// A manifest or index as it came, verified if it was asked for by digest.
#[derive(Debug)]
pub(super) struct RawManifest {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    pub digest: Digest,
}

/// One repository at one registry, for one pull.
#[derive(Debug)]
pub(super) struct Registry {
    network: Arc<Network>,
    share: Arc<Share>,
    origin: Origin,
    repository: String,
    authorizer: Authorizer,
    /// `scheme://host[:port]`, found out with the first request.
    root: OnceCell<Url>,
    /// Bytes of large blobs so far.
    received: AtomicU64,
}

impl Registry {
    /// The repository that `endpoint` names.
    pub(super) fn new(
        network: &Arc<Network>,
        endpoint: &Endpoint,
        credentials: Option<Credentials>,
    ) -> Self {
        let authority = match endpoint.reference.host() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let repository = endpoint.reference.path().to_owned();
        Self {
            network: Arc::clone(network),
            share: network.share(authority),
            origin: Origin { authority: authority.to_owned(), access: endpoint.access },
            authorizer: Authorizer::new(&repository, credentials),
            repository,
            root: OnceCell::new(),
            received: AtomicU64::new(0),
        }
    }

    /// Bytes of large blobs that came so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// `host[:port]`.
    pub(super) fn host(&self) -> &str {
        &self.origin.authority
    }

    /// The manifest or index with this tag or digest.
    pub(super) async fn manifest(
        &self,
        tag: &str,
        expected: Option<Digest>,
    ) -> Result<RawManifest, RegistryError> {
        let name = expected.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
        let response = self.get("manifests", &name, Some(ACCEPT), None).await?;
        let headers = response.headers();
        let claimed = self.claimed_digest(headers)?;
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(str::to_owned);
        let bytes = Flow::new(response, &self.network.pace).all(MAX_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        for expected in expected.into_iter().chain(claimed) {
            self.same(expected, digest)?;
        }
        Ok(RawManifest { bytes, content_type, digest })
    }

    /// A whole small blob, at most `limit` bytes.
    pub(super) async fn small_blob(
        &self,
        blob: Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let host = self.host().to_owned();
        if blob.size > limit {
            return Err(RegistryError::TooLong { host, limit });
        }
        let response = self.get("blobs", &blob.digest.to_string(), None, None).await?;
        let body = Flow::new(response, &self.network.pace).all(blob.size).await;
        let actual = match &body {
            Ok(bytes) => bytes.len() as u64,
            Err(RegistryError::TooLong { .. }) => blob.size + 1,
            Err(_) => return body,
        };
        if actual != blob.size {
            let (digest, expected) = (blob.digest, blob.size);
            return Err(RegistryError::Size { host, digest, expected, actual });
        }
        let bytes = body?;
        self.same(blob.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    fn same(&self, expected: Digest, actual: Digest) -> Result<(), RegistryError> {
        if expected == actual {
            return Ok(());
        }
        Err(RegistryError::Digest { host: self.host().to_owned(), expected, actual })
    }

    fn claimed_digest(&self, headers: &HeaderMap) -> Result<Option<Digest>, RegistryError> {
        const NAME: &str = "Docker-Content-Digest";
        let Some(value) = headers.get(NAME) else { return Ok(None) };
        let claimed = value.to_str().ok().and_then(|text| text.parse().ok());
        let host = self.host().to_owned();
        claimed.map(Some).ok_or(RegistryError::Header { host, header: NAME, why: "no sha256" })
    }

    /// GET, with authentication, redirects and second tries: a success, or why there is none.
    async fn get(
        &self,
        kind: &'static str,
        name: &str,
        accept: Option<&'static str>,
        from: Option<u64>,
    ) -> Result<Response, RegistryError> {
        let pace = &self.network.pace;
        let begin = Instant::now();
        let mut backoff = pace.backoff;
        for left in (0..pace.tries).rev() {
            let (error, asked_wait) = match self.get_once(kind, name, accept, from).await {
                Ok(response) if response.status().is_success() => {
                    return self.unencoded(response);
                }
                Ok(response) => {
                    let wait = retry_after(response.headers());
                    (self.refusal(response, format!("{kind}/{name}")).await, wait)
                }
                Err(error) => (error, None),
            };
            // Who asks for more time than we have is as good as gone; the kubelet comes back.
            let wait = asked_wait.unwrap_or(backoff);
            let late = wait > pace.longest_wait || begin.elapsed() + wait > pace.patience;
            if left == 0 || late || !error.is_transient() {
                return Err(error);
            }
            sleep(wait).await;
            backoff *= 2;
        }
        Err(RegistryError::NoAnswer { host: self.host().to_owned() })
    }

    /// Refuses a body that is not the stored bytes but some encoding of them.
    fn unencoded(&self, response: Response) -> Result<Response, RegistryError> {
        let encodings = response.headers().get_all(CONTENT_ENCODING).into_iter();
        if encodings.filter(|value| *value != "identity").count() == 0 {
            return Ok(response);
        }
        let host = self.host().to_owned();
        Err(RegistryError::Header { host, header: "Content-Encoding", why: "nothing we asked for" })
    }

    async fn refusal(&self, response: Response, what: String) -> RegistryError {
        let host = response.url().host_str().unwrap_or(self.host()).to_owned();
        let status = response.status();
        let text = Flow::new(response, &self.network.pace).explanation().await;
        RegistryError::Status { host, what, status, text }
    }

    async fn get_once(
        &self,
        kind: &'static str,
        name: &str,
        accept: Option<&'static str>,
        from: Option<u64>,
    ) -> Result<Response, RegistryError> {
        // The semaphore is never closed, so this cannot fail.
        let _share = self.share.requests.acquire().await;
        let root = self.root.get_or_try_init(|| self.find_root()).await?;
        let mut url = root.clone();
        url.set_path(&format!("/v2/{}/{kind}/{name}", self.repository));
        let Network { http, pace, .. } = &*self.network;
        for round in 0..=AUTH_ROUNDS {
            let grant = self.authorizer.current().await;
            let authorization = grant.header.clone();
            let ask = Ask { accept, authorization, from, ..Ask::get(url.clone()) };
            let response = http.exchange(ask, &self.origin, pace).await?;
            let ours = response.url().origin() == url.origin();
            if response.status() != StatusCode::UNAUTHORIZED || !ours || round == AUTH_ROUNDS {
                return Ok(response);
            }
            let challenges = challenge::parse_all(response.headers());
            let channel = Channel { http, origin: &self.origin, url: &url, pace };
            self.authorizer.renew(&challenges, &grant, channel).await?;
        }
        Err(RegistryError::NoAnswer { host: self.host().to_owned() })
    }

    /// https, unless the registry is configured insecure and does not speak it.
    async fn find_root(&self) -> Result<Url, RegistryError> {
        let root = |scheme| {
            let text = format!("{scheme}://{}/", self.origin.authority);
            Url::parse(&text).map_err(|_| RegistryError::Header {
                host: self.host().to_owned(),
                header: "name",
                why: "no part of a URL",
            })
        };
        let secure = root("https")?;
        if self.origin.access == Access::Verified {
            return Ok(secure);
        }
        let ping = Ask::get(secure.join("v2/").unwrap_or_else(|_| secure.clone()));
        let Network { http, pace, .. } = &*self.network;
        match http.exchange(ping, &self.origin, pace).await {
            Err(RegistryError::Exchange { .. } | RegistryError::NoAnswer { .. }) => root("http"),
            _ => Ok(secure),
        }
    }
}

/// Seconds that a registry asks to wait. Dates are not read: our clock may be wrong, and the usual
/// backoff does as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    #[test]
    fn every_understood_manifest_is_asked_for() {
        for kind in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
            assert!(ACCEPT.contains(kind), "{kind}");
        }
    }
}
