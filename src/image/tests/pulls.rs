//! Pulls that succeed, alone and together: reliability.md R20, R21, G21, G31, S54 and S56.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test]
async fn an_image_is_pulled_found_and_removed() {
    let bottom = Layer::of(&[("a", "bottom"), ("b", "bottom"), ("dir/", ""), ("dir/x", "x")]);
    let top = Layer::zstd(&[("a", "top"), (".wh.b", ""), ("dir/.wh..wh..opq", ""), ("dir/y", "y")]);
    let fixture = Fixture::new(vec![bottom, Layer::plain(&[("c", "middle")]), top]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let name = server.image("team/app");
    let image = pull(&images, &name).await.expect("pull");
    assert_eq!(image.id.to_string(), fixture.id());
    assert_eq!(image.repo_tags, [format!("{name}:latest")]);
    assert_eq!(image.repo_digests, [format!("{name}@{}", fixture.digest())]);
    assert_eq!(image.config.env, ["A=b"]);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(image.raw_config().expect("configuration"), fixture.config);
    let expected = [("a", "top"), ("c", "middle"), ("dir/y", "y")];
    assert_eq!(contents(&image), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(images.usage().used_bytes + fixture.config.len() as u64, image.size);
    let id = fixture.id();
    for text in [
        name.clone(),
        format!("{name}:latest"),
        format!("{name}@{}", fixture.digest()),
        id.clone(),
        format!("sha256:{id}"),
        id[..3].to_owned(),
        format!("sha256:{}", &id[..12]),
    ] {
        let found = images.find(&text).expect(&text).expect(&text);
        assert_eq!(found.id, image.id, "{text}");
    }
    for text in ["absent", &id[..2], &format!("{name}:other")] {
        assert!(images.find(text).expect(text).is_none(), "{text}");
    }
    assert_eq!(images.find("UPPER/case").expect_err("invalid").kind(), Kind::Invalid);
    images.remove(&name).await.expect("remove");
    images.remove(&name).await.expect("an absent image is success");
    site.assert_empty(&images).await;
    assert!(site.names("layers").is_empty());
    assert_eq!((images.usage().used_bytes, images.usage().inodes_used), (0, 0));
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_machine() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")])]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let name = server.image("x:index");
    let image = pull(&images, &name).await.expect("pull");
    assert_eq!(image.id.to_string(), fixture.id());
    let digest = Digest::of(&fixture.index());
    assert_eq!(image.repo_digests, [format!("{}@{digest}", server.image("x"))]);
    let by_digest = pull(&images, &format!("{}@{digest}", server.image("x"))).await.expect("pull");
    assert_eq!(by_digest.id, image.id);
}

#[tokio::test]
async fn an_image_without_layers_is_an_image() {
    let fixture = Fixture::new(vec![]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let image = pull(&images, &server.image("empty")).await.expect("pull");
    assert!(image.layers.is_empty() && image.size > 0);
}

#[tokio::test]
async fn the_same_layer_twice_in_one_image_is_two_directories() {
    let layer = Layer::of(&[("a", "x")]);
    let fixture = Fixture::new(vec![layer.clone(), layer.clone(), layer]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let image = pull(&images, &server.image("x")).await.expect("pull");
    assert_eq!((image.layers.len(), contents(&image).len()), (3, 1));
}

#[tokio::test]
async fn many_who_pull_one_image_fetch_it_once() {
    let fixture = Fixture::new(vec![Layer::large(300_000), Layer::of(&[("b", "x")])]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (images, name) = (images.clone(), server.image("x"));
        pulls.spawn(async move { pull(&images, &name).await.expect("pull").id });
    }
    let ids = pulls.join_all().await;
    assert!(ids.iter().all(|id| id.to_string() == fixture.id()));
    assert_eq!(server.asked("/manifests/").len(), 1);
    assert_eq!(server.asked("/blobs/").len(), 3);
}

#[tokio::test]
async fn images_that_share_layers_fetch_each_layer_once() {
    let shared = vec![Layer::large(200_000), Layer::of(&[("b", "x")])];
    let fixtures: Vec<_> = (0..4)
        .map(|n| {
            let own = Layer::of(&[("own", &n.to_string())]);
            Fixture::new([shared.clone(), vec![own]].concat())
        })
        .collect();
    let all = fixtures.clone();
    let server = Server::start(move |asked| {
        let by_name = all.iter().enumerate().find(|(n, _)| asked.path.contains(&format!("/x{n}/")));
        by_name.map_or_else(|| Answer::status(404), |(_, fixture)| fixture.answer(asked))
    })
    .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let mut pulls = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (images, name) = (images.clone(), server.image(&format!("x{n}")));
        pulls.spawn(async move { pull(&images, &name).await.expect("pull") });
    }
    let pulled = pulls.join_all().await;
    for layer in &shared {
        assert_eq!(server.asked(&layer.digest()).len(), 1);
    }
    let first = &pulled[0];
    assert!(pulled.iter().all(|image| image.layers[1..] == first.layers[1..]));
    // Removing one leaves the layers of the others alone (G33).
    images.remove(&server.image("x0")).await.expect("remove");
    let other = images.find(&server.image("x1")).expect("find").expect("there");
    assert_eq!(contents(&other).len(), 3);
}

#[tokio::test]
async fn a_known_image_costs_one_request_and_gets_another_name() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")])]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    pull(&images, &server.image("x")).await.expect("pull");
    let before = server.asked("").len();
    let again = pull(&images, &server.image("x")).await.expect("pull");
    assert_eq!(server.asked("/v2/x/").len() - 3, 1, "one manifest, {before} requests before");
    assert_eq!(again.repo_tags.len(), 1);
    let other = pull(&images, &server.image("y")).await.expect("pull");
    assert_eq!((other.id, other.repo_tags.len()), (again.id, 2));
    assert_eq!(server.asked(&fixture.layers[0].digest()).len(), 1);
    images.remove(&server.image("x")).await.expect("remove");
    assert!(images.list().is_empty(), "all names go together");
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_without_it() {
    let old = Fixture::new(vec![Layer::of(&[("a", "old")])]);
    let new = Fixture::new(vec![Layer::of(&[("a", "new")])]);
    let (first, second) = (old.clone(), new.clone());
    let moved = Arc::new(AtomicUsize::new(0));
    let switch = Arc::clone(&moved);
    let server = Server::start(move |asked| {
        if switch.load(Ordering::Relaxed) == 0 { first.answer(asked) } else { second.answer(asked) }
    })
    .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let name = server.image("x");
    let old_image = pull(&images, &name).await.expect("pull");
    moved.store(1, Ordering::Relaxed);
    let new_image = pull(&images, &name).await.expect("pull");
    assert_ne!(old_image.id, new_image.id);
    drop(images);
    let images = site.open();
    assert_eq!(images.list().len(), 2);
    let found = images.find(&name).expect("find").expect("there");
    assert_eq!(found.id, new_image.id);
    let old_image = images.find(&old_image.id.to_string()).expect("find").expect("there");
    assert!(old_image.repo_tags.is_empty() && old_image.repo_digests.len() == 1);
}

#[tokio::test]
async fn a_pull_outlives_its_caller_and_is_joined() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")])]);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let slow = fixture.lie({
        let (fixture, gate) = (fixture.clone(), gate.clone());
        move |asked| {
            let answer = fixture.answer(asked);
            asked.path.contains("/blobs/").then(|| answer.behind(&gate))
        }
    });
    let server = slow.await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let first = tokio::spawn({
        let (images, name) = (images.clone(), server.image("x"));
        async move { pull(&images, &name).await }
    });
    eventually("the pull has begun", || !server.asked("/blobs/").is_empty()).await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    let second = tokio::spawn({
        let (images, name) = (images.clone(), server.image("x"));
        async move { pull(&images, &name).await }
    });
    // It has joined, or will at the latest when the grace of the first is over.
    tokio::time::sleep(2 * GRACE).await;
    gate.close();
    let image = second.await.expect("no panic").expect("joined");
    assert_eq!(image.id.to_string(), fixture.id());
    assert_eq!(server.asked("/manifests/").len(), 1);
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_after_the_grace_period() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")]), Layer::large(100_000)]);
    let stuck = fixture.layers[1].clone();
    let server = fixture
        .lie(move |asked| {
            let answer = Answer::status(200).body(Body::Stuck(stuck.blob.clone(), 1000));
            asked.path.ends_with(&stuck.digest()).then(|| answer.delay(Duration::from_millis(400)))
        })
        .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let name = server.image("x");
    let one = tokio::spawn({
        let (images, name) = (images.clone(), name.clone());
        async move { pull(&images, &name).await }
    });
    eventually("the layer is asked for", || !server.asked(&fixture.layers[1].digest()).is_empty())
        .await;
    let busy = images.remove(&name).await.expect_err("being pulled");
    assert_eq!(busy.kind(), Kind::WrongState);
    one.abort();
    let reference = name.parse::<Name>().expect("name").qualify();
    eventually("the pull ends", || !images.0.pulls.is_pulling(&reference)).await;
    site.settled().await;
    assert!(images.list().is_empty());
    // What was complete is kept for the next try.
    assert_eq!(site.names("layers").len(), 2, "a directory and a record");
}

#[tokio::test]
async fn mirrors_are_passed_over_until_one_has_it_right() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")]), Layer::large(50_000)]);
    let absent = Server::start(|_| Answer::status(404)).await;
    let broken = Server::start(|_| Answer::ok(b"<html>log in</html>")).await;
    let wrong = fixture.lie({
        let fixture = fixture.clone();
        move |asked| {
            let mut answer = fixture.layers[1].blob.clone();
            *answer.last_mut().expect("bytes") ^= 1;
            asked.path.ends_with(&fixture.layers[1].digest()).then(|| Answer::ok(&answer))
        }
    });
    let (wrong, primary) = (wrong.await, fixture.serve().await);
    let site = Site::new();
    let mirrors = [&absent, &broken, &wrong].map(|server| {
        format!("[[registry.mirror]]\nlocation = \"{}/m\"\ninsecure = true\n", server.host())
    });
    site.write(
        "registries.conf",
        &format!(
            "[[registry]]\nlocation=\"{}\"\ninsecure=true\n{}",
            primary.host(),
            mirrors.concat()
        ),
    );
    site.write(
        "auth.json",
        &format!(r#"{{"auths":{{"{}":{{"auth":"bWlycm9yOnB3"}}}}}}"#, wrong.host()),
    );
    let images = site.open();
    let credentials =
        Credentials { username: "user".into(), password: "pw".into(), ..Credentials::default() };
    let request = PullRequest { reference: primary.image("x"), credentials: Some(credentials) };
    let image = images.pull(request).await.expect("pull");
    assert_eq!(image.repo_tags, [primary.image("x:latest")]);
    assert_eq!(primary.asked("/manifests/").len(), 0, "the third mirror had it");
    assert_eq!(primary.asked("/blobs/").len(), 1, "but one layer was wrong there");
    assert_eq!(wrong.asked("/v2/m/x/").len(), 4);
}

#[tokio::test]
async fn credentials_are_sent_where_they_belong() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")])]);
    let elsewhere = fixture.serve().await;
    let target = elsewhere.host();
    let server = fixture
        .lie(move |asked| {
            if asked.header("authorization") != Some("Basic dXNlcjpwdw==") {
                return Some(Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\""));
            }
            let location = format!("http://{target}{}?signature=s3cret", asked.path);
            let to_storage = Answer::status(307).header("Location", &location);
            asked.path.contains("/blobs/").then_some(to_storage)
        })
        .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let credentials =
        Credentials { username: "user".into(), password: "pw".into(), ..Credentials::default() };
    let request = |credentials: &Credentials| PullRequest {
        reference: server.image("x"),
        credentials: Some(credentials.clone()),
    };
    let other = Credentials { server_address: "other.example".into(), ..credentials.clone() };
    let error = images.pull(request(&other)).await.expect_err("for another registry");
    assert_eq!(error.kind(), Kind::Denied, "{}", chain(&error));
    assert!(server.asked("").iter().all(|asked| asked.header("authorization").is_none()));
    let wrong = Credentials { password: "wrong".into(), ..credentials.clone() };
    let error = images.pull(request(&wrong)).await.expect_err("wrong password");
    assert_eq!(error.kind(), Kind::Denied, "{}", chain(&error));
    let denied = pull(&images, &server.image("x")).await.expect_err("none");
    assert_eq!(denied.kind(), Kind::Denied, "{}", chain(&denied));
    images.pull(request(&credentials)).await.expect("pull");
    assert_eq!(elsewhere.asked("/blobs/").len(), 2);
    assert!(elsewhere.asked("").iter().all(|asked| asked.header("authorization").is_none()));
    // Who has no credentials is told so, though the image is there (S56).
    let denied = pull(&images, &server.image("x")).await.expect_err("none");
    assert_eq!(denied.kind(), Kind::Denied, "{}", chain(&denied));
}

#[tokio::test]
async fn a_token_is_fetched_used_and_renewed_once() {
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")]), Layer::of(&[("b", "x")])]);
    let tokens = Arc::new(AtomicUsize::new(0));
    let issued = Arc::clone(&tokens);
    let server = fixture
        .lie(move |asked| {
            if asked.path == "/token" {
                let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
                let body = format!(r#"{{"token":"t{number}","expires_in":3600}}"#);
                return Some(Answer::ok(body.as_bytes()));
            }
            // The first token runs out before the blobs are asked for.
            let good = if asked.path.contains("/blobs/") { "Bearer t2" } else { "Bearer t1" };
            let realm = format!("http://{}/token", asked.header("host").unwrap_or_default());
            let challenge =
                format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:x:pull\"");
            (asked.header("authorization") != Some(good))
                .then(|| Answer::status(401).header("WWW-Authenticate", &challenge))
        })
        .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    let credentials = Credentials {
        username: "user".into(),
        identity_token: "refresh".into(),
        ..Credentials::default()
    };
    let request = PullRequest { reference: server.image("x"), credentials: Some(credentials) };
    images.pull(request).await.expect("pull");
    let asked = server.asked("/token");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].method, "POST");
    assert!(asked[0].body.contains("grant_type=refresh_token"), "{}", asked[0].body);
    assert!(asked[0].body.contains("scope=repository%3Ax%3Apull"), "{}", asked[0].body);
    assert!(asked[0].query.is_empty());
}

#[tokio::test]
async fn broken_transfers_are_resumed_where_they_broke() {
    let fixture = Fixture::new(vec![Layer::large(400_000)]);
    let layer = fixture.layers[0].clone();
    let tries = AtomicUsize::new(0);
    let server = fixture
        .lie(move |asked| {
            let ours = asked.path.ends_with(&layer.digest());
            let rest = Answer::ok(&layer.blob).ranged(asked);
            match ours.then(|| tries.fetch_add(1, Ordering::SeqCst)) {
                Some(0) => Some(rest.body(Body::Cut(layer.blob.clone(), 100_000))),
                // This one knows no ranges and begins again.
                Some(1) => Some(Answer::status(200).body(Body::Cut(layer.blob.clone(), 200_000))),
                _ => None,
            }
        })
        .await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    pull(&images, &server.image("x")).await.expect("pull");
    let asked = server.asked(&fixture.layers[0].digest());
    let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-")]);
}
