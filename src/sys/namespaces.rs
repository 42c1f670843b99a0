//! Namespaces that outlive every process: pinned as files.
//!
//! A namespace lives as long as something refers to it. Here that is a bind mount of
//! `/proc/thread-self/ns/*` (namespaces(7)), so no process has to wait inside. All work that
//! changes namespaces is done by threads that end right after: a thread that has left the
//! daemon's namespaces never runs anything else. The functions block.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::sysctl::{self, SysctlError};
use super::user_namespace::{Holder, Mappings, as_owner};

/// Names of everything that may be pinned in one directory.
const PINS: [&str; 5] = ["net", "ipc", "uts", "pid", "user"];

/// Name of the pin of a user namespace.
const USER: &str = "user";

/// Mounts that may lie on one pin. A pin has one; more come from somebody else's mistakes.
const MAX_STACKED: usize = 16;

/// A namespace that can be made for a pod without a process in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// Network: `net`.
    Network,
    /// System V IPC and POSIX message queues: `ipc`.
    Ipc,
    /// Host name: `uts`.
    Uts,
}

impl Namespace {
    /// Name of its file.
    pub const fn file_name(self) -> &'static str {
        match self {
            Namespace::Network => "net",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
        }
    }

    const fn flag(self) -> CloneFlags {
        match self {
            Namespace::Network => CloneFlags::CLONE_NEWNET,
            Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
            Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// What to make and how to set it up.
#[derive(Clone, Copy, Debug)]
pub struct PinRequest<'a> {
    /// The namespaces. In a network namespace `lo` is brought up.
    pub namespaces: &'a [Namespace],
    /// Host name; only with [`Namespace::Uts`].
    pub hostname: Option<&'a str>,
    /// Kernel parameters; each must belong to one of `namespaces`.
    pub sysctls: &'a BTreeMap<String, String>,
    /// Mappings of a user namespace that the others are to belong to; it is pinned as `user`.
    pub user: Option<Mappings<'a>>,
}

/// Why namespaces could not be made, pinned or entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No thread to do it in.
    #[error("start a thread for namespaces")]
    Thread(#[source] io::Error),
    /// The directory for the pins could not be made.
    #[error("make {path}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A host name without a namespace of its own would be the node's.
    #[error("host name {0:?} without a namespace for it")]
    HostnameOfNode(String),
    /// New namespaces were refused.
    #[error("make namespaces {namespaces:?}")]
    Unshare {
        /// Which.
        namespaces: Vec<Namespace>,
        /// Why.
        source: io::Error,
    },
    /// A user namespace was refused, or one of its mappings.
    #[error("make a user namespace, and in it {namespaces:?}")]
    User {
        /// What should have belonged to it.
        namespaces: Vec<Namespace>,
        /// Why.
        source: io::Error,
    },
    /// The loopback interface did not come up.
    #[error("bring interface lo up")]
    Loopback(#[source] io::Error),
    /// An interface or an address of it was refused.
    #[error("make interface {name}")]
    Interface {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The host name was refused.
    #[error("set host name {hostname:?}")]
    Hostname {
        /// The name.
        hostname: String,
        /// Why.
        source: io::Error,
    },
    /// A kernel parameter was not set.
    #[error("namespaced kernel parameters")]
    Sysctl(#[source] SysctlError),
    /// The file could not be made or mounted on.
    #[error("pin namespace on {path}", path = path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("enter namespace {path}", path = path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes namespaces and pins them as `dir/net`, `dir/ipc`, `dir/uts`, and as `dir/user` the one they
/// belong to if it is not ours; `dir` is made if need be.
/// After a failure nothing of it is left.
pub fn pin(dir: &Path, request: &PinRequest<'_>) -> Result<(), NamespaceError> {
    if let Some(hostname) = request.hostname
        && !request.namespaces.contains(&Namespace::Uts)
    {
        return Err(NamespaceError::HostnameOfNode(hostname.to_owned()));
    }
    let directory = |source| NamespaceError::Directory { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(directory)?;
    let pinned = on_own_thread(|| match &request.user {
        None => pin_here(dir, request),
        Some(mappings) => pin_owned(dir, request, mappings),
    });
    if pinned.is_err()
        && let Err(error) = unpin(dir)
    {
        tracing::warn!(dir = %dir.display(), %error, "half-made namespaces are left");
    }
    pinned
}

/// Pins a namespace that exists already, such as `/proc/PID/ns/pid`. After a failure nothing is
/// left of `target`.
pub fn pin_existing(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    let pinned = bind(source, target);
    if pinned.is_err() {
        // Not there if making it failed; otherwise an empty file without a mount.
        std::fs::remove_file(target).ok();
    }
    pinned.map_err(|source| NamespaceError::Pin { path: target.to_owned(), source })
}

/// Undoes [`pin`] and [`pin_existing`], whatever is there of it: namespaces without processes end,
/// files and directory are removed. Goes on after a failure and returns the first.
pub fn unpin(dir: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for name in PINS {
        result = result.and(unpin_file(&dir.join(name)));
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => result.and(Err(error)),
        _ => result,
    }
}

/// Is a namespace pinned at this path? No, too, if the file is there but nothing is mounted on it.
pub fn is_pinned(path: &Path) -> io::Result<bool> {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    match rustix::fs::statfs(path) {
        Ok(fs) => Ok(fs.f_type.cast_unsigned() == NSFS_MAGIC),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sets kernel parameters in the namespaces pinned in `dir`; each must belong to one of them.
pub fn write_sysctls(dir: &Path, sysctls: &BTreeMap<String, String>) -> Result<(), NamespaceError> {
    on_own_thread(|| {
        let mut entered = Vec::new();
        for (key, value) in sysctls {
            if let Some(namespace) = sysctl::namespace_of(key)
                && !entered.contains(&namespace)
            {
                enter(&dir.join(namespace.file_name()), namespace)?;
                entered.push(namespace);
            }
            sysctl::write(key, value, &entered).map_err(NamespaceError::Sysctl)?;
        }
        Ok(())
    })
}

/// Runs `f` in the network namespace at `path` and returns what it returns. Refuses a path that is
/// no network namespace.
pub fn run_in_netns<T: Send>(
    path: &Path,
    f: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    on_own_thread(|| {
        enter(path, Namespace::Network)?;
        Ok(f())
    })
}

fn enter(path: &Path, namespace: Namespace) -> Result<(), NamespaceError> {
    // The flag makes the kernel refuse a namespace of another kind; another file it refuses anyway.
    File::open(path)
        .and_then(|file| setns(file, namespace.flag()).map_err(io::Error::from))
        .map_err(|source| NamespaceError::Enter { path: path.to_owned(), source })
}

/// Runs `f` on a thread that ends right after, so that it may leave the daemon's namespaces.
pub(super) fn on_own_thread<T: Send>(
    f: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespaces".to_owned()).spawn_scoped(scope, f);
        match thread.map_err(NamespaceError::Thread)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The part of [`pin`] that runs on a thread of its own.
fn pin_here(dir: &Path, request: &PinRequest<'_>) -> Result<(), NamespaceError> {
    let flags = request.namespaces.iter().fold(CloneFlags::empty(), |all, ns| all | ns.flag());
    unshare(flags).map_err(|errno| NamespaceError::Unshare {
        namespaces: request.namespaces.to_vec(),
        source: errno.into(),
    })?;
    set_up(request)?;
    for namespace in request.namespaces {
        let name = namespace.file_name();
        let path = dir.join(name);
        let source = Path::new("/proc/thread-self/ns").join(name);
        bind(&source, &path).map_err(|source| NamespaceError::Pin { path, source })?;
    }
    Ok(())
}

/// As [`pin_here`], with namespaces that belong to a user namespace of their own. They are set up
/// from outside, because this program cannot enter that one; with all rights over it, it need not.
fn pin_owned(
    dir: &Path,
    request: &PinRequest<'_>,
    mappings: &Mappings<'_>,
) -> Result<(), NamespaceError> {
    let flags = request.namespaces.iter().fold(CloneFlags::empty(), |all, ns| all | ns.flag());
    let holder = Holder::start(mappings, flags).map_err(|source| NamespaceError::User {
        namespaces: request.namespaces.to_vec(),
        source,
    })?;
    let others = request.namespaces.iter().map(|namespace| namespace.file_name());
    for name in std::iter::once(USER).chain(others) {
        let path = dir.join(name);
        bind(&holder.namespace(name), &path)
            .map_err(|source| NamespaceError::Pin { path, source })?;
    }
    drop(holder);
    for namespace in request.namespaces {
        enter(&dir.join(namespace.file_name()), *namespace)?;
    }
    set_up(request)
}

/// Sets up the namespaces that this thread is in.
fn set_up(request: &PinRequest<'_>) -> Result<(), NamespaceError> {
    if request.namespaces.contains(&Namespace::Network) {
        bring_loopback_up().map_err(NamespaceError::Loopback)?;
        ignore_strangers_routes();
    }
    if let Some(hostname) = request.hostname {
        sethostname(hostname).map_err(|errno| NamespaceError::Hostname {
            hostname: hostname.to_owned(),
            source: errno.into(),
        })?;
    }
    for (key, value) in request.sysctls {
        write_sysctl(key, value, request).map_err(NamespaceError::Sysctl)?;
    }
    Ok(())
}

/// By what a pod hears of routers it would take routes and addresses: on a network that pods share,
/// each could lead the others' packets to itself by one packet of its own.
const HEARSAY: [&str; 3] =
    ["ipv6/conf/*/accept_ra", "ipv6/conf/*/accept_redirects", "ipv4/conf/*/accept_redirects"];

/// Takes no routes from the network. Interfaces that come later take after `default`. A pod that wants
/// them asks for them: its own kernel parameters are set after these.
fn ignore_strangers_routes() {
    for (parameter, interface) in HEARSAY.iter().flat_map(|of| [(of, "all"), (of, "default")]) {
        let path = format!("/proc/sys/net/{}", parameter.replace('*', interface));
        match std::fs::write(&path, "0") {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path, %error, "routes of strangers are taken"),
            Ok(()) => {}
        }
    }
}

/// Some parameters of IPC are their namespace's root's alone, whatever else a process may do (the
/// kernel's `ipc_permissions`); some of networks want rights that he has not got here. So both try.
fn write_sysctl(key: &str, value: &str, request: &PinRequest<'_>) -> Result<(), SysctlError> {
    let write = || sysctl::write(key, value, request.namespaces);
    let written = write();
    match (&written, request.user.and_then(|user| user.root())) {
        (Err(SysctlError::Write { source, .. }), Some(root))
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            as_owner(root, write).unwrap_or(written)
        }
        _ => written,
    }
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o400).open(target)?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Unpins one namespace and removes its file. Absent is fine.
pub fn unpin_file(path: &Path) -> io::Result<()> {
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or not there.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// netdevice(7): SIOCSIFFLAGS with IFF_UP. The kernel gives 127.0.0.1 and ::1 by itself then.
fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: socket(2) takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned this descriptor a line ago; nobody else can own it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_UP as libc::c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: `socket` is open, SIOCSIFFLAGS reads one ifreq through the pointer and keeps nothing
    // of it, and `request` is one, with a name that ends in zero, alive until after the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
