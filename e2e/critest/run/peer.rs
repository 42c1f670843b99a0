//! Debian's containerd, with directories of its own and the same images, network and runtime: what
//! the benchmarks of the suite are compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cri::Cri;
use e2e::layout;
use e2e::node::Node;
use e2e::program::{Program, tail};
use e2e::wait::eventually;

use crate::images::HOSTS;

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(30);

/// A running containerd.
pub(crate) struct Containerd {
    _program: Program,
    socket: PathBuf,
}

impl Containerd {
    /// Starts one in the directories, and with the network, of a node whose daemon does not run.
    ///
    /// # Errors
    /// If it has not been unpacked or does not become ready.
    pub(crate) fn start(node: &Node, runtime: &Path, registry: &str) -> Result<Self> {
        let programs = layout::cache().join("peer/usr/bin");
        ensure!(programs.join("containerd").exists(), "containerd is missing: `make peer-tools`");
        let dir = node.dir().join("peer");
        let socket = dir.join("containerd.sock");
        for host in HOSTS {
            let hosts = dir.join("registries").join(host);
            fs::create_dir_all(&hosts)?;
            let text = format!("server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n");
            fs::write(hosts.join("hosts.toml"), text)?;
        }
        let file = dir.join("config.toml");
        fs::write(&file, configuration(node, &dir, &socket, runtime))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(programs.join("containerd"));
        command.arg("--config").arg(&file).env("PATH", format!("{}:{path}", programs.display()));
        let mut program = Program::start(&mut command, &dir.join("containerd.log"))?;
        let cri = Cri::new(&socket)?;
        eventually("containerd ready", START, || {
            program.ensure_running()?;
            Ok(cri.version_rpc(crisol::cri::pb::VersionRequest::default())?)
        })
        .with_context(|| format!("its log ends:\n{}", tail(&program.printed(), 20)))?;
        Ok(Self { _program: program, socket })
    }

    /// Its CRI socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn configuration(node: &Node, dir: &Path, socket: &Path, runtime: &Path) -> String {
    let cri = "io.containerd.grpc.v1.cri";
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"

[plugins."{cri}"]
sandbox_image = "registry.k8s.io/pause:3.9"
stream_server_port = "0"
restrict_oom_score_adj = true

[plugins."{cri}".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{network}"

[plugins."{cri}".registry]
config_path = "{dir}/registries"

[plugins."{cri}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."{cri}".containerd.runtimes.runc.options]
BinaryName = "{runtime}"
"#,
        dir = dir.display(),
        socket = socket.display(),
        network = node.network_file().parent().unwrap_or(dir).display(),
        runtime = runtime.display(),
    )
}
