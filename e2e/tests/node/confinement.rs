//! Identity, privileges and mounts as a container itself sees them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail, ensure};
use crisol::cri::pb;
use e2e::host;
use e2e::node::Node;
use e2e::request::{self, security};
use e2e::runner::Fixture;
use e2e::wait::eventually;

use crate::support::{END, add, exec, output, pid, run, run_in, shell};

/// CapEff of the default set: the fourteen capabilities that OCI runtimes have always given.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// A line `Name:\tvalue` of /proc/self/status.
fn field<'a>(lines: &'a [String], name: &str) -> Result<&'a str> {
    let line = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {lines:?}"))?.trim())
}

fn hex(lines: &[String], name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(field(lines, name)?, 16)?)
}

pub(crate) fn the_default_is_confined(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let lines = shell(&node, &image, "cat /proc/self/status")?;
    let effective = hex(&lines, "CapEff")?;
    ensure!(effective & !DEFAULT_CAPABILITIES == 0, "CapEff {effective:x}");
    ensure!(hex(&lines, "CapInh")? == 0 && hex(&lines, "CapAmb")? == 0);
    ensure!(hex(&lines, "CapBnd")? == effective);

    let look = "cat /proc/timer_list /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                (echo 0 >/proc/sys/kernel/panic) 2>/dev/null && echo panic is writable; \
                for dir in /sys/fs/cgroup/memory /sys/fs/cgroup; do if [ -e $dir/cgroup.procs ]; then \
                (mkdir $dir/x) 2>/dev/null && echo cgroup is writable; fi; done; \
                (echo 1 >/sys/kernel/mm/ksm/run) 2>/dev/null && echo sysfs is writable; \
                (: </dev/mem) 2>/dev/null && echo memory; \
                ls /dev | sort | tr '\\n' ' '; echo; cat /proc/1/comm; exit 0";
    let lines = shell(&node, &image, look)?;
    ensure!(lines[0] == "0" && lines[1] == "0", "masked paths show something: {lines:?}");
    ensure!(lines.len() == 4, "{lines:?}");
    let devices = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    // Links that runtimes add where the kernel has what they lead to.
    let more = |name: &&str| !["core", "console"].contains(name);
    let found: Vec<&str> = lines[2].split_whitespace().filter(more).collect();
    ensure!(found.join(" ") == devices, "{found:?}");
    ensure!(lines[3] == "sh", "the container's own process is its first: {lines:?}");

    let mut unmasked = request::shell("unmasked", &image, "ls /sys/firmware | wc -l; exit 0");
    security(&mut unmasked).masked_paths = vec!["/proc/acpi".to_owned()];
    let masked = request::shell("masked", &image, "cat /etc/passwd | wc -c");
    let mut masked = masked;
    security(&mut masked).masked_paths = vec!["/etc/passwd".to_owned()];
    security(&mut masked).readonly_paths = vec!["/tmp".to_owned()];
    ensure!(output(&node, masked)? == ["0"]);
    output(&node, unmasked)?;

    let mut privileged = request::shell("privileged", &image, "cat /proc/self/status; ls /dev/mem");
    security(&mut privileged).privileged = true;
    let mut pod_config = request::host_network_pod(&node, "privileged");
    pod_config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged =
        true;
    let running = run_in(&node, pod_config, privileged)?;
    crate::support::ended(&node, &running.id)?;
    let ours = fs::read_to_string("/proc/self/status")?;
    let ours: Vec<String> = ours.lines().map(str::to_owned).collect();
    ensure!(hex(&running.printed()?, "CapEff")? == hex(&ours, "CapEff")?);
    Ok(())
}

pub(crate) fn seccomp_filters_when_asked(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    // unshare(1) of a user namespace is refused by the default filter and by nothing else here.
    let line =
        "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; unshare -U true && echo made; exit 0";
    let with = |kind: pb::security_profile::ProfileType, path: &str| {
        let mut config = request::shell("c", &image, line);
        security(&mut config).seccomp =
            Some(pb::SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() });
        output(&node, config)
    };
    let lines = with(pb::security_profile::ProfileType::RuntimeDefault, "")?;
    ensure!(field(&lines, "Seccomp")? == "2", "{lines:?}");
    ensure!(!lines.contains(&"made".to_owned()), "{lines:?}");
    let lines = with(pb::security_profile::ProfileType::Unconfined, "")?;
    ensure!(field(&lines, "Seccomp")? == "0", "{lines:?}");
    // CRI: nil is unconfined.
    let lines = output(&node, request::shell("nil", &image, line))?;
    ensure!(field(&lines, "Seccomp")? == "0", "{lines:?}");
    ensure!(field(&lines, "NoNewPrivs")? == "0", "{lines:?}");

    let profile = fixture.dir().join("no-mkdir.json");
    let rule = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    });
    fs::write(&profile, serde_json::to_vec(&rule)?)?;
    let mut config = request::shell("local", &image, "mkdir /tmp/x || echo refused");
    security(&mut config).seccomp = Some(pb::SecurityProfile {
        profile_type: pb::security_profile::ProfileType::Localhost.into(),
        localhost_ref: profile.display().to_string(),
    });
    ensure!(output(&node, config)? == ["refused"]);
    let mut config = request::shell("nnp", &image, line);
    security(&mut config).no_new_privs = true;
    ensure!(field(&output(&node, config)?, "NoNewPrivs")? == "1");
    Ok(())
}

pub(crate) fn capabilities_are_as_asked(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let with = |add: &[&str], drop: &[&str]| {
        let mut config = request::shell("c", &image, "cat /proc/self/status");
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        security(&mut config).capabilities = Some(pb::Capability {
            add_capabilities: words(add),
            drop_capabilities: words(drop),
            ..pb::Capability::default()
        });
        hex(&output(&node, config)?, "CapEff")
    };
    let (net_admin, sys_time, chown) = (1 << 12, 1 << 25, 1);
    let effective = with(&["NET_ADMIN", "CAP_SYS_TIME"], &["CHOWN"])?;
    ensure!(effective & (net_admin | sys_time) == net_admin | sys_time, "{effective:x}");
    ensure!(effective & chown == 0, "{effective:x}");
    ensure!(with(&[], &["ALL"])? == 0);
    ensure!(with(&["NET_ADMIN"], &["ALL"])? == net_admin);
    ensure!(with(&["ALL"], &["NET_ADMIN"])? & (net_admin | sys_time) == sys_time);
    Ok(())
}

pub(crate) fn users_come_by_number_name_and_image(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let busybox = fixture.busybox(&node)?;
    let user = fixture.image("user:latest");
    node.cri().pull(&user)?;
    let id =
        |config: pb::ContainerConfig| -> Result<String> { Ok(output(&node, config)?.remove(0)) };
    let line = "echo $(id -u):$(id -g):$(id -G) $(pwd) $GREETING $HOME";

    // The image's own: USER app, its groups, WORKDIR, ENV; HOME from its passwd.
    let said = id(request::shell("image", &user, line))?;
    ensure!(said == "1000:1000:1000 1500 /home/app hello /home/app", "{said:?}");
    let mut whole = request::container("whole", &user, &[]);
    whole.command.clear();
    ensure!(output(&node, whole.clone())? == ["from image"]);
    whole.args = vec!["else".to_owned()];
    ensure!(output(&node, whole)? == ["else"], "args replace CMD and keep ENTRYPOINT");

    let mut number = request::shell("number", &busybox, line);
    security(&mut number).run_as_user = Some(pb::Int64Value { value: 4321 });
    security(&mut number).run_as_group = Some(pb::Int64Value { value: 1234 });
    security(&mut number).supplemental_groups = vec![77, 88];
    let said = id(number)?;
    ensure!(said.starts_with("4321:1234:1234 77 88 /"), "{said:?}");

    let named = |policy: pb::SupplementalGroupsPolicy| {
        let mut config = request::shell("named", &busybox, line);
        security(&mut config).run_as_username = "app".to_owned();
        security(&mut config).supplemental_groups = vec![77];
        security(&mut config).supplemental_groups_policy = policy.into();
        id(config)
    };
    let said = named(pb::SupplementalGroupsPolicy::Merge)?;
    let groups: Vec<&str> = said.split([':', ' ']).skip(2).take(3).collect();
    ensure!(said.starts_with("1000:1000:1000 "), "{said:?}");
    ensure!(groups.contains(&"77") && groups.contains(&"1500"), "{said:?}");
    let said = named(pb::SupplementalGroupsPolicy::Strict)?;
    ensure!(said.starts_with("1000:1000:1000 77 /"), "{said:?}");

    for (policy, groups) in [
        (pb::SupplementalGroupsPolicy::Merge, &[77, 1000, 1500][..]),
        (pb::SupplementalGroupsPolicy::Strict, &[77, 1000]),
    ] {
        let mut config = request::shell("who", &busybox, "exit 0");
        security(&mut config).run_as_username = "app".to_owned();
        security(&mut config).supplemental_groups = vec![77];
        security(&mut config).supplemental_groups_policy = policy.into();
        let (running, status) = crate::support::finish(&node, config)?;
        let user = status.user.and_then(|user| user.linux).context("no user in the status")?;
        ensure!((user.uid, user.gid) == (1000, 1000), "{user:?}");
        ensure!(user.supplemental_groups == groups, "{policy:?}: {user:?}");
        node.cri().drop_pod(&running.pod)?;
    }

    let mut config = request::shell("env", &busybox, "echo $A-$B; pwd");
    config.working_dir = "/made/here".to_owned();
    let env = |key: &str, value: &str| pb::KeyValue { key: key.to_owned(), value: value.into() };
    config.envs = vec![env("A", "1"), env("B", "two words"), env("A", "last")];
    ensure!(output(&node, config)? == ["last-two words", "/made/here"]);
    Ok(())
}

pub(crate) fn a_read_only_root_cannot_be_written(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let line = "(echo x >/file) 2>/dev/null || echo refused; echo x >/dev/shm/y && echo shm";
    let mut config = request::shell("ro", &image, line);
    security(&mut config).readonly_rootfs = true;
    ensure!(output(&node, config)? == ["refused", "shm"]);
    // What one container writes, no other sees.
    shell(&node, &image, "echo x >/file")?;
    ensure!(shell(&node, &image, "ls /file 2>/dev/null || echo none")? == ["none"]);
    Ok(())
}

pub(crate) fn mounts_arrive_with_their_options(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let dir = fixture.dir().join("volumes");
    for name in ["rw", "ro", "private"] {
        fs::create_dir_all(dir.join(name))?;
        fs::write(dir.join(name).join("file"), name)?;
    }
    fs::write(dir.join("hosts"), "127.0.0.1 from-the-kubelet\n")?;
    // A link on the node is followed on the node.
    let (link, devices) = (dir.join("link"), dir.join("devices"));
    fs::remove_file(&link).ok();
    std::os::unix::fs::symlink(dir.join("ro"), &link)?;
    // A directory stands for the devices in it.
    fs::create_dir_all(devices.join("below"))?;
    for (path, minor) in [("null", "3"), ("below/zero", "5")] {
        let path = devices.join(path).display().to_string();
        e2e::program::output("mknod", [&path, "c", "1", minor])?;
    }
    let mount = |from: &str, to: &str, readonly: bool| pb::Mount {
        host_path: dir.join(from).display().to_string(),
        container_path: to.to_owned(),
        readonly,
        ..pb::Mount::default()
    };
    let line = "cat /ro/file; echo; (echo x >/ro/x) 2>/dev/null || echo refused; echo y >/rw/y; \
                cat /etc/hosts; cat /rw/below/file; echo; grep -c ' /late ' /proc/mounts; \
                cat /link/file; echo; head -c 3 /dev/made/below/zero | wc -c; ls /dev/made; exit 0";
    let mut config = request::shell("mounts", &image, line);
    // Deeper before shallower: order is by depth, not by request.
    config.mounts = vec![
        mount("private", "/rw/below", false),
        mount("rw", "/rw", false),
        mount("ro", "/ro", true),
        mount("hosts", "/etc/hosts", true),
        mount("link", "/link", false),
    ];
    config.devices = vec![pb::Device {
        host_path: devices.display().to_string(),
        container_path: "/dev/made".to_owned(),
        permissions: "rw".to_owned(),
    }];
    let asked = config.mounts.clone();
    let running = run(&node, config)?;
    let status = crate::support::ended(&node, &running.id)?;
    let lines = running.printed()?;
    let expected = ["ro", "refused", "127.0.0.1 from-the-kubelet", "private", "0"];
    ensure!(lines[..5] == expected && lines[5..] == ["ro", "3", "below", "null"], "{lines:?}");
    ensure!(fs::read_to_string(dir.join("rw/y"))? == "y\n");
    // The kubelet finds the termination message by these.
    ensure!(status.mounts == asked, "{:?}", status.mounts);
    Ok(())
}

pub(crate) fn a_shared_process_namespace_has_our_pause(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut pod_config = request::host_network_pod(&node, "shared");
    request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Pod.into();
    let pod = node.cri().run_pod(&pod_config)?;
    let start = |name: &str| {
        let config = request::container(name, &image, &["/bin/sleep", "1000"]);
        let running = add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        anyhow::Ok(running.id)
    };
    let (first, second) = (start("first")?, start("second")?);
    let processes = exec(&node, &first, &["/bin/ps", "-o", "pid,comm"])?;
    ensure!(processes.matches("sleep").count() == 2, "{processes}");
    let init = processes.lines().find(|line| line.trim().starts_with("1 ")).context("no pid 1")?;
    ensure!(!init.contains("sleep"), "{init}");
    // An orphan is adopted and reaped by pid 1.
    exec(&node, &first, &["/bin/sh", "-c", "(sh -c 'sleep 0.2 &') ; sleep 0.6"])?;
    let processes = exec(&node, &first, &["/bin/ps", "-o", "pid,stat,comm"])?;
    ensure!(!processes.contains(" Z"), "{processes}");
    let survivor = pid(&node, &second)?;
    node.cri().stop(&first, 0)?;
    ensure!(host::process(survivor).is_some(), "stopping one container killed the other");
    // No pause image: only the images that were asked for are there.
    ensure!(node.cri().images()?.iter().all(|image| !image.repo_tags.join("").contains("pause")));
    node.cri().drop_pod(&pod)?;
    no_pause_without_need(&node, &image)
}

/// A pod that shares no process namespace has no process of its own.
fn no_pause_without_need(node: &Node, image: &str) -> Result<()> {
    let config = request::container("alone", image, &["/bin/sleep", "1000"]);
    run_in(node, request::pod(node, "alone"), config)?;
    eventually("only the container's process, its monitor and the monitor's reader", END, || {
        let daemon = node.pid()?;
        let mut processes = host::processes_of(node.dir(), Some(node.cgroup()));
        processes.retain(|process| process.pid != daemon);
        ensure!(processes.len() == 3, "{processes:?}");
        Ok(())
    })
}

/// With runc: crun's own defaults open the console in every container, whatever the rules say.
pub(crate) fn the_nodes_console_is_not_a_containers(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    // A node may be made, as of any device; what the group forbids is to open it.
    let line = "mknod /null c 1 3 && (: </null) && (: >/null) && echo null; \
                mknod /console c 5 1 && echo made; \
                for way in '</console' '>/console'; do eval \"(: $way)\" 2>&1; done; exit 0";
    let pod_config = request::host_network_pod(&node, "console");
    let pod = node.cri().run_pod_with(&pod_config, "runc")?;
    let running = add(&node, &pod, &pod_config, request::shell("c", &image, line))?;
    node.cri().start(&running.id)?;
    crate::support::ended(&node, &running.id)?;
    let lines = running.printed()?;
    let [null, made, refused @ ..] = &lines[..] else { bail!("{lines:?}") };
    ensure!(null == "null" && made == "made", "{lines:?}");
    let refusals = refused.iter().filter(|line| line.contains("Operation not permitted"));
    ensure!(refusals.count() == 2 && refused.len() == 2, "{lines:?}");
    Ok(node.cri().drop_pod(&pod)?)
}

pub(crate) fn a_monitor_has_no_rights_but_for_the_calls_that_need_them(
    fixture: &Fixture,
) -> Result<()> {
    /// CHOWN, DAC_OVERRIDE, KILL, SETPCAP, SYS_PTRACE and SYS_RESOURCE.
    const KEPT: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 19 | 1 << 24;
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let pod_config = request::host_network_pod(&node, &format!("rights-{handler}"));
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let mut config = request::shell("c", &image, "while :; do echo more; sleep 0.1; done");
        security(&mut config).run_as_user = Some(pb::Int64Value { value: 1000 });
        let running = add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        let monitor = parent(pid(&node, &running.id)?)?;
        ensure!(fs::read_to_string(format!("/proc/{monitor}/comm"))? == "conmon\n");
        let has_none = || -> Result<()> {
            let status = fs::read_to_string(format!("/proc/{monitor}/status"))?;
            let lines: Vec<String> = status.lines().map(str::to_owned).collect();
            ensure!(hex(&lines, "CapEff")? == 0 && hex(&lines, "CapInh")? == 0, "{status}");
            ensure!(hex(&lines, "CapPrm")? & !KEPT == 0, "{status}");
            reader(monitor).map(drop)
        };
        has_none()?;
        // What takes rights works: another process, the end of one of another user, a new log that
        // is in a directory of somebody else's.
        exec(&node, &running.id, &["/bin/true"])?;
        let request = pb::ExecSyncRequest {
            container_id: running.id.clone(),
            cmd: ["/bin/sleep", "1000"].map(str::to_owned).into(),
            timeout: 1,
        };
        let late = node.cri().exec_rpc(request).err().context("it ended")?;
        ensure!(late.code() == tonic::Code::DeadlineExceeded, "{late:?}");
        let lives = || host::processes_of(node.dir(), Some(node.cgroup()));
        ensure!(!lives().iter().any(|process| process.command == "/bin/sleep 1000"), "it lives");
        let dir = running.log().parent().context("no directory")?.to_owned();
        fs::rename(running.log(), dir.join("old"))?;
        std::os::unix::fs::chown(&dir, Some(1000), Some(1000))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let container_id = running.id.clone();
        node.cri().reopen_rpc(pb::ReopenContainerLogRequest { container_id })?;
        eventually("it writes to the new log", END, || {
            ensure!(fs::metadata(running.log())?.len() > 0);
            Ok(())
        })?;
        has_none()?;
        // What strangers may have taken over is followed by another, with no more rights.
        host::kill_process(reader(monitor)?);
        exec(&node, &running.id, &["/bin/true"])?;
        eventually("it has another reader", END, || reader(monitor))?;
        let size = fs::metadata(running.log())?.len();
        eventually("it writes to the log", END, || {
            ensure!(fs::metadata(running.log())?.len() > size);
            Ok(())
        })?;
        node.cri().drop_pod(&pod)?;
    }
    Ok(())
}

/// The process of a monitor that reads what its container writes. It has no rights at all.
fn reader(monitor: u32) -> Result<u32> {
    let is_reader = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name == "conmon-reader\n")
    };
    let mut children = host::children_of(monitor).into_iter().map(|child| child.pid);
    let reader = children.find(is_reader).context("no reader")?;
    let status = fs::read_to_string(format!("/proc/{reader}/status"))?;
    let lines: Vec<String> = status.lines().map(str::to_owned).collect();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(hex(&lines, set)? == 0, "{status}");
    }
    ensure!(field(&lines, "NoNewPrivs")? == "1" && field(&lines, "Seccomp")? == "2", "{status}");
    Ok(reader)
}

pub(crate) fn who_sees_the_nodes_processes_gets_into_no_monitor(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let sleeps = |name: &str| request::container(name, &image, &["/bin/sleep", "1000"]);
    let other = run(&node, sleeps("other"))?;
    let monitor = parent(pid(&node, &other.id)?)?;
    let mut pod_config = request::host_network_pod(&node, "sees");
    request::namespaces(&mut pod_config).pid = pb::NamespaceMode::Node.into();
    let sees = run_in(&node, pod_config, sleeps("sees"))?;
    for (pid, name) in [(monitor, "conmon"), (reader(monitor)?, "conmon-reader")] {
        // Root, with the default capabilities.
        let line = format!(
            "id -u; cat /proc/{pid}/comm; for way in fd/0 environ mem ns/mnt root/etc; do \
             ls /proc/{pid}/$way/. >/dev/null 2>&1 && echo $way; \
             head -c 1 /proc/{pid}/$way >/dev/null 2>&1 && echo $way; done; exit 0"
        );
        let said = exec(&node, &sees.id, &["/bin/sh", "-c", &line])?;
        ensure!(said == format!("0\n{name}\n"), "{said:?}");
    }
    for running in [other, sees] {
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

/// Whose child a process is.
fn parent(pid: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let lines: Vec<String> = status.lines().map(str::to_owned).collect();
    Ok(field(&lines, "PPid")?.parse()?)
}
