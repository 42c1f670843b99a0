//! Pods on fake networks. These make real namespaces and need root.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use super::*;
use crate::error::{Classify, Kind, chain};
use crate::pod::spec::{Dns, PortMapping, Protocol};
use crate::sys::namespaces::{Namespace, PinRequest, pin, unpin};

/// Makes the interface and gives the address that `ip.<container>` names.
const GOOD: &str = r#"
ip=$(cat "$DIR/ip.$CNI_CONTAINERID" 2>/dev/null || echo 10.9.0.5)
case $CNI_COMMAND in
ADD) nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type bridge || exit 9
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],
      "ips":[{"address":"'"$ip"'/16","interface":0}]}' ;;
DEL) [ -n "$CNI_NETNS" ] && nsenter --net="$CNI_NETNS" ip link del "$CNI_IFNAME" 2>/dev/null ;;
esac
exit 0
"#;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf", "bin", "pods"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let fixture = Self { dir };
        fixture.plugin(body);
        fixture.configure("1.0.0");
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the plugin `p`, which notes each call that is not VERSION.
    fn plugin(&self, body: &str) {
        let new = self.path("bin/new");
        let dir = self.dir.path().display();
        let text = format!(
            "#!/bin/sh\nDIR={dir}\n[ $CNI_COMMAND = VERSION ] && exit 1\n\
             cat > $DIR/input.$CNI_COMMAND\necho \"$CNI_ARGS\" > $DIR/args.$CNI_COMMAND\n\
             echo $CNI_COMMAND $CNI_CONTAINERID >> $DIR/calls\n{body}\n"
        );
        crate::testing::program(&new, &text);
        fs::rename(new, self.path("bin/p")).unwrap();
    }

    fn configure(&self, version: &str) {
        let text = format!(
            r#"{{"cniVersion":"{version}","name":"net","plugins":[{{"type":"p",
                "capabilities":{{"portMappings":true,"bandwidth":true,"dns":true}}}}]}}"#
        );
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path("conf/10.conflist")).unwrap();
    }

    fn networks(&self) -> Networks {
        Networks::new(&self.config(), self.path("cache"))
    }

    fn config(&self) -> config::Network {
        config::Network {
            trust: Trust::RootAlone,
            conf_dir: self.path("conf"),
            conf_template: None,
            plugin_dirs: vec![self.path("bin")],
        }
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with("STATUS")).map(str::to_owned).collect()
    }

    fn pod(&self, id: &str) -> Pod {
        let dir = self.path("pods").join(id);
        let request = PinRequest {
            namespaces: &[Namespace::Network],
            hostname: None,
            sysctls: &BTreeMap::new(),
            user: None,
        };
        pin(&dir, &request).unwrap();
        Pod { id: id.to_owned(), dir }
    }

    /// The pod with that id gets that address.
    fn give(&self, id: &str, ip: &str) {
        fs::write(self.path(&format!("ip.{id}")), ip).unwrap();
    }
}

/// A pod's namespace, unpinned when dropped.
struct Pod {
    id: String,
    dir: PathBuf,
}

impl Pod {
    fn netns(&self) -> PathBuf {
        self.dir.join("net")
    }

    fn attachment(&self) -> Attachment {
        Attachment {
            pod: self.id.clone(),
            netns: self.netns(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            port_mappings: Vec::new(),
            bandwidth: None,
            dns: None,
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        unpin(&self.dir).ok();
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pod_is_attached_with_all_that_plugins_are_told_and_detached() {
    let f = Fixture::new(GOOD);
    let (networks, pod) = (f.networks(), f.pod("aa11"));
    networks.readiness().unwrap();
    let attachment = Attachment {
        port_mappings: vec![
            PortMapping {
                protocol: Protocol::Tcp,
                container_port: 80,
                host_port: 8080,
                host_ip: None,
            },
            PortMapping {
                protocol: Protocol::Sctp,
                container_port: 81,
                host_port: 8081,
                host_ip: Some("127.0.0.1".parse().unwrap()),
            },
        ],
        bandwidth: Some(Bandwidth { ingress: Some(1000), egress: None }),
        dns: Some(Dns { servers: vec!["10.0.0.10".to_owned()], ..Dns::default() }),
        ..pod.attachment()
    };
    let addresses = networks.add(&attachment).await.unwrap();
    assert_eq!(addresses.ips, ["10.9.0.5".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        fs::read_to_string(f.path("args.ADD")).unwrap(),
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
         K8S_POD_INFRA_CONTAINER_ID=aa11;K8S_POD_UID=u-1\n"
    );
    let input: serde_json::Value =
        serde_json::from_slice(&fs::read(f.path("input.ADD")).unwrap()).unwrap();
    assert_eq!(
        input["runtimeConfig"],
        serde_json::json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8081, "containerPort": 81, "protocol": "sctp", "hostIP": "127.0.0.1"},
            ],
            "bandwidth": {"ingressRate": 1000, "ingressBurst": u32::MAX},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        })
    );
    assert_eq!(networks.owed().await.unwrap(), ["aa11"]);
    networks.del("aa11", Some(&pod.netns())).await.unwrap();
    assert_eq!(networks.owed().await.unwrap(), [""; 0]);
    networks.del("aa11", None).await.unwrap();
    assert_eq!(f.calls(), ["ADD aa11", "DEL aa11"], "the second DEL runs nothing");
}

#[tokio::test]
async fn a_failed_add_is_undone_once_and_tells_the_plugins_reason() {
    let body = r#"[ $CNI_COMMAND = ADD ] && { echo '{"code":11,"msg":"pool is empty"}'; exit 1; }
        exit 0"#;
    let f = Fixture::new(body);
    let (networks, pod) = (f.networks(), f.pod("aa12"));
    let error = networks.add(&pod.attachment()).await.unwrap_err();
    let text = chain(&error);
    assert_eq!(text, "attach pod aa12: network net: plugin p failed ADD: pool is empty (code 11)");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(f.calls(), ["ADD aa12", "DEL aa12"]);
    assert_eq!(networks.owed().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_undone_is_owed_and_survives_a_restart() {
    let f = Fixture::new("exit 1");
    let pod = f.pod("aa13");
    let networks = f.networks();
    networks.add(&pod.attachment()).await.unwrap_err();
    drop(networks);
    // The configuration is gone by then; the cache knows enough.
    fs::remove_file(f.path("conf/10.conflist")).unwrap();
    let networks = f.networks();
    assert_eq!(networks.owed().await.unwrap(), ["aa13"]);
    let error = networks.del("aa13", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    f.plugin(GOOD);
    networks.del("aa13", None).await.unwrap();
    assert_eq!(networks.owed().await.unwrap(), [""; 0]);
    assert_eq!(f.calls(), ["ADD aa13", "DEL aa13", "DEL aa13", "DEL aa13"]);
}

#[tokio::test]
async fn success_is_believed_only_with_an_interface_and_an_address() {
    let f = Fixture::new(GOOD);
    let (networks, pod) = (f.networks(), f.pod("aa14"));
    f.plugin("echo '{}'");
    let error = networks.add(&pod.attachment()).await.unwrap_err();
    assert!(matches!(error, NetworkError::NoAddress { .. }), "{error}");
    f.plugin(r#"[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.9.0.6/16"}]}'; exit 0"#);
    let error = networks.add(&pod.attachment()).await.unwrap_err();
    assert!(matches!(error, NetworkError::NoInterface { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(f.calls(), ["ADD aa14", "DEL aa14", "ADD aa14", "DEL aa14"]);
}

#[tokio::test]
async fn an_address_of_another_live_pod_is_refused() {
    let f = Fixture::new(GOOD);
    let (one, other) = (f.pod("aa15"), f.pod("aa16"));
    f.give("aa16", "::ffff:10.9.0.5");
    f.networks().add(&one.attachment()).await.unwrap();
    // Known after a restart as well, and however the address is written.
    let networks = f.networks();
    let error = networks.add(&other.attachment()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("gave pod aa16 the address 10.9.0.5 of pod aa15"), "{text}");
    assert_eq!(networks.owed().await.unwrap(), ["aa15"]);

    // A pod without a namespace, as all are after a reboot, keeps nothing from others.
    drop(one);
    networks.add(&other.attachment()).await.unwrap();
}

#[tokio::test]
async fn an_add_that_hangs_is_ended_undone_and_timed_out() {
    let f = Fixture::new("[ $CNI_COMMAND = ADD ] && exec sleep 1000; exit 0");
    let pod = f.pod("aa17");
    let short = Duration::from_millis(400);
    for (plugin, add) in [(short, Duration::from_secs(60)), (Duration::from_secs(60), short)] {
        let deadlines = Deadlines { plugin, add, del: Duration::from_secs(60) };
        let networks = Networks::with_deadlines(&f.config(), &f.path("cache"), deadlines);
        let error = networks.add(&pod.attachment()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut, "{}", chain(&error));
        assert_eq!(networks.owed().await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_damaged_record_is_still_owed_and_can_be_settled() {
    let f = Fixture::new(GOOD);
    let (networks, pod) = (f.networks(), f.pod("aa18"));
    networks.add(&pod.attachment()).await.unwrap();
    fs::write(f.path("cache/results/net-aa18-eth0"), "{\"kind").unwrap();
    assert_eq!(networks.owed().await.unwrap(), ["aa18"]);
    networks.del("aa18", Some(&pod.netns())).await.unwrap();
    assert_eq!(networks.owed().await.unwrap(), [""; 0]);

    fs::write(f.path("cache/results/gone-aa18-eth0"), "").unwrap();
    let error = networks.del("aa18", None).await.unwrap_err();
    assert!(matches!(&error, NetworkError::Forgotten { network, .. } if network == "gone"));
    assert_eq!(error.kind(), Kind::DataLoss);
}

#[tokio::test]
async fn without_a_network_the_reason_is_given_and_nothing_is_run() {
    let f = Fixture::new(GOOD);
    let pod = f.pod("aa19");
    fs::remove_file(f.path("conf/10.conflist")).unwrap();
    let networks = f.networks();
    assert_eq!(networks.readiness().unwrap_err().reason, "NoNetworkConfig");
    let error = networks.add(&pod.attachment()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);

    fs::write(f.path("conf/10.conflist"), "{").unwrap();
    let broken = f.networks().readiness().unwrap_err();
    assert_eq!(broken.reason, "BrokenNetworkConfig");
    assert!(broken.message.contains("conf/10.conflist"), "{}", broken.message);

    f.configure("1.0.0");
    fs::rename(f.path("bin/p"), f.path("bin/q")).unwrap();
    let missing = f.networks().readiness().unwrap_err();
    assert_eq!(missing.reason, "NetworkPluginMissing");
    assert!(missing.message.contains("plugin p is not an executable file"));

    // The first instance has watched all of this.
    fs::rename(f.path("bin/q"), f.path("bin/p")).unwrap();
    eventually("the network is ready", || networks.readiness().is_ok()).await;
    assert_eq!(f.calls(), [""; 0]);
}

#[tokio::test]
async fn what_others_may_change_now_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::new(GOOD);
    let pod = f.pod("aa20");
    let networks = f.networks();
    let reason = || networks.readiness().err().map(|not_ready| not_ready.reason);
    eventually("the network is ready", || reason().is_none()).await;
    let set = |name: &str, mode| {
        fs::set_permissions(f.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, good, bad, why) in [
        ("conf/10.conflist", 0o644, 0o646, "NetworkConfigNotTrusted"),
        ("conf", 0o755, 0o757, "NetworkConfigNotTrusted"),
        ("bin/p", 0o755, 0o757, "NetworkPluginNotTrusted"),
        ("bin", 0o755, 0o757, "NetworkPluginNotTrusted"),
    ] {
        set(name, bad);
        eventually(why, || reason() == Some(why)).await;
        let message = networks.readiness().unwrap_err().message;
        assert!(
            message.contains(&format!("{} can be written", f.path(name).display())),
            "{message}"
        );
        networks.add(&pod.attachment()).await.unwrap_err();
        set(name, good);
        eventually("the network is ready again", || reason().is_none()).await;
    }
    assert_eq!(f.calls(), [""; 0], "nothing was run");
}

#[tokio::test]
async fn from_1_1_on_the_plugins_say_whether_they_are_ready() {
    let f = Fixture::new(r#"echo '{"code":50,"msg":"no controller"}'; exit 1"#);
    f.configure("1.1.0");
    let networks = f.networks();
    let reason = || networks.readiness().err().map(|not_ready| not_ready.reason);
    eventually("STATUS has failed", || reason() == Some("NetworkPluginNotReady")).await;
    assert!(networks.readiness().unwrap_err().message.contains("no controller"));
    f.plugin("exit 0");
    // A change of the configuration asks at once.
    f.configure("1.0.0");
    eventually("an older version is not asked", || reason().is_none()).await;
    f.configure("1.1.0");
    eventually("STATUS has succeeded", || reason().is_none()).await;
}

#[tokio::test]
async fn gc_detaches_all_but_the_valid_and_never_beside_others() {
    let f = Fixture::new(GOOD);
    let networks = f.networks();
    let (one, other) = (f.pod("aa20"), f.pod("aa21"));
    f.give("aa21", "10.9.0.6");
    networks.add(&one.attachment()).await.unwrap();
    networks.add(&other.attachment()).await.unwrap();
    let running = networks.shared.gc.read().await;
    assert!(matches!(networks.gc(&[]).await, Err(NetworkError::Busy)));
    drop(running);
    networks.gc(&["aa21".to_owned()]).await.unwrap();
    assert_eq!(networks.owed().await.unwrap(), ["aa21"]);
    // The address of the other one is free again.
    let third = f.pod("aa22");
    networks.add(&third.attachment()).await.unwrap();
}

#[tokio::test]
async fn what_plugins_would_misread_is_invalid() {
    let f = Fixture::new(GOOD);
    let (networks, pod) = (f.networks(), f.pod("aa23"));
    let name = Attachment { name: "a;IP=10.0.0.1".to_owned(), ..pod.attachment() };
    assert_eq!(networks.add(&name).await.unwrap_err().kind(), Kind::Invalid);
    let mapping =
        PortMapping { protocol: Protocol::Tcp, container_port: 1, host_port: 1, host_ip: None };
    let ports = Attachment { port_mappings: vec![mapping; 10_000], ..pod.attachment() };
    assert_eq!(networks.add(&ports).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(f.calls(), [""; 0]);
}
