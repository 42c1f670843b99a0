//! What the daemon believes belongs to root alone, and who gets into a container is written down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options};
use e2e::program::{install, run as run_program};
use e2e::request;
use e2e::runner::Fixture;
use e2e::wait::eventually;

use crate::streaming::{exec_url, sleeper};
use crate::support::{END, add, ended};

fn set(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))
}

pub(crate) fn what_others_may_write_is_not_used_until_that_is_accepted(
    fixture: &Fixture,
) -> Result<()> {
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    let plugins = node.dir().join("nri/plugins");
    fs::create_dir_all(&plugins)?;
    let plugin = plugins.join("10-mine");
    fs::write(&plugin, "#!/bin/true\n")?;
    set(&plugin, 0o755)?;
    let (policy, networks) = (node.dir().join("policy.json"), node.dir().join("net.d"));
    for (path, good, bad) in [
        (policy.clone(), 0o644, 0o666),
        (networks.clone(), 0o755, 0o1777),
        (node.network_file(), 0o644, 0o646),
        (plugin.clone(), 0o755, 0o757),
        (node.dir().join("nri"), 0o755, 0o777),
        (node.config_file(), 0o644, 0o666),
    ] {
        set(&path, bad)?;
        for command in ["serve", "check"] {
            let said = run_program(&mut node.command(&[command])?)?;
            let words = said.stdout + &said.stderr;
            ensure!(!said.status.success(), "{command}, {}: {words}", path.display());
            let why = format!("{} can be written by others", path.display());
            ensure!(words.contains(&why), "{command}: {words}");
        }
        set(&path, good)?;
    }
    fs::remove_file(&plugin)?;
    set(&policy, 0o666)?;
    let drop_ins = node.config_file().with_extension("d");
    fs::create_dir(&drop_ins)?;
    fs::write(drop_ins.join("10.toml"), "accept_writable_files = true\n")?;
    node.spawn()?;
    Ok(())
}

pub(crate) fn what_others_may_write_later_is_not_used_either(fixture: &Fixture) -> Result<()> {
    let program = fixture.dir().join("trusted-runc");
    install(&program, "#!/bin/sh\nexec /usr/sbin/runc \"$@\"\n")?;
    let config = format!(
        "[runtime.handlers.trusted]\ntype = \"oci\"\npath = \"{}\"\nroot = \"{}\"\n",
        program.display(),
        fixture.dir().join("trusted-root").display()
    );
    let options = Options { config, log: "info".to_owned(), ..Options::default() };
    let node = fixture.own_node(options)?;
    let image = fixture.busybox(&node)?;
    let pod_config = request::host_network_pod(&node, "trusting");
    let pod = node.cri().run_pod_with(&pod_config, "trusted")?;
    let running = add(&node, &pod, &pod_config, sleeps("one", &image))?;
    node.cri().start(&running.id)?;

    let network = || {
        let status = node.cri().status_rpc(pb::StatusRequest { verbose: false })?;
        let conditions = status.status.unwrap_or_default().conditions;
        let ready = conditions.into_iter().find(|c| c.r#type == "NetworkReady");
        let ready = ready.filter(|ready| !ready.status);
        Ok(ready.map(|ready| format!("{}: {}", ready.reason, ready.message)))
    };
    let refused = |answer: Result<(), tonic::Status>| answer.err().map(|e| e.message().to_owned());
    type Look<'a> = &'a dyn Fn() -> Result<Option<String>>;
    let looks: [(&Path, u32, Look<'_>); 3] = [
        (&node.network_file(), 0o644, &network),
        (&program, 0o755, &|| Ok(refused(node.cri().exec(&running.id, &["/bin/true"]).map(drop)))),
        (&node.dir().join("policy.json"), 0o644, &|| {
            Ok(refused(node.cri().pull(&image).map(drop)))
        }),
    ];
    for (path, good, look) in looks {
        let name = path.display();
        let used = || {
            eventually("it is used", END, || {
                ensure!(look()?.is_none(), "{name}: {:?}", look()?);
                Ok(())
            })
        };
        used()?;
        set(path, good | 0o002)?;
        eventually("it is not used", END, || {
            let why = look()?.with_context(|| format!("{name} is used"))?;
            ensure!(why.contains(&format!("{name} can be written by others")), "{why}");
            Ok(())
        })?;
        set(path, good)?;
        used()?;
    }
    // Who may remove a policy could as well change what it says.
    fs::remove_file(node.dir().join("policy.json"))?;
    set(node.dir(), 0o777)?;
    let why = refused(node.cri().pull(&image).map(drop)).context("pulled without a policy")?;
    ensure!(why.contains("can be written by others"), "{why}");
    set(node.dir(), 0o711)?;

    let status = node.cri().container(&running.id)?;
    ensure!(status.state() == pb::ContainerState::ContainerRunning, "{:?}", status.state());

    // What runs is asked to end all the same; what the runtime has to clean up is owed.
    set(&program, 0o757)?;
    // The first stop tells how it went with that, the container has ended in any case.
    node.cri().stop(&running.id, 60).ok();
    let status = ended(&node, &running.id)?;
    ensure!(status.exit_code == 7, "exit code {}", status.exit_code);
    set(&program, 0o755)?;
    eventually("the pod goes", END, || Ok(node.cri().drop_pod(&pod)?))
}

/// A container that sleeps until it is asked to end.
fn sleeps(name: &str, image: &str) -> pb::ContainerConfig {
    request::shell(name, image, "trap 'exit 7' TERM; while :; do sleep 0.1; done")
}

pub(crate) fn who_enters_a_container_is_written_down(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options { log: "info".to_owned(), ..Options::default() })?;
    let running = sleeper(&node, fixture, "crun")?;
    let container_id = running.id.clone();
    exec_url(&node, &running.id, "echo secret-4728", false)?;
    node.cri().attach_url_rpc(pb::AttachRequest {
        container_id,
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    })?;
    let pod_sandbox_id = running.pod.clone();
    node.cri().port_forward_url_rpc(pb::PortForwardRequest { pod_sandbox_id, port: vec![8080] })?;
    let mut pod_config = request::host_network_pod(&node, "powerful");
    let security = &mut pod_config.linux.get_or_insert_default().security_context;
    security.get_or_insert_default().privileged = true;
    let pod = node.cri().run_pod(&pod_config)?;
    let mut config = request::container("strong", &fixture.busybox(&node)?, &["/bin/true"]);
    request::share_namespaces(&mut config, &pod_config);
    let security = &mut config.linux.get_or_insert_default().security_context;
    security.get_or_insert_default().privileged = true;
    node.cri().create(&pod, &config, &pod_config)?;
    // Probes have their lines only for who wants them.
    ensure!(node.cri().exec(&running.id, &["/bin/true"])?.exit_code == 0);

    let written = || -> Result<Vec<String>> {
        let log = fs::read_to_string(node.log_file())?;
        Ok(log.lines().filter(|line| line.contains(" audit: ")).map(str::to_owned).collect())
    };
    eventually("five lines", END, || {
        ensure!(written()?.len() == 5, "{:#?}", written()?);
        Ok(())
    })?;
    let (lines, own) = (written()?, format!("pid={}", std::process::id()));
    for (line, words) in lines.iter().zip([
        ["rpc=\"Exec\"", &running.id, "/bin/sh"],
        ["rpc=\"Attach\"", &running.id, "stdin"],
        ["rpc=\"PortForward\"", &running.pod, ""],
        ["rpc=\"RunPodSandbox\"", "powerful", "privileged"],
        ["rpc=\"CreateContainer\"", "strong", "privileged"],
    ]) {
        for word in words.into_iter().chain([own.as_str(), "uid=0", "command=", "program=\"/"]) {
            ensure!(line.contains(word), "{word} is not in {line}");
        }
        ensure!(!line.contains("secret-4728"), "{line}");
    }
    node.remove_all_pods()?;
    Ok(())
}

pub(crate) fn commands_of_probes_are_written_down_when_asked_for(fixture: &Fixture) -> Result<()> {
    let options = Options { log: "info,audit=debug".to_owned(), ..Options::default() };
    let node = fixture.own_node(options)?;
    let running = sleeper(&node, fixture, "runc")?;
    ensure!(node.cri().exec(&running.id, &["/bin/echo", "secret-4729"])?.exit_code == 0);
    let own = format!("pid={}", std::process::id());
    eventually("its line", END, || {
        let log = fs::read_to_string(node.log_file())?;
        let line = log.lines().find(|line| line.contains(" audit: ")).context("no line")?;
        for word in ["rpc=\"ExecSync\"", &running.id, "/bin/echo", &own, "uid=0"] {
            ensure!(line.contains(word), "{word} is not in {line}");
        }
        ensure!(!log.contains("secret-4729"), "an argument is in the log");
        Ok(())
    })?;
    node.remove_all_pods()
}
