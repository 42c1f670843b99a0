//! Registries that lie: reliability.md 5.4. An error says which lie it was, nothing is stored, and
//! an honest image pulls all the same.

use super::*;

/// Pulls `name` from a lying registry and returns the failure.
async fn failure(server: &Server, name: &str) -> ImageError {
    let site = Site::trusting(&[server]);
    let images = site.open();
    let begin = Instant::now();
    let error = pull(&images, &server.image(name)).await.expect_err("a lie was believed");
    assert!(begin.elapsed() < Duration::from_secs(15), "took {:?}", begin.elapsed());
    site.assert_empty(&images).await;
    let text = chain(&error);
    assert!(text.len() < 4096, "an error of {} bytes", text.len());
    error
}

fn small() -> Fixture {
    Fixture::new(vec![Layer::of(&[("a", "x")]), Layer::large(50_000)])
}

/// The kind of failure when the larger layer is answered so.
async fn layer_lie(lie: impl Fn(&Asked, &[u8]) -> Answer + Send + Sync + 'static) -> ImageError {
    let fixture = small();
    let layer = fixture.layers[1].clone();
    let server = fixture
        .lie(move |asked| asked.path.ends_with(&layer.digest()).then(|| lie(asked, &layer.blob)))
        .await;
    failure(&server, "x").await
}

/// The kind of failure when the manifest is answered so.
async fn manifest_lie(lie: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> ImageError {
    let server =
        small().lie(move |asked| asked.path.contains("/manifests/").then(|| lie(asked))).await;
    failure(&server, "x").await
}

#[tokio::test]
async fn wrong_bytes_and_wrong_sizes_are_data_loss() {
    let flipped = layer_lie(|_, blob| {
        let mut blob = blob.to_vec();
        *blob.last_mut().expect("bytes") ^= 1;
        Answer::ok(&blob)
    });
    let shorter = layer_lie(|_, blob| Answer::ok(&blob[..blob.len() - 1]));
    let longer = layer_lie(|_, blob| Answer::ok(&[blob, b"x"].concat()));
    let empty = layer_lie(|_, _| Answer::ok(b""));
    let endless = layer_lie(|_, _| Answer::status(200).body(Body::Endless));
    let other = layer_lie(|_, blob| Answer::ok(&vec![0; blob.len()]));
    for (what, error) in [
        ("flipped", flipped.await),
        ("shorter", shorter.await),
        ("longer", longer.await),
        ("empty", empty.await),
        ("endless", endless.await),
        ("other", other.await),
    ] {
        assert_eq!(error.kind(), Kind::DataLoss, "{what}: {}", chain(&error));
    }
}

#[tokio::test]
async fn silence_and_failures_are_an_unavailable_registry() {
    let stuck = layer_lie(|_, blob| Answer::status(200).body(Body::Stuck(blob.to_vec(), 100)));
    let cut = layer_lie(|_, blob| Answer::status(200).body(Body::Cut(blob.to_vec(), 0)));
    let broken = layer_lie(|_, _| Answer::status(503).header("Retry-After", "0"));
    let busy = manifest_lie(|_| Answer::status(429).header("Retry-After", "1000000000"));
    let slow = manifest_lie(|_| Answer::status(200).delay(Duration::from_secs(30)));
    let (stuck, cut, broken, busy, slow) = tokio::join!(stuck, cut, broken, busy, slow);
    for (what, error) in
        [("stuck", stuck), ("cut", cut), ("broken", broken), ("busy", busy), ("slow", slow)]
    {
        assert_eq!(error.kind(), Kind::NamedByFirstWord, "{what}: {}", chain(&error));
        assert!(chain(&error).starts_with("RegistryUnavailable: "), "{what}: {}", chain(&error));
    }
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_never_joined() {
    for (status, range) in [
        (206, Some("bytes 0-99/1000")),
        (206, Some("bytes 70000-70099/70100")),
        (206, Some("pages 1-2/3")),
        (206, None),
        (416, Some("bytes */1000")),
    ] {
        let error = layer_lie(move |asked, blob| match asked.header("range") {
            None => Answer::status(200).body(Body::Cut(blob.to_vec(), 1000)),
            Some(_) => {
                let answer = Answer::status(status).body(Body::Whole(blob[..100].to_vec()));
                range.map_or(answer.clone(), |range| answer.header("Content-Range", range))
            }
        })
        .await;
        let kind = error.kind();
        assert_eq!(kind, Kind::Invalid, "{status} {range:?}: {}", chain(&error));
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_an_unavailable_registry() {
    let site = Site::new();
    let images = site.open();
    let error = pull(&images, "127.0.0.1:1/x").await.expect_err("nobody there");
    assert!(chain(&error).starts_with("RegistryUnavailable: "), "{}", chain(&error));
}

#[tokio::test]
async fn plain_http_is_spoken_only_where_that_is_configured() {
    let server = small().serve().await;
    let site = Site::new();
    let images = site.open();
    let error = pull(&images, &server.image("x")).await.expect_err("not insecure");
    assert!(chain(&error).starts_with("RegistryUnavailable: "), "{}", chain(&error));
    assert!(server.asked("").is_empty(), "something was sent in the clear");
}

#[tokio::test]
async fn redirects_lead_nowhere_they_should_not() {
    for location in [
        "/v2/x/manifests/latest",
        "file:///etc/shadow",
        "unix:/run/x.sock",
        "gopher://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://user:pass@127.0.0.1/",
        "//",
        "",
    ] {
        let error = manifest_lie(move |_| Answer::status(307).header("Location", location)).await;
        assert_eq!(error.kind(), Kind::NamedByFirstWord, "{location}: {}", chain(&error));
    }
    let error = manifest_lie(|_| Answer::status(302)).await;
    assert_eq!(error.kind(), Kind::NamedByFirstWord, "no target: {}", chain(&error));
}

#[tokio::test]
async fn authentication_ends_after_two_rounds() {
    for challenge in [
        None,
        Some("Bearer"),
        Some("Basic realm=\"x\""),
        Some("Bearer realm=\"file:///etc/shadow\""),
        Some("Bearer realm=\"http://auth.example/token\""),
        Some("Bearer realm=\"http://169.254.169.254/token\""),
        Some("Negotiate"),
    ] {
        let error = manifest_lie(move |_| {
            let answer = Answer::status(401);
            challenge.map_or(answer.clone(), |text| answer.header("WWW-Authenticate", text))
        })
        .await;
        assert_eq!(error.kind(), Kind::Denied, "{challenge:?}: {}", chain(&error));
    }
    let server = Server::start(|asked| {
        if asked.path == "/token" {
            return Answer::ok(br#"{"token":"never-good-enough"}"#);
        }
        let realm = format!("http://{}/token", asked.header("host").unwrap_or_default());
        Answer::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let error = failure(&server, "x").await;
    assert_eq!(error.kind(), Kind::Denied, "{}", chain(&error));
    assert_eq!(server.asked("/manifests/").len(), 3);
    assert_eq!(server.asked("/token").len(), 2);
}

#[tokio::test]
async fn token_servers_are_not_trusted_either() {
    for (body, kind) in [
        (Body::Whole(b"no json".to_vec()), Kind::Denied),
        (Body::Whole(br#"{}"#.to_vec()), Kind::Denied),
        (Body::Whole(br#"{"token":"a\r\nX-Evil: 1"}"#.to_vec()), Kind::Denied),
        (Body::Whole(vec![b' '; (1 << 20) + 1]), Kind::Exhausted),
        (Body::Endless, Kind::Exhausted),
    ] {
        let server = Server::start(move |asked| {
            if asked.path == "/token" {
                return Answer::status(200).body(body.clone());
            }
            let realm = format!("http://{}/token", asked.header("host").unwrap_or_default());
            Answer::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))
        })
        .await;
        let error = failure(&server, "x").await;
        assert_eq!(error.kind(), kind, "{}", chain(&error));
    }
}

#[tokio::test]
async fn bodies_are_read_to_their_limit_and_no_further() {
    let endless = manifest_lie(|_| Answer::status(200).body(Body::Endless)).await;
    assert_eq!(endless.kind(), Kind::Exhausted, "{}", chain(&endless));
    let page = manifest_lie(|_| Answer::ok(b"<html>log in</html>")).await;
    assert_eq!(page.kind(), Kind::Invalid, "{}", chain(&page));
    let absent = manifest_lie(|_| Answer::status(404).body(Body::Endless)).await;
    assert_eq!(absent.kind(), Kind::NotFound, "{}", chain(&absent));
    let encoded = layer_lie(|_, blob| Answer::ok(blob).header("Content-Encoding", "gzip")).await;
    assert_eq!(encoded.kind(), Kind::Invalid, "{}", chain(&encoded));
}

#[tokio::test]
async fn no_encoding_is_ever_asked_for() {
    let server = small().serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    pull(&images, &server.image("x")).await.expect("pull");
    assert!(server.asked("").iter().all(|asked| asked.header("accept-encoding").is_none()));
}

#[tokio::test]
async fn headers_that_contradict_the_content_are_refused() {
    let fixture = small();
    let other = Digest::of(b"other").to_string();
    for (name, value, kind) in [
        ("Docker-Content-Digest", other.as_str(), Kind::DataLoss),
        ("Docker-Content-Digest", "sha256:../../x", Kind::Invalid),
        ("Docker-Content-Digest", "md5:d41d8cd98f00b204e9800998ecf8427e", Kind::Invalid),
        ("Content-Type", manifest::OCI_INDEX, Kind::Invalid),
    ] {
        let (fixture, value) = (fixture.clone(), value.to_owned());
        let error = manifest_lie(move |_| Answer::ok(&fixture.manifest).header(name, &value)).await;
        assert_eq!(error.kind(), kind, "{name}: {}", chain(&error));
    }
}

#[tokio::test]
async fn an_index_that_contains_itself_or_nothing_for_us_ends() {
    let nested = |digest: String, size: usize| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{size}}}]}}"#,
            manifest::OCI_INDEX
        )
    };
    let mut documents: Vec<String> = vec![nested(Digest::of(b"end").to_string(), 3)];
    for _ in 0..20 {
        let last = documents.last().expect("one");
        documents.push(nested(Digest::of(last.as_bytes()).to_string(), last.len()));
    }
    let server = Server::start(move |asked| {
        let named = |text: &&String| asked.path.ends_with(&Digest::of(text.as_bytes()).to_string());
        let found = documents.iter().find(named).or(documents.last());
        Answer::ok(found.expect("one").as_bytes())
    })
    .await;
    let error = failure(&server, "x").await;
    assert_eq!(error.kind(), Kind::Invalid, "{}", chain(&error));
    assert_eq!(server.asked("/manifests/").len(), 4);
    let foreign = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":3,
            "platform":{{"os":"windows","architecture":"amd64"}}}}]}}"#,
        manifest::OCI_MANIFEST,
        Digest::of(b"end")
    );
    let error = manifest_lie(move |_| Answer::ok(foreign.as_bytes())).await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(chain(&error).contains("no image for linux/"), "{}", chain(&error));
}

#[tokio::test]
async fn configurations_that_do_not_fit_are_refused() {
    let layer = Layer::of(&[("a", "x")]);
    let diff_id = Digest::of(&layer.archive);
    let wrong = Digest::of(b"wrong");
    for (config, kind) in [
        ("not json".to_owned(), Kind::Invalid),
        (r#"{"rootfs":{"diff_ids":[]}}"#.into(), Kind::Invalid),
        (format!(r#"{{"rootfs":{{"diff_ids":["{diff_id}","{diff_id}"]}}}}"#), Kind::Invalid),
        (format!(r#"{{"rootfs":{{"diff_ids":["{wrong}"]}}}}"#), Kind::DataLoss),
        (
            format!(r#"{{"config":{{"Entrypoint":"/x"}},"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#),
            Kind::Invalid,
        ),
        (format!(r#"{{"history":[{{}}],"x":"{}"}}"#, "y".repeat(4 << 20)), Kind::Exhausted),
    ] {
        let fixture = Fixture::with_config(vec![layer.clone()], config.clone().into_bytes());
        let server = fixture.serve().await;
        let error = failure(&server, "x").await;
        assert_eq!(error.kind(), kind, "{config:.60}: {}", chain(&error));
    }
}

#[tokio::test]
async fn archives_that_reach_outside_are_refused_and_named() {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..10].copy_from_slice(b"../escaped");
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let archive = [header.as_bytes().as_slice(), &[0; 1024]].concat();
    let server = Fixture::new(vec![Layer::gzip(archive)]).serve().await;
    let error = failure(&server, "x").await;
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(chain(&error).contains("../escaped"), "{}", chain(&error));
}

#[tokio::test]
async fn bad_references_and_credentials_are_refused_before_anything_is_sent() {
    let server = small().serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    for bad in ["", "UPPER", "a b", "x/../y"] {
        let error = pull(&images, &server.image(bad)).await.expect_err(bad);
        assert_eq!(error.kind(), Kind::Invalid, "{bad}");
    }
    let credentials =
        Credentials { username: "u".into(), password: "a\nb".into(), ..Credentials::default() };
    let request = PullRequest { reference: server.image("x"), credentials: Some(credentials) };
    assert_eq!(images.pull(request).await.expect_err("newline").kind(), Kind::Invalid);
    assert!(server.asked("").is_empty());
}

#[tokio::test]
async fn policies_reject_before_anything_is_sent() {
    let server = small().serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    for policy in [
        r#"{"default":[{"type":"reject"}]}"#,
        r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}"#,
        "not a policy",
    ] {
        site.write("policy.json", policy);
        let error = pull(&images, &server.image("x")).await.expect_err(policy);
        assert_eq!(error.kind(), Kind::NamedByFirstWord);
        let text = chain(&error);
        assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
    }
    assert!(server.asked("").is_empty());
    site.write("policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#);
    pull(&images, &server.image("x")).await.expect("accepted");
}

#[tokio::test]
async fn configuration_is_read_anew_for_every_pull_and_mistakes_name_the_file() {
    let server = small().serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    site.write("registries.conf", "[[registry");
    let error = pull(&images, &server.image("x")).await.expect_err("broken");
    assert!(chain(&error).contains("registries.conf"), "{}", chain(&error));
    site.write(
        "registries.conf",
        &format!("[[registry]]\nlocation = \"{}\"\nblocked = true", server.host()),
    );
    let error = pull(&images, &server.image("x")).await.expect_err("blocked");
    assert_eq!(error.kind(), Kind::Denied);
    site.write(
        "registries.conf",
        &format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\ninsecure = true",
            server.host()
        ),
    );
    let image = pull(&images, "busybox").await.expect("pull");
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
    assert!(images.find("busybox").expect("find").is_some());
    assert_eq!(server.asked("/v2/library/busybox/manifests/latest").len(), 1);
}
