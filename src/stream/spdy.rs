//! SPDY/3.1, the server's half: streams over one connection, for `kubectl`, the kubelet and crictl.
//!
//! ```text
//!  frames ─► frame (heads, counts) ─► headers (one zlib stream) ─► connection ─► inboxes
//!  frames ◄───────────────────────────────────────────────────────connection ◄─ outboxes
//! ```
//!
//! Written by hand because no Rust crate has the server's half. Bounds come before allocations:
//! streams, control frames, header blocks inflated, headers, queues. A fault of one stream ends that
//! stream, a fault of the connection ends it with GOAWAY.

pub mod connection;
mod dictionary;
pub mod frame;
pub mod headers;

pub use connection::{Opened, run};
