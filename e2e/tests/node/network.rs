//! A pod's network, name service and kernel parameters.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options, address};
use e2e::program::{install, output};
use e2e::request;
use e2e::runner::Fixture;
use e2e::traces::ensure_nothing_new;
use e2e::wait::eventually;

use crate::neighbours;
use crate::support::{END, exec, free_port, run_in};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

pub(crate) fn pods_reach_each_other_and_a_host_port_leads_in(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let port = free_port()?;
    let mut pod_config = request::pod(&node, "server");
    pod_config.port_mappings = vec![
        mapping(80, port),
        // CRI PortMapping: no host port is no mapping.
        mapping(81, 0),
    ];
    let line = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n' | nc -l -p 80; done";
    let server = run_in(&node, pod_config, request::shell("server", &image, line))?;
    let ip = address(&node.cri().pod(&server.pod)?)?;

    let client_config = request::pod(&node, "client");
    let client = request::container("client", &image, &["/bin/sleep", "1000"]);
    let client = run_in(&node, client_config, client)?;
    let other = address(&node.cri().pod(&client.pod)?)?;
    ensure!(ip != other, "two pods with the address {ip}");
    eventually("pod reaches pod", END, || {
        let said =
            exec(&node, &client.id, &["/bin/wget", "-q", "-O", "-", &format!("http://{ip}/")])?;
        ensure!(said == "hello\n", "{said:?}");
        Ok(())
    })?;
    let interfaces = exec(&node, &client.id, &["/bin/ip", "-o", "addr"])?;
    ensure!(interfaces.contains("127.0.0.1/8"), "lo is not up: {interfaces}");
    ensure!(interfaces.contains(&format!("{other}/24")), "{interfaces}");

    eventually("host port leads in", END, || {
        let said = get(SocketAddr::from(([127, 0, 0, 1], port)))?;
        ensure!(said.ends_with("hello\n"), "{said:?}");
        Ok(())
    })?;
    node.cri().drop_pod(&server.pod)?;
    ensure!(
        get(SocketAddr::from(([127, 0, 0, 1], port))).is_err(),
        "the port still leads somewhere"
    );
    Ok(())
}

fn mapping(container_port: i32, host_port: u16) -> pb::PortMapping {
    pb::PortMapping { container_port, host_port: host_port.into(), ..pb::PortMapping::default() }
}

fn get(from: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

pub(crate) fn a_host_network_pod_needs_no_plugin(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options { no_network: true, ..Options::default() })?;
    let image = fixture.busybox(&node)?;
    // A pod with its own network has to wait for a configuration …
    let refused = node.cri().run_pod(&request::pod(&node, "early")).err().context("no network")?;
    ensure!(refused.code() == tonic::Code::Unavailable, "{refused:?}");
    // … one on the node's network must not: it may be the pod that brings the configuration.
    let container = request::container("c", &image, &["/bin/sleep", "1000"]);
    let mut pod_config = request::host_network_pod(&node, "host");
    pod_config.hostname.clear();
    let running = run_in(&node, pod_config, container)?;
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(exec(&node, &running.id, &["/bin/hostname"])? == name, "not the node's name");
    ensure!(exec(&node, &running.id, &["/bin/cat", "/etc/hostname"])? == name);
    let status = node.cri().pod(&running.pod)?;
    ensure!(status.network.is_none_or(|network| network.ip.is_empty()));
    let inside = exec(&node, &running.id, &["/bin/readlink", "/proc/self/ns/net"])?;
    ensure!(fs::read_link("/proc/self/ns/net")?.display().to_string() == inside.trim());
    Ok(())
}

pub(crate) fn resolv_conf_and_hostname_are_the_requests(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let container = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, request::pod(&node, "names"), container.clone())?;
    let resolv = exec(&node, &running.id, &["/bin/cat", "/etc/resolv.conf"])?;
    let lines: Vec<&str> = resolv.lines().collect();
    ensure!(
        lines == ["search default.svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5"]
            || lines
                == ["nameserver 10.96.0.10", "search default.svc.cluster.local", "options ndots:5"],
        "{resolv}"
    );
    ensure!(exec(&node, &running.id, &["/bin/hostname"])? == "names\n");
    ensure!(exec(&node, &running.id, &["/bin/cat", "/etc/hostname"])? == "names\n");

    // Without a request the node's own; with an empty one nothing.
    let mut pod_config = request::pod(&node, "inherits");
    pod_config.dns_config = None;
    let running = run_in(&node, pod_config, container.clone())?;
    let resolv = exec(&node, &running.id, &["/bin/cat", "/etc/resolv.conf"])?;
    ensure!(resolv == fs::read_to_string("/etc/resolv.conf")?, "{resolv:?}");
    let mut pod_config = request::pod(&node, "empty");
    pod_config.dns_config = Some(pb::DnsConfig::default());
    let running = run_in(&node, pod_config, container)?;
    ensure!(exec(&node, &running.id, &["/bin/cat", "/etc/resolv.conf"])?.is_empty());
    Ok(())
}

pub(crate) fn sysctls_apply_in_the_pod_alone(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}"));
    let before = (read("net/core/somaxconn")?, read("kernel/shm_rmid_forced")?);
    let mut pod_config = request::pod(&node, "sysctls");
    let wanted = [("net.core.somaxconn", "77"), ("kernel.shm_rmid_forced", "1")];
    pod_config.linux.get_or_insert_default().sysctls =
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let container = request::container("c", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, pod_config, container)?;
    for (name, value) in wanted {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        ensure!(exec(&node, &running.id, &["/bin/cat", &path])?.trim() == value, "{name}");
    }
    let after = (read("net/core/somaxconn")?, read("kernel/shm_rmid_forced")?);
    ensure!(before == after, "the machine's own: {before:?}, now {after:?}");
    Ok(())
}

pub(crate) fn a_failing_plugin_is_undone_and_owed_deletes_are_paid(
    fixture: &Fixture,
) -> Result<()> {
    let plugins = fixture.dir().join("plugins");
    fs::create_dir_all(&plugins)?;
    let mut node = Node::prepare(fixture.with_registries(Options::default()))?;
    // The last of the chain: fails for the command named in a file, else hands the result on.
    let switch = node.dir().join("fail");
    let plugin = plugins.join("moody");
    let script = format!(
        "#!/bin/sh\nif [ \"$(cat {} 2>/dev/null)\" = \"$CNI_COMMAND\" ]; then\n\
         echo '{{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"not today\"}}'\nexit 1\nfi\n\
         exec /usr/lib/cni/tuning\n",
        switch.display()
    );
    install(&plugin, &script)?;
    let mut conf: serde_json::Value = serde_json::from_slice(&fs::read(node.network_file())?)?;
    conf["plugins"].as_array_mut().context("plugins")?.push(serde_json::json!({"type": "moody"}));
    fs::write(node.network_file(), serde_json::to_vec(&conf)?)?;
    let config = fs::read_to_string(node.config_file())?;
    let dirs = format!("plugin_dirs = [\"{}\", \"/usr/lib/cni\"]", plugins.display());
    fs::write(node.config_file(), config.replace("plugin_dirs = [\"/usr/lib/cni\"]", &dirs))?;
    node.spawn()?;

    let before = node.traces();
    fs::write(&switch, "ADD")?;
    let error = node.cri().run_pod(&request::pod(&node, "unlucky")).err().context("ADD failed")?;
    ensure!(error.message().contains("not today"), "{error:?}");
    ensure_nothing_new(&before, || node.traces())?;

    fs::remove_file(&switch)?;
    let pod = node.cri().run_pod(&request::pod(&node, "lucky"))?;
    fs::write(&switch, "DEL")?;
    // Stopping never depends on the plugin: the processes go, the DEL is owed.
    node.cri().stop_pod_rpc(pb::StopPodSandboxRequest { pod_sandbox_id: pod.clone() })?;
    node.cri().remove_pod_rpc(pb::RemovePodSandboxRequest { pod_sandbox_id: pod }).ok();
    node.restart()?;
    fs::remove_file(&switch)?;
    // Nobody asks again: the daemon itself pays what it owes.
    ensure_nothing_new(&before, || node.traces().without_process())?;
    let neighbours = output("ip", ["-o", "link"])?;
    ensure!(neighbours.contains(node.network()), "the bridge itself stays: {neighbours}");
    Ok(())
}

pub(crate) fn the_pods_addresses_become_a_network_by_the_template(fixture: &Fixture) -> Result<()> {
    let options = fixture.with_registries(Options { no_network: true, ..Options::default() });
    let mut node = Node::prepare(options)?;
    let dir = node.dir().to_owned();
    let template = dir.join("network.template");
    let network = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": node.network(),
        "plugins": [{
            "type": "bridge",
            "bridge": node.network(),
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": dir.join("ipam"),
                "ranges": "RANGES",
                "routes": "ROUTES",
            },
        }],
    });
    let ranges = r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
    let routes =
        r#"[{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]"#;
    let text = network.to_string().replace("\"RANGES\"", ranges).replace("\"ROUTES\"", routes);
    fs::write(&template, text)?;
    fs::create_dir(dir.join("crisol.d"))?;
    let setting = format!("[network]\nconf_template = \"{}\"\n", template.display());
    fs::write(dir.join("crisol.d/50-template.toml"), setting)?;
    node.spawn()?;

    let tell = |node: &Node, cidr: &str| {
        node.cri()
            .update_config_rpc(pb::UpdateRuntimeConfigRequest {
                runtime_config: Some(pb::RuntimeConfig {
                    network_config: Some(pb::NetworkConfig { pod_cidr: cidr.to_owned() }),
                }),
            })
            .map(drop)
    };
    let written = dir.join("net.d/10-crisol.conflist");
    let refused = tell(&node, "10.88.0.0/16,garbage").err().context("accepted garbage")?;
    ensure!(refused.code() == tonic::Code::InvalidArgument, "{refused:?}");
    ensure!(refused.message().contains("pod_cidr"), "{refused:?}");
    ensure!(!written.exists());

    tell(&node, "10.89.77.0/24")?;
    let ready = |node: &Node| {
        eventually("network ready", END, || {
            let status = node.cri().status_rpc(pb::StatusRequest { verbose: false })?;
            let conditions = status.status.context("no status")?.conditions;
            let network = conditions.iter().find(|c| c.r#type == "NetworkReady");
            ensure!(network.context("no NetworkReady")?.status, "{network:?}");
            Ok(())
        })
    };
    ready(&node)?;
    let pod = node.cri().run_pod(&request::pod(&node, "templated"))?;
    let address = address(&node.cri().pod(&pod)?)?;
    ensure!(address.to_string().starts_with("10.89.77."), "{address}");
    node.cri().drop_pod(&pod)?;

    // The next daemon knows the ranges without the kubelet.
    fs::remove_file(&written)?;
    node.restart()?;
    ready(&node)?;
    ensure!(fs::read_to_string(&written)?.contains("10.89.77.0/24"));
    tell(&node, "10.89.78.0/24,fd00:89::/64")?;
    let text = fs::read_to_string(&written)?;
    ensure!(text.contains("10.89.78.0/24") && text.contains("\"::/0\""), "{text}");
    Ok(())
}

pub(crate) fn no_pod_becomes_the_router_of_others(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let pod = |name: &str, sysctls: &[(&str, &str)]| -> Result<PathBuf> {
        let mut config = request::pod(&node, name);
        let owned = sysctls.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        config.linux.get_or_insert_default().sysctls = owned.collect();
        let sleeps = request::container("c", &image, &["/bin/sleep", "1000"]);
        let running = run_in(&node, config, sleeps)?;
        let family =
            "for of in ipv4 ipv6; do cat /proc/sys/net/$of/conf/eth0/accept_redirects; done";
        let redirects = exec(&node, &running.id, &["/bin/sh", "-c", family])?;
        let asked = sysctls.iter().filter(|(key, _)| key.ends_with("accept_redirects"));
        let expected = if asked.count() > 0 { "1\n1\n" } else { "0\n0\n" };
        ensure!(redirects == expected, "{name}: {redirects:?}");
        Ok(node.state().join("pods").join(running.pod).join("ns/net"))
    };
    let (evil, victim) = (pod("evil", &[])?, pod("victim", &[])?);
    // What shows that there is something to hear: one that asked for it, on the same network.
    let wants = [
        ("net.ipv6.conf.default.accept_ra", "1"),
        ("net.ipv6.conf.default.accept_redirects", "1"),
        ("net.ipv4.conf.default.accept_redirects", "1"),
    ];
    let willing = pod("willing", &wants)?;
    for pod in [&evil, &victim, &willing] {
        eventually("the interface has its own address", END, || {
            let local = in_network(pod, || neighbours::addresses("fe80"))??;
            ensure!(local == 1, "{local} of them");
            Ok(())
        })?;
    }
    let heard = |pod: &Path| in_network(pod, neighbours::heard)?;
    eventually("who wants it hears the advertisement", END, || {
        in_network(&evil, neighbours::advertise)??;
        let heard = heard(&willing)?;
        ensure!(heard == neighbours::Heard { address: true, route: true }, "{heard:?}");
        Ok(())
    })?;
    // One more, which nobody can have missed for not being there yet.
    in_network(&evil, neighbours::advertise)??;
    for deaf in [&victim, &evil] {
        let heard = heard(deaf)?;
        ensure!(heard == neighbours::Heard::default(), "{}: {heard:?}", deaf.display());
    }
    let nodes = neighbours::heard()?;
    ensure!(!nodes.address, "the node itself took an address");
    node.remove_all_pods()
}

/// What `f` says on a thread that is in this network namespace.
fn in_network<T: Send + 'static>(
    namespace: &Path,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let namespace = fs::File::open(namespace)?;
    let inside = thread::spawn(move || -> Result<T> {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(f())
    });
    inside.join().expect("no panic")
}
