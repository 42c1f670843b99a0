//! A real registry on loopback that holds the test images of `images/`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::layout;
use crate::node::sweep::{self, Remains};
use crate::program::{Program, output, run};
use crate::wait::eventually;

/// How long the registry may take to listen.
const START: Duration = Duration::from_secs(60);

/// `user` and `secret` for a registry with a password, as htpasswd -B writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// `user` with password `secret` (HTTP basic).
    Password,
}

/// A docker-registry with its storage in a directory of its own.
#[derive(Debug)]
pub struct Registry {
    _program: Program,
    address: String,
    remains: Remains,
}

impl Registry {
    /// Starts one below `dir` on a free port of loopback.
    ///
    /// # Errors
    /// If docker-registry cannot be started.
    pub fn start(dir: &Path, access: Access) -> Result<Self> {
        Self::start_on(dir, &dir.join("storage"), access)
    }

    /// Starts one below `dir` that serves what is, or will be, in `storage`.
    ///
    /// # Errors
    /// If docker-registry cannot be started.
    pub fn start_on(dir: &Path, storage: &Path, access: Access) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let remains = Remains { dir: dir.to_owned(), names: None };
        sweep::remember(&remains);
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            storage.display()
        );
        if access == Access::Password {
            let file = dir.join("htpasswd");
            fs::write(&file, HTPASSWD)?;
            config += &format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display());
        }
        let file = dir.join("config.yml");
        fs::write(&file, config)?;
        let mut command = Command::new("docker-registry");
        let mut program =
            Program::start(command.arg("serve").arg(&file), &dir.join("registry.log"))?;
        let address = eventually("registry listens", START, || {
            program.ensure_running()?;
            let log = program.printed();
            let (_, rest) = log.split_once("listening on ").context("no address printed")?;
            let end = rest.find(['"', ' ', ',']).context("half a line")?;
            Ok(rest[..end].to_owned())
        })?;
        Ok(Self { _program: program, address, remains })
    }

    /// Builds the test images and pushes them.
    ///
    /// # Errors
    /// If a tool is missing or fails.
    pub fn seed(&self) -> Result<()> {
        Self::build_images(&self.remains.dir)?;
        self.push(&self.remains.dir)
    }

    /// Builds the test images below `dir`, for [`push`](Self::push).
    ///
    /// # Errors
    /// If a tool is missing or fails.
    pub fn build_images(dir: &Path) -> Result<()> {
        let busybox = layout::tool("busybox")?;
        let mut build = Command::new(layout::source("images/build.sh"));
        run(build.arg(busybox).arg(dir.join("layout")))?.ok().context("build the test images")?;
        Ok(())
    }

    /// Pushes the test images that were built below `dir`.
    ///
    /// # Errors
    /// If a tool is missing or fails.
    pub fn push(&self, dir: &Path) -> Result<()> {
        let mut push = Command::new(layout::source("images/push.sh"));
        run(push.arg(dir.join("layout")).arg(&self.address))?
            .ok()
            .context("push the test images")?;
        Ok(())
    }

    /// The reference of a new image `name`: that of `base` and the layer in the archive `layer`.
    ///
    /// # Errors
    /// If skopeo or umoci fails.
    pub fn derive(&self, base: &str, name: &str, layer: &Path) -> Result<String> {
        let dir = tempfile::tempdir_in(&self.remains.dir)?;
        let layout = dir.path().join("layout").display().to_string();
        let (local, image) = (format!("{layout}:derived"), self.image(name));
        let copy = |from: &str, to: &str| {
            let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            let words = ["copy", "--quiet", "--insecure-policy"].into_iter().chain(insecure);
            output("skopeo", words.chain([from, to])).map(drop)
        };
        copy(&format!("docker://{}", self.image(base)), &format!("oci:{local}"))?;
        let layer = layer.display().to_string();
        output("umoci", ["--log=error", "raw", "add-layer", "--image", &local, &layer])?;
        copy(&format!("oci:{local}"), &format!("docker://{image}"))?;
        Ok(image)
    }

    /// Copies one image of `from` into this registry, with the password if it wants one.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn copy_from(&self, from: &Self, image: &str) -> Result<()> {
        let source = format!("docker://{}", from.image(image));
        let target = format!("docker://{}", self.image(image));
        output(
            "skopeo",
            [
                "copy",
                "--quiet",
                "--insecure-policy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--dest-creds=user:secret",
                &source,
                &target,
            ],
        )?;
        Ok(())
    }

    /// Its `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Full reference of one of its images: `busybox:latest`, `user:latest`, …
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.remains.sweep();
    }
}
