//! The states of a container and what each request means in each of them. Pure.
//!
//! ```text
//!  (nothing) ─create─► Creating ── failed ──► all undone ──► (nothing)
//!                          │ done
//!                          ▼
//!                       Created ──────── stop, remove ─────────┐
//!                          │ start                             │
//!                          ▼                                   ▼
//!                       Starting ── failed, or exit ───────► Exited ─remove─► Removing ─► (nothing)
//!                          │ done                              ▲
//!                          ▼                                   │
//!                       Running ───────── exit ────────────────┤
//!                          │ stop                              │
//!                          ▼                                   │
//!                       Stopping ──────── exit ────────────────┘
//!
//!  Unknown: the monitor died and the kernel cannot prove that the process did.
//! ```
//!
//! Facts (an exit, a finished step) are never refused; only requests are admitted here.

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Its resources are being taken.
    Creating,
    /// Its process waits to be let go.
    Created,
    /// Its process is being let go.
    Starting,
    /// Its process runs.
    Running,
    /// Its process was asked to end.
    Stopping,
    /// Its process has ended.
    Exited,
    /// Its resources are being given back.
    Removing,
    /// Nobody can tell whether its process runs.
    Unknown,
}

/// What is asked of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Let the process go.
    Start,
    /// End the process.
    Stop,
    /// Give everything back.
    Remove,
    /// Run another process in it.
    Exec,
    /// Have its standard streams.
    Attach,
    /// Change its limits.
    Update,
    /// Open the log anew.
    ReopenLog,
    /// Write down all that it is.
    Checkpoint,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Run,
    /// The same work is in flight: wait for it too.
    Join,
    /// Nothing to do.
    Done,
    /// It was done before: the answer is how it went then.
    Repeat,
    /// Ask again when the step in flight has ended.
    Defer,
    /// Not in this state.
    Deny,
}

/// What `request` means to a container in `state`.
pub const fn admit(state: State, request: Request) -> Verdict {
    use {Request as Q, State as S, Verdict as V};
    match (request, state) {
        (Q::Start, S::Created) => V::Run,
        (Q::Start, S::Starting) => V::Join,
        (Q::Start, S::Running | S::Stopping | S::Exited | S::Unknown) => V::Repeat,
        (Q::Start, S::Creating | S::Removing) => V::Deny,

        (Q::Stop, S::Creating | S::Starting) => V::Defer,
        (Q::Stop, S::Created | S::Running | S::Unknown) => V::Run,
        (Q::Stop, S::Stopping) => V::Join,
        (Q::Stop, S::Exited | S::Removing) => V::Done,

        (Q::Remove, S::Creating | S::Starting) => V::Defer,
        // A container that still runs is stopped first, at once.
        (Q::Remove, S::Created | S::Running | S::Stopping | S::Exited | S::Unknown) => V::Run,
        (Q::Remove, S::Removing) => V::Join,

        (Q::Checkpoint, S::Running) => V::Run,
        (
            Q::Checkpoint,
            S::Creating
            | S::Created
            | S::Starting
            | S::Stopping
            | S::Exited
            | S::Removing
            | S::Unknown,
        ) => V::Deny,

        (Q::Exec | Q::Attach | Q::ReopenLog, S::Running | S::Stopping) => V::Run,
        (
            Q::Exec | Q::Attach | Q::ReopenLog,
            S::Creating | S::Created | S::Starting | S::Exited | S::Removing | S::Unknown,
        ) => V::Deny,

        (Q::Update, S::Created | S::Running) => V::Run,
        (Q::Update, S::Starting) => V::Defer,
        (Q::Update, S::Creating | S::Stopping | S::Exited | S::Removing | S::Unknown) => V::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Defer, Deny, Done, Join, Repeat, Run};

    /// Rows in the order Start, Stop, Remove, Exec, Attach, ReopenLog, Update,
    /// Checkpoint.
    const TABLE: [(State, [Verdict; 8]); 8] = [
        (State::Creating, [Deny, Defer, Defer, Deny, Deny, Deny, Deny, Deny]),
        (State::Created, [Run, Run, Run, Deny, Deny, Deny, Run, Deny]),
        (State::Starting, [Join, Defer, Defer, Deny, Deny, Deny, Defer, Deny]),
        (State::Running, [Repeat, Run, Run, Run, Run, Run, Run, Run]),
        (State::Stopping, [Repeat, Join, Run, Run, Run, Run, Deny, Deny]),
        (State::Exited, [Repeat, Done, Run, Deny, Deny, Deny, Deny, Deny]),
        (State::Removing, [Deny, Done, Join, Deny, Deny, Deny, Deny, Deny]),
        (State::Unknown, [Repeat, Run, Run, Deny, Deny, Deny, Deny, Deny]),
    ];

    #[test]
    fn every_request_in_every_state_has_the_verdict_of_the_table() {
        let requests = [
            Request::Start,
            Request::Stop,
            Request::Remove,
            Request::Exec,
            Request::Attach,
            Request::ReopenLog,
            Request::Update,
            Request::Checkpoint,
        ];
        for (state, verdicts) in TABLE {
            for (request, expected) in requests.into_iter().zip(verdicts) {
                assert_eq!(admit(state, request), expected, "{request:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_stop_or_a_removal_is_never_denied() {
        for (state, _) in TABLE {
            assert_ne!(admit(state, Request::Stop), Deny);
            assert_ne!(admit(state, Request::Remove), Deny);
        }
    }
}
