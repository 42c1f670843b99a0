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
/// All labels, or all annotations, together. Kubernetes allows 256 KiB of annotations.
const MAX_MAP: usize = 1 << 20;
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
    total(mistakes, field, map);
    for (key, value) in map {
        let size = key.len() + value.len();
        if size > MAX_LABEL {
            let problem = format_args!("is {size} bytes long, at most {MAX_LABEL} are allowed");
            mistakes.add(&field.key(key), problem);
        }
    }
}

/// Annotations: any text, within limits. They come back exactly as they were given.
pub(super) fn annotations(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    map: &BTreeMap<String, String>,
) {
    total(mistakes, field, map);
}

fn total(mistakes: &mut Mistakes, field: &Field<'_>, map: &BTreeMap<String, String>) {
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if map.len() > MAX_ENTRIES {
        mistakes.add(
            field,
            format_args!("has {} entries, at most {MAX_ENTRIES} are allowed", map.len()),
        );
    } else if bytes >= MAX_MAP {
        mistakes
            .add(field, format_args!("is {bytes} bytes long, fewer than {MAX_MAP} are allowed"));
    }
}

/// Refuses lists that no client has a use for.
pub(super) fn at_most<T>(mistakes: &mut Mistakes, field: &Field<'_>, list: &[T], max: usize) {
    if list.len() > max {
        mistakes.add(field, format_args!("has {} entries, at most {max} are allowed", list.len()));
    }
}
