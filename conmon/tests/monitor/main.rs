//! The monitor as the daemon sees it: real runtimes, real containers, one program from outside.
//!
//! Needs root and what `make tools` provides: runc, crun, busybox. Every test has directories, cgroups and
//! container ids of its own and removes them, so they run side by side.

#![allow(clippy::unwrap_used)]

mod attached;
mod bundle;
mod client;
mod container;
mod tmpfs;
mod waiting;

mod attach;
mod control;
mod create;
mod exec;
mod life;
mod log;
mod pause;
mod reader;
mod terminal;

/// Makes of each function a test with runc and one with crun.
macro_rules! with_each_runtime {
    ($($name:ident)*) => {
        mod runc { $( #[test] fn $name() { super::$name(crate::bundle::Runtime::Runc); } )* }
        mod crun { $( #[test] fn $name() { super::$name(crate::bundle::Runtime::Crun); } )* }
    };
}
pub(crate) use with_each_runtime;
