//! [`Unpacker`]: the process that unpacks the layers of one pull, as the daemon sees it.
//!
//! It is this same program, run again (`child.rs`). One thread of ours starts it, waits for its end and
//! ends then: the kernel kills it when that thread goes, and so when the daemon does.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::UnpackError;
use super::error::is_not_given;
use super::wire::{Job, Ready};
use crate::sys::{confine, packets};

/// This program, whatever has become of its file: a package may have been upgraded.
const PROGRAM: &str = "/proc/self/exe";

/// When to look after a layer of which nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What of their confinement this host does not give, as far as it was found.
static GAPS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Unpacks for one pull: a process from the first layer on until this is dropped.
#[derive(Debug, Default)]
pub(in crate::image) struct Unpacker {
    process: Mutex<Option<Arc<Process>>>,
}

/// The process; killed when this is dropped, and its layers' processes with it.
#[derive(Debug)]
struct Process {
    pid: u32,
    handle: OwnedFd,
    socket: OwnedFd,
    end: Arc<End>,
}

/// How it ended, once it has.
#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<io::Result<ExitStatus>>>,
    known: Condvar,
}

/// Our end of what is said of one layer, and the other one until the unpacker has it.
#[derive(Debug)]
pub(in crate::image) struct Line {
    ours: OwnedFd,
    theirs: Mutex<Option<OwnedFd>>,
    hung_up: AtomicBool,
    given_up: Notify,
}

impl Line {
    /// A new one.
    ///
    /// # Errors
    /// [`UnpackError::Start`].
    pub(in crate::image) fn new() -> Result<Self, UnpackError> {
        let (ours, theirs) = packets::pair().map_err(UnpackError::Start)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(LOOK_AGAIN))
            .map_err(|error| UnpackError::Start(error.into()))?;
        let theirs = Mutex::new(Some(theirs));
        Ok(Self { ours, theirs, hung_up: AtomicBool::new(false), given_up: Notify::new() })
    }

    /// Nobody waits for the layer: its process is killed, if there is one.
    pub(in crate::image) fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        if let Err(error) = rustix::net::shutdown(&self.ours, Shutdown::Both) {
            warn!(%error, "a layer's process is not told that nobody waits for it");
        }
    }

    /// Returns when further bytes of the layer change nothing any more.
    pub(in crate::image) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    pub(super) fn give_up(&self) {
        self.given_up.notify_one();
    }

    /// One packet of the other end, empty if no more will come; `WouldBlock` if none has for a second.
    pub(super) fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        packets::receive(&self.ours)
    }

    /// The end that the process of the layer would have.
    #[cfg(test)]
    pub(super) fn other_end(&self) -> OwnedFd {
        lock(&self.theirs).take().expect("it is still here")
    }

    /// Answers what was asked for: done, or the system's error.
    pub(super) fn answer(&self, error: i32) -> io::Result<()> {
        packets::send(&self.ours, &error.to_le_bytes(), &[])
    }
}

impl Unpacker {
    /// Hands over a layer: its directory, where its bytes come from, and its line.
    ///
    /// # Errors
    /// [`UnpackError::Start`]; [`UnpackError::Died`] if the process has ended.
    pub(super) fn begin(
        &self,
        job: &Job,
        dir: BorrowedFd<'_>,
        bytes: BorrowedFd<'_>,
        line: &Line,
    ) -> Result<(), UnpackError> {
        let process = self.process()?;
        let packet = serde_json::to_vec(job).map_err(|error| UnpackError::Start(error.into()))?;
        let theirs = lock(&line.theirs).take();
        let theirs =
            theirs.ok_or_else(|| UnpackError::Start(io::ErrorKind::NotConnected.into()))?;
        match packets::send(&process.socket, &packet, &[dir, bytes, theirs.as_fd()]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(process.end.error()),
            sent => sent.map_err(UnpackError::Start),
        }
    }

    /// Why nothing more is heard on a line.
    pub(super) fn lost(&self, line: &Line) -> UnpackError {
        if line.hung_up.load(Ordering::Acquire) {
            return UnpackError::Interrupted;
        }
        match &*lock(&self.process) {
            // It ends: the kernel closes its descriptors in their order, and ours is the first.
            Some(process) if process.has_hung_up() => {
                warn!(pid = process.pid, "the unpacker has ended before its pull");
                process.end.error()
            }
            _ => UnpackError::Nonsense("nothing more of a layer".into()),
        }
    }

    /// The process, if it was started.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<u32> {
        lock(&self.process).as_ref().map(|process| process.pid)
    }

    fn process(&self) -> Result<Arc<Process>, UnpackError> {
        let mut process = lock(&self.process);
        if let Some(process) = &*process {
            return Ok(Arc::clone(process));
        }
        let started = Arc::new(Process::start()?);
        *process = Some(Arc::clone(&started));
        Ok(started)
    }
}

impl Process {
    fn start() -> Result<Self, UnpackError> {
        let (socket, theirs) = packets::pair().map_err(UnpackError::Start)?;
        let end = Arc::new(End::default());
        let (sender, started) = mpsc::channel();
        let live = {
            let end = Arc::clone(&end);
            move || {
                let (mut child, handle) = match spawn(theirs) {
                    Ok(spawned) => spawned,
                    Err(error) => {
                        sender.send(Err(error)).ok();
                        return;
                    }
                };
                sender.send(Ok((child.id(), handle))).ok();
                *lock(&end.status) = Some(child.wait());
                end.known.notify_all();
            }
        };
        let thread = std::thread::Builder::new().name("unpacker".into());
        thread.spawn(live).map_err(UnpackError::Thread)?;
        let (pid, handle) = started
            .recv()
            .unwrap_or_else(|_| Err(UnpackError::Start(io::ErrorKind::BrokenPipe.into())))?;
        let process = Self { pid, handle, socket, end };
        let (packet, _) = packets::receive(&process.socket).map_err(UnpackError::Start)?;
        if packet.is_empty() {
            return Err(process.end.error());
        }
        let ready: Ready =
            serde_json::from_slice(&packet).map_err(|error| UnpackError::Start(error.into()))?;
        ready.gaps.into_iter().for_each(miss);
        if let Some(error) = ready.failed {
            return Err(error);
        }
        debug!(pid, "unpacker started");
        Ok(process)
    }

    fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may hang: that its socket ends is not enough. Its thread waits for it.
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => warn!(pid = self.pid, %error, "an unpacker is not ended"),
        }
    }
}

/// Starts it, the first process of a PID namespace: none that a layer takes over reaches a process of
/// another pull or of the node, and all end with it. For the thread that waits for it, and starts
/// nothing else.
fn spawn(socket: OwnedFd) -> Result<(Child, OwnedFd), UnpackError> {
    match confine::start_in_pid_namespace() {
        Ok(()) => {}
        Err(error) if is_not_given(&error) => miss(format!("PID namespace: {error}")),
        Err(error) => return Err(UnpackError::setup("PID namespace", error)),
    }
    let mut child = command(socket).and_then(|mut c| c.spawn()).map_err(UnpackError::Start)?;
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(handle) => Ok((child, handle)),
        Err(error) => {
            let ended = child.kill().and_then(|()| child.wait());
            Err(UnpackError::Start(ended.err().unwrap_or_else(|| error.into())))
        }
    }
}

/// Tells the log, once, of something that this host does not give.
pub(super) fn miss(gap: String) {
    if !lock(&GAPS).contains(&gap) {
        warn!(gap, "images are unpacked with less confinement than there should be");
        lock(&GAPS).insert(gap);
    }
}

/// What this host does not give of an unpacker's confinement. Starts one to see.
///
/// # Errors
/// If it cannot be started.
pub fn gaps() -> Result<Vec<String>, UnpackError> {
    Process::start()?;
    Ok(known_gaps())
}

/// The same, as far as it has shown.
pub(in crate::image) fn known_gaps() -> Vec<String> {
    lock(&GAPS).iter().cloned().collect()
}

fn command(socket: OwnedFd) -> io::Result<Command> {
    let mut command = Command::new(PROGRAM);
    command.arg0("crisol").arg("unpack").env_clear().current_dir("/");
    // Nobody reads what it would write. The null device is a file of the node, which it could change.
    let (_, nowhere) = io::pipe()?;
    command.stdin(socket).stdout(nowhere.try_clone()?).stderr(nowhere);
    Ok(command)
}

impl End {
    /// The process ends, or has ended: how, as an error.
    fn error(&self) -> UnpackError {
        let status = lock(&self.status);
        let status = self.known.wait_while(status, |status| status.is_none());
        let status = status.unwrap_or_else(PoisonError::into_inner);
        let how = match &*status {
            Some(Ok(status)) => how(*status),
            Some(Err(error)) => format!("cannot be waited for: {error}"),
            None => "is gone".to_owned(),
        };
        UnpackError::Died { how: how.into() }
    }
}

/// How a process ended, in words.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", |s| s.as_str());
            let guess = match signal {
                libc::SIGABRT => ": most likely it needed more memory than it may have",
                libc::SIGXFSZ => ": a file became longer than it may be",
                _ => "",
            };
            format!("was killed by signal {signal} ({name}){guess}")
        }
        (None, code) => format!("ended with status {}", code.unwrap_or_default()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
