//! Real mounts in a temporary directory.

use super::*;
use rustix::fs::{FileType, Mode, mknodat};

/// Directories for one root file system; unmounts when dropped.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn dirs(&self) -> RootfsDirs {
        let [upper, work, target] =
            ["rw/upper", "rw/work", "target"].map(|name| self.dir.path().join(name));
        RootfsDirs { upper, work, target }
    }

    fn layer(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let layer = self.dir.path().join("layers").join(name);
        fs::create_dir_all(&layer).expect("layer");
        for (name, text) in files {
            fs::write(layer.join(name), text).expect("file");
        }
        layer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount(&self.dirs().target).expect("unmount");
    }
}

fn list(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.expect("entry").file_name().into_string().expect("UTF-8")
    };
    let mut names: Vec<_> = fs::read_dir(dir).expect("list").map(name).collect();
    names.sort();
    names
}

#[test]
fn the_topmost_layer_comes_first_and_writes_stay_out_of_it() {
    let place = Place::new();
    let top = place.layer("top", &[("a", "top")]);
    let bottom = place.layer("bottom", &[("a", "bottom"), ("b", "bottom")]);
    fs::set_permissions(&top, Permissions::from_mode(0o1777)).expect("chmod");
    let dirs = place.dirs();
    mount(&[top.clone(), bottom], &dirs, &RootfsOptions::default()).expect("mount");
    assert_eq!(fs::read_to_string(dirs.target.join("a")).expect("read"), "top");
    assert_eq!(fs::read_to_string(dirs.target.join("b")).expect("read"), "bottom");
    assert_eq!(fs::metadata(&dirs.target).expect("stat").mode() & 0o7777, 0o1777);
    fs::write(dirs.target.join("c"), "new").expect("write");
    assert_eq!(list(&top), ["a"]);
    unmount(&dirs.target).expect("unmount");
    assert!(list(&dirs.target).is_empty());
}

#[test]
fn five_hundred_layers_are_mounted() {
    let place = Place::new();
    let layer = |n: usize| place.layer(&format!("{n:016x}"), &[(&format!("f{n}"), "x")]);
    let layers: Vec<_> = (0..500).map(layer).collect();
    let dirs = place.dirs();
    mount(&layers, &dirs, &RootfsOptions::default()).expect("mount");
    assert_eq!(list(&dirs.target).len(), 500);
}

#[test]
fn an_image_without_layers_is_an_empty_writable_root() {
    let place = Place::new();
    let dirs = place.dirs();
    mount(&[], &dirs, &RootfsOptions::default()).expect("mount");
    assert!(list(&dirs.target).is_empty());
    fs::write(dirs.target.join("a"), "x").expect("write");
}

#[test]
fn a_writable_layer_is_mounted_again_after_an_unclean_end() {
    let place = Place::new();
    let layers = [place.layer("only", &[("a", "x")])];
    let dirs = place.dirs();
    mount(&layers, &dirs, &RootfsOptions::default()).expect("first mount");
    fs::write(dirs.target.join("kept"), "x").expect("write");
    unmount(&dirs.target).expect("unmount");
    mount(&layers, &dirs, &RootfsOptions::default()).expect("second mount");
    assert_eq!(list(&dirs.target), ["a", "kept"]);
}

#[test]
fn unmounting_nothing_and_nowhere_succeeds() {
    let place = Place::new();
    unmount(place.dir.path()).expect("nothing mounted");
    unmount(&place.dir.path().join("absent")).expect("no such path");
}

#[test]
fn two_mounts_on_one_target_both_go() {
    let place = Place::new();
    let layers = [place.layer("only", &[("a", "x")])];
    let target = place.dirs().target;
    mount_readonly(&layers, &target, None).expect("first");
    mount_readonly(&layers, &target, None).expect("second");
    unmount(&target).expect("unmount");
    assert!(list(&target).is_empty());
}

#[test]
fn a_volume_of_one_layer_hides_its_whiteouts_and_refuses_writes() {
    let place = Place::new();
    let layer = place.layer("only", &[("a", "x")]);
    let dir = fs::File::open(&layer).expect("open layer");
    mknodat(&dir, "gone", FileType::CharacterDevice, Mode::empty(), 0).expect("whiteout");
    let target = place.dirs().target;
    mount_readonly(&[layer], &target, None).expect("mount");
    assert_eq!(list(&target), ["a"]);
    let error = fs::write(target.join("b"), "x").expect_err("read-only");
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_volume_without_layers_is_empty_and_read_only() {
    let place = Place::new();
    let target = place.dirs().target;
    mount_readonly(&[], &target, None).expect("mount");
    assert!(list(&target).is_empty());
    assert!(fs::write(target.join("b"), "x").is_err());
}

#[test]
fn a_missing_layer_is_an_error_that_names_the_target() {
    let place = Place::new();
    let dirs = place.dirs();
    let layers = [place.layer("only", &[]), place.dir.path().join("absent/layer")];
    let error = mount(&layers, &dirs, &RootfsOptions::default()).expect_err("no such layer");
    assert!(error.to_string().contains("target"), "{error}");
}
