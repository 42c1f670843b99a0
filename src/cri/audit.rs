//! One line for every call that gets somebody into a container or gives it rights: who asked, and
//! for what. Its target is `audit`, so that a collector can tell it from the rest.
//!
//! ExecSync has its line at level debug, the others at info: probes are that, every few seconds in
//! each container, and who wants them sets `audit=debug`. Who it was, the kernel says (SO_PEERCRED);
//! what is his command, /proc. Arguments are nobody's business, neither his nor those of a command
//! in a container: secrets are among them.

use std::fs::File;
use std::io::Read;

use tonic::Request;
use tonic::transport::server::UdsConnectInfo;
use tracing::Level;

/// The longest name of a command that is shown; the kernel has 15 bytes (proc_pid_comm(5)).
const MAX_NAME: u64 = 64;

/// The longest path of a program, or first word of a command, that is shown.
const MAX_WORD: usize = 256;

/// Who has sent a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    pid: Option<i32>,
    uid: Option<u32>,
    /// What its process calls itself, and its program. They are looked up when the line is written:
    /// a caller that has ended by then, or is in another process namespace, has none.
    command: String,
    program: String,
}

impl Caller {
    /// Of a request that came over a unix socket.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let Some(peer) = peer else { return Self::default() };
        Self::with(peer.pid(), peer.uid())
    }

    /// Of an ExecSync; none if nobody wants the line.
    pub(super) fn of_exec_sync<T>(request: &Request<T>) -> Option<Self> {
        tracing::enabled!(target: "audit", Level::DEBUG).then(|| Self::of(request))
    }

    fn with(pid: Option<i32>, uid: u32) -> Self {
        let (command, program) = pid.filter(|pid| *pid > 0).map(named).unwrap_or_default();
        Self { pid, uid: Some(uid), command, program }
    }

    /// Writes the line: `rpc` on `object`, and what is worth knowing of it.
    pub(super) fn asks(&self, rpc: &'static str, object: &str, what: &str) {
        let Self { pid, uid, command, program } = self;
        tracing::info!(target: "audit", rpc, object = short(object), what, pid, uid, command, program);
    }

    /// Writes the line of an ExecSync of `command` in `container`.
    pub(super) fn runs(&self, container: &str, command: &str) {
        let Self { pid, uid, command: name, program } = self;
        let (rpc, object, what) = ("ExecSync", short(container), short(command));
        tracing::debug!(target: "audit", rpc, object, what, pid, uid, command = name, program);
    }
}

/// Name and program of a process.
fn named(pid: i32) -> (String, String) {
    let mut name = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/comm")) {
        file.take(MAX_NAME).read_to_end(&mut name).ok();
    }
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    (String::from_utf8_lossy(&name).trim_end().to_owned(), short(&program.to_string_lossy()))
}

/// As much of a text as is shown.
pub(super) fn short(text: &str) -> String {
    text.chars().take(MAX_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_by_its_process() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let caller = Caller::with(Some(own), 0);
        assert!(!caller.command.is_empty(), "{caller:?}");
        assert!(caller.program.starts_with('/'), "{caller:?}");
        let (nobody, unknown) = (Caller::with(Some(i32::MAX), 7), Caller::with(None, 7));
        assert_eq!((nobody.command.as_str(), nobody.program.as_str()), ("", ""));
        assert_eq!(unknown, Caller { uid: Some(7), ..Caller::default() });
        assert_eq!(short(&"x".repeat(1000)).len(), MAX_WORD);
    }
}
