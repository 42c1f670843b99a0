//! Pods with a user namespace: root inside is a number on the node that owns nothing there.
//!
//! With a current runc as a handler of its own; Debian's runtimes say that they cannot.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::{output, run_with_input};
use e2e::request::{self, namespaces, resources, security};
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::{host, layout};
use tonic::Code;

use crate::support::{Running, add, ended, exec, pid};

/// The handler with a current runc.
const HANDLER: &str = "runc-current";
/// The node's id of the pods' root.
const ROOT: u32 = 200_000;
const LENGTH: u32 = 65_536;

fn node(fixture: &Fixture) -> Result<Node> {
    let runc = layout::tool("runc")?;
    let config =
        format!("[runtime.handlers.{HANDLER}]\ntype = \"oci\"\npath = \"{}\"\n", runc.display());
    let node = fixture.own_node(Options { config, ..Options::default() })?;
    // The runtime's own, which it leaves empty: no trace of a pod.
    fs::create_dir_all(node.state().join("runtimes").join(HANDLER))?;
    Ok(node)
}

fn range(container_id: u32, host_id: u32, length: u32) -> Vec<pb::IdMapping> {
    vec![pb::IdMapping { host_id, container_id, length }]
}

fn own_ids(uids: Vec<pb::IdMapping>) -> pb::UserNamespace {
    pb::UserNamespace { mode: pb::NamespaceMode::Pod.into(), gids: uids.clone(), uids }
}

/// A pod whose ids are its own.
fn pod(node: &Node, name: &str) -> pb::PodSandboxConfig {
    let mut config = request::pod(node, name);
    namespaces(&mut config).userns_options = Some(own_ids(range(0, ROOT, LENGTH)));
    config
}

fn run_in(
    node: &Node,
    pod_config: &pb::PodSandboxConfig,
    config: pb::ContainerConfig,
) -> Result<Running> {
    let pod = node.cri().run_pod_with(pod_config, HANDLER)?;
    let running = add(node, &pod, pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

/// The mapping of a process, as three numbers.
fn uid_map(process: &str) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{process}/uid_map"))?;
    text.split_whitespace().map(|number| Ok(number.parse()?)).collect()
}

fn mapped(from: &Path, to: &str) -> pb::Mount {
    let mut mount = plain(from, to);
    mount.uid_mappings = range(0, ROOT, LENGTH);
    mount.gid_mappings = range(0, ROOT, LENGTH);
    mount
}

fn plain(from: &Path, to: &str) -> pb::Mount {
    pb::Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        ..pb::Mount::default()
    }
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let found = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok((found.uid(), found.gid()))
}

pub(crate) fn root_inside_is_nobody_outside(fixture: &Fixture) -> Result<()> {
    let node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let offered: Vec<String> = node
        .cri()
        .status_rpc(pb::StatusRequest::default())?
        .runtime_handlers
        .into_iter()
        .filter(|handler| handler.features.as_ref().is_some_and(|f| f.user_namespaces))
        .map(|handler| handler.name)
        .collect();
    ensure!(offered == [HANDLER], "offered by {offered:?}");

    let before = node.traces();
    let mut pod_config = pod(&node, "owned");
    let sysctls = [("net.core.somaxconn", "77"), ("kernel.shm_rmid_forced", "1")];
    pod_config.linux.get_or_insert_default().sysctls =
        sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let line = "echo $(cat /proc/self/uid_map); stat -c '%u:%g' / /bin/busybox /dev/shm \
                /etc/resolv.conf /etc/hostname | sort -u; \
                echo x >/new && chown 7:8 /new && stat -c '%u:%g' /new; \
                echo y >/dev/shm/y && echo shm; echo z >>/etc/hostname && echo hostname; \
                hostname; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced; \
                mount -t tmpfs none /tmp 2>/dev/null || echo no mount; \
                echo again >/dev/stdout; cat >/dev/null; exec sleep 1000";
    let running = run_in(&node, &pod_config, request::shell("c", &image, line))?;
    let expected = [
        "0 200000 65536",
        "0:0",
        "7:8",
        "shm",
        "hostname",
        "owned",
        "77",
        "1",
        "no mount",
        "again",
    ];
    e2e::wait::eventually("everything printed", crate::support::END, || {
        let lines = running.printed()?;
        ensure!(lines == expected, "{lines:?} {:?}", e2e::log::lines(&running.log(), "stderr"));
        Ok(())
    })?;

    let process = pid(&node, &running.id)?;
    ensure!(uid_map(&process.to_string())? == [0, ROOT, LENGTH]);
    ensure!(owner(&PathBuf::from(format!("/proc/{process}")))? == (ROOT, ROOT));
    // What it wrote is the writable layer's, with the node's numbers; the image is as it was.
    let layer = node.root().join("rw").join(&running.id).join("upper");
    ensure!(owner(&layer)? == (ROOT, ROOT) && owner(&layer.join("new"))? == (ROOT + 7, ROOT + 8));
    let images = node.root().join("images");
    let files = host::files_below(&images);
    ensure!(files.iter().any(|file| file.ends_with("bin/busybox")), "no image in {files:?}");
    for file in files {
        ensure!(owner(&images.join(&file))?.0 < ROOT, "{} was chowned", file.display());
    }
    let inside = exec(&node, &running.id, &["/bin/sh", "-c", "id -u; cat /proc/self/uid_map"])?;
    let inside: Vec<&str> = inside.split_whitespace().collect();
    ensure!(inside == ["0", "0", "200000", "65536"], "{inside:?}");
    // Its network is there: the interface that the plugins made is its own to use.
    let status = node.cri().pod(&running.pod)?;
    let address = e2e::node::address(&status)?.to_string();
    let shown = exec(&node, &running.id, &["/bin/ip", "addr"])?;
    ensure!(shown.contains(&address), "{address} is not in {shown}");
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let echoed = options.and_then(|options| options.userns_options);
    ensure!(echoed == Some(own_ids(range(0, ROOT, LENGTH))), "{echoed:?}");
    node.cri().drop_pod(&running.pod)?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn volumes_show_the_pods_owners_or_are_refused(fixture: &Fixture) -> Result<()> {
    let node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let dir = node.dir().join("volumes");
    for name in ["mapped", "plain"] {
        fs::create_dir_all(dir.join(name))?;
        fs::write(dir.join(name).join("file"), name)?;
    }
    std::os::unix::fs::chown(dir.join("mapped/file"), Some(7), Some(8))?;
    let line = "stat -c '%u:%g' /mapped /mapped/file /plain/file /image/bin/busybox; \
                echo x >/mapped/new && chown 5:6 /mapped/new; \
                (echo x >/plain/new) 2>/dev/null || echo refused; exit 0";
    let mut config = request::shell("volumes", &image, line);
    let mut of_image = mapped(&dir, "/image");
    of_image.host_path = String::new();
    of_image.image = Some(e2e::cri::image_spec(&image));
    of_image.readonly = true;
    config.mounts =
        vec![mapped(&dir.join("mapped"), "/mapped"), plain(&dir.join("plain"), "/plain"), of_image];
    let pod_config = pod(&node, "volumes");
    let running = run_in(&node, &pod_config, config.clone())?;
    ended(&node, &running.id)?;
    let lines = running.printed()?;
    ensure!(lines == ["0:0", "7:8", "65534:65534", "0:0", "refused"], "{lines:?}");
    // Through the mapping, ids inside are the same ids on disk; nothing else was touched.
    ensure!(owner(&dir.join("mapped/new"))? == (5, 6));
    ensure!(
        owner(&dir.join("mapped/file"))? == (7, 8) && owner(&dir.join("plain/file"))? == (0, 0)
    );

    // A file system without idmapped mounts: refused by the name of the mount, nothing is chowned.
    let before = node.traces();
    let unmappable = Path::new("/sys/kernel/mm");
    let owned = owner(unmappable)?;
    config.mounts = vec![plain(&dir.join("plain"), "/plain"), mapped(unmappable, "/mm")];
    config.metadata.get_or_insert_default().attempt = 1;
    let error = add(&node, &running.pod, &pod_config, config).expect_err("sysfs cannot be mapped");
    let status = error.downcast_ref::<tonic::Status>().context("no status")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    ensure!(status.message().contains("config.mounts[1]"), "{status:?}");
    ensure!(status.message().contains("/sys/kernel/mm"), "{status:?}");
    ensure!(owner(unmappable)? == owned);
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn limits_apply_below_the_parent(fixture: &Fixture) -> Result<()> {
    let node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let pod_config = pod(&node, "limited");
    let sleeper = request::container("sleeper", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, &pod_config, sleeper)?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid(&node, &running.id)?))?;
    ensure!(groups.contains(&format!("{}/", node.cgroup())), "not below the parent: {groups}");

    let mut glutton = request::container("glutton", &image, &["/bin/tail", "/dev/zero"]);
    resources(&mut glutton).memory_limit_in_bytes = 32 << 20;
    resources(&mut glutton).memory_swap_limit_in_bytes = 32 << 20;
    let glutton = add(&node, &running.pod, &pod_config, glutton)?;
    node.cri().start(&glutton.id)?;
    let status = ended(&node, &glutton.id)?;
    ensure!(status.reason == "OOMKilled" && status.exit_code == 137, "{status:?}");
    Ok(())
}

pub(crate) fn a_shared_process_namespace_belongs_to_the_pod(fixture: &Fixture) -> Result<()> {
    let node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    let mut pod_config = pod(&node, "shared");
    namespaces(&mut pod_config).pid = pb::NamespaceMode::Pod.into();
    let sleeper = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, &pod_config, sleeper)?;
    let processes = exec(&node, &running.id, &["/bin/ps", "-o", "pid,comm"])?;
    let first = processes.lines().find(|line| line.trim().starts_with("1 ")).context("no pid 1")?;
    ensure!(first.contains("pause") && processes.contains("sleep"), "{processes}");
    let request =
        pb::PodSandboxStatusRequest { pod_sandbox_id: running.pod.clone(), verbose: true };
    let info = node.cri().pod_status_rpc(request)?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    let pause = info["pid"].as_u64().context("no pid")?.to_string();
    ensure!(uid_map(&pause)? == [0, ROOT, LENGTH]);
    ensure!(
        owner(Path::new(&format!("/proc/{pause}/task")))?.0 != ROOT,
        "the pause is root inside"
    );
    node.cri().drop_pod(&running.pod)?;

    // With fewer ids than the pause has numbers to choose from.
    let mut small = pod(&node, "small");
    namespaces(&mut small).pid = pb::NamespaceMode::Pod.into();
    namespaces(&mut small).userns_options = Some(own_ids(range(0, ROOT, 1000)));
    let running =
        run_in(&node, &small, request::shell("c", &image, "exec cat /proc/self/uid_map"))?;
    ended(&node, &running.id)?;
    let printed = running.printed()?.join(" ");
    let numbers: Vec<&str> = printed.split_whitespace().collect();
    ensure!(numbers == ["0", "200000", "1000"], "{numbers:?}");
    node.cri().drop_pod(&running.pod)?;
    ensure_nothing_new(&before, || node.traces())
}

pub(crate) fn a_restart_keeps_the_mapping_and_removal_leaves_nothing(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let before = node.traces().without_process();
    let pod_config = pod(&node, "kept");
    let sleeper = request::container("first", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, &pod_config, sleeper)?;
    let first = pid(&node, &running.id)?;
    node.restart()?;
    ensure!(pid(&node, &running.id)? == first && host::process(first).is_some());
    let map = exec(&node, &running.id, &["/bin/cat", "/proc/self/uid_map"])?;
    ensure!(map.split_whitespace().eq(["0", "200000", "65536"]), "{map}");
    // A container that is made now is in the same namespace.
    let second = request::container("second", &image, &["/bin/sleep", "1000"]);
    let second = add(&node, &running.pod, &pod_config, second)?;
    node.cri().start(&second.id)?;
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/user"));
    ensure!(namespace(pid(&node, &second.id)?)? == namespace(first)?);
    node.cri().drop_pod(&running.pod)?;
    ensure_nothing_new(&before, || node.traces().without_process())
}

pub(crate) fn what_cannot_be_is_refused_by_the_name_of_its_field(fixture: &Fixture) -> Result<()> {
    let node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let before = node.traces();
    for handler in ["runc", "crun"] {
        let error = node.cri().run_pod_with(&pod(&node, "unable"), handler).expect_err(handler);
        ensure!(error.code() == Code::FailedPrecondition, "{handler}: {error:?}");
        ensure!(error.message().contains("userns_options"), "{error:?}");
        ensure!(error.message().contains(&format!("{handler:?}")), "{error:?}");
    }
    let two = || [range(0, 1000, 100_000), range(0, 2000, 100_000)].concat();
    let mode = |mode: pb::NamespaceMode| pb::UserNamespace { mode: mode.into(), ..own_ids(vec![]) };
    let mut differing = own_ids(range(0, ROOT, LENGTH));
    differing.gids = range(0, ROOT, 1000);
    let wrong = [
        own_ids(vec![]),
        own_ids(two()),
        own_ids(range(1, 1000, 100_000)),
        own_ids(range(0, 0, 100_000)),
        own_ids(range(0, 1000, 0)),
        own_ids(range(0, 1000, u32::MAX)),
        own_ids(range(0, u32::MAX - 10, 100)),
        differing,
        mode(pb::NamespaceMode::Container),
        mode(pb::NamespaceMode::Target),
        pb::UserNamespace { uids: range(0, ROOT, LENGTH), ..mode(pb::NamespaceMode::Node) },
    ];
    for options in wrong {
        let mut config = request::pod(&node, "wrong");
        namespaces(&mut config).userns_options = Some(options.clone());
        let error = node.cri().run_pod_with(&config, HANDLER).expect_err("a wrong mapping");
        ensure!(error.code() == Code::InvalidArgument, "{options:?}: {error:?}");
        ensure!(error.message().contains("userns_options"), "{options:?}: {error:?}");
    }
    let mut on_host = pod(&node, "on-host");
    namespaces(&mut on_host).network = pb::NamespaceMode::Node.into();
    let error = node.cri().run_pod_with(&on_host, HANDLER).expect_err("the node's network");
    ensure!(error.code() == Code::InvalidArgument, "{error:?}");
    ensure!(error.message().contains("userns_options: is not possible"), "{error:?}");
    ensure_nothing_new(&before, || node.traces())?;

    // A container has the ids of its pod, and so have its volumes.
    let pod_config = pod(&node, "pod");
    let pod = node.cri().run_pod_with(&pod_config, HANDLER)?;
    let refused = |config: &pb::ContainerConfig, field: &str| -> Result<()> {
        let error = node.cri().create(&pod, config, &pod_config).expect_err(field);
        ensure!(error.code() == Code::InvalidArgument, "{error:?}");
        ensure!(error.message().contains(field), "{error:?}");
        Ok(())
    };
    let mut config = request::container("c", &image, &["/bin/true"]);
    let options = security(&mut config).namespace_options.get_or_insert_default();
    options.userns_options = Some(own_ids(range(0, ROOT + 1, LENGTH)));
    refused(&config, "userns_options")?;
    request::share_namespaces(&mut config, &pod_config);
    let mut volume = mapped(node.dir(), "/volume");
    volume.uid_mappings = range(0, ROOT + 1, LENGTH);
    config.mounts = vec![volume];
    refused(&config, "config.mounts[0]")
}

/// What lies below root and state, and what it is that a user of the node may do with it.
fn open_to_nobody(node: &Node) -> Result<Vec<String>> {
    let (root, state) = (node.root(), node.state());
    let find = [root.display().to_string(), state.display().to_string()];
    let all = output("find", find.iter().map(String::as_str).chain(["-maxdepth", "7"]))?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]);
    nobody.arg(
        "while read -r path; do for may in r w x; do
             test -$may \"$path\" && echo \"$may $path\"
         done; done; exit 0",
    );
    let said = run_with_input(&mut nobody, all.as_bytes())?.ok()?;
    // A runtime walks this way as the root of a pod's user namespace.
    let way = [state.clone(), state.join("containers")].map(|dir| format!("x {}", dir.display()));
    ensure!(way.iter().all(|dir| said.lines().any(|line| line == dir)), "{said}");
    Ok(said.lines().filter(|line| !way.iter().any(|dir| dir == line)).map(str::to_owned).collect())
}

pub(crate) fn nobody_on_the_node_enters_what_is_the_runtimes(fixture: &Fixture) -> Result<()> {
    let mut node = node(fixture)?;
    let image = fixture.busybox(&node)?;
    let volume = pb::Mount {
        image: Some(pb::ImageSpec { image: image.clone(), ..Default::default() }),
        container_path: "/image".to_owned(),
        readonly: true,
        ..pb::Mount::default()
    };
    let sleeper = |name: &str| request::container(name, &image, &["/bin/sleep", "1000"]);
    let mapped = run_in(&node, &pod(&node, "mapped"), sleeper("mapped"))?;
    let mut config = sleeper("plain");
    config.mounts.push(volume);
    let plain = crate::support::run_in(&node, request::pod(&node, "plain"), config)?;
    // What a container can make: a program that would run as root, if it could be reached.
    let set_uid =
        "cp /bin/busybox /tmp/rootshell && chmod 4755 /tmp/rootshell && echo x >/dev/shm/x";
    let wait = "while [ ! -e /tmp/done ]; do sleep 0.05; done";
    std::thread::scope(|scope| {
        let in_flight: Vec<_> = [&mapped, &plain]
            .map(|running| scope.spawn(|| exec(&node, &running.id, &["/bin/sh", "-c", wait])))
            .into_iter()
            .collect();
        let looked = [&mapped, &plain]
            .into_iter()
            .try_for_each(|running| exec(&node, &running.id, &["/bin/sh", "-c", set_uid]).map(drop))
            .and_then(|()| open_to_nobody(&node));
        for running in [&mapped, &plain] {
            exec(&node, &running.id, &["/bin/touch", "/tmp/done"])?;
        }
        for command in in_flight {
            command.join().expect("no panic")?;
        }
        let open = looked?;
        ensure!(open.is_empty(), "open to everybody:\n  {}", open.join("\n  "));
        anyhow::Ok(())
    })?;
    // What an older version left open is closed at the start.
    for dir in [node.root(), node.root().join("rw")] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    }
    node.restart()?;
    let open = open_to_nobody(&node)?;
    ensure!(open.is_empty(), "open to everybody:\n  {}", open.join("\n  "));
    exec(&node, &mapped.id, &["/bin/true"])?;
    for running in [&mapped, &plain] {
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}
