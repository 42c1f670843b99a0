//! Volumes: images, propagation, recursive read-only, mount options.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::cri::image_spec;
use e2e::node::{Node, Options};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use tonic::{Code, Status};

use crate::support::{Running, add, ended, exec, output, run};

/// An image as a volume at `/image`.
fn of_image(image: &str, sub_path: &str) -> pb::Mount {
    pb::Mount {
        container_path: "/image".to_owned(),
        readonly: true,
        image: Some(image_spec(image)),
        image_sub_path: sub_path.to_owned(),
        ..pb::Mount::default()
    }
}

fn of_host(from: &Path, to: &str) -> pb::Mount {
    pb::Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        ..pb::Mount::default()
    }
}

/// A pod in which containers with one mount are tried.
struct Trial<'a> {
    node: &'a Node,
    image: &'a str,
    pod: String,
    pod_config: pb::PodSandboxConfig,
}

impl<'a> Trial<'a> {
    fn new(node: &'a Node, image: &'a str, handler: &str) -> Result<Self> {
        let pod_config = request::host_network_pod(node, &format!("volumes-{handler}"));
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        Ok(Self { node, image, pod, pod_config })
    }

    fn create(&self, mount: pb::Mount) -> Result<String, Status> {
        let mut config = request::container("c", self.image, &["/bin/sleep", "1000"]);
        config.mounts = vec![mount];
        request::share_namespaces(&mut config, &self.pod_config);
        self.node.cri().create(&self.pod, &config, &self.pod_config)
    }

    /// The status of a creation that must fail; what was made against that is removed again.
    fn refused(&self, mount: pb::Mount) -> Result<Status> {
        match self.create(mount.clone()) {
            Err(status) => Ok(status),
            Ok(id) => {
                self.node.cri().remove(&id)?;
                anyhow::bail!("accepted {mount:?}")
            }
        }
    }
}

pub(crate) fn an_image_is_a_volume(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let layered = fixture.image("layered:latest");
    let id = node.cri().pull(&layered)?;
    let before = node.traces();
    for handler in ["runc", "crun"] {
        let trial = Trial::new(&node, &image, handler)?;
        let container = trial.create(of_image(&layered, ""))?;
        node.cri().start(&container)?;
        let shell = |line: &str| exec(&node, &container, &["/bin/sh", "-c", line]);
        ensure!(shell("cat /image/data/replaced")? == "second\n", "{handler}");
        ensure!(shell("touch /image/x 2>/dev/null || echo refused")? == "refused\n");
        ensure!(shell("/image/bin/busybox echo runs")? == "runs\n", "not noexec");
        let status = node.cri().container(&container)?;
        ensure!(status.mounts.len() == 1, "{:?}", status.mounts);
        let mount = &status.mounts[0];
        let echoed = mount.image.as_ref().context("no image in the mount's status")?;
        ensure!(echoed.image == layered && echoed.image_ref == id, "{echoed:?}");
        ensure!(mount.container_path == "/image" && mount.host_path.is_empty() && mount.readonly);

        // In use, until the container is gone.
        let refused = node.cri().remove_image(&layered).err().context("removed while mounted")?;
        ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
        node.cri().stop(&container, 0)?;
        node.cri().remove(&container)?;

        let container = trial.create(of_image(&layered, "data/kept"))?;
        node.cri().start(&container)?;
        ensure!(exec(&node, &container, &["/bin/ls", "/image"])? == "one\n", "{handler}");
        ensure!(node.cri().container(&container)?.mounts[0].image_sub_path == "data/kept");
        node.cri().drop_pod(&trial.pod)?;
    }
    ensure_nothing_new(&before, || node.traces())?;
    node.cri().remove_image(&layered)?;
    ensure!(node.cri().image(&layered)?.is_none());
    Ok(())
}

pub(crate) fn an_image_volume_that_cannot_be_says_so_first(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let trial = Trial::new(&node, &image, "")?;
    let before = node.traces();
    let absent = fixture.image("never-pulled:latest");
    for mount in
        [of_image(&absent, ""), of_image(&image, "no/such"), of_image(&image, "bin/busybox/x")]
    {
        let status = trial.refused(mount)?;
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
        ensure!(status.message().starts_with("ImageVolumeMountFailed"), "{status:?}");
    }
    let writable = pb::Mount { readonly: false, ..of_image(&image, "") };
    let both = pb::Mount { host_path: "/tmp".to_owned(), ..of_image(&image, "") };
    for mount in [writable, both, of_image(&image, "../.."), of_image(&image, "/etc")] {
        let status = trial.refused(mount)?;
        ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    }
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn image_volumes_outlive_the_daemon(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let layered = fixture.image("layered:latest");
    node.cri().pull(&layered)?;
    let before = node.traces().without_process();
    let trial = Trial::new(&node, &image, "")?;
    let container = trial.create(of_image(&layered, "data"))?;
    node.cri().start(&container)?;
    let (pod, id) = (trial.pod.clone(), node.cri().image(&layered)?.context("absent")?.id);
    node.restart()?;
    ensure!(exec(&node, &container, &["/bin/cat", "/image/replaced"])? == "second\n");
    let status = node.cri().container(&container)?;
    ensure!(status.mounts[0].image.as_ref().is_some_and(|image| image.image_ref == id));
    let refused = node.cri().remove_image(&layered).err().context("removed while mounted")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    node.cri().drop_pod(&pod)?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

/// A directory that is a mount of its own, with the propagation that `mount(8)` is told.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, propagation: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mounted = Self(dir.to_owned());
        mount(&["-t", "tmpfs", "none"], dir)?;
        mount(&[propagation], dir)?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        e2e::host::remove_tree(&self.0).ok();
    }
}

fn mount(arguments: &[&str], dir: &Path) -> Result<()> {
    let status = Command::new("mount").args(arguments).arg(dir).status()?;
    ensure!(status.success(), "mount {arguments:?} {}", dir.display());
    Ok(())
}

pub(crate) fn mounts_travel_as_asked_or_are_refused(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let shared = Mounted::new(&fixture.dir().join("shared"), "--make-rshared")?;
    let private = Mounted::new(&fixture.dir().join("private-mount"), "--make-rprivate")?;
    fs::create_dir(shared.0.join("late"))?;
    fs::create_dir(private.0.join("below"))?;
    let with = |from: &Path, propagation: pb::MountPropagation| pb::Mount {
        propagation: propagation.into(),
        ..of_host(from, "/v")
    };
    use pb::MountPropagation::{
        PropagationBidirectional as Both, PropagationHostToContainer as In,
        PropagationPrivate as Private,
    };
    for handler in ["runc", "crun"] {
        let trial = Trial::new(&node, &image, handler)?;
        for propagation in [In, Both] {
            let status = trial.refused(with(&private.0.join("below"), propagation))?;
            ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
            ensure!(status.message().contains("propagation"), "{status:?}");
        }
        for (propagation, arrives) in [(Private, false), (In, true), (Both, true)] {
            let container = trial.create(with(&shared.0, propagation))?;
            node.cri().start(&container)?;
            mount(&["-t", "tmpfs", "none"], &shared.0.join("late"))?;
            fs::write(shared.0.join("late/file"), "")?;
            let seen = exec(&node, &container, &["/bin/ls", "/v/late"])? == "file\n";
            let gone = Command::new("umount").arg(shared.0.join("late")).status()?;
            ensure!(gone.success());
            ensure!(seen == arrives, "{handler} {propagation:?}: the late mount arrives: {seen}");
            let status = node.cri().container(&container)?;
            ensure!(status.mounts[0].propagation() == propagation);
            node.cri().remove(&container)?;
        }
        node.cri().drop_pod(&trial.pod)?;
    }
    Ok(())
}

pub(crate) fn options_and_recursive_read_only_are_in_the_kernel(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let outer = Mounted::new(&fixture.dir().join("outer"), "--make-rprivate")?;
    fs::create_dir(outer.0.join("inner"))?;
    mount(&["-t", "tmpfs", "none"], &outer.0.join("inner"))?;

    let options = ["noexec", "nodev", "nosuid"].map(str::to_owned).to_vec();
    let mount = pb::Mount { mount_options: options.clone(), ..of_host(&outer.0, "/v") };
    let mut config = request::shell("options", &image, "grep ' /v ' /proc/mounts");
    config.mounts = vec![mount];
    let running = run(&node, config)?;
    let status = ended(&node, &running.id)?;
    ensure!(status.mounts[0].mount_options == options, "{:?}", status.mounts);
    let line = running.printed()?.remove(0);
    ensure!(options.iter().all(|option| line.contains(option.as_str())), "{line}");

    let trial = Trial::new(&node, &image, "")?;
    for unknown in ["suid", "bind", "upperdir=/x", ""] {
        let mount =
            pb::Mount { mount_options: vec![unknown.to_owned()], ..of_host(&outer.0, "/v") };
        let status = trial.refused(mount)?;
        ensure!(status.code() == Code::InvalidArgument, "{unknown}: {status:?}");
    }

    let recursive = |recursive_read_only| pb::Mount {
        readonly: true,
        recursive_read_only,
        ..of_host(&outer.0, "/v")
    };
    let inner = |mount: pb::Mount| -> Result<Vec<String>> {
        let line = "touch /v/x 2>/dev/null && echo outer; touch /v/inner/x 2>/dev/null && echo inner; true";
        let mut config = request::shell("rro", &image, line);
        config.mounts = vec![mount];
        output(&node, config)
    };
    ensure!(inner(recursive(false))? == ["inner"]);
    ensure!(inner(recursive(true))?.is_empty());

    // As the handlers say they can.
    let status = node.cri().status_rpc(pb::StatusRequest { verbose: false })?;
    ensure!(status.features.is_some_and(|features| features.mount_options));
    for handler in status.runtime_handlers.iter().filter(|handler| !handler.name.is_empty()) {
        let can = handler.features.as_ref().is_some_and(|f| f.recursive_read_only_mounts);
        let trial = Trial::new(&node, &image, &handler.name)?;
        let made = trial.create(recursive(true));
        ensure!(made.is_ok() == can, "{}: {made:?}", handler.name);
        if let Err(status) = made {
            ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
            ensure!(status.message().starts_with("RROUnsupported"), "{status:?}");
        }
        node.cri().drop_pod(&trial.pod)?;
    }
    Ok(())
}

pub(crate) fn a_volume_of_a_directory_of_ours_is_refused(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let trial = Trial::new(&node, &image, "")?;
    let link = fixture.dir().join("link-to-ours");
    std::os::unix::fs::symlink(node.root().join("images"), &link)?;
    for path in [node.root(), node.state(), node.root().join("images"), link] {
        let status = trial.refused(of_host(&path, "/v"))?;
        ensure!(status.code() == Code::InvalidArgument, "{status:?}");
        ensure!(status.message().contains("host_path"), "{status:?}");
    }
    let running: Running = add(&node, &trial.pod, &trial.pod_config, {
        let mut config = request::container("fine", &image, &["/bin/true"]);
        config.mounts = vec![of_host(fixture.dir(), "/v")];
        config
    })?;
    node.cri().remove(&running.id)?;
    Ok(())
}
