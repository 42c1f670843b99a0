//! The CRI socket and the TCP ports: free, or in use by whom?

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{Area, Report};
use crate::config::Config;

const AREA: Area = Area::Sockets;

/// connect(2) to a local socket is immediate unless its owner hangs with a full queue.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Who is at the CRI socket's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Nobody,
    /// A socket that a dead daemon left.
    Stale,
    /// Somebody answers.
    Live,
    /// Something that is no socket.
    NotASocket,
}

pub(super) async fn look(config: &Config, report: &mut Report) {
    let path = &config.cri.listen;
    let occupant = occupant(path).await;
    let shown = path.display();
    match occupant {
        Occupant::Nobody => report.ok(AREA, format!("{shown} is free")),
        Occupant::Stale => report.ok(AREA, format!("{shown} is left over and will be replaced")),
        Occupant::Live => {
            let what = format!("a daemon answers at {shown}: a second one will not start");
            report.warn(AREA, what, "nothing, if that is crisol");
        }
        Occupant::NotASocket => {
            report.fail(AREA, format!("{shown} is no socket"), "remove it, or set cri.listen");
        }
    }
    // The ports of a running daemon are taken by itself.
    if occupant == Occupant::Live {
        return;
    }
    let stream = SocketAddr::new(config.stream.address, config.stream.port);
    tcp("stream", stream, report);
    if let Some(address) = config.metrics.listen {
        tcp("metrics", address, report);
    }
}

async fn occupant(path: &Path) -> Occupant {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Occupant::Nobody,
        Ok(meta) if !meta.file_type().is_socket() => return Occupant::NotASocket,
        Ok(_) | Err(_) => {}
    }
    match tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Occupant::Stale,
        // Everything else, a full queue too, means that somebody holds it.
        Ok(_) | Err(_) => Occupant::Live,
    }
}

fn tcp(of: &str, address: SocketAddr, report: &mut Report) {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => {
            report.ok(AREA, format!("{of}: any free port of {}", address.ip()));
        }
        Ok(_) => report.ok(AREA, format!("{of}: {address} is free")),
        Err(error) => {
            let remedy = format!("set {of} to an address of this host and a free port");
            report.fail(AREA, format!("{of}: {address}: {error}"), remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_occupant_of_a_path_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(occupant(&path).await, Occupant::Nobody);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(occupant(&path).await, Occupant::Live);
        drop(listener);
        assert_eq!(occupant(&path).await, Occupant::Stale);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(occupant(&path).await, Occupant::NotASocket);
    }

    #[test]
    fn a_port_in_use_fails() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut report = Report::default();
        tcp("stream", taken.local_addr().unwrap(), &mut report);
        assert!(report.failed());
        tcp("stream", "127.0.0.1:0".parse().unwrap(), &mut report);
        assert_eq!(report.findings.len(), 2);
    }
}
