//! Gives a program that is being started one descriptor of ours under an agreed number.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::process::Command;

/// Makes the program of `command` find `fd` as its descriptor `number`; it is ours no longer.
pub fn descriptor(command: &mut Command, fd: OwnedFd, number: i32) {
    let place = move || {
        // SAFETY: dup2(2) and fcntl(2) are async-signal-safe and take plain numbers; `fd` is owned
        // by this closure, so it is open. What `number` was before, the child does not need: the
        // smallest numbers belong to what the daemon opened at its start.
        let done = unsafe {
            match fd.as_raw_fd() {
                // dup2(2) onto itself would leave close-on-exec as it is.
                raw if raw == number => libc::fcntl(raw, libc::F_SETFD, 0),
                raw => libc::dup2(raw, number),
            }
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure runs between fork(2) and execve(2) and makes only the calls above.
    unsafe { command.pre_exec(place) };
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_program_finds_the_descriptor_under_its_number() {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "printf hello >&3"]);
        descriptor(&mut command, theirs.into(), 3);
        let status = command.status().await.expect("it runs");
        drop(command);
        let mut said = String::new();
        ours.read_to_string(&mut said).expect("the other end is closed");
        assert!(status.success() && said == "hello", "{status} {said:?}");
    }
}
