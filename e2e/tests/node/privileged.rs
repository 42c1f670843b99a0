//! Privileges on a node whose daemon may lack some itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::request::{self, resources, security};
use e2e::runner::Fixture;
use tonic::Code;

use crate::support::{Running, ended, exec, pid, run, run_in};

/// A set of capabilities of a process.
fn capabilities(pid: impl std::fmt::Display, set: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
    Ok(u64::from_str_radix(line.context("no such set")?.trim(), 16)?)
}

/// What a child of the daemon can have at most.
fn grantable() -> Result<u64> {
    Ok(capabilities("self", "CapBnd")? & capabilities("self", "CapPrm")?)
}

/// Lines of the daemon's log that warn of this container and say `words`.
fn warnings(node: &Node, running: &Running, words: &str) -> Result<usize> {
    let log = fs::read_to_string(node.log_file())?;
    let of_it = |line: &&str| {
        line.contains("WARN") && line.contains("not as asked") && line.contains(&running.id)
    };
    Ok(log.lines().filter(of_it).filter(|line| line.contains(words)).count())
}

fn privileged(node: &Node, image: &str, handler: &str) -> Result<Running> {
    let mut config = request::container("privileged", image, &["/bin/sleep", "1000"]);
    security(&mut config).privileged = true;
    let runtime_default = pb::security_profile::ProfileType::RuntimeDefault;
    security(&mut config).seccomp =
        Some(pb::SecurityProfile { profile_type: runtime_default.into(), ..Default::default() });
    let mut pod_config = request::host_network_pod(node, &format!("privileged-{handler}"));
    let linux = pod_config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let running = crate::support::add(node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    Ok(running)
}

/// Whether a path is a device node itself, not a link to one.
fn is_node(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.file_type().is_char_device() || meta.file_type().is_block_device())
}

pub(crate) fn a_privileged_container_has_what_the_daemon_has_and_one_warning(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let running = privileged(&node, &image, handler)?;
        let first = pid(&node, &running.id)?;
        let held = grantable()?;
        ensure!(capabilities(first, "CapEff")? == held, "{handler}");
        ensure!(capabilities(first, "CapBnd")? == held, "{handler}");
        let status = fs::read_to_string(format!("/proc/{first}/status"))?;
        ensure!(status.lines().any(|line| line == "Seccomp:\t0"), "filtered: {status}");

        let shell = |line: &str| exec(&node, &running.id, &["/bin/sh", "-c", line]);
        let mounts = shell("cat /proc/mounts")?;
        let writable = |point: &str| {
            mounts.lines().any(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                fields.get(1) == Some(&point)
                    && fields.get(3).is_some_and(|options| options.starts_with("rw"))
            })
        };
        ensure!(writable("/sys") && writable("/proc"), "{mounts}");
        let cgroups = mounts.lines().filter(|line| line.contains(" cgroup"));
        let read_only: Vec<_> = cgroups.filter(|line| line.contains(" ro,")).collect();
        ensure!(read_only.is_empty(), "{handler} {read_only:?}");
        ensure!(
            shell("ls /sys/firmware | wc -l")? != "0\n"
                || !Path::new("/sys/firmware/acpi").exists()
        );

        // Every node of the host's /dev, and nothing that leads nowhere.
        let ours = fs::read_dir("/dev")?.flatten().map(|entry| entry.path());
        let ours: Vec<_> = ours.filter(|path| is_node(path)).collect();
        ensure!(ours.len() > 5, "{ours:?}");
        let found = shell("find /dev -type c -o -type b")?;
        let theirs: BTreeSet<&str> = found.lines().collect();
        for path in ours.iter().filter_map(|path| path.to_str()) {
            // The container has terminals of its own.
            let own = ["/dev/console", "/dev/ptmx"].contains(&path);
            ensure!(own || theirs.contains(path), "{handler}: no {path}");
        }
        let all = capabilities("self", "CapBnd")?.count_ones() == held.count_ones()
            && held.count_ones() >= 41;
        let expected = usize::from(!all);
        let said = warnings(&node, &running, "capabilities left out")?;
        ensure!(said == expected, "{handler}: {said} warnings, not {expected}");
    }
    Ok(())
}

pub(crate) fn what_the_daemon_may_not_give_is_clamped_with_one_warning(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let asked = |name: &str| -> Result<Running> {
        let mut config = request::container("asks", &image, &["/bin/sleep", "1000"]);
        security(&mut config).capabilities = Some(pb::Capability {
            add_capabilities: vec![name.to_owned()],
            ..pb::Capability::default()
        });
        resources(&mut config).oom_score_adj = -999;
        run(&node, config)
    };
    let sys_resource = 1 << 24;
    for name in ["ALL", "SYS_RESOURCE", "CAP_SYS_RESOURCE"] {
        let running = asked(name)?;
        let first = pid(&node, &running.id)?;
        let held = capabilities(first, "CapEff")?;
        ensure!(held & !grantable()? == 0, "{name}: {held:x}");
        if name == "ALL" {
            ensure!(held == grantable()?, "{name}: {held:x}");
        }
        let can = grantable()? & sys_resource != 0;
        ensure!((held & sys_resource != 0) == can, "{name}: {held:x}");
        let lacks = usize::from(!can);
        ensure!(warnings(&node, &running, "capabilities left out")? == lacks, "{name}");

        // Without that capability nobody goes below the score of the daemon.
        let score: i32 =
            fs::read_to_string(format!("/proc/{first}/oom_score_adj"))?.trim().parse()?;
        let daemons = fs::read_to_string(format!("/proc/{}/oom_score_adj", node.pid()?))?;
        let lowest: i32 = if can { -999 } else { daemons.trim().parse()? };
        ensure!(score == lowest, "{name}: {score}, not {lowest}");
        ensure!(warnings(&node, &running, "oom_score_adj")? == lacks, "{name}");
        // The status says what was asked for, as for every other limit.
        let told = node.cri().container(&running.id)?.resources.and_then(|r| r.linux);
        ensure!(told.is_some_and(|told| told.oom_score_adj == -999));
        node.cri().drop_pod(&running.pod)?;
    }
    Ok(())
}

pub(crate) fn apparmor_is_what_the_host_can_do(fixture: &Fixture) -> Result<()> {
    use pb::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let enabled = enabled.is_ok_and(|text| text.trim() == "Y");
    let label = "cat /proc/self/attr/apparmor/current /proc/self/attr/current 2>/dev/null | head -n 1; true";
    let config = || request::shell("confined", &image, label);
    let with = |kind: pb::security_profile::ProfileType, name: &str| {
        let mut config = config();
        security(&mut config).apparmor =
            Some(pb::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() });
        config
    };
    let old = |text: &str| {
        let mut config = config();
        security(&mut config).apparmor_profile = text.to_owned();
        config
    };
    // Nothing said is our profile where there is one, as Kubernetes has it.
    for config in [config(), with(RuntimeDefault, ""), old("runtime/default")] {
        let running = run_in(&node, request::host_network_pod(&node, "default"), config)?;
        ensure!(ended(&node, &running.id)?.exit_code == 0);
        let ours =
            running.printed()?.first().is_some_and(|line| line == "crisol-default (enforce)");
        ensure!(ours == enabled, "{:?}", running.printed()?);
        node.cri().drop_pod(&running.pod)?;
    }
    for config in [with(Unconfined, ""), old("unconfined")] {
        let printed = crate::support::output(&node, config)?;
        ensure!(!printed.iter().any(|line| line.contains("crisol-default")), "{printed:?}");
    }
    let pod_config = request::host_network_pod(&node, "named");
    let pod = node.cri().run_pod(&pod_config)?;
    let expected = if enabled { Code::InvalidArgument } else { Code::FailedPrecondition };
    for mut config in [
        with(Localhost, "no-such-profile"),
        with(Localhost, "localhost/no-such"),
        old("localhost/x"),
    ] {
        request::share_namespaces(&mut config, &pod_config);
        let refused = node.cri().create(&pod, &config, &pod_config).err().context("accepted")?;
        ensure!(refused.code() == expected, "{refused:?}");
        ensure!(refused.message().contains("apparmor"), "{refused:?}");
    }
    ensure!(node.cri().containers()?.is_empty());
    Ok(())
}
