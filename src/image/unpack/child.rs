//! The unpacker: the program that is started once a pull, gives up all that it can, and makes a process
//! of itself for each layer. The process of a layer reads its bytes, fills its directory and ends; what
//! it may not do itself, it asks the daemon for on its [`Line`].
//!
//! ```text
//!  daemon ─► unpacker ─► process of a layer        no file system but the layer's directory,
//!    ▲          │              │  ▲                no network, six capabilities, a short list of
//!    └── ended ─┘◄── status ───┘  └─ its bytes     system calls, bounded memory
//! ```
//!
//! The unpacker itself never sees a byte of a layer, so none of them can reach the others.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Signal, WaitOptions, pidfd_open,
    pidfd_send_signal, set_dumpable_behavior, setsid, waitpid,
};
use rustix::thread::CapabilitySet;

use super::archive::Archive;
use super::decompress::Inflated;
use super::line::Line;
use super::pieces::Pieces;
use super::tree::{Filled, Tree};
use super::wire::{Done, Job, Onto, Ready, Said};
use super::{MAX_BYTES, MAX_ENTRIES, UnpackError};
use crate::sys::confine::{self, Fork};
use crate::sys::{packets, seccomp};

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

/// Descriptors of the unpacker and of the process of a layer. They need far fewer, but the kernel also
/// compares it with all descriptors that root's processes are just passing around (unix(7)).
const MAX_FDS: u64 = 4096;

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
    let gaps = confine();
    let stdin = io::stdin();
    let daemon = stdin.as_fd();
    let filtered = !gaps.iter().any(|gap| gap.starts_with(FILTER));
    let served = serde_json::to_vec(&Ready { gaps })
        .map_err(io::Error::from)
        .and_then(|ready| packets::send(daemon, &ready, &[]))
        .and_then(|()| take_jobs(daemon, filtered));
    // Nobody reads what it would say: its standard error is nowhere.
    i32::from(served.is_err())
}

const FILTER: &str = "system call filter";

/// Gives up everything that can be given up; what could not, and why.
fn confine() -> Vec<String> {
    let mut gaps = Vec::new();
    let mut give_up = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            gaps.push(format!("{what}: {error}"));
        }
    };
    give_up("inherited descriptors", confine::close_from(3));
    give_up("end with the daemon", confine::die_with_parent());
    give_up("session", setsid().map(drop).map_err(io::Error::from));
    give_up("oom_score_adj", fs::write("/proc/self/oom_score_adj", OOM_SCORE));
    give_up("network and IPC namespaces", confine::leave_network_and_ipc());
    give_up("mount namespace and root", confine::leave_file_systems());
    give_up("core dumps", confine::limit(Resource::Core, 0));
    give_up("open files", confine::limit(Resource::Nofile, MAX_FDS));
    give_up("capabilities", confine::keep_capabilities(KEPT));
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    give_up("memory closed to others", dumpable.map_err(io::Error::from));
    let calls = [calls::OF_A_LAYER, calls::OF_THE_UNPACKER].concat();
    give_up(FILTER, seccomp::allow_only(&calls));
    gaps
}

/// Makes a process for each job, until the daemon is gone.
fn take_jobs(daemon: BorrowedFd<'_>, filtered: bool) -> io::Result<()> {
    let mut workers: Vec<Worker> = Vec::new();
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
                    confine::exit(work(&job, dir, bytes, line, filtered));
                }
                Ok(Fork::Parent { child }) => {
                    let handle = pidfd_open(child, PidfdFlags::empty())?;
                    workers.push(Worker { pid: child, handle, line, killed: false });
                }
                Err(error) => {
                    let failed = Said::Failed(UnpackError::file("start a process for", b"", error));
                    // The end of the line says as much to a daemon that cannot be told.
                    Line::new(line).say(&failed)?;
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
fn work(job: &Job, dir: OwnedFd, bytes: OwnedFd, line: OwnedFd, filtered: bool) -> i32 {
    let line = Rc::new(Line::new(line));
    let said = match limited(job, filtered) {
        Ok(()) => unpack(job, dir, bytes, &line),
        Err(error) => Err(UnpackError::file("confine the process for", b"", error)),
    };
    let told = match said {
        Ok((diff_id, filled)) => tell(&line, diff_id, &filled),
        Err(error) => line.say(&Said::Failed(error)),
    };
    i32::from(told.is_err())
}

fn limited(job: &Job, filtered: bool) -> io::Result<()> {
    confine::die_with_parent()?;
    confine::limit(Resource::Data, job.windows.limit + OWN_MEMORY)?;
    confine::limit(Resource::Fsize, MAX_BYTES)?;
    confine::limit(Resource::Nproc, 0)?;
    if filtered { seccomp::allow_only(calls::OF_A_LAYER) } else { Ok(()) }
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
