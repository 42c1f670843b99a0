//! A pod's host name: contents of its `/etc/hostname`, and the node's own for pods that share it.

use std::io;

/// The file (hostname(5)): one line.
pub fn render(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// The node's host name.
pub fn node() -> io::Result<String> {
    let name = nix::unistd::gethostname()?;
    name.into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_one_line() {
        assert_eq!(render("web-0"), "web-0\n");
    }

    #[test]
    fn the_nodes_name_is_the_kernels() {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(node().unwrap(), kernel.trim_end());
    }
}
