//! The states of a pod and what each request means in each of them. Pure.
//!
//! ```text
//!  (nothing) ─run─► Creating ─► Ready ─stop, or part of it is gone─────► Stopping ─► NotReady
//!                      │                                                                 │ remove
//!                      └ failed, all undone ─► (nothing)             (nothing) ◄─ Removing
//! ```
//!
//! A pod whose containers or pause process could not be ended stays Stopping, and one that still
//! holds something of the kernel is NotReady all the same. In both the stop is owed: the next request
//! does it again, and so does the pod's owner without one. What could not be undone is the sweep's.

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Its namespaces and network are being made.
    Creating,
    /// Containers can be created in it.
    Ready,
    /// Its containers are being stopped, or could not be.
    Stopping,
    /// Nothing runs in it any more.
    NotReady,
    /// Its containers and records are being removed.
    Removing,
}

/// What is asked of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End everything in it and give its network back.
    Stop,
    /// Stop it, and forget it.
    Remove,
    /// Note its resources.
    Update,
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
    /// Ask again when the work in flight has ended.
    Defer,
    /// Not in this state.
    Deny,
}

/// What `request` means to a pod in `state`.
pub const fn admit(state: State, request: Request) -> Verdict {
    use {Request as Q, State as S, Verdict as V};
    match (request, state) {
        (Q::Stop | Q::Remove, S::Creating) => V::Defer,
        (Q::Stop, S::Ready) => V::Run,
        (Q::Stop, S::Stopping) => V::Join,
        (Q::Stop, S::NotReady | S::Removing) => V::Done,

        (Q::Remove, S::Stopping) => V::Defer,
        (Q::Remove, S::Ready | S::NotReady) => V::Run,
        (Q::Remove, S::Removing) => V::Join,

        (Q::Update, S::Creating) => V::Defer,
        (Q::Update, S::Ready) => V::Run,
        (Q::Update, S::Stopping | S::NotReady | S::Removing) => V::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Defer, Deny, Done, Join, Run};

    #[test]
    fn every_request_in_every_state_has_the_verdict_of_the_table() {
        let table = [
            (State::Creating, Defer, Defer, Defer),
            (State::Ready, Run, Run, Run),
            (State::Stopping, Join, Defer, Deny),
            (State::NotReady, Done, Run, Deny),
            (State::Removing, Done, Join, Deny),
        ];
        for (state, stop, remove, update) in table {
            assert_eq!(admit(state, Request::Stop), stop, "stop in {state:?}");
            assert_eq!(admit(state, Request::Remove), remove, "remove in {state:?}");
            assert_eq!(admit(state, Request::Update), update, "update in {state:?}");
        }
    }
}
