//! Which mount a path is on, and whether later mounts travel from and to it: /proc/self/mountinfo
//! (proc_pid_mountinfo(5), mount_namespaces(7)).

use std::path::{Path, PathBuf};

/// How later mounts travel between a mount and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Both ways: it is in a peer group.
    pub shared: bool,
    /// To it: it is the slave of a peer group.
    pub slave: bool,
}

/// The propagation of the mount that `path`, which has no symbolic links, is on; none if there is
/// no such mount in `mountinfo`.
pub fn peers(mountinfo: &str, path: &Path) -> Option<Peers> {
    let mut found: Option<(usize, Peers)> = None;
    for (point, peers) in mountinfo.lines().filter_map(parse) {
        let depth = point.components().count();
        // Of several mounts on one point the last is on top.
        if path.starts_with(&point) && found.is_none_or(|(deepest, _)| depth >= deepest) {
            found = Some((depth, peers));
        }
    }
    found.map(|(_, peers)| peers)
}

/// `36 35 98:0 /root /point options shared:1 master:2 - type source super-options`
fn parse(line: &str) -> Option<(PathBuf, Peers)> {
    let (before, _) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(4);
    let point = unescape(fields.next()?);
    let mut peers = Peers::default();
    for field in fields.skip(1) {
        peers.shared |= field.starts_with("shared:");
        peers.slave |= field.starts_with("master:");
    }
    Some((point, peers))
}

/// Spaces, tabs, newlines and backslashes of a path are written as `\ooo`, proc(5).
pub fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) if byte == b'\\' => {
                bytes.push(decoded);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
        2 1 0:2 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
        3 2 0:3 / /run/a\\040b rw shared:6 master:5 - tmpfs none rw\n\
        4 2 0:4 / /run/slave rw master:5 propagate_from:7 - tmpfs none rw\n\
        5 2 0:5 / /run/slave rw - tmpfs none rw\n";

    #[test]
    fn a_path_is_on_the_deepest_mount_above_it_and_the_last_of_several() {
        let shown = |path: &str| peers(TABLE, Path::new(path)).map(|p| (p.shared, p.slave));
        assert_eq!(shown("/etc/x"), Some((false, false)));
        assert_eq!(shown("/run"), Some((true, false)));
        assert_eq!(shown("/runner"), Some((false, false)));
        assert_eq!(shown("/run/a b/c"), Some((true, true)));
        assert_eq!(shown("/run/slave/x"), Some((false, false)), "covered by a private one");
        assert_eq!(peers("", Path::new("/")), None);
    }
}
