//! The rules for single values. Each takes what the file says and returns the parsed value or what
//! is wrong with it, in words that follow `file:line:column: key: `.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{CgroupDriver, HandlerKind, LogFormat};

/// `sun_path` has 108 bytes and ends in a NUL, unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// A RuntimeClass handler is a DNS label (RFC 1123), so nobody can ask for a longer name.
const MAX_HANDLER_NAME: usize = 63;

/// Directories are searched for every plugin; more than a few is a mistake.
const MAX_PLUGIN_DIRS: usize = 16;

/// The kubelet gives up on a request after two minutes, so nothing in it may wait longer.
const MAX_SECONDS: u64 = 120;

/// Options of a runtime that one could mean are a handful.
const MAX_OPTIONS: usize = 64;

/// An absolute path without `.`, `..` and control characters, without doubled slashes.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has a control character"));
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("{text:?} is not an absolute path"));
    }
    // `components` drops `.` in the middle; `..` may lead anywhere once a link is involved.
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{text:?} contains .."));
    }
    Ok(path.components().collect())
}

/// [`absolute_path`], or nothing for the empty string.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { absolute_path(text).map(Some) }
}

/// A directory of ours: not the root directory, and fit to stand in overlayfs' `lowerdir=` list.
pub(super) fn own_directory(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if path.parent().is_none() {
        return Err("the root directory cannot be ours alone".to_owned());
    }
    match text.chars().find(|c| matches!(c, ':' | ',' | '\\' | '"')) {
        Some(c) => Err(format!("{text:?} contains {c:?}, which separates overlayfs' options")),
        None => Ok(path),
    }
}

/// Where a unix socket can be bound.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    let length = path.as_os_str().len();
    if path.file_name().is_none() {
        return Err(format!("{text:?} names no file"));
    }
    if length > MAX_SOCKET_PATH {
        return Err(format!("{length} bytes, a socket's path has at most {MAX_SOCKET_PATH}"));
    }
    Ok(path)
}

/// One or more absolute paths.
pub(super) fn plugin_dirs(items: &[String]) -> Result<Vec<PathBuf>, String> {
    if items.is_empty() {
        return Err("at least one directory is needed".to_owned());
    }
    if items.len() > MAX_PLUGIN_DIRS {
        return Err(format!("{} directories, at most {MAX_PLUGIN_DIRS}", items.len()));
    }
    items.iter().map(|item| absolute_path(item)).collect()
}

/// The directories of a PATH, whose separator they cannot contain.
pub(super) fn search_path(items: &[String]) -> Result<Vec<PathBuf>, String> {
    match items.iter().find(|item| item.contains(':')) {
        Some(item) => {
            Err(format!("{item:?} contains ':', which separates the directories of PATH"))
        }
        None => plugin_dirs(items),
    }
}

/// An IP address, without port.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// `ADDRESS:PORT`, or nothing for the empty string.
pub(super) fn optional_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| format!("{text:?} is not ADDRESS:PORT with a numeric address"))
}

/// A TCP port or 0.
pub(super) fn port(number: i64) -> Result<u16, String> {
    number.try_into().map_err(|_| format!("{number} is not in the range 0 to 65535"))
}

/// A time to wait for somebody.
pub(super) fn seconds(number: i64) -> Result<Duration, String> {
    match u64::try_from(number) {
        Ok(seconds) if (1..=MAX_SECONDS).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{number} is not in the range 1 to {MAX_SECONDS} seconds")),
    }
}

/// MiB of a zstd window, as bytes: what every decoder should take to what the library can.
pub(super) fn window(number: i64) -> Result<u64, String> {
    match u64::try_from(number) {
        Ok(number) if (8..=2048).contains(&number) => Ok(number << 20),
        _ => Err(format!("{number} is not in the range 8 to 2048 MiB")),
    }
}

/// `auto`, `systemd`, `cgroupfs`.
pub(super) fn cgroup_driver(text: &str) -> Result<CgroupDriver, String> {
    match text {
        "auto" => Ok(CgroupDriver::Auto),
        "systemd" => Ok(CgroupDriver::Systemd),
        "cgroupfs" => Ok(CgroupDriver::Cgroupfs),
        _ => Err(format!("{text:?} is none of \"auto\", \"systemd\", \"cgroupfs\"")),
    }
}

/// `oci`, `shim`.
pub(super) fn handler_kind(text: &str) -> Result<HandlerKind, String> {
    match text {
        "oci" => Ok(HandlerKind::Oci),
        "shim" => Ok(HandlerKind::Shim),
        _ => Err(format!("{text:?} is neither \"oci\" nor \"shim\"")),
    }
}

/// `text`, `json`.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither \"text\" nor \"json\"")),
    }
}

/// A filter that `tracing` understands.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("empty; the default is \"info\"".to_owned());
    }
    match EnvFilter::builder().parse(text) {
        // A bare word that is no level parses as the name of a module, and then logs nothing.
        Ok(_) if !text.contains('=') && !text.split(',').any(is_level) => {
            Err(format!("{text:?} names no level: error, warn, info, debug, trace or off"))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} is not a log filter: {error}")),
    }
}

fn is_level(word: &str) -> bool {
    let word = word.trim().to_ascii_lowercase();
    matches!(word.as_str(), "error" | "warn" | "info" | "debug" | "trace" | "off")
}

/// The name is a file name below `state` and a label of metrics.
pub(super) fn handler_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(allowed) || matches!(name, "." | "..") {
        return Err(format!("{name:?} is not a name of letters, digits, '.', '_' and '-'"));
    }
    if name.len() > MAX_HANDLER_NAME {
        return Err(format!("{} characters, at most {MAX_HANDLER_NAME}", name.len()));
    }
    Ok(name.to_owned())
}

/// Options for a runtime's command line. Those that crisol gives itself have keys of their own.
pub(super) fn options(items: &[String]) -> Result<Vec<String>, String> {
    if items.len() > MAX_OPTIONS {
        return Err(format!("{} options, at most {MAX_OPTIONS}", items.len()));
    }
    for item in items {
        if item.is_empty() || item.chars().any(char::is_control) {
            return Err(format!("{item:?} is empty or has a control character"));
        }
        if item == "--root" || item.starts_with("--root=") {
            return Err("--root is given by crisol, set the key root".to_owned());
        }
    }
    Ok(items.to_vec())
}

/// The known name that `name` most likely meant: at most two typing mistakes away, or the same last
/// part in another table.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().map(ToOwned::to_owned);
    known
        .map(|candidate| {
            let moved = last(candidate) == last(name);
            (if moved { 1 } else { distance(name, candidate) }, candidate)
        })
        .filter(|&(distance, candidate)| distance <= 2 && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
