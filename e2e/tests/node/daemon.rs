//! The program itself: its command line, its configuration, its start and its end.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::run;
use e2e::runner::Fixture;
use e2e::wait::eventually;
use e2e::{host, layout, request};

use crate::streaming::under_a_terminal;
use crate::support::{END, add, exec, run_in};

fn crisol(arguments: &[&str]) -> Result<e2e::program::Said> {
    run(Command::new(layout::daemon()?).args(arguments))
}

pub(crate) fn version_config_and_check_say_what_they_should(fixture: &Fixture) -> Result<()> {
    ensure!(crisol(&["version"])?.ok()?.contains("crisol"));
    let json: serde_json::Value = serde_json::from_str(&crisol(&["version", "--json"])?.ok()?)?;
    ensure!(json["version"].as_str().is_some_and(|version| version.starts_with("0.")), "{json}");

    // The default configuration is complete, explains itself and is valid.
    let text = crisol(&["config", "--default"])?.ok()?;
    for key in [
        "root = \"/var/lib/crisol\"",
        "state = \"/run/crisol\"",
        "listen = \"/run/crisol/crisol.sock\"",
        "driver = \"auto\"",
        "default_handler",
        "registries_conf",
        "plugin_dirs",
    ] {
        ensure!(text.contains(key), "no {key} in\n{text}");
    }
    let keys = text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).count();
    let reasons = text.lines().filter(|line| line.trim_start().starts_with('#')).count();
    ensure!(reasons >= keys, "{reasons} lines of reason for {keys} keys");
    let file = fixture.dir().join("default.toml");
    fs::write(&file, &text)?;
    let file = file.display().to_string();
    ensure!(crisol(&["config", "--config", &file])?.ok()?.contains("root = \"/var/lib/crisol\""));

    // The preflight of a node that works finds nothing that would stop it.
    let node = fixture.node();
    let said = run(&mut node.command(&["check"])?)?;
    ensure!(said.status.success(), "{said:?}");
    for word in ["runc", "crun", "cgroup", "overlay"] {
        ensure!(said.stdout.contains(word), "nothing about {word} in\n{}", said.stdout);
    }
    // And of one that cannot, says so.
    let broken = Node::prepare(Options::default())?;
    let config = fs::read_to_string(broken.config_file())?;
    let nri = broken.config_file().join("nri.sock").display().to_string();
    let config = config.replace(&broken.nri_socket().display().to_string(), &nri);
    fs::write(broken.config_file(), config.replace("/usr/sbin/runc", "/no/such/runc"))?;
    let said = run(&mut broken.command(&["check"])?)?;
    ensure!(!said.status.success(), "{said:?}");
    ensure!(format!("{}{}", said.stdout, said.stderr).contains("/no/such/runc"), "{said:?}");
    ensure!(said.stdout.contains(&format!("{nri} cannot be made")), "{said:?}");
    Ok(())
}

pub(crate) fn a_long_state_directory_is_as_good_as_a_short_one(fixture: &Fixture) -> Result<()> {
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    let state = node.dir().join("s".repeat(90 - 1 - node.dir().as_os_str().len()));
    ensure!(state.as_os_str().len() == 90);
    let config = fs::read_to_string(node.config_file())?;
    let line = |state: &std::path::Path| format!("state = \"{}\"", state.display());
    fs::write(node.config_file(), config.replace(&line(&node.state()), &line(&state)))?;
    node.spawn()?;
    let image = fixture.busybox(&node)?;
    for handler in ["runc", "crun"] {
        let pod_config = request::host_network_pod(&node, handler);
        let pod = node.cri().run_pod_with(&pod_config, handler)?;
        let mut config = request::shell("tty", &image, "tty; sleep 1000");
        config.tty = true;
        let running = add(&node, &pod, &pod_config, config)?;
        node.cri().start(&running.id)?;
        eventually("the terminal is there", END, || {
            let printed = running.printed()?;
            ensure!(printed.iter().any(|line| line.contains("/dev/pts/")), "{printed:?}");
            Ok(())
        })?;
        let said = under_a_terminal(&node, &["exec", "-it", &running.id, "/bin/sh", "-c", "tty"])?;
        ensure!(said.contains("/dev/pts/"), "{said}");
        ensure!(exec(&node, &running.id, &["/bin/echo", "probed"])? == "probed\n");
        node.cri().drop_pod(&pod)?;
    }
    Ok(())
}

pub(crate) fn every_mistake_of_a_configuration_is_named_with_file_key_and_line(
    fixture: &Fixture,
) -> Result<()> {
    let dir = fixture.dir().join("config");
    fs::create_dir_all(dir.join("crisol.d"))?;
    let file = dir.join("crisol.toml");
    fs::write(&file, "root = 5\n\n[cri]\nlisten = \"/run/x.sock\"\nlissten = \"/y\"\n")?;
    fs::write(dir.join("crisol.d/50-more.toml"), "[cgroup]\ndriver = \"sometimes\"\n")?;
    let said = crisol(&["serve", "--config", &file.display().to_string()])?;
    ensure!(!said.status.success(), "started with it");
    for words in [
        ["crisol.toml", "root", "1"],
        ["crisol.toml", "lissten", "5"],
        ["50-more.toml", "driver", "2"],
    ] {
        let named = said.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(named, "no line with {words:?} in\n{}", said.stderr);
    }
    Ok(())
}

pub(crate) fn readiness_is_announced_and_sigterm_drains(fixture: &Fixture) -> Result<()> {
    let socket = fixture.dir().join("notify");
    let notify = UnixDatagram::bind(&socket)?;
    notify.set_read_timeout(Some(Duration::from_secs(60)))?;
    let env = vec![("NOTIFY_SOCKET".to_owned(), socket.display().to_string())];
    let mut node = fixture.own_node(Options { env, ..Options::default() })?;
    let mut said = vec![0; 4096];
    let size = notify.recv(&mut said).context("no message to NOTIFY_SOCKET")?;
    let said = String::from_utf8_lossy(&said[..size]).into_owned();
    ensure!(said.lines().any(|line| line == "READY=1"), "{said:?}");

    let image = fixture.busybox(&node)?;
    let container = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, request::host_network_pod(&node, "stays"), container)?;
    let processes = host::processes_of(node.dir(), Some(node.cgroup())).len();
    node.terminate()?;
    ensure!(!node.socket().exists(), "the socket stays behind");
    // The daemon alone is gone.
    ensure!(host::processes_of(node.dir(), Some(node.cgroup())).len() == processes - 1);
    node.spawn()?;
    ensure!(node.cri().container(&running.id)?.state() == pb::ContainerState::ContainerRunning);
    Ok(())
}

pub(crate) fn a_log_that_takes_nothing_fails_no_request(fixture: &Fixture) -> Result<()> {
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    node.spawn_without_room_for_its_log()?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "silent");
    let sleeper = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, pod_config, sleeper)?;
    exec(&node, &running.id, &["/bin/true"])?;
    node.cri().drop_pod(&running.pod)?;
    node.terminate()
}

pub(crate) fn two_daemons_never_share_a_root(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    // Another socket and another state directory do not make it another root.
    let config = fs::read_to_string(node.config_file())?;
    let state = node.state().display().to_string();
    let other = config.replace(&state, &format!("{state}-other"));
    let file = fixture.dir().join("second.toml");
    fs::write(&file, other)?;
    let said = crisol(&["serve", "--config", &file.display().to_string()])?;
    ensure!(!said.status.success());
    ensure!(said.stderr.contains(&node.root().display().to_string()), "{}", said.stderr);
    node.cri().version_rpc(pb::VersionRequest::default())?;
    Ok(())
}

pub(crate) fn a_missing_network_configuration_is_a_reason_in_status(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let network = || -> Result<(bool, String)> {
        let response = node.cri().status_rpc(pb::StatusRequest { verbose: false })?;
        let conditions = response.status.context("status")?.conditions;
        let found = conditions.into_iter().find(|c| c.r#type == "NetworkReady");
        let found = found.context("no NetworkReady")?;
        Ok((found.status, format!("{}: {}", found.reason, found.message)))
    };
    ensure!(network()?.0, "{:?}", network()?);
    let good = fs::read(node.network_file())?;
    let becomes = |ready: bool| {
        eventually("the condition changes", END, || {
            let (now, why) = network()?;
            ensure!(now == ready, "{now}: {why}");
            Ok(why)
        })
    };
    fs::remove_file(node.network_file())?;
    let why = becomes(false)?;
    ensure!(why.contains("net.d"), "does not say where it looked: {why}");
    fs::write(node.network_file(), &good)?;
    becomes(true)?;
    fs::write(node.network_file(), b"{ broken")?;
    let why = becomes(false)?;
    ensure!(why.contains("10-crisol.conflist"), "does not name the file: {why}");
    fs::write(node.network_file(), &good)?;
    becomes(true)?;
    Ok(())
}
