//! What the daemon asks of the kernel beyond the standard library. The only place for `unsafe`.
//!
//! Knows none of our types: paths, numbers and text in, `io::Error`s and errors of its own out.
#![allow(unsafe_code)]

pub mod namespaces;
pub mod sysctl;
