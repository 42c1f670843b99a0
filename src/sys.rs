//! What the daemon asks of the kernel directly. Knows none of our types.

pub mod foreign;
pub mod namespaces;
pub mod pass_fds;
pub mod pidfd;
pub mod sysctl;
pub mod tmpfs;
