//! A disk that answers with errors, and containers that stand on what the store does not know: an
//! error while reading never removes anything.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::rootfs;

async fn with_image() -> (Site, Server, Fixture) {
    let fixture =
        Fixture::new(vec![Layer::of(&[("a", "x"), ("d/e", "y")]), Layer::of(&[("b", "x")])]);
    let server = fixture.serve().await;
    let site = Site::trusting(&[&server]);
    pull(&site.open(), &server.image("x")).await.expect("pull");
    (site, server, fixture)
}

/// A file that cannot be read until this is dropped: EISDIR or ELOOP, which root is told as well.
struct Unreadable {
    path: PathBuf,
}

impl Unreadable {
    fn directory(path: &Path) -> Self {
        let unreadable = Self::aside(path);
        fs::create_dir(path).expect("directory");
        unreadable
    }

    fn link(path: &Path) -> Self {
        let unreadable = Self::aside(path);
        symlink(path.with_extension("aside"), path).expect("link");
        unreadable
    }

    fn aside(path: &Path) -> Self {
        // Beside the store, so that nobody takes it for a leftover.
        let (store, name) = (path.parent().expect("in a directory"), path.file_name());
        let aside = store.parent().expect("in the store").join(name.expect("a name"));
        fs::rename(path, aside).expect("move");
        Self { path: path.to_owned() }
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            fs::remove_file(&self.path).expect("remove");
        }
        let store = self.path.parent().and_then(Path::parent).expect("in the store");
        fs::rename(store.join(self.path.file_name().expect("a name")), &self.path).expect("back");
    }
}

fn layer_records(site: &Site) -> Vec<PathBuf> {
    let names = site.names("layers").into_iter().filter(|name| name.ends_with(".json"));
    names.map(|name| site.path("images/layers").join(name)).collect()
}

#[tokio::test]
async fn what_cannot_be_read_is_left_alone_and_read_again() {
    let (site, server, fixture) = with_image().await;
    let image = site.path("images/images").join(fixture.id());
    let mut records = layer_records(&site);
    records.extend(["json", "config"].map(|extension| image.with_extension(extension)));
    assert_eq!(records.len(), 4);
    let asked = server.asked(&fixture.layers[0].digest()).len();
    for path in records {
        for spoil in [Unreadable::directory, Unreadable::link] {
            let what = path.display();
            let before = (site.names("layers"), site.names("images"));
            let unreadable = spoil(&path);
            let images = site.open();
            assert!(images.list().is_empty(), "{what}");
            let error = images.find(&fixture.id()).expect_err("nobody knows");
            assert!(chain(&error).contains("read"), "{what}: {}", chain(&error));
            assert_ne!(error.kind(), Kind::NotFound, "{what}");
            let error = pull(&images, &server.image("x")).await.expect_err("nobody knows");
            assert!(chain(&error).contains("read"), "{what}: {}", chain(&error));
            assert!(site.names("quarantine").is_empty(), "{what}");
            drop(unreadable);
            assert_eq!((site.names("layers"), site.names("images")), before, "{what}");
            images.look_again();
            let found = images.find(&server.image("x")).expect("find").expect("there again");
            assert_eq!(contents(&found).len(), 3, "{what}");
        }
    }
    assert_eq!(server.asked(&fixture.layers[0].digest()).len(), asked, "nothing is fetched again");
}

#[tokio::test]
async fn while_an_image_cannot_be_read_no_layer_is_collected() {
    let (site, server, fixture) = with_image().await;
    let record = site.path("images/images").join(fixture.id()).with_extension("json");
    let other = Fixture::new(vec![Layer::of(&[("other", "x")])]);
    let other_server = other.serve().await;
    site.write(
        "registries.conf",
        &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", other_server.host()),
    );
    let unreadable = Unreadable::directory(&record);
    let images = site.open();
    pull(&images, &other_server.image("x")).await.expect("pull");
    images.remove(&other.id()).await.expect("remove");
    assert_eq!(layer_records(&site).len(), 3);
    drop(unreadable);
    images.look_again();
    pull(&images, &other_server.image("x")).await.expect("pull");
    images.remove(&other.id()).await.expect("remove");
    assert_eq!(layer_records(&site).len(), 2);
    assert!(images.find(&server.image("x")).expect("find").is_some());
}

#[tokio::test]
async fn nothing_is_cleared_away_before_all_containers_are_known() {
    let (site, server, fixture) = with_image().await;
    for garbage in ["trash/7/x", "layers/aaaaaaaaaaaaaaaa/without-record"] {
        fs::create_dir_all(site.path("images").join(garbage)).expect("garbage");
    }
    let image = site.open_unsettled().expect("open").list()[0].clone();
    let layers: Vec<_> = image.layers.clone();
    fs::write(site.path("images/images").join(fixture.id()).with_extension("json"), "")
        .expect("damage");
    let images = site.open_unsettled().expect("open");
    assert!(images.find(&server.image("x")).expect("find").is_none());
    let other = Fixture::new(vec![Layer::of(&[("other", "x")])]);
    let other_server = other.serve().await;
    site.write(
        "registries.conf",
        &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", other_server.host()),
    );
    pull(&images, &other_server.image("x")).await.expect("pull");
    images.remove(&other.id()).await.expect("remove");
    assert_eq!(site.names("trash"), ["7"]);
    assert_eq!(layer_records(&site).len(), 3);
    let hold = images.hold(vec![image.id], image.layer_names().collect());
    assert_eq!(hold.missing(), [image.id]);
    images.settle().expect("settle");
    pull(&images, &other_server.image("x")).await.expect("pull");
    images.remove(&other.id()).await.expect("remove");
    site.settled().await;
    assert!(layers.iter().all(|layer| layer.exists()), "a container holds them");
    assert_eq!(layer_records(&site).len(), 2);
    assert!(!site.path("images/layers/aaaaaaaaaaaaaaaa").exists());
    drop(hold);
    pull(&images, &other_server.image("x")).await.expect("pull");
    images.remove(&other.id()).await.expect("remove");
    assert!(layers.iter().all(|layer| !layer.exists()), "nobody holds them");
}

#[tokio::test]
async fn a_container_that_cannot_name_its_layers_keeps_all_of_them() {
    let (site, _, fixture) = with_image().await;
    let id: ImageId = fixture.id().parse().expect("id");
    fs::write(site.path("images/images").join(fixture.id()).with_extension("json"), "")
        .expect("damage");
    fs::create_dir_all(site.path("images/layers/aaaaaaaaaaaaaaaa")).expect("garbage");
    let images = site.open_unsettled().expect("open");
    let hold = images.hold(vec![id], Vec::new());
    images.settle().expect("settle");
    assert_eq!(site.names("layers").len(), 5);
    drop(hold);
    images.settle().expect("settle");
    assert_eq!(site.names("layers").len(), 4, "its layers are too young to be collected");
}

#[tokio::test]
async fn what_a_container_stands_on_outlives_its_damaged_records() {
    for spoil in ["layers", "image", "layers gone"] {
        let (site, ..) = with_image().await;
        let image = site.open().list()[0].clone();
        let dirs = rootfs::RootfsDirs {
            upper: site.path("upper"),
            work: site.path("work"),
            target: site.path("target"),
        };
        rootfs::mount(&image.layers, &dirs, &rootfs::RootfsOptions::default()).expect("mount");
        match spoil {
            "layers" => layer_records(&site).iter().for_each(|path| fs::write(path, "").unwrap()),
            "layers gone" => {
                layer_records(&site).iter().for_each(|path| fs::remove_file(path).unwrap());
            }
            _ => {
                let name = format!("{}.json", image.id);
                fs::write(site.path("images/images").join(name), "").expect("damage");
            }
        }
        let images = site.open();
        assert!(images.list().is_empty(), "{spoil}");
        site.settled().await;
        assert_eq!(fs::read_to_string(dirs.target.join("d/e")).expect(spoil), "y");
        assert!(image.layers.iter().all(|layer| layer.exists()), "{spoil}");
        drop(images);
        rootfs::unmount(&dirs.target).expect("unmount");
        if spoil != "image" {
            site.open();
            site.settled().await;
            assert!(image.layers.iter().all(|layer| !layer.exists()), "{spoil}");
        }
    }
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_not_opened_and_not_touched() {
    let (site, _, fixture) = with_image().await;
    let image = site.path("images/images").join(fixture.id()).with_extension("json");
    let record = serde_json::json!({"version": 2}).to_string();
    let digest = Digest::of(record.as_bytes());
    for path in [layer_records(&site)[0].clone(), image] {
        let old = fs::read(&path).expect("read");
        fs::write(&path, format!("{{\"digest\":\"{digest}\",\"record\":{record}}}"))
            .expect("write");
        let before = (site.names("layers"), site.names("images"));
        let error = site.open_unsettled().expect_err("newer");
        assert!(chain(&error).contains("needs a newer crisol"), "{}", chain(&error));
        assert_eq!((site.names("layers"), site.names("images")), before);
        fs::write(&path, old).expect("write");
    }
    assert_eq!(site.open().list().len(), 1);
}

#[tokio::test]
async fn a_place_that_cannot_be_listed_is_no_empty_store() {
    for place in ["layers", "images"] {
        let (site, ..) = with_image().await;
        let unreadable = site.path("images").join(place);
        let aside = site.path("aside");
        fs::rename(&unreadable, &aside).expect("move");
        symlink(&unreadable, &unreadable).expect("link");
        site.open_unsettled().expect_err(place);
        fs::remove_file(&unreadable).expect("remove");
        fs::rename(&aside, &unreadable).expect("back");
        assert_eq!(site.open().list().len(), 1, "{place}");
    }
}
