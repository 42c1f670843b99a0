//! The same work without crisol: the runtime called by hand on an equal bundle, the CNI plugins
//! called one after the other.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use e2e::node::Node;
use e2e::program::{output, run};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

/// Where Debian has the CNI plugins; the node's configuration says the same.
const PLUGINS: &str = "/usr/lib/cni";

/// A bundle equal to that of a container of crisol, for the runtime by hand.
pub(crate) struct Bundle {
    runtime: &'static str,
    root: PathBuf,
    dir: PathBuf,
}

impl Bundle {
    /// Takes over the container's own config.json; root file system and control group are new.
    pub(crate) fn like(node: &Node, container: &str, runtime: &'static str) -> Result<Self> {
        let theirs = node.state().join("containers").join(container);
        let dir = node.dir().join("bare").join(runtime);
        let root = node.dir().join("bare/state").join(runtime);
        for name in ["lower", "upper", "work", "rootfs"] {
            fs::create_dir_all(dir.join(name))?;
        }
        fs::create_dir_all(&root)?;
        // An overlay mount like crisol's, mounted once: mounting it is crisol's work and not counted.
        let rootfs = theirs.join("rootfs");
        output("cp", ["-a".as_ref(), rootfs.join(".").as_os_str(), dir.join("lower").as_os_str()])?;
        let layers =
            format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", dir.display());
        mount(
            Some("overlay"),
            &dir.join("rootfs"),
            Some("overlay"),
            MsFlags::empty(),
            Some(layers.as_str()),
        )
        .context("mount overlay")?;

        let text = fs::read(theirs.join("config.json")).context("config.json of crisol")?;
        let mut config: Value = serde_json::from_slice(&text)?;
        config["root"]["path"] = json!(dir.join("rootfs"));
        config["linux"]["cgroupsPath"] = json!(format!("{}/bare-{runtime}", node.cgroup()));
        config["process"]["terminal"] = json!(false);
        fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(Self { runtime, root, dir })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(&self.root);
        command
    }

    /// `create` and `start`, as two calls of the program.
    pub(crate) fn create_and_start(&self, round: usize) -> Result<Bare<'_>> {
        let id = format!("bare-{round}");
        let log = fs::File::create(self.dir.join("output"))?;
        // The container inherits these: a pipe would be held open by it.
        let mut create = self.command();
        create.arg("create").arg("--bundle").arg(&self.dir).arg(&id);
        create.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = create.status()?;
        if !status.success() {
            bail!("{create:?}: {}", fs::read_to_string(self.dir.join("output"))?);
        }
        run(self.command().arg("start").arg(&id))?.ok()?;
        Ok(Bare { bundle: self, id })
    }
}

/// A container of the bare runtime.
pub(crate) struct Bare<'a> {
    bundle: &'a Bundle,
    id: String,
}

impl Bare<'_> {
    /// `exec`, with both outputs read as ExecSync has to.
    pub(crate) fn exec(&self, command: &[&str]) -> Result<()> {
        run(self.bundle.command().arg("exec").arg(&self.id).args(command))?.ok()?;
        Ok(())
    }

    /// `delete`, by force.
    pub(crate) fn delete(self) -> Result<()> {
        run(self.bundle.command().args(["delete", "--force"]).arg(&self.id))?.ok()?;
        Ok(())
    }
}

/// What a plugin is asked to do with what.
struct Attachment<'a> {
    command: &'static str,
    id: &'a str,
    netns: &'a Path,
}

/// The CNI plugins of a node's own configuration.
pub(crate) struct Chain {
    conf: Value,
    name: String,
}

impl Chain {
    /// Reads the node's conflist.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let conf = serde_json::from_slice(&fs::read(node.network_file())?)?;
        Ok(Self { conf, name: node.network().to_owned() })
    }

    /// ADD for a new network namespace, measured in milliseconds; DEL, not measured.
    pub(crate) fn add_and_delete(&self, round: usize) -> Result<f64> {
        let netns = format!("{}-bare", self.name);
        output("ip", ["netns", "add", &netns])?;
        let path = Path::new("/run/netns").join(&netns);
        let id = format!("bare-{round}");
        let result = self.add(&id, &path);
        for plugin in self.plugins()?.iter().rev() {
            let previous = result.as_ref().ok().map(|(previous, _)| previous);
            self.call(plugin, &Attachment { command: "DEL", id: &id, netns: &path }, previous)?;
        }
        output("ip", ["netns", "delete", &netns])?;
        Ok(result?.1)
    }

    fn add(&self, id: &str, netns: &Path) -> Result<(Value, f64)> {
        let began = Instant::now();
        let mut previous = None;
        for plugin in self.plugins()? {
            let attachment = Attachment { command: "ADD", id, netns };
            let answer = self.call(plugin, &attachment, previous.as_ref())?;
            previous = Some(serde_json::from_str(&answer)?);
        }
        let took = began.elapsed().as_secs_f64() * 1e3;
        Ok((previous.context("no plugins")?, took))
    }

    fn plugins(&self) -> Result<&Vec<Value>> {
        self.conf["plugins"].as_array().context("no plugins")
    }

    fn call(
        &self,
        plugin: &Value,
        attachment: &Attachment<'_>,
        previous: Option<&Value>,
    ) -> Result<String> {
        let mut conf = plugin.clone();
        conf["cniVersion"] = self.conf["cniVersion"].clone();
        conf["name"] = self.conf["name"].clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        let program = Path::new(PLUGINS).join(plugin["type"].as_str().context("no type")?);
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", attachment.command)
            .env("CNI_CONTAINERID", attachment.id)
            .env("CNI_NETNS", attachment.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(&serde_json::to_vec(&conf)?)?;
        drop(stdin);
        let said = child.wait_with_output()?;
        let stdout = String::from_utf8(said.stdout)?;
        ensure!(said.status.success(), "{} {}: {stdout}", program.display(), attachment.command);
        Ok(stdout)
    }
}
