//! Processes by descriptor, so that a pid that was used again is never mistaken (pidfd_open(2)).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Between two looks at a process of which the kernel could not tell.
const AGAIN: Duration = Duration::from_millis(500);

/// A process that is this very one and no later owner of its pid.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The process `pid` if it started at `start_time` (field 22 of /proc/PID/stat); none if it is
    /// gone, which includes being a zombie. A process whose first thread has ended while others go
    /// on is not gone, though that thread is a zombie.
    ///
    /// # Errors
    /// Only when the kernel could not tell.
    pub fn find(pid: i32, start_time: u64) -> io::Result<Option<Self>> {
        let Some(process) = Pid::from_raw(pid).map_or(Ok(None), Self::open)? else {
            return Ok(None);
        };
        // RACE: the pid may have passed on between the open and this look. The descriptor is then
        // the later process's, and its start time differs.
        match self::start_time(pid)? {
            Some(started) if started == start_time && !process.has_ended()? => Ok(Some(process)),
            _ => Ok(None),
        }
    }

    /// Whoever has this number now; none if nobody does. Who that is must be looked at afterwards:
    /// what is true of the number then, while this one lives, is true of this one.
    ///
    /// # Errors
    /// Only when the kernel could not tell.
    pub fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { fd })),
            // Before Linux 6.15 a number that is only a thread's now is called invalid.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether all its threads have ended, waited for or not.
    fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match poll(&mut fds, Some(&at_once)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends SIGKILL; a process that is gone already is fine.
    pub fn kill(&self) -> io::Result<()> {
        self.send(Signal::KILL)
    }

    /// Sends a signal by its number; a process that is gone already is fine.
    ///
    /// # Errors
    /// `EINVAL` for a number that the kernel has no signal for.
    pub fn signal(&self, number: u8) -> io::Result<()> {
        // SAFETY: the number is only handed to pidfd_send_signal(2), which checks it. Those that a
        // C library keeps for itself mean nothing in a process that is not ours.
        self.send(unsafe { Signal::from_raw_unchecked(i32::from(number)) })
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
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

/// Returns when the kernel says that the process is gone; where it cannot tell it is asked again.
pub async fn gone(pid: i32, start_time: u64) {
    loop {
        let looked = match Process::find(pid, start_time) {
            Ok(None) => return,
            Ok(Some(process)) => process.ended().await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::warn!(pid, %error, "look for a process; it is looked for again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// When a process started (field 22 of /proc/PID/stat); none if it does not exist
/// (proc_pid_stat(5)).
pub fn start_time(pid: i32) -> io::Result<Option<u64>> {
    let text = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name, field 2, may hold anything; the last parenthesis ends it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started = fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
    match started {
        Some(started) => Ok(Some(started)),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text:?}")))
        }
    }
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

    /// Forks a child whose first thread ends while another one goes on; returns its pid.
    fn headless() -> i32 {
        // SAFETY: the child only calls functions of the kernel and of libc that need no lock of this
        // process: it has a stack of its own for its other thread, and both never return.
        unsafe {
            match libc::fork() {
                0 => {
                    extern "C" fn idle(_: *mut libc::c_void) -> libc::c_int {
                        loop {
                            // SAFETY: waits for a signal; no memory is involved.
                            unsafe { libc::pause() };
                        }
                    }
                    static mut STACK: [u8; 1 << 14] = [0; 1 << 14];
                    let top = (&raw mut STACK).cast::<u8>().add(1 << 14).cast();
                    let flags = libc::CLONE_VM
                        | libc::CLONE_SIGHAND
                        | libc::CLONE_THREAD
                        | libc::CLONE_FS
                        | libc::CLONE_FILES;
                    libc::clone(idle, top, flags, std::ptr::null_mut());
                    libc::syscall(libc::SYS_exit, 0);
                    libc::abort();
                }
                pid => pid,
            }
        }
    }

    #[tokio::test]
    async fn a_process_lives_for_as_long_as_any_of_its_threads() {
        let pid = headless();
        let started = start_time(pid).expect("stat").expect("alive");
        let state = || {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
            text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while state() != Some('Z') {
            assert!(std::time::Instant::now() < deadline, "its first thread does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let process = Process::find(pid, started).expect("find").expect("it lives");
        process.kill().expect("kill");
        gone(pid, started).await;
        assert!(Process::find(pid, started).expect("find").is_none());
        rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty())
            .expect("reaped");
    }
}
