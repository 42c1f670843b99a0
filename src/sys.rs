//! What the daemon asks of the kernel directly. Knows none of our types. The only `unsafe` of the
//! daemon is here.
#![allow(unsafe_code)]

pub mod beneath;
pub mod confine;
pub mod detached;
pub mod foreign;
pub mod idmap;
pub mod in_root;
pub mod inherit;
pub mod kept;
pub mod leftovers;
pub mod listen;
pub mod namespaces;
pub mod overlay;
pub mod packets;
pub mod pass_fds;
pub mod pidfd;
pub mod readiness;
pub mod real_path;
pub mod seccomp;
pub mod stand_in;
pub mod sysctl;
pub mod tmpfs;
pub mod tree;
pub mod user_namespace;
