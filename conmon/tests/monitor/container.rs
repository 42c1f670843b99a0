//! A container with its monitor, cleaned up after whatever happens to the test.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use conmon::{CONSOLE, EXIT, Exit, Launch, PID, Reply, Request};

use crate::bundle::{Bundle, Wish};
use crate::client::Client;
use crate::waiting::{PATIENCE, eventually, is_alive, status_field};

pub(crate) struct Container {
    pub(crate) wish: Wish,
    pub(crate) bundle: Bundle,
    /// The monitor directory.
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) monitor: Child,
    /// The pid of the container's init.
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

/// A container that is laid out and not created yet.
pub(crate) struct Plan {
    pub(crate) wish: Wish,
    pub(crate) bundle: Bundle,
    pub(crate) launch: Launch,
}

impl Plan {
    pub(crate) fn new(wish: Wish) -> Plan {
        let bundle = Bundle::write(&wish);
        let dir = bundle.path("monitor");
        fs::create_dir(&dir).unwrap();
        let log = bundle.path("logs").join("0.log");
        fs::create_dir(bundle.path("logs")).unwrap();
        let mut launch = Launch {
            dir,
            id: bundle.id.clone(),
            log: Some(log),
            log_dir: Some(bundle.path("logs")),
            terminal: wish.terminal,
            stdin: false,
            stdin_once: false,
            restore: false,
            owner: None,
            create_timeout: PATIENCE,
            runtime: Vec::new(),
        };
        launch.runtime = create_command(&wish, &bundle, &launch.dir);
        Plan { wish, bundle, launch }
    }

    /// Moves the monitor directory elsewhere.
    pub(crate) fn with_dir(mut self, dir: PathBuf) -> Plan {
        fs::create_dir_all(&dir).unwrap();
        self.launch.runtime = create_command(&self.wish, &self.bundle, &dir);
        self.launch.dir = dir;
        self
    }

    /// Starts the monitor and returns what it reports.
    pub(crate) fn launch(&self) -> (Child, Reply) {
        let mut monitor = Command::new(env!("CARGO_BIN_EXE_conmon"))
            .args(self.launch.args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.bundle.path("monitor.err")).unwrap())
            .spawn()
            .unwrap();
        let mut report = Vec::new();
        monitor.stdout.take().unwrap().read_to_end(&mut report).unwrap();
        let reply = Reply::decode(&mut report).unwrap().expect("one whole reply");
        assert!(report.is_empty(), "one reply and no more");
        (monitor, reply)
    }

    pub(crate) fn create(self) -> Container {
        let (monitor, reply) = self.launch();
        let Reply::Created { pid, start_time } = reply else { panic!("{reply:?}") };
        let log = self.launch.log.unwrap();
        let (wish, bundle, dir) = (self.wish, self.bundle, self.launch.dir);
        Container { wish, bundle, dir, log, monitor, pid, start_time }
    }
}

fn create_command(wish: &Wish, bundle: &Bundle, dir: &Path) -> Vec<OsString> {
    let mut command = runtime_command(wish, bundle);
    command.extend(["create", "--bundle"].map(OsString::from));
    command.push(bundle.dir.path().into());
    command.extend(["--pid-file".into(), dir.join(PID).into_os_string()]);
    if wish.terminal {
        command.extend(["--console-socket".into(), dir.join(CONSOLE).into_os_string()]);
    }
    command.push(bundle.id.clone().into());
    command
}

/// The runtime's program and global options.
fn runtime_command(wish: &Wish, bundle: &Bundle) -> Vec<OsString> {
    vec![wish.runtime.program().into(), "--root".into(), bundle.path("runtime").into()]
}

impl Container {
    /// Creates and starts a container.
    pub(crate) fn run(wish: Wish) -> Container {
        let container = Plan::new(wish).create();
        container.start();
        container
    }

    pub(crate) fn start(&self) {
        assert!(self.runtime(&["start"]).success());
    }

    /// Runs the runtime with the container's id as last argument.
    pub(crate) fn runtime(&self, args: &[&str]) -> ExitStatus {
        let command = runtime_command(&self.wish, &self.bundle);
        Command::new(&command[0])
            .args(&command[1..])
            .args(args)
            .arg(&self.bundle.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }

    /// The request that runs a script in the container.
    pub(crate) fn exec_request(&self, script: &str, timeout: Duration) -> Request {
        let process = self.bundle.write_exec(&self.wish, script);
        let pid_file = process.with_extension("pid");
        let mut command = runtime_command(&self.wish, &self.bundle);
        command.extend(["exec", "--detach", "--process"].map(OsString::from));
        command.extend([process.into(), "--pid-file".into(), pid_file.clone().into()]);
        command.push(self.bundle.id.clone().into());
        let argv = command.into_iter().map(std::os::unix::ffi::OsStringExt::into_vec).collect();
        Request::Exec { argv, pid_file, timeout }
    }

    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.bundle.path("shared").join(name)
    }

    pub(crate) fn wait_for_exit(&self) -> Exit {
        Client::wait_for_exit(&self.dir)
    }

    pub(crate) fn exit_file(&self) -> Exit {
        Exit::parse(&fs::read_to_string(self.dir.join(EXIT)).unwrap()).unwrap()
    }

    /// Takes the exit and waits for the monitor's own.
    pub(crate) fn take_exit(&mut self) -> ExitStatus {
        assert_eq!(Client::connect(&self.dir).ask(&Request::TakeExit), Reply::Ok);
        self.monitor.wait().unwrap()
    }

    /// The reader of the monitor; waits for it to have its name, and so its confinement.
    pub(crate) fn reader(&self) -> i32 {
        let mut reader = None;
        eventually("a reader that is at work", || {
            reader = children(self.monitor.id()).into_iter().find(|pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let field = |name: &str| status_field(&status, name);
                field("Name") == "conmon-reader" && field("Seccomp") == "2" && is_alive(*pid)
            });
            reader.is_some()
        });
        reader.unwrap()
    }

    /// The lines of the log as stream, tag and message.
    pub(crate) fn log_lines(&self) -> Vec<(String, String, String)> {
        log_lines(&self.log)
    }

    /// The container's output on one stream, put together from its log.
    pub(crate) fn output(&self, stream: &str) -> String {
        let mut output = String::new();
        for (_, tag, message) in self.log_lines().iter().filter(|(name, ..)| name == stream) {
            output.push_str(message);
            if tag == "F" {
                output.push('\n');
            }
        }
        output
    }

    pub(crate) fn wait_for_output(&self, text: &str) {
        eventually(text, || self.output("stdout").contains(text));
    }
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn log_lines(path: &Path) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(path).unwrap();
    // Not `lines`: that takes the CR of a terminal's CR LF away.
    let lines = text.split_terminator('\n').map(|line| {
        let mut fields = line.splitn(4, ' ').map(str::to_owned);
        assert_eq!(fields.next().map(|stamp| stamp.len()), Some(30), "{line}");
        (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
    });
    lines.collect()
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(self.bundle.path("monitor.err")).unwrap_or_default();
            eprintln!("the monitor of {} said: {said}", self.bundle.id);
        }
        self.runtime(&["delete", "--force"]);
        self.monitor.kill().ok();
        self.monitor.wait().ok();
    }
}
