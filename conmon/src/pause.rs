//! `conmon pause`: makes a pid namespace that outlives every container in it, and pins it.
//!
//! ```text
//!  conmon pause --pin FILE [--join-user FILE] [--join-net FILE] [--join-ipc FILE] [--join-uts FILE]
//!               [--user UID:GID]
//! ```
//!
//! A pid namespace lives as long as its first process (pid_namespaces(7)). That process is locked in
//! by `pause/first.rs`. This one waits until it is, binds its namespace onto FILE, prints
//! `PID START_TIME` and exits 0. On any failure it kills the first process, takes the mount back,
//! says why on standard error and exits 1.
//!
//! ```text
//!  this one ──fork──► between: joins namespaces, makes the pid namespace ──fork──► first
//!     │ binds on the node, which the user namespace could not                        │
//!     ◄───────────────────────────── READY, then STAY ───────────────────────────────►
//! ```
//!
//! Both run the program through a read-only mount of its file: containers of the pod see the first
//! process, and one that may look into it must not reach a writable monitor through /proc/1/exe.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, OFlags, StatVfsMountFlags};
use rustix::mount::{OpenTreeFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::fault::{Fault, Tried, complain};
use crate::sys::{self, Fork};
use crate::{USAGE, procfs};
use conmon::Owner;

mod first;

/// The user and group that own nothing: 65534 is already "nobody", which file servers map to.
const NO_ONE: u32 = 65_535;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    /// Where the namespace is bound. Made if it does not exist.
    pin: PathBuf,
    /// Namespaces to be in, for tools that look at the first process of a pod.
    join: Vec<(LinkNameSpaceType, PathBuf)>,
    user: u32,
    group: u32,
}

/// Runs `conmon pause`.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let Some(order) = Order::parse(args.iter()) else {
        complain(format_args!(
            "usage: conmon pause --pin FILE [--join-user FILE] [--join-net FILE] [--join-ipc FILE] \
             [--join-uts FILE] [--user UID:GID]"
        ));
        return ExitCode::from(USAGE);
    };
    let pinned = sys::close_from(3)
        .tried(|| "close inherited descriptors".to_owned())
        .and_then(|()| run_read_only(args))
        .and_then(|()| order.pin());
    match pinned {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            complain(format_args!("{}", fault.chain()));
            ExitCode::FAILURE
        }
    }
}

/// Executes this program again through a read-only mount of its file, unless that is where it is.
fn run_read_only(args: &[OsString]) -> Result<(), Fault> {
    let tried = || "run from a read-only mount".to_owned();
    let mounted = rustix::fs::statvfs("/proc/self/exe").tried(tried)?;
    if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    // The mount is attached nowhere: it lives as long as somebody runs the program through it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = rustix::mount::open_tree(CWD, "/proc/self/exe", flags).tried(tried)?;
    sys::set_mount_read_only(program.as_fd()).tried(tried)?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    Err(Command::new(path).arg0("conmon").arg("pause").args(args).exec()).tried(tried)
}

impl Order {
    fn parse<'a>(mut args: impl Iterator<Item = &'a OsString>) -> Option<Order> {
        let mut order =
            Order { pin: PathBuf::new(), join: Vec::new(), user: NO_ONE, group: NO_ONE };
        while let Some(option) = args.next() {
            let value = args.next().filter(|value| !value.is_empty())?;
            match option.to_str()? {
                "--pin" => order.pin = value.into(),
                // First, wherever it stands: the others may belong to it.
                "--join-user" => order.join.insert(0, (LinkNameSpaceType::User, value.into())),
                "--join-net" => order.join.push((LinkNameSpaceType::Network, value.into())),
                "--join-ipc" => {
                    order.join.push((LinkNameSpaceType::InterProcessCommunication, value.into()));
                }
                "--join-uts" => {
                    order.join.push((LinkNameSpaceType::HostNameAndNISDomainName, value.into()));
                }
                "--user" => {
                    let Owner { uid, gid } = Owner::parse(value.to_str()?)?;
                    (order.user, order.group) = (uid, gid);
                }
                _ => return None,
            }
        }
        order.pin.is_absolute().then_some(order)
    }

    fn pin(&self) -> Result<(), Fault> {
        let mut join = Vec::new();
        for (kind, path) in &self.join {
            let tried = || format!("open the namespace {}", path.display());
            join.push((*kind, path.as_path(), File::open(path).tried(tried)?));
        }
        let pin = PinFile::create(&self.pin)?;
        let pipes = || "make a pipe".to_owned();
        let (says, to_parent) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(pipes)?;
        let (from_parent, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(pipes)?;
        let (reports, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).tried(pipes)?;
        // The first process becomes a child of this one, so that its number cannot be another's.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .tried(|| "become a subreaper".to_owned())?;
        match sys::fork().tried(|| "fork".to_owned())? {
            Fork::Child => {
                drop((says, tell, reports));
                std::mem::forget(pin);
                let first =
                    first::Role { user: self.user, group: self.group, to_parent, from_parent };
                between(&join, first, File::from(report))
            }
            Fork::Parent { child } => {
                drop((to_parent, from_parent, report));
                let first = First::of(child, File::from(reports))?;
                self.pin_child(pin, first, says, tell)
            }
        }
    }

    fn pin_child(
        &self,
        mut pin: PinFile,
        mut first: First,
        says: OwnedFd,
        tell: OwnedFd,
    ) -> Result<(), Fault> {
        let mut said = String::new();
        File::from(says).read_to_string(&mut said).tried(|| "hear the child".to_owned())?;
        if said != first::READY {
            return Err(io::Error::other(said)).tried(|| "lock the child in".to_owned());
        }
        let pid = Pid::as_raw(Some(first.pid));
        let stat = procfs::stat(pid)
            .ok_or(io::ErrorKind::NotFound)
            .tried(|| "look at the child".to_owned())?;
        pin.bind(&format!("/proc/{pid}/ns/pid"))?;
        std::io::stdout()
            .write_all(format!("{pid} {}\n", stat.start_time).as_bytes())
            .tried(|| "report the child's pid".to_owned())?;
        rustix::io::write(&tell, first::STAY).tried(|| "let the child stay".to_owned())?;
        (pin.kept, first.kept) = (true, true);
        Ok(())
    }
}

/// The process between: enters the namespaces, makes the new one, forks the first process in it,
/// reports its pid as the node knows it (or why there is none) and ends.
fn between(join: &[(LinkNameSpaceType, &Path, File)], first: first::Role, mut report: File) -> ! {
    let forked = join
        .iter()
        .try_for_each(|(kind, path, namespace)| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .tried(|| format!("join the namespace {}", path.display()))
        })
        .and_then(|()| {
            sys::unshare(UnshareFlags::NEWPID).tried(|| "make a pid namespace".to_owned())
        })
        .and_then(|()| sys::fork().tried(|| "fork in the pid namespace".to_owned()));
    let said = match forked {
        Ok(Fork::Child) => {
            drop(report);
            first::run(first)
        }
        Ok(Fork::Parent { child }) => Pid::as_raw(Some(child)).to_string(),
        Err(fault) => fault.chain(),
    };
    // Whoever reads it learns of the end by the end of the pipe.
    report.write_all(said.as_bytes()).ok();
    std::process::exit(0)
}

/// The first process; killed when dropped, unless it is to stay.
struct First {
    pid: Pid,
    kept: bool,
}

impl First {
    /// As reported by the process between, which is waited for.
    fn of(between: Pid, mut reports: File) -> Result<First, Fault> {
        let mut said = String::new();
        let heard = reports.read_to_string(&mut said);
        rustix::process::waitpid(Some(between), WaitOptions::empty()).ok();
        heard.tried(|| "hear the process between".to_owned())?;
        match said.parse().ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(First { pid, kept: false }),
            None => Err(io::Error::other(said)).tried(|| "start the first process".to_owned()),
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if !self.kept {
            rustix::process::kill_process(self.pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).ok();
        }
    }
}

/// The file that the namespace is bound onto; undone when dropped, unless it is to stay.
struct PinFile {
    path: PathBuf,
    created: bool,
    bound: bool,
    kept: bool,
}

impl PinFile {
    fn create(path: &Path) -> Result<PinFile, Fault> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let created = match options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).tried(|| format!("create {}", path.display())),
        };
        Ok(PinFile { path: path.to_owned(), created, bound: false, kept: false })
    }

    fn bind(&mut self, namespace: &str) -> Result<(), Fault> {
        rustix::mount::mount_bind(namespace, &self.path)
            .tried(|| format!("bind {namespace} onto {}", self.path.display()))?;
        self.bound = true;
        Ok(())
    }
}

impl Drop for PinFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if self.bound {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            rustix::mount::unmount(&self.path, flags).ok();
        }
        if self.created {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Order> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Order::parse(args.iter())
    }

    #[test]
    fn the_command_line_says_what_to_join_and_whom_to_be() {
        let order = parse("--pin /p --join-ipc /i --join-net /n --user 7:8");
        let join = vec![
            (LinkNameSpaceType::InterProcessCommunication, PathBuf::from("/i")),
            (LinkNameSpaceType::Network, PathBuf::from("/n")),
        ];
        assert_eq!(order, Some(Order { pin: "/p".into(), join, user: 7, group: 8 }));
        let order = parse("--pin /p --join-net /n --join-user /u").unwrap();
        assert_eq!(order.join[0], (LinkNameSpaceType::User, PathBuf::from("/u")));
        let order = parse("--pin /p");
        let join = Vec::new();
        assert_eq!(order, Some(Order { pin: "/p".into(), join, user: NO_ONE, group: NO_ONE }));
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        let wrong = [
            "",
            "--pin",
            "--pin p",
            "--join-net /n",
            "--pin /p --user 7",
            "--pin /p --user 4294967295:1",
            "--pin /p --user -1:1",
            "--pin /p --join-cgroup /c",
        ];
        for line in wrong {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
