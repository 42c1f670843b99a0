//! The upgrade of an HTTP request: which transport and which protocol it asks for, and the answer.
//!
//! Pure. A client lists protocols in the order that it likes them; the first that is known is taken.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote::Version;
use super::status::Form;
use super::websocket::{Coding, HalfClose};

/// Kubernetes' list of protocols on SPDY.
const VERSIONS: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// The list of what would have been taken, in a refusal.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";

/// What a URL is for; it decides which protocols there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Exec or attach.
    Remote,
    /// Port-forward.
    PortForward,
}

/// A transport that was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Streams of SPDY.
    Spdy(Version),
    /// SPDY inside a WebSocket's messages.
    Tunnel,
    /// A WebSocket's channels.
    WebSocket {
        /// How messages are written.
        coding: Coding,
        /// Whether a channel can end alone.
        half_close: HalfClose,
        /// What the protocol's version means for exec and attach.
        version: Version,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// Words for people.
    pub words: String,
    /// A header that says what would be right.
    pub hint: Option<(HeaderName, HeaderValue)>,
}

/// A protocol's name and what it means.
type Protocol = (&'static str, Transport);

const WORDS: Version = Version { form: Form::Words, resize: false };
const WORDS_AND_SIZES: Version = Version { form: Form::Words, resize: true };
const JSON: Version = Version { form: Form::Json, resize: true };

/// Exec and attach on SPDY. Version 2 differs from 1 in what servers do, not on the wire.
const ON_SPDY: &[Protocol] = &[
    ("v4.channel.k8s.io", Transport::Spdy(JSON)),
    ("v3.channel.k8s.io", Transport::Spdy(WORDS_AND_SIZES)),
    ("v2.channel.k8s.io", Transport::Spdy(WORDS)),
    ("channel.k8s.io", Transport::Spdy(WORDS)),
];

const fn websocket(coding: Coding, half_close: HalfClose, version: Version) -> Transport {
    Transport::WebSocket { coding, half_close, version }
}

/// Exec and attach on a WebSocket. Only version 5 can end the standard input alone. All have a
/// channel for sizes.
const ON_WEBSOCKET: &[Protocol] = &[
    ("v5.channel.k8s.io", websocket(Coding::Binary, HalfClose::Told, JSON)),
    ("v4.channel.k8s.io", websocket(Coding::Binary, HalfClose::None, JSON)),
    ("v4.base64.channel.k8s.io", websocket(Coding::Base64, HalfClose::None, JSON)),
    ("v3.channel.k8s.io", websocket(Coding::Binary, HalfClose::None, WORDS_AND_SIZES)),
    ("v2.channel.k8s.io", websocket(Coding::Binary, HalfClose::None, WORDS_AND_SIZES)),
    ("channel.k8s.io", websocket(Coding::Binary, HalfClose::None, WORDS_AND_SIZES)),
    ("base64.channel.k8s.io", websocket(Coding::Base64, HalfClose::None, WORDS_AND_SIZES)),
    ("", websocket(Coding::Binary, HalfClose::None, WORDS_AND_SIZES)),
];

/// Port-forward on SPDY.
const FORWARD_ON_SPDY: &[Protocol] = &[("portforward.k8s.io", Transport::Spdy(JSON))];

/// Port-forward on a WebSocket.
const FORWARD_ON_WEBSOCKET: &[Protocol] = &[
    ("SPDY/3.1+portforward.k8s.io", Transport::Tunnel),
    ("v4.channel.k8s.io", websocket(Coding::Binary, HalfClose::None, JSON)),
    ("v4.base64.channel.k8s.io", websocket(Coding::Base64, HalfClose::None, JSON)),
    ("portforward.k8s.io", websocket(Coding::Binary, HalfClose::None, JSON)),
    ("channel.k8s.io", websocket(Coding::Binary, HalfClose::None, JSON)),
    ("base64.channel.k8s.io", websocket(Coding::Base64, HalfClose::None, JSON)),
    ("", websocket(Coding::Binary, HalfClose::None, JSON)),
];

/// Protocols of one request that are looked at.
const MAX_LISTED: usize = 64;

/// What a request asks for, and the answer that agrees.
///
/// # Errors
/// The answer that does not.
pub fn negotiate(
    headers: &HeaderMap,
    purpose: Purpose,
) -> Result<(Transport, Response<()>), Refusal> {
    if !list(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refuse(StatusCode::BAD_REQUEST, "this needs an upgrade of the connection"));
    }
    let asked =
        |transport: &str| list(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(transport));
    if asked(WEBSOCKET) {
        on_websocket(headers, purpose)
    } else if asked(SPDY) {
        on_spdy(headers, purpose)
    } else {
        Err(refuse(StatusCode::BAD_REQUEST, "upgrade to SPDY/3.1 or to a WebSocket"))
    }
}

fn on_spdy(headers: &HeaderMap, purpose: Purpose) -> Result<(Transport, Response<()>), Refusal> {
    let known = match purpose {
        Purpose::Remote => ON_SPDY,
        Purpose::PortForward => FORWARD_ON_SPDY,
    };
    if list(headers, &VERSIONS).next().is_none() {
        let words = format!("the header {VERSIONS} is missing");
        return Err(refuse(StatusCode::BAD_REQUEST, &words));
    }
    let (name, transport) = choose(list(headers, &VERSIONS), known)?;
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(VERSIONS, HeaderValue::from_static(name));
    Ok((transport, answer))
}

fn on_websocket(
    headers: &HeaderMap,
    purpose: Purpose,
) -> Result<(Transport, Response<()>), Refusal> {
    let known = match purpose {
        Purpose::Remote => ON_WEBSOCKET,
        Purpose::PortForward => FORWARD_ON_WEBSOCKET,
    };
    // RFC 6455, section 4.2.1: sixteen bytes in base64.
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.filter(|key| key.len() == 24 && key.ends_with(b"=="));
    let key = key.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "a WebSocket needs a key"))?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal = refuse(StatusCode::BAD_REQUEST, "a WebSocket of version 13, please");
        refusal.hint = Some((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refusal);
    }
    let mut listed = list(headers, &SEC_WEBSOCKET_PROTOCOL).peekable();
    let (name, transport) = match listed.peek() {
        Some(_) => choose(listed, known)?,
        None => choose(std::iter::once(""), known)?,
    };
    let mut answer = switching(WEBSOCKET);
    let accept = derive_accept_key(key);
    let accept = HeaderValue::from_str(&accept)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "a WebSocket needs a key"))?;
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((transport, answer))
}

/// The first protocol that the client lists and we have.
fn choose<'a>(
    listed: impl Iterator<Item = &'a str>,
    known: &'static [Protocol],
) -> Result<Protocol, Refusal> {
    let mut listed = listed.take(MAX_LISTED);
    let chosen = listed.find_map(|name| known.iter().find(|(known, _)| *known == name));
    chosen.copied().ok_or_else(|| {
        let names: Vec<&str> =
            known.iter().map(|(name, _)| *name).filter(|n| !n.is_empty()).collect();
        let names = names.join(", ");
        let mut refusal = refuse(StatusCode::FORBIDDEN, &format!("protocols here: {names}"));
        refusal.hint = HeaderValue::from_str(&names).ok().map(|names| (ACCEPTED, names));
        refusal
    })
}

/// The words of all headers called `name`.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn switching(transport: &'static str) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(transport));
    answer
}

fn refuse(status: StatusCode, words: &str) -> Refusal {
    Refusal { status, words: words.to_owned(), hint: None }
}

#[cfg(test)]
mod tests;
