//! The example network with the reference plugins (bridge, host-local, portmap).
//!
//! Needs root, iproute2, iptables and plugins in `/usr/lib/cni` or `/opt/cni/bin`. Each test is
//! its own machine as far as networks go: a thread in a fresh network namespace plays the host,
//! so bridges and packet filter rules vanish with it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cni::{Attachment, Cache, Network, NetworkConfig, Plugins, Version};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../conf/10-bridge.conflist");

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

/// Runs a test on a machine of its own.
fn on_own_machine<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link set lo up");
        // One thread: plugins are started from it and inherit its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A pod's namespace, made by ip-netns(8) and removed with this.
struct Pod {
    name: String,
}

impl Pod {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cni-test-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self { name }
    }

    fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn attachment(&self) -> Attachment {
        Attachment {
            container_id: self.name.clone(),
            netns: Some(self.netns()),
            ifname: "eth0".to_owned(),
            args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
            ..Attachment::default()
        }
    }

    fn sees(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Says its name to one caller on a port of the pod.
    fn serve(&self, port: u16) {
        let (netns, name) = (fs::File::open(self.netns()).unwrap(), self.name.clone());
        let thread = std::thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("0.0.0.0", port)).unwrap()
        });
        let listener = thread.join().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(name.as_bytes()).unwrap();
        });
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

fn heard_from(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The example network with its addresses remembered in `dir`.
fn network(dir: &Path, version: Version) -> Network {
    let mut config: Value = serde_json::from_str(EXAMPLE).unwrap();
    config["cniVersion"] = version.as_str().into();
    config["plugins"][0]["ipam"]["dataDir"] = dir.join("ipam").to_str().unwrap().into();
    let config = NetworkConfig::parse_list(config.to_string().as_bytes()).unwrap();
    let plugins = Plugins::new(vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()]);
    Network::new(Arc::new(config), plugins, Cache::new(&dir.join("cache")))
}

/// The addresses that host-local has given away.
fn given_away(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("ipam/crisol")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).collect()
}

#[test]
fn a_pod_has_its_address_and_its_host_port_and_leaves_nothing() {
    on_own_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path(), Version::V1_0_0);
        let pod = Pod::new();
        let mut attachment = pod.attachment();
        let mapping = json!([{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]);
        attachment.capability_args.insert("portMappings".to_owned(), mapping);
        let result = network.add(&attachment).await.unwrap();

        let ips = result.addresses_in(&pod.netns());
        let [ip @ IpAddr::V4(v4)] = ips[..] else { panic!("{ips:?}") };
        assert_eq!(v4.octets()[..2], [10, 85]);
        assert!(pod.sees("ip -br addr show eth0").contains(&format!("{ip}/16")));
        assert!(pod.sees("ip route").contains("default via 10.85.0.1"));
        pod.serve(80);
        assert_eq!(heard_from((ip, 80).into()), pod.name);
        pod.serve(80);
        assert_eq!(heard_from(([10, 85, 0, 1], 18080).into()), pod.name, "by the host port");
        assert_eq!(given_away(dir.path()), [ip.to_string()]);

        network.del(&attachment).await.unwrap();
        assert!(!pod.sees("ip -br link").contains("eth0"));
        assert_eq!(given_away(dir.path()), [""; 0]);
        assert!(!run("iptables-save -t nat").contains("18080"));
        network.del(&attachment).await.unwrap();
    });
}

#[test]
fn check_notices_an_address_that_is_gone() {
    on_own_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path(), Version::V0_4_0);
        let pod = Pod::new();
        network.add(&pod.attachment()).await.unwrap();
        network.check(&pod.attachment()).await.unwrap();
        pod.sees("ip addr flush dev eth0");
        network.check(&pod.attachment()).await.unwrap_err();
        network.del(&pod.attachment()).await.unwrap();
    });
}

#[test]
fn an_address_is_given_back_although_the_namespace_is_gone() {
    on_own_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path(), Version::V1_0_0);
        let pod = Pod::new();
        network.add(&pod.attachment()).await.unwrap();
        let attachment = pod.attachment();
        drop(pod);
        network.del(&attachment).await.unwrap();
        assert_eq!(given_away(dir.path()), [""; 0]);
    });
}

#[test]
fn every_version_of_the_plugins_attaches_and_detaches() {
    on_own_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        for version in [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0] {
            let network = network(dir.path(), version);
            let (one, other) = (Pod::new(), Pod::new());
            let one_ip = network.add(&one.attachment()).await.unwrap().ips[0].address.ip;
            let other_ip = network.add(&other.attachment()).await.unwrap().ips[0].address.ip;
            assert_ne!(one_ip, other_ip);
            other.serve(80);
            let (netns, target) = (one.netns(), SocketAddr::from((other_ip, 80)));
            let heard = std::thread::spawn(move || {
                setns(fs::File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                heard_from(target)
            });
            assert_eq!(heard.join().unwrap(), other.name, "pods reach each other");
            for pod in [one, other] {
                network.del(&pod.attachment()).await.unwrap();
            }
            assert_eq!(given_away(dir.path()), [""; 0]);
        }
    });
}

#[test]
fn a_plugins_own_words_explain_a_failure() {
    on_own_machine(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = network(dir.path(), Version::V1_1_0);
        let pod = Pod::new();
        // Plugins of 1.1.x refuse the version; newer ones speak it.
        match network.add(&pod.attachment()).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.plugin_error().unwrap().code, 1, "{error:?}"),
        }
        network.del(&pod.attachment()).await.ok();
        let absent = Attachment { netns: Some("/run/netns/absent".into()), ..pod.attachment() };
        let network = self::network(dir.path(), Version::V1_0_0);
        let error = network.add(&absent).await.unwrap_err();
        assert!(error.plugin_error().unwrap().to_string().contains("/run/netns/absent"));
        network.del(&absent).await.unwrap();
        assert_eq!(given_away(dir.path()), [""; 0]);
    });
}
