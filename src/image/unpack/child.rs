//! The unpacker: the program that is started once a pull, gives up all that it can, and makes a process
//! of itself for each layer. The process of a layer reads its bytes, fills its directory and ends; what
//! it may not do itself, it asks the daemon for on its [`Line`].
//!
//! ```text
//!  daemon ─► unpacker ─► process of a layer        no file system but the layer's directory,
//!    ▲          │              │  ▲                no network, six capabilities, a short list of
//!    └── ended ─┘◄── status ───┘  └─ its bytes     system calls, bounded memory, no other process
//! ```
//!
//! The unpacker itself never sees a byte of a layer, so none of them can reach the others.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Signal, WaitOptions, getpid, getppid, pidfd_open,
    pidfd_send_signal, set_dumpable_behavior, setsid, waitpid,
};
use rustix::thread::CapabilitySet;

use super::archive::Archive;
use super::decompress::Inflated;
use super::error::is_not_given;
use super::line::Line;
use super::pieces::Pieces;
use super::tree::{Filled, Tree};
use super::wire::{Done, Job, Onto, Ready, Said};
use super::{MAX_BYTES, MAX_ENTRIES, UnpackError};
use crate::sys::confine::{self, Fork};
use crate::sys::packets;
use crate::sys::seccomp::{self, Must};

mod calls;

/// What making the files of a layer takes: owners, modes, set-user-id bits and file capabilities of
/// anybody's, in directories of anybody's; devices.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Bytes of memory that unpacking takes beyond a decoder's window: buffers, an archive's longest
/// headers, the names of directories to come back to.
const OWN_MEMORY: u64 = 96 << 20;

/// Descriptors of the unpacker and of the process of a layer, which need far fewer.
const MAX_FDS: u64 = 4096;

/// Bytes of addresses that a process's stack may take.
const STACK: u64 = 16 << 20;

/// Points of 1000 that make it likelier that these processes end when the node is out of memory: a pull
/// can be done over.
const OOM_SCORE: &str = "500";

/// One process.
struct Worker {
    pid: Pid,
    handle: OwnedFd,
    line: OwnedFd,
    /// It was killed, because nobody waits for it.
    killed: bool,
}

/// The unpacker's whole life; its standard input is the daemon. Returns the program's exit code.
pub fn serve() -> i32 {
    let (ready, had) = match confine() {
        Ok((gaps, had)) => (Ready { gaps, failed: None }, Some(had)),
        Err(error) => (Ready { gaps: Vec::new(), failed: Some(error) }, None),
    };
    let stdin = io::stdin();
    let daemon = stdin.as_fd();
    let served = serde_json::to_vec(&ready)
        .map_err(io::Error::from)
        .and_then(|ready| packets::send(daemon, &ready, &[]))
        .and_then(|()| had.map_or(Ok(()), |had| take_jobs(daemon, had)));
    // Nobody reads what it would say: its standard error is nowhere.
    i32::from(served.is_err())
}

/// What the process of a layer has to know of its unpacker.
#[derive(Clone, Copy)]
struct Had {
    /// There are filters of system calls.
    filters: bool,
    /// Bytes of addresses that were taken at the start.
    addresses: u64,
}

/// What could not be given up because this host does not have it, and why.
#[derive(Default)]
struct Gaps(Vec<String>);

impl Gaps {
    /// Whether it was done.
    fn done(&mut self, what: &'static str, done: io::Result<()>) -> Result<bool, UnpackError> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if is_not_given(&error) => {
                self.0.push(format!("{what}: {error}"));
                Ok(false)
            }
            Err(error) => Err(UnpackError::setup(what, error)),
        }
    }
}

/// Gives up everything that can be given up here; what could not.
fn confine() -> Result<(Vec<String>, Had), UnpackError> {
    let mut gaps = Gaps::default();
    gaps.done("inherited descriptors", confine::close_from(3))?;
    // If the daemon has gone before, its end of the socket has, too.
    gaps.done("end with the daemon", confine::die_with_parent())?;
    gaps.done("session", setsid().map(drop).map_err(io::Error::from))?;
    gaps.done("oom_score_adj", fs::write("/proc/self/oom_score_adj", OOM_SCORE))?;
    let addresses =
        addresses().map_err(|error| UnpackError::setup("bounds of addresses", error))?;
    gaps.done("network and IPC namespaces", confine::leave_network_and_ipc())?;
    gaps.done("mount namespace and root", confine::leave_file_systems())?;
    gaps.done("core dumps", confine::limit(Resource::Core, 0))?;
    gaps.done("open files", confine::limit(Resource::Nofile, MAX_FDS))?;
    gaps.done("capabilities", confine::keep_capabilities(KEPT))?;
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    gaps.done("memory closed to others", dumpable.map_err(io::Error::from))?;
    let calls = [calls::OF_A_LAYER, calls::OF_THE_UNPACKER].concat();
    let filter = seccomp::allow_only(&calls, &[calls::FCNTL]);
    let filters = gaps.done("system call filter", filter)?;
    Ok((gaps.0, Had { filters, addresses }))
}

/// Bytes of addresses that this process takes (proc_pid_statm(5)).
fn addresses() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Makes a process for each job, until the daemon is gone.
fn take_jobs(daemon: BorrowedFd<'_>, had: Had) -> io::Result<()> {
    let mut workers: Vec<Worker> = Vec::new();
    let unpacker = getpid();
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(daemon, PollFlags::IN)];
        for worker in &workers {
            fds.push(PollFd::new(&worker.handle, PollFlags::IN));
            // That the daemon has gone from the line is told without being asked for.
            let line = PollFlags::empty();
            fds.push(PollFd::new(if worker.killed { &worker.handle } else { &worker.line }, line));
        }
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        for (worker, events) in workers.iter_mut().zip(events[1..].chunks_exact(2)) {
            if events[1].contains(PollFlags::HUP) && !worker.killed {
                worker.killed = true;
                match pidfd_send_signal(&worker.handle, Signal::KILL) {
                    // It has ended in this moment.
                    Err(rustix::io::Errno::SRCH) => {}
                    sent => sent?,
                }
            }
        }
        let mut ended = events[1..].chunks_exact(2).map(|events| !events[0].is_empty());
        for worker in workers.extract_if(.., |_| ended.next().unwrap_or(false)) {
            reap(&worker)?;
        }
        if !events[0].is_empty() {
            let (packet, fds) = packets::receive(daemon)?;
            if packet.is_empty() {
                return Ok(());
            }
            let job: Job = serde_json::from_slice(&packet)?;
            let [dir, bytes, line] =
                <[OwnedFd; 3]>::try_from(fds).map_err(|_| io::ErrorKind::InvalidData)?;
            match confine::fork() {
                Ok(Fork::Child) => {
                    // What belongs to the other layers, and the daemon's own line, are not this one's.
                    workers.clear();
                    confine::replace_stdin(bytes.as_fd())?;
                    let limited = limited(&job, unpacker, had);
                    confine::exit(work(&job, limited, dir, bytes, line));
                }
                Ok(Fork::Parent { child }) => {
                    let handle = pidfd_open(child, PidfdFlags::empty())?;
                    workers.push(Worker { pid: child, handle, line, killed: false });
                }
                Err(error) => {
                    let failed = Said::Failed(UnpackError::setup("process of a layer", error));
                    match Line::new(line).say(&failed) {
                        // Nobody waits for the layer any more; others wait for theirs.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                        said => said?,
                    }
                }
            }
        }
    }
}

/// Tells the daemon how a process ended, if it is still there.
fn reap(worker: &Worker) -> io::Result<()> {
    let Some((_, status)) = waitpid(Some(worker.pid), WaitOptions::empty())? else {
        return Ok(());
    };
    match packets::send(&worker.line, &Said::Ended(status.as_raw()).encode()?, &[]) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The life of the process of a layer; its exit code.
fn work(job: &Job, limited: io::Result<()>, dir: OwnedFd, bytes: OwnedFd, line: OwnedFd) -> i32 {
    let line = Rc::new(Line::new(line));
    let said = match limited {
        Ok(()) => unpack(job, dir, bytes, &line),
        Err(error) => Err(UnpackError::setup("bounds of a layer's process", error)),
    };
    let told = match said {
        Ok((diff_id, filled)) => tell(&line, diff_id, &filled),
        Err(error) => line.say(&Said::Failed(error)),
    };
    i32::from(told.is_err())
}

fn limited(job: &Job, unpacker: Pid, had: Had) -> io::Result<()> {
    confine::die_with_parent()?;
    if getppid() != Some(unpacker) {
        // It ended before it could be said.
        return Err(io::ErrorKind::NotConnected.into());
    }
    let memory = job.windows.limit + OWN_MEMORY;
    confine::limit(Resource::Data, memory)?;
    // What is counted as no data, a stack above all, is not without bounds either.
    confine::limit(Resource::As, had.addresses + memory + STACK)?;
    confine::limit(Resource::Fsize, MAX_BYTES)?;
    confine::limit(Resource::Nproc, 0)?;
    if !had.filters {
        return Ok(());
    }
    let own = [getpid().as_raw_nonzero().get().cast_unsigned()];
    let abort: seccomp::Restricted<'_> = (libc::SYS_tgkill, &[(0, Must::Be(&own))]);
    seccomp::allow_only(calls::OF_A_LAYER, &[calls::FCNTL, abort])
}

fn unpack(
    job: &Job,
    dir: OwnedFd,
    bytes: OwnedFd,
    line: &Rc<Line>,
) -> Result<(crate::image::digest::Digest, Filled), UnpackError> {
    let mut tree = match job.onto {
        Onto::Nothing => Tree::open(dir, line)?,
        Onto::Tree => Tree::over(dir, line)?,
    };
    let pieces = Pieces::new(bytes.into());
    let inflated = Inflated::new(pieces, job.limit, job.windows, line);
    let mut inflated = inflated.map_err(UnpackError::from_read)?;
    extract(&mut inflated, &mut tree)?;
    let filled = tree.finish()?;
    Ok((inflated.digest(), filled))
}

fn extract(inflated: &mut Inflated, tree: &mut Tree) -> Result<(), UnpackError> {
    let mut archive = Archive::new(inflated);
    let mut entries = 0;
    while let Some(member) = archive.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(UnpackError::limit("entries", MAX_ENTRIES));
        }
        tree.add(&member, &mut archive)?;
    }
    archive.drain()
}

/// Tells what has become of a layer.
fn tell(line: &Line, diff_id: crate::image::digest::Digest, filled: &Filled) -> io::Result<()> {
    /// Room for the longest path behind the last one that fits.
    const FULL: usize = packets::MAX_BYTES - super::place::MAX_PATH - 2;
    let mut paths = Vec::new();
    for path in &filled.implied {
        paths.extend_from_slice(path);
        paths.push(0);
        if paths.len() > FULL {
            line.say(&Said::Implied(std::mem::take(&mut paths)))?;
        }
    }
    if !paths.is_empty() {
        line.say(&Said::Implied(paths))?;
    }
    let Filled { bytes, inodes, opaque, .. } = *filled;
    line.say(&Said::Done(Done { diff_id, bytes, inodes, opaque }))
}
