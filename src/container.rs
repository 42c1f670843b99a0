//! Containers.

pub mod actor;
pub mod create;
pub mod exec;
pub mod oci;
pub mod recover;
pub mod remove;
pub mod reopen_log;
pub mod signal;
pub mod spec;
pub mod start;
pub mod state;
pub mod stop;
pub mod user;
