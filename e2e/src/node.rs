//! One daemon with directories, a network and a control group that nothing else on the machine
//! uses. Dropping it removes all of that, whatever state the daemon is in.

use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crisol::cri::pb;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::cri::Cri;
use crate::crictl::crictl;
use crate::program::{Program, Said, output, tail};
use crate::traces::Traces;
use crate::wait::eventually;
use crate::{host, layout};

pub mod faults;
mod files;
pub mod sweep;

use sweep::{Names, Remains};

/// How long a daemon may take until it answers Version and Status.
const START: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(60);
/// Networks 10.88.1.0/24 to 10.88.250.0/24 are ours to take.
const NETWORKS: std::ops::RangeInclusive<u8> = 1..=250;
/// Lines of a daemon's log that a failed test shows.
const SHOWN: usize = 60;

/// What a node is made with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registries (`host:port`) that are spoken to without TLS.
    pub insecure: Vec<String>,
    /// Names that are found in another registry, without TLS: prefix, then location.
    pub redirects: Vec<(String, String)>,
    /// The handler for requests that name none; empty = runc.
    pub default_handler: String,
    /// The daemon's log filter; empty = with every step of every request.
    pub log: String,
    /// Text appended to the configuration, e.g. a table of its own.
    pub config: String,
    /// Seconds between two sweeps; none = the daemon's default.
    pub sweep_interval: Option<u32>,
    /// Environment of the daemon.
    pub env: Vec<(String, String)>,
    /// Start without any CNI configuration.
    pub no_network: bool,
}

/// A running (or killed) daemon and everything that belongs to it.
#[derive(Debug)]
pub struct Node {
    options: Options,
    remains: Remains,
    names: Names,
    daemon: Option<Program>,
    cri: Cri,
    // Dropped last, in this order: the directory, then the right to the network's number.
    dir: TempDir,
    _number: Flock<fs::File>,
}

thread_local! {
    /// The ends of the logs of nodes that this thread has dropped since this was last emptied.
    static LAST_WORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the ends of the logs of all nodes that this thread has dropped since the last call.
pub fn take_last_words() -> Vec<String> {
    LAST_WORDS.take()
}

impl Node {
    /// Makes the directories and the configuration, starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// If the daemon does not become ready; its log is in the error.
    pub fn start(options: Options) -> Result<Self> {
        let mut node = Self::prepare(options)?;
        node.spawn()?;
        Ok(node)
    }

    /// Everything but the daemon itself.
    ///
    /// # Errors
    /// If the directories cannot be made or no network is free.
    pub fn prepare(options: Options) -> Result<Self> {
        let (number, lock) = take_number()?;
        // A pod's user namespace walks through to its root file system, as below /run.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("crisol-e2e-").permissions(open).tempdir()?;
        let names =
            Names { bridge: format!("crisol{number}"), cgroup: format!("/crisol-e2e-{number}") };
        let remains = Remains { dir: dir.path().to_owned(), names: Some(names.clone()) };
        sweep::remember(&remains);
        let cri = Cri::new(&dir.path().join("state/crisol.sock"))?;
        let node = Self { options, remains, names, daemon: None, cri, dir, _number: lock };
        for name in ["root", "state", "net.d", "logs"] {
            fs::create_dir(node.dir().join(name))?;
        }
        if !node.options.no_network {
            node.write_network(number)?;
        }
        node.write_config()?;
        Ok(node)
    }

    /// A command that runs the daemon's program with this node's configuration.
    ///
    /// # Errors
    /// If the daemon has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(layout::daemon()?);
        command.args(arguments).arg("--config").arg(self.config_file());
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts the daemon and waits until it answers Version and Status.
    ///
    /// # Errors
    /// If it ends or does not answer in time; the end of its log is in the error.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = self.command(&["serve"])?;
        self.start_daemon(&mut command)
    }

    /// Starts the daemon as after a reboot: in a mount namespace in which the kernel tells another
    /// boot id and nothing is left in the state directory.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_in_another_boot(&mut self) -> Result<()> {
        let boot_id = self.dir().join("boot_id");
        fs::write(&boot_id, "00000000-1111-4222-8333-444444444444\n")?;
        let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id || exit 1
                      for dir in pods containers owed runtimes; do
                          mount -t tmpfs none \"$2/$dir\" || exit 1
                      done
                      shift 2; exec \"$@\"";
        let daemon = self.command(&["serve"])?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(boot_id).arg(self.state());
        command.arg(daemon.get_program()).args(daemon.get_args());
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.start_daemon(&mut command)
    }

    /// Starts the daemon with a log that takes nothing, as on a full disk.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_without_room_for_its_log(&mut self) -> Result<()> {
        let daemon = self.command(&["serve"])?;
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>/dev/full", "sh"]);
        command.arg(daemon.get_program()).args(daemon.get_args());
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.start_daemon(&mut command)
    }

    /// Starts the daemon from a copy of its program, which is gone when this returns: as after an
    /// upgrade of its package.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_and_remove_program(&mut self) -> Result<()> {
        let daemon = self.command(&["serve"])?;
        let copy = self.dir().join("copy-of-crisol");
        // Another process writes it: what a test starts meanwhile would inherit the open file, and
        // until that is closed the program cannot be run (ETXTBSY).
        output("cp", [daemon.get_program(), copy.as_os_str()])?;
        let mut command = Command::new(&copy);
        command.args(daemon.get_args());
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.start_daemon(&mut command)?;
        Ok(fs::remove_file(&copy)?)
    }

    fn start_daemon(&mut self, command: &mut Command) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let mut daemon = Program::start(command, &self.log_file())?;
        let ready = eventually("daemon ready", START, || {
            if let Err(ended) = daemon.ensure_running() {
                return Ok(Err(ended));
            }
            self.cri.version_rpc(pb::VersionRequest::default())?;
            self.cri.status_rpc(pb::StatusRequest { verbose: false })?;
            Ok(Ok(()))
        });
        let ready = ready.flatten();
        let printed = daemon.printed();
        self.daemon = Some(daemon);
        ready.with_context(|| format!("the log ends:\n{}", tail(&printed, SHOWN)))
    }

    /// Kills the daemon with SIGKILL; pods go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the daemon does not run")?;
        drop(daemon); // kills and waits
        Ok(())
    }

    /// Asks the daemon to end and waits for it.
    ///
    /// # Errors
    /// If it does not end in time or reports a failure.
    pub fn terminate(&mut self) -> Result<()> {
        self.terminate_within(DRAIN)
    }

    /// The same, with a bound of the caller's.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn terminate_within(&mut self, limit: Duration) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon does not run")?;
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait(limit).context("drain after SIGTERM")?;
        ensure!(status.success(), "the daemon ended with {status} after SIGTERM");
        Ok(())
    }

    /// Kills the daemon and starts it again.
    ///
    /// # Errors
    /// As [`Node::spawn`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        self.spawn()
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon does not run")?.pid())
    }

    /// The client.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// Runs crictl; standard output if it succeeds.
    ///
    /// # Errors
    /// If crictl fails, with what it said.
    pub fn crictl(&self, args: &[&str]) -> Result<String> {
        self.try_crictl(args)?.ok().with_context(|| format!("crictl {}", args.join(" ")))
    }

    /// Runs crictl, whatever comes of it.
    ///
    /// # Errors
    /// If crictl is missing or hangs.
    pub fn try_crictl(&self, args: &[&str]) -> Result<Said> {
        crictl(&self.socket(), args)
    }

    /// Stops and removes every pod.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_all_pods(&self) -> Result<()> {
        let pods = self.cri.pods()?;
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                pods.iter().map(|pod| scope.spawn(|| self.cri.drop_pod(&pod.id))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for result in results {
            match result {
                Ok(result) => result?,
                Err(_) => bail!("a thread that removed a pod panicked"),
            }
        }
        Ok(())
    }

    /// What of this node is on the machine now.
    pub fn traces(&self) -> Traces {
        Traces::of(self.dir(), &self.names, self.daemon.as_ref().map(Program::pid))
    }

    /// By what everything of it is found, whatever state it is in.
    pub(crate) fn remains(&self) -> &Remains {
        &self.remains
    }

    /// The node's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The daemon's durable directory.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// The daemon's volatile directory.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Where pods have their logs.
    pub fn log_dir(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// The daemon's own log.
    pub fn log_file(&self) -> PathBuf {
        self.dir().join("daemon.log")
    }

    /// The daemon's configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("crisol.toml")
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("state/crisol.sock")
    }

    /// The socket for NRI plugins.
    pub fn nri_socket(&self) -> PathBuf {
        self.dir().join("state/nri.sock")
    }

    /// The CNI configuration.
    pub fn network_file(&self) -> PathBuf {
        self.dir().join("net.d/10-crisol.conflist")
    }

    /// Name of the CNI network and of its bridge.
    pub fn network(&self) -> &str {
        &self.names.bridge
    }

    /// The pods' parent control group.
    pub fn cgroup(&self) -> &str {
        &self.names.cgroup
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The polite way first: it is what leaves no address, rule or mount to sweep.
        if self.daemon.is_some() {
            self.remove_all_pods().ok();
        }
        self.terminate().ok();
        let log = fs::read(self.log_file()).unwrap_or_default();
        let end = tail(&String::from_utf8_lossy(&log), SHOWN);
        let words = format!("{}:\n{end}", self.log_file().display());
        // A thread that is ending has nobody to tell.
        LAST_WORDS.try_with(|all| all.borrow_mut().push(words)).ok();
        self.remains.sweep();
    }
}

/// A number that no other node on this machine has, and the lock that keeps it.
fn take_number() -> Result<(u8, Flock<fs::File>)> {
    let locks = Path::new("/run/lock");
    fs::create_dir_all(locks)?;
    for number in NETWORKS {
        let file = locks.join(format!("crisol-e2e-{number}"));
        let file = fs::File::options().create(true).truncate(false).write(true).open(file)?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
        let taken = Path::new("/sys/class/net").join(format!("crisol{number}")).exists()
            || !host::cgroup_dirs(&format!("/crisol-e2e-{number}")).is_empty();
        if !taken {
            return Ok((number, lock));
        }
    }
    bail!("no network 10.88.N.0/24 is free")
}

/// The first address of a pod's network status.
///
/// # Errors
/// If it has none.
pub fn address(pod: &pb::PodSandboxStatus) -> Result<Ipv4Addr> {
    let network = pod.network.as_ref().context("the pod has no network status")?;
    network.ip.parse().with_context(|| format!("pod address {:?}", network.ip))
}
