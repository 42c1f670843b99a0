//! The sockets for the kubelet and for plugins, and the TCP ports: free, or in use by whom?

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::net::UnixStream;

use super::{Area, Report};
use crate::config::Config;

const AREA: Area = Area::Sockets;

/// connect(2) to a local socket is immediate unless its owner hangs with a full queue.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Who is at a socket's path.
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
    if occupant != Occupant::NotASocket {
        directory("cri.listen", path, report);
    }
    // The ports and the other socket of a running daemon are taken by itself.
    if occupant == Occupant::Live {
        return;
    }
    if config.nri.enable && !config.nri.disable_connections {
        plugins(&config.nri.socket, report).await;
    }
    let stream = SocketAddr::new(config.stream.address, config.stream.port);
    tcp("stream", stream, report);
    if let Some(address) = config.metrics.listen {
        tcp("metrics", address, report);
    }
}

/// The socket for plugins of the node. The daemon serves without it, and says so only in its log.
async fn plugins(path: &Path, report: &mut Report) {
    let shown = path.display();
    let instead = "set nri.socket, or nri.disable_connections = true";
    match occupant(path).await {
        Occupant::Nobody | Occupant::Stale if !can_be_made(path) => {
            let what = format!("{shown} cannot be made: no NRI plugin will be able to connect");
            report.fail(AREA, what, instead);
        }
        Occupant::Nobody | Occupant::Stale => {
            report.ok(AREA, format!("{shown} is free for NRI plugins"));
        }
        Occupant::Live => {
            let what = format!("somebody serves NRI plugins at {shown}: they will not find us");
            report.fail(AREA, what, instead);
        }
        Occupant::NotASocket => {
            report.fail(AREA, format!("{shown} is no socket"), "remove it, or set nri.socket");
        }
    }
}

/// A socket that cannot be made is a daemon that does not start.
fn directory(key: &str, path: &Path, report: &mut Report) {
    if !can_be_made(path) {
        let what = format!("{} cannot be made", path.display());
        report.fail(AREA, what, format!("set {key} to a path in a directory that can be written"));
    }
}

/// Whether the nearest directory above `path` that exists can be written.
fn can_be_made(path: &Path) -> bool {
    let there = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok());
    there.is_some_and(|dir| {
        let dir_of = |meta: std::fs::Metadata| meta.is_dir();
        dir.metadata().is_ok_and(dir_of) && access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}

async fn occupant(path: &Path) -> Occupant {
    match std::fs::symlink_metadata(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Occupant::Nobody;
        }
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

    use super::super::Level;
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

    #[tokio::test]
    async fn a_socket_for_plugins_that_cannot_be_had_fails() {
        let dir = tempfile::tempdir().unwrap();
        let says = async |path: &Path, level: Level, words: &str| {
            let mut report = Report::default();
            plugins(path, &mut report).await;
            let [finding] = report.findings.as_slice() else { panic!("{report}") };
            assert_eq!(finding.level, level, "{report}");
            assert!(finding.what.contains(words), "{report}");
        };
        let deep = dir.path().join("deep/below/nri.sock");
        says(&deep, Level::Ok, "is free").await;
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        says(&file, Level::Fail, "is no socket").await;
        says(&file.join("nri.sock"), Level::Fail, "cannot be made").await;
        let taken = dir.path().join("taken");
        let _listener = std::os::unix::net::UnixListener::bind(&taken).unwrap();
        says(&taken, Level::Fail, "somebody serves").await;
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
