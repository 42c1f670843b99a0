//! An OCI bundle with busybox in it, written by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::waiting::unique;

/// Which runtime creates the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Runc,
    Crun,
}

impl Runtime {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Runtime::Runc => "/usr/bin/runc",
            Runtime::Crun => "/usr/bin/crun",
        }
    }
}

/// What of a container a test can choose.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) runtime: Runtime,
    /// The container's command line. The rootfs has busybox's applets in /bin.
    pub(crate) args: Vec<String>,
    pub(crate) terminal: bool,
    /// None: the container is in the host's pid namespace.
    pub(crate) own_pids: bool,
    pub(crate) memory_limit: Option<u64>,
}

impl Wish {
    /// A container that runs a shell script.
    pub(crate) fn script(runtime: Runtime, script: &str) -> Wish {
        let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Wish { runtime, args, terminal: false, own_pids: true, memory_limit: None }
    }
}

/// A bundle on disk: `rootfs/`, `config.json`, and `shared/`, which the container sees as /shared.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    /// The container's id, which is also the name of its cgroup.
    pub(crate) id: String,
}

const APPLETS: [&str; 14] = [
    "sh", "cat", "echo", "false", "head", "kill", "ls", "sleep", "stty", "tail", "test", "true",
    "yes", "trap",
];

impl Bundle {
    pub(crate) fn write(wish: &Wish) -> Bundle {
        if wish.runtime == Runtime::Crun {
            mount_hugetlb();
        }
        let dir = tempfile::Builder::new().prefix("conmon").tempdir().unwrap();
        let id = unique();
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "dev", "proc", "shared", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::create_dir(dir.path().join("shared")).unwrap();
        fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let bundle = Bundle { dir, id };
        fs::write(bundle.path("config.json"), bundle.config(wish)).unwrap();
        fs::write(bundle.path("process.json"), process(wish, &wish.args, false)).unwrap();
        bundle
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes what `exec --process` wants, for a shell script.
    pub(crate) fn write_exec(&self, wish: &Wish, script: &str) -> PathBuf {
        let path = self.path(&format!("{}.json", unique()));
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        fs::write(&path, process(wish, &args, false)).unwrap();
        path
    }

    fn config(&self, wish: &Wish) -> String {
        let process = process(wish, &wish.args, wish.terminal);
        let shared = quote(&self.path("shared").display().to_string());
        let id = quote(&format!("/{}", self.id));
        let pids = if wish.own_pids { r#"{"type": "pid"},"# } else { "" };
        let memory = wish.memory_limit.map_or(String::new(), |limit| {
            format!(r#", "resources": {{"memory": {{"limit": {limit}, "swap": {limit}}}}}"#)
        });
        format!(
            r#"{{
  "ociVersion": "1.0.2",
  "process": {process},
  "root": {{"path": "rootfs", "readonly": false}},
  "mounts": [
    {{"destination": "/proc", "type": "proc", "source": "proc"}},
    {{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}},
    {{"destination": "/dev/pts", "type": "devpts", "source": "devpts",
      "options": ["newinstance", "ptmxmode=0666"]}},
    {{"destination": "/shared", "type": "bind", "source": {shared}, "options": ["rbind", "rw"]}}
  ],
  "linux": {{
    "cgroupsPath": {id},
    "namespaces": [{pids} {{"type": "mount"}}, {{"type": "ipc"}}, {{"type": "uts"}}]
    {memory}
  }}
}}"#
        )
    }
}

fn process(wish: &Wish, args: &[String], terminal: bool) -> String {
    let args: Vec<String> = args.iter().map(|argument| quote(argument)).collect();
    // A container in the host's pid namespace must not be able to signal the host.
    let caps = if wish.own_pids { r#""CAP_KILL", "CAP_SETUID""# } else { "" };
    format!(
        r#"{{
    "terminal": {terminal},
    "user": {{"uid": 0, "gid": 0}},
    "args": [{}],
    "env": ["PATH=/bin"],
    "cwd": "/",
    "capabilities": {{"bounding": [{caps}], "effective": [{caps}], "permitted": [{caps}]}}
  }}"#,
        args.join(", ")
    )
}

fn quote(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            '\n' => vec!['\\', 'n'],
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}

/// crun 1.8 on cgroup v1 wants every controller of /proc/cgroups mounted that it knows.
fn mount_hugetlb() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let point = Path::new("/sys/fs/cgroup/hugetlb");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v1 = mounts.contains(" - cgroup ");
        if v1 && !mounts.contains(" /sys/fs/cgroup/hugetlb ") {
            fs::create_dir_all(point).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("cgroup", point, "cgroup", flags, c"hugetlb").unwrap();
        }
    });
}

/// The static busybox that `make tools` provides.
fn busybox() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    std::env::var_os("CRISOL_CACHE").map_or_else(beside, PathBuf::from).join("bin/busybox")
}
