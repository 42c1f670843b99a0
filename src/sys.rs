//! Raw system calls; knows none of our types. The only `unsafe` of the daemon is below here.

pub mod in_root;
pub mod overlay;
