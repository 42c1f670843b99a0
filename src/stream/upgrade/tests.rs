use super::*;

fn ask(purpose: Purpose, headers: &[(&str, &str)]) -> Result<(Transport, String), u16> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, value.parse().expect("a value"));
    }
    let (transport, answer) =
        negotiate(&map, purpose).map_err(|refusal| refusal.status.as_u16())?;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let chosen = [VERSIONS, SEC_WEBSOCKET_PROTOCOL];
    let chosen = chosen.iter().find_map(|name| answer.headers().get(name));
    let chosen = chosen.map_or("", |value| value.to_str().expect("text")).to_owned();
    Ok((transport, chosen))
}

const UPGRADE_SPDY: [(&str, &str); 2] =
    [("connection", "keep-alive, Upgrade"), ("upgrade", "spdy/3.1")];

const WEBSOCKET_HEADERS: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "WebSocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn spdy(purpose: Purpose, versions: &[&str]) -> Result<(Transport, String), u16> {
    let versions = versions.iter().map(|version| ("x-stream-protocol-version", *version));
    ask(purpose, &UPGRADE_SPDY.into_iter().chain(versions).collect::<Vec<_>>())
}

fn on_websocket(purpose: Purpose, protocols: &[&str]) -> Result<(Transport, String), u16> {
    let protocols = protocols.iter().map(|protocol| ("sec-websocket-protocol", *protocol));
    ask(purpose, &WEBSOCKET_HEADERS.into_iter().chain(protocols).collect::<Vec<_>>())
}

#[test]
fn the_first_protocol_of_the_client_that_is_known_is_taken() {
    let v4 = Ok((Transport::Spdy(JSON), "v4.channel.k8s.io".to_owned()));
    assert_eq!(spdy(Purpose::Remote, &["v4.channel.k8s.io", "v3.channel.k8s.io"]), v4);
    assert_eq!(spdy(Purpose::Remote, &["v9.channel.k8s.io, v4.channel.k8s.io"]), v4);
    let old = spdy(Purpose::Remote, &["channel.k8s.io", "v4.channel.k8s.io"]);
    assert_eq!(old, Ok((Transport::Spdy(WORDS), "channel.k8s.io".to_owned())));
    let forward = spdy(Purpose::PortForward, &["portforward.k8s.io"]);
    assert_eq!(forward, Ok((Transport::Spdy(JSON), "portforward.k8s.io".to_owned())));
    let many: Vec<String> = (0..63).map(|n| format!("v{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["v5.channel.k8s.io"]).collect();
    assert!(
        on_websocket(Purpose::Remote, &many).is_ok_and(|(_, name)| name == "v5.channel.k8s.io")
    );
}

#[test]
fn a_websocket_is_a_tunnel_or_has_channels() {
    let (transport, name) =
        on_websocket(Purpose::PortForward, &["SPDY/3.1+portforward.k8s.io"]).expect("agreed");
    assert_eq!((transport, name.as_str()), (Transport::Tunnel, "SPDY/3.1+portforward.k8s.io"));
    for (name, coding, half_close, form) in [
        ("v5.channel.k8s.io", Coding::Binary, HalfClose::Told, Form::Json),
        ("v4.channel.k8s.io", Coding::Binary, HalfClose::None, Form::Json),
        ("v4.base64.channel.k8s.io", Coding::Base64, HalfClose::None, Form::Json),
        ("base64.channel.k8s.io", Coding::Base64, HalfClose::None, Form::Words),
        ("channel.k8s.io", Coding::Binary, HalfClose::None, Form::Words),
    ] {
        let version = Version { form, resize: true };
        let expected = Transport::WebSocket { coding, half_close, version };
        let agreed = on_websocket(Purpose::Remote, &[name]);
        assert_eq!(agreed, Ok((expected, name.to_owned())));
    }
    assert!(on_websocket(Purpose::Remote, &[]).is_ok_and(|(_, name)| name.is_empty()));
}

#[test]
fn the_key_is_answered_as_rfc_6455_says() {
    let mut map = HeaderMap::new();
    for (name, value) in WEBSOCKET_HEADERS {
        map.insert(name, HeaderValue::from_static(value));
    }
    let (_, answer) = negotiate(&map, Purpose::Remote).expect("agreed");
    // The example of its section 1.3.
    assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn what_cannot_be_agreed_on_is_refused_by_its_status() {
    assert_eq!(ask(Purpose::Remote, &[]), Err(400));
    assert_eq!(ask(Purpose::Remote, &[("upgrade", "SPDY/3.1")]), Err(400));
    assert_eq!(ask(Purpose::Remote, &[UPGRADE_SPDY[0], ("upgrade", "h2c")]), Err(400));
    assert_eq!(spdy(Purpose::Remote, &[]), Err(400));
    assert_eq!(spdy(Purpose::Remote, &["v9.channel.k8s.io"]), Err(403));
    assert_eq!(spdy(Purpose::Remote, &["portforward.k8s.io"]), Err(403));
    assert_eq!(spdy(Purpose::PortForward, &["v4.channel.k8s.io"]), Err(403));
    assert_eq!(on_websocket(Purpose::Remote, &["chat"]), Err(403));
    for (at, value) in [(2, "7"), (2, "8"), (3, ""), (3, "short"), (3, "dGhlIHNhbXBsZSBub25jZQ!!")]
    {
        let mut headers = WEBSOCKET_HEADERS;
        headers[at].1 = value;
        assert_eq!(ask(Purpose::Remote, &headers), Err(400), "{value:?}");
    }
    // Both at once: a WebSocket if it is a whole one.
    let both = [UPGRADE_SPDY[0], ("upgrade", "SPDY/3.1, websocket")];
    assert_eq!(ask(Purpose::Remote, &both), Err(400));
}
