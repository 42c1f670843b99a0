//! The store across restarts, crashes and damage: reliability.md R19, R33, R36, X08 and X10.

use super::*;

async fn with_image() -> (Site, Server, Fixture) {
    let fixture =
        Fixture::new(vec![Layer::of(&[("a", "x"), ("d/e", "y")]), Layer::of(&[("b", "x")])]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    let images = site.open();
    pull(&images, &server.image("x")).await.expect("pull");
    (site, server, fixture)
}

#[tokio::test]
async fn images_are_there_after_a_restart() {
    let (site, server, fixture) = with_image().await;
    let images = site.open();
    let image = images.find(&server.image("x")).expect("find").expect("there");
    assert_eq!(image.id.to_string(), fixture.id());
    assert_eq!(image.config.user, "1000:0");
    assert_eq!(contents(&image).len(), 3);
    assert!(images.usage().used_bytes > 0);
    assert_eq!(images.usage().mountpoint, site.path("images"));
}

#[tokio::test]
async fn what_a_crash_leaves_is_swept() {
    let (site, server, _) = with_image().await;
    let store = site.path("images");
    for garbage in
        ["tmp/0/half/unpacked", "tmp/junk", "trash/7/x", "layers/aaaaaaaaaaaaaaaa/without-record"]
    {
        fs::create_dir_all(store.join(garbage)).expect("garbage");
    }
    for file in ["layers/bbbbbbbbbbbbbbbb.json", "layers/x.new", "images/y.new", "images/z.config"]
    {
        fs::write(store.join(file), "{}").expect("garbage");
    }
    let images = site.open();
    assert!(images.find(&server.image("x")).expect("find").is_some());
    site.settled().await;
    assert_eq!(site.names("layers").len(), 4);
    assert_eq!(site.names("images").len(), 2);
}

#[tokio::test]
async fn a_damaged_image_is_set_aside_and_pulled_again() {
    let (site, server, fixture) = with_image().await;
    let store = site.path("images");
    let record = store.join(format!("images/{}.json", fixture.id()));
    let config = store.join(format!("images/{}.config", fixture.id()));
    let damage: [(&str, &dyn Fn()); 3] = [
        ("flipped record", &|| {
            let mut bytes = fs::read(&record).expect("read");
            bytes[20] ^= 1;
            fs::write(&record, bytes).expect("write");
        }),
        ("empty record", &|| fs::write(&record, "").expect("write")),
        ("wrong configuration", &|| fs::write(&config, "{}").expect("write")),
    ];
    for (what, spoil) in damage {
        spoil();
        let images = site.open();
        assert!(images.list().is_empty(), "{what}");
        assert!(!site.names("quarantine").is_empty(), "{what}");
        let before = server.asked(&fixture.layers[0].digest()).len();
        pull(&images, &server.image("x")).await.expect(what);
        assert_eq!(site.open().list().len(), 1, "{what}");
        let after = server.asked(&fixture.layers[0].digest()).len();
        assert_eq!(before, after, "{what}: intact layers are not fetched again");
        fs::remove_dir_all(store.join("quarantine")).expect("remove");
    }
}

#[tokio::test]
async fn an_image_whose_layer_is_gone_is_absent_and_pulled_again() {
    let (site, server, fixture) = with_image().await;
    for spoil in ["directory", "record"] {
        let layers = site.names("layers");
        let path = site.path("images").join("layers").join(&layers[0]);
        match spoil {
            "directory" => fs::remove_dir_all(&path).expect("remove"),
            _ => fs::remove_file(path.with_extension("json")).expect("remove"),
        }
        let images = site.open();
        assert!(images.find(&server.image("x")).expect("find").is_none(), "{spoil}");
        let image = pull(&images, &server.image("x")).await.expect(spoil);
        assert_eq!(image.id.to_string(), fixture.id());
        assert_eq!(contents(&image).len(), 3);
    }
}

#[tokio::test]
async fn a_pinned_image_is_not_removed() {
    let (site, server, _) = with_image().await;
    let images = site.open();
    let image = images.find(&server.image("x")).expect("find").expect("there");
    let pin = images.pin(&image.id).expect("pin");
    let second = images.pin(&image.id).expect("pin");
    let error = images.remove(&server.image("x")).await.expect_err("pinned");
    assert_eq!(error.kind(), Kind::WrongState);
    drop(second);
    let error = images.remove(&image.id.to_string()).await.expect_err("still pinned");
    assert_eq!(error.kind(), Kind::WrongState);
    assert_eq!(contents(pin.image()).len(), 3);
    drop(pin);
    images.remove(&server.image("x")).await.expect("remove");
    assert_eq!(images.pin(&image.id).expect_err("gone").kind(), Kind::NotFound);
}

#[tokio::test]
async fn removing_one_image_many_times_at_once_always_succeeds() {
    let (site, server, _) = with_image().await;
    let images = site.open();
    let mut removals = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (images, name) = (images.clone(), server.image("x"));
        removals.spawn(async move { images.remove(&name).await });
    }
    assert!(removals.join_all().await.iter().all(Result::is_ok));
    site.assert_empty(&images).await;
}

#[tokio::test]
async fn the_beginning_of_several_ids_is_ambiguous() {
    let fixtures: Vec<_> = (0..40)
        .map(|n| {
            let config = format!(r#"{{"os":"linux","x":{n},"rootfs":{{"diff_ids":[]}}}}"#);
            Fixture::with_config(vec![], config.into_bytes())
        })
        .collect();
    // Prefixes of three digits hardly ever collide by chance, so the index is asked directly.
    let images = fixtures.iter().map(|fixture| {
        let id: ImageId = format!("abc{}", &fixture.id()[3..]).parse().expect("id");
        let image = Image {
            id,
            repo_tags: vec![],
            repo_digests: vec![],
            size: 1,
            layers: vec![],
            config: ImageConfig::default(),
            diff_ids: vec![],
            chain: vec![],
            config_path: PathBuf::new(),
        };
        (id, Arc::new(image))
    });
    let index = store::Index::new(images.collect());
    assert_eq!(index.by_id("abc").expect_err("ambiguous").kind(), Kind::Invalid);
    assert_eq!(index.by_id("sha256:abc").expect_err("ambiguous").kind(), Kind::Invalid);
    let one = format!("abc{}", &fixtures[0].id()[3..20]);
    assert!(index.by_id(&one).expect("unique").is_some());
    assert!(index.by_id("abd").expect("none").is_none());
    assert!(index.by_id("ab").expect("too short").is_none());
}

#[tokio::test]
async fn only_root_can_walk_the_store() {
    use std::os::unix::fs::MetadataExt;
    let (site, ..) = with_image().await;
    for dir in ["", "layers", "images", "tmp", "trash", "quarantine"] {
        let mode = fs::metadata(site.path("images").join(dir)).expect(dir).mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
}

#[tokio::test]
async fn a_full_disk_is_exhaustion_and_everything_is_given_back() {
    let site = Site::new();
    let mount = site.path("images");
    fs::create_dir(&mount).expect("directory");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &mount, "tmpfs", flags, c"size=70m").expect("mount");
    let unmount = Unmount(mount);
    let fixture = Fixture::new(vec![Layer::of(&[("a", "x")]), Layer::large(10 << 20)]);
    let server = fixture.serve().await;
    site.write(
        "registries.conf",
        &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", server.host()),
    );
    let images = site.open();
    let error = pull(&images, &server.image("x")).await.expect_err("no room");
    assert_eq!(error.kind(), Kind::Exhausted, "{}", chain(&error));
    site.assert_empty(&images).await;
    assert!(site.names("layers").is_empty());
    drop(images);
    drop(unmount);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        crate::rootfs::unmount(&self.0).expect("unmount");
    }
}
