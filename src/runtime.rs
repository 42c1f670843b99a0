//! Placeholder.

pub mod features;
pub mod handlers;
pub mod probe;
