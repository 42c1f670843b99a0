//! Contents of a pod's `/etc/resolv.conf` (resolv.conf(5)).

use std::fs::File;
use std::io::{self, Read};

use crate::pod::spec::Dns;

/// Largest resolv.conf of the node that is copied. glibc reads 3 servers and 6 to 256 search
/// domains; this is far more.
const MAX_BYTES: u64 = 1 << 20;

/// The file for what was asked. Nothing asked for gives an empty file.
pub fn render(dns: &Dns) -> String {
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str("nameserver ");
        text.push_str(server);
        text.push('\n');
    }
    for (keyword, words) in [("search", &dns.searches), ("options", &dns.options)] {
        if !words.is_empty() {
            text.push_str(keyword);
            for word in words {
                text.push(' ');
                text.push_str(word);
            }
            text.push('\n');
        }
    }
    text
}

/// A copy of the node's own file as it is now. A node without one has an empty one: the resolver
/// treats both alike.
pub fn node_copy() -> io::Result<Vec<u8>> {
    read_bounded("/etc/resolv.conf")
}

fn read_bounded(path: &str) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_line() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let dns = Dns {
            servers: words(&["10.0.0.10", "fd00::a"]),
            searches: words(&["ns.svc.cluster.local", "cluster.local"]),
            options: words(&["ndots:5", "edns0"]),
        };
        assert_eq!(
            render(&dns),
            "nameserver 10.0.0.10\nnameserver fd00::a\n\
             search ns.svc.cluster.local cluster.local\noptions ndots:5 edns0\n"
        );
        assert_eq!(render(&Dns::default()), "");
    }

    #[test]
    fn the_copy_is_bounded_and_an_absent_file_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let path = path.to_str().unwrap();
        assert_eq!(read_bounded(path).unwrap(), b"");
        std::fs::write(path, "nameserver 1.1.1.1\n").unwrap();
        assert_eq!(read_bounded(path).unwrap(), b"nameserver 1.1.1.1\n");
        std::fs::write(path, vec![b' '; MAX_BYTES as usize + 1]).unwrap();
        assert_eq!(read_bounded(path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
