//! The contract between the daemon and the monitor of one container.
//!
//! Everything both sides must agree on, and nothing else: how the monitor is started
//! ([`Launch`]), what lies in its directory (the constants here), what is said on its control
//! socket and in its start report ([`Request`], [`Reply`]), what clients of the container's stdio say
//! and hear on its attach socket ([`wire::attach`]), and what an exit looks like in a file and on
//! the wire ([`Exit`]). No I/O happens here and nothing is `unsafe`.
//!
//! ```text
//!  daemon                                 monitor                            runtime
//!    │ spawn `conmon run …` (stdout: pipe)   │                                  │
//!    ├──────────────────────────────────────►│ bind the sockets, open the log   │
//!    │                                       ├── spawn `runc create …` ────────►│
//!    │                                       │◄─ exit 0, DIR/pid ───────────────┤
//!    │◄── Created{pid, start_time} on stdout ┤
//!    │    (or Failed{message})               │
//!    ├── connect DIR/ctl: Subscribe ────────►│
//!    │◄── State{pid, start_time, exit} ──────┤
//!    │                                       │ … the container ends …
//!    │                                       │ write DIR/exit (temporary file, rename)
//!    │◄── Exited(Exit) ──────────────────────┤
//!    ├── TakeExit ──────────────────────────►│
//!    │◄── Ok ────────────────────────────────┤ exits 0
//! ```
//!
//! The monitor binds its sockets before it starts the runtime, so a daemon that was killed in the
//! middle of a create finds it again: `Subscribe` then answers `State` with pid 0 and the same
//! subscription later receives `Created` or `Failed`.

pub mod exit_record;
pub mod launch;
pub mod wire;

pub use exit_record::{Exit, ExitParseError};
pub use launch::{Launch, LaunchError, Owner};
pub use wire::{Reply, Request, WireError};

/// The control socket in the monitor directory, a `SOCK_STREAM` unix socket of mode 0600.
pub const SOCKET: &str = "ctl";

/// Connections to the control socket at one time: the daemon's subscription, its short requests, and
/// one per exec. One more is closed at once.
pub const MAX_CONNECTIONS: usize = 64;

/// The attach socket in the monitor directory, a `SOCK_STREAM` unix socket of mode 0600. It listens
/// before the control socket exists: a monitor that has only that one is of an older version.
pub const ATTACH: &str = "attach";

/// The exit record in the monitor directory, in the text form of [`Exit`]. It appears by rename.
pub const EXIT: &str = "exit";

/// Where the runtime writes the pid of the container's init (`--pid-file`).
pub const PID: &str = "pid";

/// Where the runtime delivers the terminal (`--console-socket`), for containers that have one.
pub const CONSOLE: &str = "console.sock";
