//! The start report: one reply on standard output, then its end.

use std::os::fd::AsFd;

use conmon::Reply;
use rustix::fs::{Mode, OFlags};

use crate::sys;

/// Sends the report. If the daemon has died meanwhile there is nobody to tell, and it will ask on
/// the control socket when it is back.
pub(crate) fn send(reply: &Reply) {
    let frame = reply.encode();
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        let stdout = std::io::stdout();
        match rustix::io::retry_on_intr(|| rustix::io::write(stdout.as_fd(), rest)) {
            Ok(count) => rest = &rest[count..],
            Err(_) => return,
        }
    }
}

/// Closes standard output, so that the daemon reads its end. /dev/null takes its number: no other
/// descriptor may ever get it.
pub(crate) fn close() {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) {
        drop(sys::replace_stdout(null.as_fd()));
    }
}
