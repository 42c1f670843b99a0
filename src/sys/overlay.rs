//! Mounting overlayfs with many layers (kernel: `Documentation/filesystems/overlayfs.rst`).
//!
//! Since Linux 6.8 every layer is one call of fsconfig(2). Before, all of them share one page of
//! mount(2) options, so the layers are named relative to the directory that holds them: 17 bytes
//! each, some 230 layers. A working directory belongs to the thread (`CLONE_FS`), so both ways
//! run in a thread of their own that ends with the call.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

mod mapped;

/// fsconfig(2) takes strings of at most 255 bytes.
const MAX_STRING: usize = 255;

/// Size of the smallest page there is.
const PAGE: usize = 4096;

/// Options that are the same for every mount. `index` would tie a lower layer to one upper
/// directory for ever. Redirects and metacopy are names inside extended attributes, which
/// nothing that came in an archive shall steer.
const FIXED: [(&str, &str); 3] =
    [("index", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off")];

/// The old way has worked where the new one did not: the next mount does not try it, which the kernel
/// would write into its log every time.
static OLD_KERNEL: AtomicBool = AtomicBool::new(false);

/// One mount to make.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// Layers, topmost first, at least one; absolute.
    pub lower: &'a [PathBuf],
    /// Upper and work directory; none = the mount is read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Where; absolute.
    pub target: &'a Path,
    /// SELinux label of all files (`context=`).
    pub label: Option<&'a str>,
    /// User namespace by which the ids of the lower layers are mapped.
    pub mapped_by: Option<BorrowedFd<'a>>,
}

/// Mounts an overlay.
///
/// With an upper directory the mount is `volatile` where the kernel knows that (5.10): nothing is
/// ever synced to the upper directory, which therefore must not be used after a reboot.
///
/// # Errors
/// Those of the kernel; `EINVAL` too if there are more layers than it can stack.
pub fn mount(overlay: &Overlay<'_>) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into());
        let thread = thread.spawn_scoped(scope, || in_own_thread(overlay))?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

fn in_own_thread(overlay: &Overlay<'_>) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    if let Some(namespace) = overlay.mapped_by {
        return attach(mapped::tree(overlay, namespace)?, overlay.target);
    }
    let mut names = Names::enter(overlay.lower)?;
    if OLD_KERNEL.load(Ordering::Relaxed) {
        return by_page(overlay, &mut names);
    }
    match by_fsconfig(overlay, &mut names) {
        // An old kernel has no fsopen, or no `lowerdir+`.
        Err(Step::Unknown) => {
            by_page(overlay, &mut names)?;
            OLD_KERNEL.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(Step::Failed(error)) => Err(error.into()),
        Ok(tree) => attach(tree, overlay.target),
    }
}

fn attach(tree: OwnedFd, target: &Path) -> io::Result<()> {
    Ok(mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Why the new way did not work.
enum Step {
    /// The kernel does not have it.
    Unknown,
    /// It has, and refuses this mount.
    Failed(Errno),
}

impl From<Errno> for Step {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

/// The overlay, attached nowhere yet.
fn by_fsconfig(overlay: &Overlay<'_>, names: &mut Names) -> Result<OwnedFd, Step> {
    let context = match mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NOSYS | Errno::PERM) => return Err(Step::Unknown),
        Err(error) => return Err(error.into()),
    };
    for (at, layer) in overlay.lower.iter().enumerate() {
        let name = names.of(layer)?;
        match mount::fsconfig_set_string(&context, "lowerdir+", name.as_os_str()) {
            Err(Errno::INVAL) if at == 0 => return Err(Step::Unknown),
            other => other?,
        }
    }
    if let Some((upper, work)) = overlay.upper {
        mount::fsconfig_set_string(&context, "upperdir", names.of(upper)?.as_os_str())?;
        mount::fsconfig_set_string(&context, "workdir", names.of(work)?.as_os_str())?;
        mount::fsconfig_set_flag(&context, "volatile")?;
    }
    for (key, value) in FIXED {
        mount::fsconfig_set_string(&context, key, value)?;
    }
    if let Some(label) = overlay.label {
        mount::fsconfig_set_string(&context, "context", label)?;
    }
    match mount::fsconfig_create(&context) {
        // Before Linux 6.5, overlayfs looks at its options only now: at `lowerdir+` too.
        Err(Errno::INVAL) => return Err(Step::Unknown),
        other => other?,
    }
    let read_only = match overlay.upper {
        Some(_) => MountAttrFlags::empty(),
        None => {
            MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOSUID
        }
    };
    Ok(mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, read_only)?)
}

fn by_page(overlay: &Overlay<'_>, names: &mut Names) -> io::Result<()> {
    let mut options = b"lowerdir=".to_vec();
    for (at, layer) in overlay.lower.iter().enumerate() {
        if at > 0 {
            options.push(b':');
        }
        escape(&mut options, &names.of(layer)?, b"\\:,");
    }
    if let Some((upper, work)) = overlay.upper {
        options.extend_from_slice(b",upperdir=");
        escape(&mut options, &names.of(upper)?, b"\\,");
        options.extend_from_slice(b",workdir=");
        escape(&mut options, &names.of(work)?, b"\\,");
    }
    for (key, value) in FIXED {
        options.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if let Some(label) = overlay.label {
        options.extend_from_slice(format!(",context=\"{label}\"").as_bytes());
    }
    let mut volatile = options.clone();
    volatile.extend_from_slice(b",volatile");
    let flags = match overlay.upper {
        Some(_) => MountFlags::empty(),
        None => MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
    };
    let attempt = |options: Vec<u8>| {
        // The kernel reads one page and would silently drop what does not fit.
        if options.len() >= PAGE {
            return Err(io::Error::from(Errno::INVAL));
        }
        let options = std::ffi::CString::new(options)?;
        Ok(mount::mount("overlay", overlay.target, "overlay", flags, options.as_c_str())?)
    };
    if overlay.upper.is_some() {
        match attempt(volatile) {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            other => return other,
        }
    }
    attempt(options)
}

fn escape(options: &mut Vec<u8>, name: &Path, special: &[u8]) {
    for byte in name.as_os_str().as_bytes() {
        if special.contains(byte) {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// Short names for long paths, valid in this thread for as long as this lives.
struct Names {
    /// The working directory: what all layers lie in, if that is one directory.
    here: Option<PathBuf>,
    /// Directories that are named by descriptor.
    open: Vec<OwnedFd>,
}

impl Names {
    /// Without a working directory: every path stands for itself.
    fn whole() -> Self {
        Self { here: None, open: Vec::new() }
    }

    fn enter(lower: &[PathBuf]) -> io::Result<Self> {
        let here = lower.first().and_then(|first| first.parent());
        let here = here.filter(|here| lower.iter().all(|layer| layer.parent() == Some(here)));
        if let Some(here) = here {
            rustix::process::chdir(here)?;
        }
        Ok(Self { here: here.map(Path::to_owned), open: Vec::new() })
    }

    /// A name of at most 255 bytes: the last component of what is here, the path itself, or the
    /// link that procfs has for an open descriptor.
    fn of(&mut self, path: &Path) -> Result<PathBuf, Errno> {
        if self.here.is_some()
            && path.parent() == self.here.as_deref()
            && let Some(name) = path.file_name()
        {
            return Ok(PathBuf::from(name));
        }
        if path.as_os_str().len() <= MAX_STRING {
            return Ok(path.to_owned());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let link = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
        self.open.push(fd);
        Ok(PathBuf::from(OsStr::new(&link)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }

    /// Layers 0..n, each with a file of its own name; 0 is the topmost.
    fn layers(dir: &Path, n: usize) -> Vec<PathBuf> {
        let layer = |at: usize| {
            let layer = dir.join(format!("layers/{at:016x}"));
            fs::create_dir_all(&layer).expect("layer");
            fs::write(layer.join(format!("f{at}")), "x").expect("file");
            layer
        };
        (0..n).map(layer).collect()
    }

    #[test]
    fn the_old_way_takes_two_hundred_layers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lower = layers(dir.path(), 200);
        let [upper, work, target] = ["upper", "work", "target"].map(|name| dir.path().join(name));
        for path in [&upper, &work, &target] {
            fs::create_dir(path).expect("directory");
        }
        let overlay = Overlay {
            lower: &lower,
            upper: Some((&upper, &work)),
            target: &target,
            label: None,
            mapped_by: None,
        };
        let _mounted = Mounted(target.clone());
        std::thread::scope(|scope| {
            let old = || {
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                by_page(&overlay, &mut Names::enter(&lower).expect("enter")).expect("mount");
            };
            scope.spawn(old).join().expect("join");
        });
        assert_eq!(fs::read_dir(&target).expect("list").count(), 200);
    }

    #[test]
    fn long_paths_and_special_characters_are_no_hindrance() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let deep = dir.path().join(format!("a,b:c/{}/{}", "x".repeat(200), "y".repeat(200)));
        let lower = layers(&deep, 3);
        let [upper, work, target] = ["upper", "work", "target"].map(|name| deep.join(name));
        for path in [&upper, &work, &target] {
            fs::create_dir(path).expect("directory");
        }
        let overlay = Overlay {
            lower: &lower,
            upper: Some((&upper, &work)),
            target: &target,
            label: None,
            mapped_by: None,
        };
        let _mounted = Mounted(target.clone());
        mount(&overlay).expect("mount");
        assert_eq!(fs::read_dir(&target).expect("list").count(), 3);
    }
}
