//! Descriptors that the reactor watches, for kinds that tokio has no type for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the reactor watch `fd`, which does not block.
///
/// # Errors
/// When the kernel does not watch it: a regular file, or out of memory.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, names one descriptor for as long as it lives, and closes it only
    // when it is dropped, which the `AsyncFd` that owns it now does after it has stopped watching.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}
