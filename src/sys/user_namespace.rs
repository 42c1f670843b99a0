//! User namespaces, and other namespaces that belong to one (user_namespaces(7)).
//!
//! A program with threads cannot enter a new user namespace, and its mappings are written from
//! outside. So a child is made that is in the new namespaces from its first instruction, does
//! nothing at all, and ends with the [`Holder`]: long enough to map and to pin them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// `CLONE_CLEAR_SIGHAND` of `linux/sched.h`.
const CLEAR_HANDLERS: u64 = 1 << 32;

/// A range of ids: those from `inside` on are those from `outside` on in the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in its parent.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// What the ids of a namespace are in its parent.
#[derive(Clone, Copy, Debug)]
pub struct Mappings<'a> {
    /// User ids.
    pub uids: &'a [Range],
    /// Group ids.
    pub gids: &'a [Range],
}

impl Mappings<'_> {
    /// The owner that the namespace's root is in the parent, user and group; none if root is not
    /// mapped.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((outside(self.uids, 0)?, outside(self.gids, 0)?))
    }
}

/// What an id of a namespace is in its parent.
pub fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let nth = id.checked_sub(range.inside).filter(|nth| *nth < range.length)?;
        range.outside.checked_add(nth)
    })
}

/// A child in namespaces of its own. They end with it, except for those that are pinned.
#[derive(Debug)]
pub(super) struct Holder {
    pid: Pid,
    /// The child reads from the other end, and ends when this one is closed, however that happens.
    _release: OwnedFd,
}

impl Holder {
    /// Makes a user namespace with these mappings, and `others` (`CLONE_NEW*`) that belong to it.
    pub(super) fn start(mappings: &Mappings<'_>, others: CloneFlags) -> io::Result<Self> {
        let holder = Self::fork(CloneFlags::CLONE_NEWUSER | others)?;
        holder.map("uid_map", mappings.uids)?;
        holder.map("gid_map", mappings.gids)?;
        Ok(holder)
    }

    /// The file of one of its namespaces, such as `user` or `net`.
    pub(super) fn namespace(&self, name: &str) -> PathBuf {
        format!("/proc/{}/ns/{name}", self.pid.as_raw_nonzero()).into()
    }

    fn fork(namespaces: CloneFlags) -> io::Result<Self> {
        let (held, release) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: clone_args is plain integers, for which zero means "nothing".
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        // Handlers of ours are not to run in the child: they write into pipes that it shares.
        args.flags = u64::from(namespaces.bits().cast_unsigned()) | CLEAR_HANDLERS;
        args.exit_signal = libc::SIGCHLD as u64;
        let size = mem::size_of_val(&args);
        // SAFETY: the kernel reads `size` bytes of `args`, which lives longer than the call. The
        // child has a copy of this memory (no CLONE_VM) and goes on on a copy of this stack.
        match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) } {
            -1 => Err(io::Error::last_os_error()),
            0 => idle(held.as_raw_fd(), release.as_raw_fd()),
            pid => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                let pid = pid.ok_or_else(|| io::Error::other("clone3 gave no pid"))?;
                Ok(Self { pid, _release: release })
            }
        }
    }

    fn map(&self, file: &str, ranges: &[Range]) -> io::Result<()> {
        let lines = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.length));
        let path = format!("/proc/{}/{file}", self.pid.as_raw_nonzero());
        // One call to write(2): the kernel takes the whole mapping or nothing.
        let text = lines.collect::<String>();
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        kill_process(self.pid, Signal::KILL).ok();
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(self.pid), WaitOptions::empty()) {}
    }
}

/// The child's whole life: it waits until the other end of the pipe is closed.
fn idle(held: libc::c_int, release: libc::c_int) -> ! {
    let mut byte = 0_u8;
    // SAFETY: other threads of the parent may have held any lock at the fork, so this makes system
    // calls and nothing else. The descriptors are the child's own copies, nobody closes them twice
    // because it never returns, and read writes at most the one byte that it is given.
    unsafe {
        libc::close(release);
        libc::read(held, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

/// A user namespace that nobody is in and that ends with its descriptor; for mapping mounts.
///
/// # Errors
/// Those of the kernel: none may be made (`/proc/sys/user/max_user_namespaces`), or the mappings
/// are not valid.
pub fn unpinned(mappings: &Mappings<'_>) -> io::Result<File> {
    let holder = Holder::start(mappings, CloneFlags::empty())?;
    File::open(holder.namespace("user"))
}

/// A path that leads to an open namespace for as long as this program holds it.
pub fn path_of(namespace: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into()
}

/// Runs `f` as another user and group, as far as access to files goes. For a thread that ends soon:
/// the ids are those of the thread, not of the program (setresuid(2), NOTES).
pub(super) fn as_owner<T>((uid, gid): (u32, u32), f: impl FnOnce() -> T) -> io::Result<T> {
    const KEEP: libc::c_long = -1;
    let set = |number: libc::c_long, id: u32| {
        // SAFETY: both calls take three integers and touch no memory of ours; the raw call changes
        // the ids of this thread alone.
        match unsafe { libc::syscall(number, KEEP, libc::c_long::from(id), KEEP) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let (own_uid, own_gid) =
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    set(libc::SYS_setresgid, gid)?;
    set(libc::SYS_setresuid, uid)?;
    let result = f();
    set(libc::SYS_setresuid, own_uid)?;
    set(libc::SYS_setresgid, own_gid)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const RANGE: [Range; 1] = [Range { inside: 0, outside: 200_000, length: 65_536 }];

    #[test]
    fn ids_are_looked_up_in_the_ranges() {
        assert_eq!(outside(&RANGE, 0), Some(200_000));
        assert_eq!(outside(&RANGE, 65_535), Some(265_535));
        assert_eq!(outside(&RANGE, 65_536), None);
        assert_eq!(Mappings { uids: &RANGE, gids: &[] }.root(), None);
    }

    #[test]
    fn a_holder_is_in_the_namespaces_and_ends_with_its_owner() {
        let mappings = Mappings { uids: &RANGE, gids: &RANGE };
        let holder = Holder::start(&mappings, CloneFlags::CLONE_NEWUTS).expect("holder");
        let proc = PathBuf::from(format!("/proc/{}", holder.pid.as_raw_nonzero()));
        let map = fs::read_to_string(proc.join("uid_map")).expect("map");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
        let number = |path: PathBuf| fs::metadata(path).expect("namespace").ino();
        for name in ["user", "uts"] {
            assert_ne!(number(holder.namespace(name)), number("/proc/self/ns".into()), "{name}");
            let ours = number(PathBuf::from("/proc/self/ns").join(name));
            assert_ne!(number(holder.namespace(name)), ours, "{name}");
        }
        drop(holder);
        assert!(!proc.exists());
    }

    #[test]
    fn a_mapping_that_cannot_be_is_refused() {
        let empty = [Range { length: 0, ..RANGE[0] }];
        let error = unpinned(&Mappings { uids: &empty, gids: &RANGE }).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn another_owner_is_that_of_one_thread() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(dir.path(), mode).expect("mode");
        let file = dir.path().join("file");
        let write =
            || as_owner((4321, 1234), || fs::write(&file, "x")).expect("ids").expect("write");
        std::thread::scope(|scope| scope.spawn(write).join().expect("join"));
        let owner = fs::metadata(&file).expect("file");
        assert_eq!((owner.uid(), owner.gid()), (4321, 1234));
        assert_eq!(rustix::process::geteuid().as_raw(), 0);
    }
}
