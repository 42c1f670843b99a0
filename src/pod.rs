//! Pods.

pub mod actor;
pub mod recover;
pub mod remove;
pub mod run;
pub mod spec;
pub mod state;
pub mod stop;
