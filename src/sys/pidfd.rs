//! Processes by descriptor, so that a pid that was used again is never mistaken (pidfd_open(2)).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that is this very one and no later owner of its pid.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The process `pid` if it started at `start_time` (field 22 of /proc/PID/stat); none if it is
    /// gone, which includes being a zombie.
    ///
    /// # Errors
    /// Only when the kernel could not tell.
    pub fn find(pid: i32, start_time: u64) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // RACE: the pid may have passed on between the open and this look. The descriptor is then
        // the later process's, and its start time differs.
        match stat(pid.as_raw_nonzero().get()) {
            Ok(Some((state, started))) if started == start_time && !matches!(state, 'Z' | 'X') => {
                Ok(Some(Self { fd }))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends SIGKILL; a process that is gone already is fine.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the process's end, whoever's child it is.
    pub async fn ended(self) -> io::Result<()> {
        // SAFETY: the value registered is the OwnedFd itself, which yields one and the same open
        // descriptor until the registration drops it.
        let fd = unsafe { AsyncFd::register_with_interest(self.fd, Interest::READABLE)? };
        fd.readable().await.map(drop)
    }
}

/// State letter and start time of a process; none if it does not exist (proc_pid_stat(5)).
fn stat(pid: i32) -> io::Result<Option<(char, u64)>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name, field 2, may hold anything; the last parenthesis ends it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.chars().next());
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    match (state, started) {
        (Some(state), Some(started)) => Ok(Some((state, started))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text:?}"))),
    }
}

/// When a process started (field 22 of /proc/PID/stat); none if it does not exist.
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.map(|(_, started)| started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_pid_and_start_time_together() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let started = start_time(pid).expect("stat").expect("alive");
        assert!(Process::find(pid, started).expect("find").is_some());
        assert!(Process::find(pid, started + 1).expect("find").is_none());
        assert!(Process::find(0, started).expect("find").is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_killed_process_is_seen_and_a_zombie_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let started = start_time(pid).expect("stat").expect("alive");
        let process = Process::find(pid, started).expect("find").expect("alive");
        process.kill().expect("kill");
        process.ended().await.expect("ended");
        assert!(Process::find(pid, started).expect("find").is_none());
        child.wait().expect("reaped");
    }
}
