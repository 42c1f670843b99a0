//! One HTTP exchange with a registry, its redirects included, and where none may lead.
//!
//! Redirects are followed by hand: what reqwest would decide about them has to be decided here.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, Method, Request, Response, Url, redirect};
use tokio::time::{Instant, timeout};

use super::{Pace, RegistryError};
use crate::image::registries_conf::Access;

/// Redirects in a row; real ones are one or two.
const MAX_REDIRECTS: usize = 10;

/// Whom a registry's word is good for: its own host, and what was configured for it.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// `host[:port]` as in references.
    pub authority: String,
    pub access: Access,
}

impl Origin {
    /// The host without the port.
    fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// Whether the configured access covers a URL: only the registry's own host is insecure.
    fn access_to(&self, url: &Url) -> Access {
        if url.host_str() == Some(self.host()) { self.access } else { Access::Verified }
    }

    /// Checks a URL that came from the registry and not from us.
    pub(super) fn check(&self, url: &Url) -> Result<(), &'static str> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err("a scheme other than http and https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user name");
        }
        let Some(host) = url.host_str() else { return Err("no host") };
        match literal(host) {
            Some(ip) if is_link_local(ip) => Err("a link-local address"),
            Some(ip) if ip.is_unspecified() => Err("an unspecified address"),
            _ if is_loopback(host) && !is_loopback(self.host()) => Err("a loopback address"),
            _ => Ok(()),
        }
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || literal(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Where clouds serve machine credentials.
fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// What is asked, by GET, or by POST if there is a form.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub url: Url,
    pub accept: Option<&'static str>,
    pub authorization: Option<HeaderValue>,
    /// First byte wanted.
    pub from: Option<u64>,
    /// URL-encoded fields.
    pub form: Option<String>,
}

impl Ask {
    pub(super) fn get(url: Url) -> Self {
        Self { url, accept: None, authorization: None, from: None, form: None }
    }

    fn request(&self) -> Request {
        let method = if self.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::new(method, self.url.clone());
        let headers = request.headers_mut();
        if let Some(accept) = self.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(from) = self.from {
            let range = HeaderValue::try_from(format!("bytes={from}-"));
            headers.insert(RANGE, range.expect("digits are a header value"));
        }
        if let Some(form) = &self.form {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(reqwest::header::CONTENT_TYPE, kind);
            *request.body_mut() = Some(form.clone().into());
        }
        request
    }
}

/// The two HTTP clients, made when first needed.
#[derive(Debug, Default)]
pub(super) struct Http {
    verified: OnceLock<Client>,
    insecure: OnceLock<Client>,
}

impl Http {
    fn client(&self, access: Access) -> Result<&Client, RegistryError> {
        let place = match access {
            Access::Verified => &self.verified,
            Access::Insecure => &self.insecure,
        };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        // Not remembered when it fails: certificates may be installed later.
        let client = build(access).map_err(RegistryError::Client)?;
        Ok(place.get_or_init(|| client))
    }

    /// Asks, and follows redirects as far as `origin` may lead. Any status is an answer.
    pub(super) async fn exchange(
        &self,
        mut ask: Ask,
        origin: &Origin,
        pace: &Pace,
    ) -> Result<Response, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let host = ask.url.host_str().unwrap_or_default().to_owned();
            let client = self.client(origin.access_to(&ask.url))?;
            let response = match timeout(pace.headers, client.execute(ask.request())).await {
                Err(_) => return Err(RegistryError::NoAnswer { host }),
                Ok(Err(error)) => {
                    return Err(RegistryError::Exchange { host, source: error.without_url() });
                }
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let next = target(&ask.url, &response, origin)
                .map_err(|why| RegistryError::Redirect { host, why })?;
            if ask.form.is_some() {
                // Nothing that carries a secret in its body is sent on.
                return Ok(response);
            }
            if next.origin() != ask.url.origin() {
                ask.authorization = None;
            }
            ask.url = next;
        }
        let host = ask.url.host_str().unwrap_or_default().to_owned();
        Err(RegistryError::Redirect { host, why: "more than 10 in a row" })
    }
}

/// Where a redirect leads.
fn target(from: &Url, response: &Response, origin: &Origin) -> Result<Url, &'static str> {
    let location = response.headers().get(LOCATION).ok_or("no target")?;
    let location = location.to_str().map_err(|_| "a target that is not text")?;
    let next = from.join(location).map_err(|_| "a target that is no URL")?;
    origin.check(&next)?;
    if from.scheme() == "https" && next.scheme() == "http" && origin.access == Access::Verified {
        return Err("plain http");
    }
    Ok(next)
}

fn build(access: Access) -> reqwest::Result<Client> {
    Client::builder()
        .user_agent(concat!("crisol/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        // Bytes are verified as they were stored. Decoding them on the way would be wrong even if
        // another crate switched these features on.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30))
        .dns_resolver(NoLinkLocal)
        .tls_danger_accept_invalid_certs(access == Access::Insecure)
        .build()
}

/// The system's resolver without link-local answers: no registry is there, a cloud's metadata
/// service is.
#[derive(Debug)]
struct NoLinkLocal;

impl Resolve for NoLinkLocal {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> =
                found.filter(|address| !is_link_local(address.ip())).take(MAX_ADDRESSES).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Watches that a body comes in at all fast: at least so many bytes in every window of time spent
/// waiting *for the network*. Time the receiver takes to deal with what came is not counted (R21).
#[derive(Debug)]
pub(super) struct Flow<'a> {
    response: Response,
    pace: &'a Pace,
    waited: Duration,
    bytes: u64,
}

impl<'a> Flow<'a> {
    pub(super) fn new(response: Response, pace: &'a Pace) -> Self {
        Self { response, pace, waited: Duration::ZERO, bytes: 0 }
    }

    fn host(&self) -> String {
        self.response.url().host_str().unwrap_or_default().to_owned()
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let begin = Instant::now();
            let left = self.pace.window.saturating_sub(self.waited);
            let piece = timeout(left, self.response.chunk()).await;
            self.waited += begin.elapsed();
            let piece = match piece {
                Err(_) => None,
                Ok(Err(source)) => {
                    let host = self.host();
                    return Err(RegistryError::Body { host, source: source.without_url() });
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(piece))) => Some(piece),
            };
            self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            if self.waited >= self.pace.window {
                if self.bytes < self.pace.least {
                    return Err(RegistryError::Stalled { host: self.host() });
                }
                self.waited = Duration::ZERO;
                self.bytes = 0;
            }
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }

    /// The whole body if it has at most `limit` bytes.
    pub(super) async fn all(mut self, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            if body.len() as u64 + piece.len() as u64 > limit {
                return Err(RegistryError::TooLong { host: self.host(), limit });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The beginning of a body that explains a failure, fit to be printed.
    pub(super) async fn explanation(mut self) -> String {
        let mut body = Vec::new();
        while body.len() < MAX_SHOWN {
            match self.next().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) | Err(_) => break,
            }
        }
        let text = String::from_utf8_lossy(&body);
        let printable = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(MAX_SHOWN).collect()
    }
}

/// Longest piece of a registry's explanation that an error repeats.
const MAX_SHOWN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authority: &str, url: &str) -> Result<(), &'static str> {
        let origin = Origin { authority: authority.into(), access: Access::Verified };
        origin.check(&Url::parse(url).expect("URL"))
    }

    #[test]
    fn a_registry_cannot_send_us_to_places_of_our_own() {
        assert_eq!(check("r.example", "https://cdn.example/x"), Ok(()));
        assert_eq!(check("localhost:5000", "http://127.0.0.1:5001/x"), Ok(()));
        assert_eq!(check("[::1]:5000", "http://[::1]:5001/x"), Ok(()));
        for bad in [
            "file:///etc/shadow",
            "gopher://x/",
            "unix:/run/x.sock",
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://0.0.0.0/",
            "https://127.0.0.1:10250/pods",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://user:pass@cdn.example/x",
            "https://2130706433/",
        ] {
            assert!(check("r.example", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn insecurity_is_the_registry_s_own() {
        let origin = Origin { authority: "r.example:5000".into(), access: Access::Insecure };
        let access = |url| origin.access_to(&Url::parse(url).expect("URL"));
        assert_eq!(access("https://r.example:5000/v2/"), Access::Insecure);
        assert_eq!(access("https://auth.example/token"), Access::Verified);
    }
}
