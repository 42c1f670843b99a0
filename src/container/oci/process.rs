//! The container's first process.

/// Why a working directory is refused, if it is.
///
/// Entering a directory through `/proc` reaches the descriptors of the runtime's own init, and
/// by them the host (CVE-2024-21626).
pub fn cwd_problem(dir: &str) -> Option<&'static str> {
    use std::path::{Component, Path};

    let path = Path::new(dir);
    if !path.is_absolute() {
        return Some("is not absolute");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Some("has a .. in it");
    }
    let process = path.strip_prefix("/proc").ok().and_then(|rest| rest.components().next());
    let Some(Component::Normal(process)) = process else { return None };
    let process = process.as_encoded_bytes();
    let one = process == b"self" || process == b"thread-self" || process[0].is_ascii_digit();
    one.then_some("is inside a process")
}
