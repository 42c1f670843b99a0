//! The configuration in the hands of real runtimes. Needs root, runc, crun, unshare(1) and a
//! static busybox; every container has namespaces held by a process of its own and a cgroup of
//! its own name.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

/// A container that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Says what a process sees, one `key value` a line.
const LOOK: &str = r#"
echo "uid $(id -u)"
echo "groups $(id -G | tr ' ' '\n' | sort -n | tr '\n' ' ')"
grep -E '^(CapInh|CapEff|CapBnd|CapAmb|Seccomp|NoNewPrivs):' /proc/self/status | tr -d ':' | tr '\t' ' '
echo "oom $(cat /proc/self/oom_score_adj)"
echo "var $VAR"
echo "home $HOME"
echo "cwd $(pwd)"
echo "hostname $(hostname)"
echo "interrupts $(head -c 16 /proc/interrupts | wc -c)"
echo "firmware $(ls /sys/firmware | wc -l)"
(echo x > /proc/sys/kernel/printk) 2>/dev/null && echo "procsys rw" || echo "procsys ro"
grep -E ' cgroup2? ' /proc/self/mounts | grep -q -v ' ro,' && echo "cgroup rw" || echo "cgroup ro"
unshare -U true 2>/dev/null && echo "unshare yes" || echo "unshare no"
mknod /tmp/disk b 8 0 2>/dev/null; echo "disk $(head -c 1 /tmp/disk 2>&1 | tail -n 1 | sed 's/.*: //')"
echo shared > /dev/shm/probe && echo "shm rw" || echo "shm ro"
echo "tty $(ls -l /dev/ptmx | sed 's/.*-> //')"
echo "fds $(ls /proc/self/fd | tr '\n' ' ')"
"#;

/// Tries what a process may do with its volumes and devices.
const PROBE: &str = r#"
echo names $(cat /v/name /v/inner/name /slave/name)
(echo x > /v/new) 2>/dev/null && echo 'outer rw' || echo 'outer ro'
(echo x > /v/inner/new) 2>/dev/null && echo 'inner rw' || echo 'inner ro'
echo node $(ls -ln /dev/asked/kmsg | sed 's/ *[A-Z].*//')
(true < /dev/asked/kmsg) 2>/dev/null && echo 'read yes' || echo 'read no'
(true > /dev/asked/kmsg) 2>/dev/null && echo 'write yes' || echo 'write no'
cd /sys/fs/cgroup
echo memory $(cat memory.max memory/memory.limit_in_bytes 2>/dev/null)
"#;

/// A process that holds namespaces as a pod does.
struct Holder(Child);

impl Holder {
    fn new(options: &[&str]) -> Self {
        let child = Command::new("unshare")
            .args(options)
            .args(["--net", "--ipc", "--uts", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let holder = Holder(child);
        let own = fs::read_link("/proc/self/ns/uts").unwrap();
        let started = Instant::now();
        while fs::read_link(holder.namespace("uts")).is_ok_and(|held| held == own) {
            assert!(started.elapsed() < DEADLINE, "unshare did not unshare");
            std::thread::yield_now();
        }
        holder
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A bundle that a runtime can run.
struct Bundle {
    dir: TempDir,
    runtime: &'static str,
    id: String,
}

impl Bundle {
    fn new(runtime: &'static str, name: &str) -> Self {
        // A user namespace's root must be able to walk through.
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let bundle =
            Bundle { id: format!("crisol-oci-{name}-{}", std::process::id()), dir, runtime };
        for sub in ["bin", "dev", "etc", "proc", "sys"] {
            fs::create_dir_all(bundle.rootfs().join(sub)).unwrap();
        }
        for public in [bundle.rootfs().join("tmp"), bundle.path("shm")] {
            fs::DirBuilder::new().mode(0o777).create(&public).unwrap();
            fs::set_permissions(&public, std::os::unix::fs::PermissionsExt::from_mode(0o1777))
                .unwrap();
        }
        for file in ["resolv.conf", "hostname"] {
            fs::write(bundle.path(file), "x\n").unwrap();
            // The root of a user namespace could not create it in this directory of ours.
            fs::write(bundle.rootfs().join("etc").join(file), "").unwrap();
        }
        let bin = bundle.rootfs().join("bin");
        fs::copy(busybox(), bin.join("busybox")).unwrap();
        let tools = "sh cat echo env false grep head hostname id ls mkdir mknod pwd sed sleep sort \
            tail tr true unshare wc";
        for tool in tools.split_whitespace() {
            symlink("busybox", bin.join(tool)).unwrap();
        }
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// What crisol would find out about this host and pod.
    fn fixture(&self, holder: &Holder) -> Fixture {
        Fixture::with(|f| {
            f.rootfs = self.rootfs();
            f.files = self.dir.path().to_owned();
            f.net = Some(holder.namespace("net"));
            f.ipc = Some(holder.namespace("ipc"));
            f.uts = Some(holder.namespace("uts"));
            f.cgroups_path = format!("/{}-{}", self.id, self.runtime);
            f.host.cgroup_v2 = !Path::new("/sys/fs/cgroup/memory").exists();
            f.host.bounding = own_bounding_set();
            f.host.oom_score_adj_min =
                fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
            f.spec.envs = vec![("VAR".into(), b"a b\nc".to_vec())];
            f.spec.command = vec!["/bin/sh".into(), "-c".into()];
            f.spec.args = vec![LOOK.into()];
            f.spec.security.seccomp = Profile::RuntimeDefault;
            f.spec.working_dir = Some("/tmp".into());
        })
    }

    fn write(&self, fixture: &Fixture) {
        fs::write(self.path("config.json"), fixture.json().to_string()).unwrap();
    }

    /// Runs the runtime; what it wrote to standard output and error.
    fn runtime(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = self.path("output");
        let file = File::create(&output).unwrap();
        let mut child = Command::new(self.runtime)
            .arg("--root")
            .arg(self.path("state"))
            .args(arguments)
            // Not /dev/null: crun gives its standard streams to the container's user, the node's
            // own /dev/null as well.
            .stdin(File::open(&output).unwrap())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > DEADLINE => {
                    child.kill().unwrap();
                    panic!("{} {arguments:?} hangs", self.runtime);
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        (status, fs::read_to_string(output).unwrap())
    }

    /// Runs the container to its end.
    fn run(&self, fixture: &Fixture) -> Seen {
        self.write(fixture);
        let bundle = self.dir.path().to_str().unwrap().to_owned();
        let (status, output) = self.runtime(&["run", "--bundle", &bundle, &self.id]);
        assert!(status.success(), "{}: {output}", self.runtime);
        Seen { output }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let (_, _) = self.runtime(&["delete", "--force", &self.id]);
    }
}

struct Seen {
    output: String,
}

impl Seen {
    fn get(&self, key: &str) -> &str {
        let line = self.output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {key} in {}", self.output)).trim()
    }

    fn expect(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.get(key), *value, "{key} in {}", self.output);
        }
    }
}

fn own_bounding_set() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let bits = u64::from_str_radix(line.trim(), 16).unwrap();
    let held = CAPABILITIES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    held.map(|(_, name)| (*name).to_owned()).collect()
}

/// As in `/proc/<pid>/status`.
fn mask(names: &[&str]) -> String {
    let bit = |name: &&str| 1u64 << CAPABILITIES.iter().position(|known| known == name).unwrap();
    format!("{:016x}", names.iter().map(bit).sum::<u64>())
}

/// crun 1.8 wants every hierarchy that the kernel offers.
fn mount_hugetlb() {
    let dir = Path::new("/sys/fs/cgroup/hugetlb");
    if Path::new("/sys/fs/cgroup/memory").exists() && !dir.join("cgroup.procs").exists() {
        fs::create_dir_all(dir).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "cgroup", "-o", "hugetlb", "cgroup"])
            .arg(dir)
            .status()
            .unwrap();
        assert!(mounted.success() || dir.join("cgroup.procs").exists());
    }
}

#[test]
fn a_container_of_root_is_confined_by_every_runtime() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "root"), Holder::new(&[]));
        let held: Vec<String> = own_bounding_set();
        let expected: Vec<&str> =
            security::DEFAULT.into_iter().filter(|name| held.iter().any(|h| h == name)).collect();
        let seen = bundle.run(&bundle.fixture(&holder));
        seen.expect(&[
            ("uid", "0"),
            ("groups", "0"),
            ("CapInh", &mask(&[])),
            ("CapEff", &mask(&expected)),
            ("CapBnd", &mask(&expected)),
            ("CapAmb", &mask(&[])),
            ("Seccomp", "2"),
            ("NoNewPrivs", "0"),
            ("var", "a b"),
            ("home", "/root"),
            ("cwd", "/tmp"),
            ("interrupts", "0"),
            ("firmware", "0"),
            ("procsys", "ro"),
            ("cgroup", "ro"),
            ("unshare", "no"),
            ("disk", "Operation not permitted"),
            ("shm", "rw"),
            ("fds", "0 1 2 3"),
        ]);
        assert!(seen.get("tty").ends_with("pts/ptmx"), "{}", seen.output);
        assert_eq!(fs::read_to_string(bundle.path("shm/probe")).unwrap(), "shared\n");
    }
}

#[test]
fn a_container_of_another_user_has_no_capabilities_but_ambient_ones() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "user"), Holder::new(&[]));
        let mut fixture = bundle.fixture(&holder);
        fixture.identity = Identity {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![44, 1001],
            home: Some("/home/app".into()),
        };
        fixture.spec.security.no_new_privs = true;
        fixture.spec.security.readonly_rootfs = true;
        fixture.spec.resources.oom_score_adj = 900;
        bundle.run(&fixture).expect(&[
            ("uid", "1000"),
            ("groups", "44 1001"),
            ("CapInh", &mask(&[])),
            ("CapEff", &mask(&[])),
            ("CapAmb", &mask(&[])),
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("oom", "900"),
            ("home", "/home/app"),
            ("shm", "rw"),
        ]);
        fixture.spec.security.capabilities =
            Capabilities { drop: vec!["ALL".into()], ambient: vec!["CHOWN".into()], add: vec![] };
        bundle.run(&fixture).expect(&[
            ("CapInh", &mask(&["CHOWN"])),
            ("CapEff", &mask(&["CHOWN"])),
            ("CapBnd", &mask(&["CHOWN"])),
            ("CapAmb", &mask(&["CHOWN"])),
        ]);
    }
}

#[test]
fn a_privileged_container_is_not_confined() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "privileged"), Holder::new(&[]));
        let mut fixture = bundle.fixture(&holder);
        fixture.spec.security.privileged = true;
        let held = own_bounding_set();
        let held: Vec<&str> = held.iter().map(String::as_str).collect();
        fixture.spec.args = vec![
            "grep -E '^(CapEff|Seccomp):' /proc/self/status | tr -d ':' | tr '\t' ' '
             unshare -U true && echo 'unshare yes'
             echo interrupts $(head -c 1 /proc/interrupts | wc -c)
             echo sys $(grep ' /sys sysfs' /proc/self/mounts | sed 's/.*sysfs \\(..\\).*/\\1/')"
                .into(),
        ];
        bundle.run(&fixture).expect(&[
            ("CapEff", &mask(&held)),
            ("Seccomp", "0"),
            ("unshare", "yes"),
            ("interrupts", "1"),
            ("sys", "rw"),
        ]);
    }
}

#[test]
fn a_container_in_a_user_namespace_runs_as_its_root() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "userns"), Holder::new(&["--user"]));
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", holder.0.id());
            fs::write(path, "0 100000 65536\n").unwrap();
        }
        let mut fixture = bundle.fixture(&holder);
        fixture.user = Some(holder.namespace("user"));
        fixture.spec.security.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
        fixture.spec.args = vec![
            "echo uid $(id -u)
             echo map $(cat /proc/self/uid_map)
             grep -E '^(CapEff|Seccomp):' /proc/self/status | tr -d ':' | tr '\t' ' '
             echo types $(grep -E ' (/proc|/dev/mqueue|/sys|/dev/pts) ' /proc/self/mounts \
                 | sed 's/^[^ ]* [^ ]* \\([a-z]*\\) .*/\\1/' | sort)"
                .into(),
        ];
        let seen = bundle.run(&fixture);
        seen.expect(&[
            ("uid", "0"),
            ("map", "0 100000 65536"),
            ("CapEff", &mask(&security::DEFAULT)),
            ("Seccomp", "2"),
            ("types", "devpts mqueue proc sysfs"),
        ]);
    }
}

#[test]
fn volumes_devices_and_limits_are_as_asked() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "volumes"), Holder::new(&[]));
        let mut fixture = bundle.fixture(&holder);
        let volume = |path: &str, name: &str, readonly: bool| {
            let source = bundle.path(name);
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("name"), name).unwrap();
            Mount {
                container_path: path.into(),
                source: MountSource::Host(source),
                readonly,
                recursive_read_only: readonly,
                propagation: Propagation::Private,
                selinux_relabel: false,
                options: vec!["noexec".into()],
                uid_mappings: Vec::new(),
                gid_mappings: Vec::new(),
            }
        };
        fs::create_dir_all(bundle.path("outer/inner")).unwrap();
        fixture.spec.mounts = vec![
            volume("/v/inner", "inner", false),
            volume("/v", "outer", true),
            Mount {
                propagation: Propagation::HostToContainer,
                options: Vec::new(),
                ..volume("/slave", "slave", false)
            },
        ];
        fixture.devices = vec![HostDevice {
            path: "/dev/asked/kmsg".into(),
            kind: DeviceKind::Char,
            major: 1,
            minor: 11,
            mode: 0o640,
            uid: 0,
            gid: 5,
            permissions: "r".into(),
        }];
        // Without it, nobody may open the log of a kernel with `dmesg_restrict`.
        fixture.spec.security.capabilities.add = vec!["SYSLOG".into()];
        fixture.spec.resources.memory_limit_bytes = 64 << 20;
        fixture.spec.resources.cpu_shares = 512;
        fixture.spec.args = vec![PROBE.into()];
        bundle.run(&fixture).expect(&[
            ("names", "outerinnerslave"),
            ("outer", "ro"),
            ("inner", "rw"),
            ("node", "crw-r----- 1 0 5 1, 11"),
            ("read", "yes"),
            ("write", "no"),
            ("memory", "67108864"),
        ]);
    }
}

#[test]
fn another_process_in_the_container_is_confined_like_the_first() {
    mount_hugetlb();
    for runtime in RUNTIMES {
        let (bundle, holder) = (Bundle::new(runtime, "exec"), Holder::new(&[]));
        let mut fixture = bundle.fixture(&holder);
        fixture.identity.uid = 1000;
        fixture.spec.command = vec!["/bin/sleep".into(), "600".into()];
        fixture.spec.args = Vec::new();
        bundle.write(&fixture);
        let dir = bundle.dir.path().to_str().unwrap().to_owned();
        let (status, output) = bundle.runtime(&["run", "--detach", "--bundle", &dir, &bundle.id]);
        assert!(status.success(), "{runtime}: {output}");

        let command = ["/bin/sh", "-c", LOOK].map(str::to_owned);
        let process = exec_process(fixture.json()["process"].clone(), &command, false);
        let file = bundle.path("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let (status, output) = bundle.runtime(&["exec", "--process", file, &bundle.id]);
        assert!(status.success(), "{runtime}: {output}");
        Seen { output }.expect(&[
            ("uid", "1000"),
            ("CapInh", &mask(&[])),
            ("CapEff", &mask(&[])),
            ("Seccomp", "2"),
            ("cwd", "/tmp"),
            ("fds", "0 1 2 3"),
        ]);
    }
}

/// The static busybox that `make tools` provides.
fn busybox() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    std::env::var_os("CRISOL_CACHE").map_or_else(beside, PathBuf::from).join("bin/busybox")
}
