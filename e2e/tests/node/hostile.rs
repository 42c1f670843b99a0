//! Images and containers that want to reach the node, or to break what runs on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use crisol::cri::pb;
use e2e::host;
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;

use e2e::wait::eventually;

use crate::support::{END, add, ended};

/// How long figures of a layer may take: layers are measured every ten seconds, one after the other.
const MEASURED: Duration = Duration::from_secs(60);

pub(crate) fn an_images_links_lead_nowhere_on_the_node(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let canary = fixture.dir().join("canary");
    for dir in ["dev", "etc", "mnt", "proc", "sys"] {
        fs::create_dir_all(canary.join(dir))?;
    }
    for file in ["dev/null", "dev/ptmx", "file"] {
        fs::write(canary.join(file), "untouched")?;
    }
    let layer = fixture.dir().join("links.tar");
    archive_of_links(&layer, &canary)?;
    let image = fixture.registry.derive("busybox:latest", "links:latest", &layer)?;
    node.cri().pull(&image)?;
    let (files, before) = (host::files_below(&canary), node.traces());
    let content = fixture.dir().join("content");
    fs::create_dir_all(&content)?;
    fs::write(content.join("file"), "of the volume\n")?;

    for handler in ["runc", "crun"] {
        let pod_config = request::pod(&node, &format!("links-{handler}"));
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        // What every image has of the kernel's is there, and volumes go where their links lead
        // inside.
        let look = "ls -ld /dev /proc /sys | cut -c 1; echo x >/dev/null; cat /mnt/a/file /run/b/file; \
                    cat /etc/hostname; test -e /proc/self/stat && test -d /sys/kernel && echo there";
        let mut config = request::shell("links", &image, look);
        for (path, host) in [("/mnt/a", &content), ("/var/run/b", &content)] {
            config.mounts.push(volume(host, path));
        }
        config.mounts.push(volume(&content.join("file"), "/target/file"));
        let running = add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        ended(&node, &running.id)?;
        let hostname = format!("links-{handler}");
        let expected = ["d", "d", "d", "of the volume", "of the volume", &hostname, "there"];
        eventually("all is printed", END, || {
            let printed = running.printed()?;
            ensure!(printed == expected, "{handler}: {printed:?}");
            Ok(())
        })?;
        // What leads to the kernel's own is refused by its name.
        for path in ["/kernel/core_pattern", "/root-of-all"] {
            let mut config = request::shell("refused", &image, "true");
            config.mounts.push(volume(&content.join("file"), path));
            let refused = add(&node, &pod, &pod_config, config).err();
            let said = refused.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(path) && said.contains("link of the image"), "{handler}: {said}");
        }
        node.cri().drop_pod(&pod)?;
    }
    ensure!(host::files_below(&canary) == files, "{:?}", host::files_below(&canary));
    for file in ["dev/null", "dev/ptmx", "file"] {
        ensure!(fs::read_to_string(canary.join(file))? == "untouched", "{file} was written to");
    }
    ensure_nothing_new(&before, || node.traces())
}

/// A layer in which everything that is mounted on is a link to something on the node.
fn archive_of_links(file: &Path, canary: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(fs::File::create(file)?);
    let on_node = |name: &str| canary.join(name).display().to_string();
    let links = [
        ("dev", on_node("dev")),
        ("proc", on_node("proc")),
        ("sys", on_node("sys")),
        ("etc/hostname", on_node("etc/hostname")),
        ("etc/resolv.conf", "../../../../../../../../etc/mtab-of-the-node".to_owned()),
        ("mnt", on_node("mnt")),
        ("var/run", "/run".to_owned()),
        ("target", canary.display().to_string()),
        ("kernel", "/proc/sys/kernel".to_owned()),
        ("root-of-all", "../..".to_owned()),
    ];
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, name, target)?;
    }
    Ok(tar.finish()?)
}

fn volume(host: &Path, path: &str) -> pb::Mount {
    pb::Mount {
        host_path: host.display().to_string(),
        container_path: path.to_owned(),
        ..pb::Mount::default()
    }
}

/// Directories in directories, seven times as deep as a path can tell of.
const DEEP: &str = "cd /tmp; way=d; i=0; while [ $i -lt 999 ]; do way=$way/d; i=$((i+1)); done
                    i=0; while [ $i -lt 7 ]; do mkdir -p $way && cd -P $way || exit 1; i=$((i+1)); done
                    echo made";

pub(crate) fn seven_thousand_nested_directories_are_removed(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let (before, daemon) = (node.traces(), node.pid()?);
    let pod_config = request::host_network_pod(&node, "deep");
    let pod = node.cri().run_pod(&pod_config)?;
    let deep = add(&node, &pod, &pod_config, request::shell("deep", &image, DEEP))?;
    node.cri().start(&deep.id)?;
    let status = ended(&node, &deep.id)?;
    ensure!(status.exit_code == 0 && deep.printed()? == ["made"], "{status:?}");
    // The statistics of its layer count every one of them.
    eventually("the layer is measured", MEASURED, || {
        let stats = node.cri().container_stats(&deep.id)?;
        let inodes = stats.writable_layer.and_then(|layer| layer.inodes_used);
        ensure!(inodes.as_ref().is_some_and(|inodes| inodes.value > 7_000), "{inodes:?}");
        Ok(())
    })?;
    node.cri().remove(&deep.id)?;
    // All devices of a directory without end are asked for.
    let mut config = request::shell("all", &image, "true");
    config.devices = vec![pb::Device {
        host_path: "/".to_owned(),
        container_path: "/dev/all".to_owned(),
        permissions: "r".to_owned(),
    }];
    let refused = add(&node, &pod, &pod_config, config).err();
    let said = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("config.devices[0].host_path"), "{said}");
    ensure!(node.pid()? == daemon && host::process(daemon).is_some(), "the daemon has ended");
    node.cri().drop_pod(&pod)?;
    ensure_nothing_new(&before, || node.traces())
}
