//! Stub.
pub mod process;
