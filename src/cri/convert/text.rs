//! Rules for texts that several messages share: names, paths, label maps.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{Field, Mistakes, shown};

/// Longest name of a Kubernetes object (a DNS subdomain, RFC 1123).
pub(super) const MAX_NAME: usize = 253;
/// Longest path that a system call takes: PATH_MAX without its NUL.
pub(super) const MAX_PATH: usize = 4095;
/// Longest name in a directory: NAME_MAX.
const MAX_COMPONENT: usize = 255;
/// Longest label, key and value together; CRI-O and containerd have the same limit.
const MAX_LABEL: usize = 4096;
/// All labels together. Kubernetes bounds each, and their number only by the size of an object.
const MAX_LABELS: usize = 1 << 20;
/// All annotations of an object together, keys and values: what Kubernetes allows
/// (`TotalAnnotationSizeLimitB` of apimachinery's `validation/objectmeta.go`).
const ANNOTATIONS_OF_AN_OBJECT: usize = 256 << 10;
/// All annotations of a pod. The kubelet hands on those of the object, which the API has bounded with
/// `last-applied-configuration` and all, and adds its own afterwards (`kubernetes.io/config.seen`,
/// `.source`, `.hash`, `.mirror`: some 200 bytes). An object at the API's bound must run, so there is
/// room for what a kubelet may ever add.
pub(super) const POD_ANNOTATIONS: usize = ANNOTATIONS_OF_AN_OBJECT + (16 << 10);
/// All annotations of a container. They are the kubelet's alone: numbers, and as JSON the ports and
/// the pre-stop handler, whose size no rule but the size of the whole pod bounds; device plugins add
/// theirs. Twice an object's leaves room for all of them.
pub(super) const CONTAINER_ANNOTATIONS: usize = 2 * ANNOTATIONS_OF_AN_OBJECT;
/// Entries of one map; far above what Kubernetes makes, and cheap to copy with every listing.
const MAX_ENTRIES: usize = 10_000;

/// Whether a character ends a line somewhere or steers a terminal.
pub(super) fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Refuses control characters and more than `max` bytes.
pub(super) fn plain(mistakes: &mut Mistakes, field: &Field<'_>, text: &str, max: usize) {
    if text.len() > max {
        mistakes
            .add(field, format_args!("is {} bytes long, at most {max} are allowed", text.len()));
    } else if text.chars().any(is_control) {
        mistakes.add(field, format_args!("{} has a control character", shown(text)));
    }
}

/// Refuses a missing name, and whatever would be a path or a second line in some file.
pub(super) fn name(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) {
    if text.is_empty() {
        mistakes.add(field, "is missing");
    } else {
        optional_name(mistakes, field, text);
    }
}

/// Like [`name`], but may be empty.
pub(super) fn optional_name(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) {
    if text.contains('/') || text == "." || text == ".." {
        mistakes.add(field, format_args!("{} is not a name", shown(text)));
    } else {
        plain(mistakes, field, text, MAX_NAME);
    }
}

/// An absolute path without `..`. It is kept as written: answers repeat it exactly.
pub(super) fn absolute_path(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) -> PathBuf {
    if text.is_empty() {
        mistakes.add(field, "is missing");
    } else if !text.starts_with('/') {
        mistakes.add(field, format_args!("{} is not an absolute path", shown(text)));
    } else {
        path_parts(mistakes, field, text);
    }
    PathBuf::from(text)
}

/// A path that stays below the directory it is relative to.
pub(super) fn relative_path(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) -> PathBuf {
    if text.starts_with('/') {
        mistakes.add(field, format_args!("{} is not a relative path", shown(text)));
    } else {
        path_parts(mistakes, field, text);
    }
    PathBuf::from(text)
}

fn path_parts(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) {
    if Path::new(text).components().any(|part| part == Component::ParentDir) {
        mistakes.add(field, format_args!("{} has a .. in it", shown(text)));
    } else if text.split('/').any(|part| part.len() > MAX_COMPONENT) {
        mistakes.add(field, format_args!("{} has a part over {MAX_COMPONENT} bytes", shown(text)));
    } else {
        plain(mistakes, field, text, MAX_PATH);
    }
}

/// Labels: any text, within limits. They come back exactly as they were given.
pub(super) fn labels(mistakes: &mut Mistakes, field: &Field<'_>, map: &BTreeMap<String, String>) {
    total(mistakes, field, map, MAX_LABELS);
    for (key, value) in map {
        let size = key.len() + value.len();
        if size > MAX_LABEL {
            let problem = format_args!("is {size} bytes long, at most {MAX_LABEL} are allowed");
            mistakes.add(&field.key(key), problem);
        }
    }
}

/// Annotations: any text, at most `max` bytes together. They come back exactly as they were given,
/// with every listing: all that there are have to fit into one message.
pub(super) fn annotations(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    map: &BTreeMap<String, String>,
    max: usize,
) {
    total(mistakes, field, map, max);
}

fn total(mistakes: &mut Mistakes, field: &Field<'_>, map: &BTreeMap<String, String>, max: usize) {
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if map.len() > MAX_ENTRIES {
        mistakes.add(
            field,
            format_args!("has {} entries, at most {MAX_ENTRIES} are allowed", map.len()),
        );
    } else if bytes > max {
        mistakes.add(field, format_args!("is {bytes} bytes long, at most {max} are allowed"));
    }
}

/// Refuses lists that no client has a use for.
pub(super) fn at_most<T>(mistakes: &mut Mistakes, field: &Field<'_>, list: &[T], max: usize) {
    if list.len() > max {
        mistakes.add(field, format_args!("has {} entries, at most {max} are allowed", list.len()));
    }
}
