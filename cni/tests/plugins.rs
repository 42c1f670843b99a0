//! Operations on networks of fake plugins: small shell scripts that record how they were called.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::{
    Attachment, AttachmentId, Cache, Error, InvokeError, Network, NetworkConfig, Plugins, Verb,
};
use serde_json::{Value, json};

/// Answers ADD with the previous result or a fresh one, and writes each call to `calls/`.
const RECORD: &str = r#"
n=$(ls "$DIR/calls" | wc -l)
cat > "$DIR/calls/$n.$CNI_COMMAND.$NAME"
env | grep ^CNI_ | sort > "$DIR/env.$CNI_COMMAND.$NAME"
"#;

const OK_ADD: &str = r#"
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0",
  "interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],
  "ips":[{"address":"10.1.2.3/24","interface":0}],"dns":{}}'
exit 0
"#;

struct Fixture {
    dir: tempfile::TempDir,
    deadline: Duration,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("calls")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir, deadline: Duration::from_secs(20) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plugin that records its call and then does what `body` says.
    fn plugin(&self, name: &str, body: &str) -> &Self {
        let path = self.path("bin").join(name);
        let dir = self.dir.path().display();
        let text = format!("#!/bin/sh\nDIR={dir}\nNAME={name}\n{RECORD}\n{body}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn cache(&self) -> Cache {
        Cache::new(&self.path("cache"))
    }

    fn network(&self, config: &Value) -> Network {
        let config = NetworkConfig::parse_list(config.to_string().as_bytes()).unwrap();
        let plugins = Plugins::new(vec!["/absent".into(), self.path("bin")]);
        Network::new(Arc::new(config), plugins.with_deadline(self.deadline), self.cache())
    }

    /// What was called, in order: `ADD.first`.
    fn calls(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("calls")).unwrap();
        let mut names: Vec<(usize, String)> = names
            .map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let (number, call) = name.split_once('.').unwrap();
                (number.parse().unwrap(), call.to_owned())
            })
            .collect();
        names.sort();
        names.into_iter().map(|(_, call)| call).collect()
    }

    /// What the n-th call was given.
    fn input(&self, n: usize) -> Value {
        let call = &self.calls()[n];
        let text = fs::read(self.path("calls").join(format!("{n}.{call}"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn environment(&self, call: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("env.{call}"))).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn list(version: &str, plugins: &[&str]) -> Value {
    let plugins: Vec<_> = plugins.iter().map(|kind| json!({"type": kind})).collect();
    json!({"cniVersion": version, "name": "net", "plugins": plugins})
}

fn attachment() -> Attachment {
    Attachment {
        container_id: "pod1".to_owned(),
        // A namespace that a thread of this process is in: real, and never changed by a fake.
        netns: Some("/proc/self/ns/net".into()),
        ifname: "eth0".to_owned(),
        args: vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())],
        ..Attachment::default()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_running(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => false,
        Ok(stat) => !stat.contains(") Z "),
    }
}

#[tokio::test]
async fn add_chains_results_and_gives_each_plugin_its_environment_and_capabilities() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD).plugin("second", OK_ADD);
    let config = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "first", "mtu": 1400, "capabilities": {"mac": false}},
        {"type": "second", "capabilities": {"portMappings": true}},
    ]});
    let mut asked = attachment();
    asked.capability_args.insert("portMappings".to_owned(), json!([{"hostPort": 1}]));
    asked.capability_args.insert("mac".to_owned(), json!("00:00:00:00:00:01"));
    let result = f.network(&config).add(&asked).await.unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.2.3/24");

    assert_eq!(f.calls(), ["ADD.first", "ADD.second"]);
    let bin = f.path("bin").display().to_string();
    assert_eq!(
        f.environment("ADD.first"),
        [
            "CNI_ARGS=A=1;B=2",
            "CNI_COMMAND=ADD",
            "CNI_CONTAINERID=pod1",
            "CNI_IFNAME=eth0",
            "CNI_NETNS=/proc/self/ns/net",
            &format!("CNI_PATH=/absent:{bin}"),
        ]
    );
    assert_eq!(
        f.input(0),
        json!({"cniVersion": "1.0.0", "name": "net", "type": "first", "mtu": 1400,
            "capabilities": {"mac": false}})
    );
    let second = f.input(1);
    assert_eq!(second["runtimeConfig"], json!({"portMappings": [{"hostPort": 1}]}));
    assert_eq!(second["prevResult"], result.to_value(cni::Version::V1_0_0));

    let entry = f.cache().find("net", "pod1", "eth0").unwrap().unwrap();
    assert_eq!(entry.result, Some(result.to_value(cni::Version::V1_0_0)));
}

#[tokio::test]
async fn an_add_is_remembered_before_its_first_plugin_runs() {
    let f = Fixture::new();
    let copy = r#"cp "$DIR/cache/results/net-pod1-eth0" "$DIR/seen"; exit 1"#;
    f.plugin("first", copy);
    f.network(&list("1.0.0", &["first"])).add(&attachment()).await.unwrap_err();
    let seen: Value = serde_json::from_slice(&fs::read(f.path("seen")).unwrap()).unwrap();
    assert_eq!(seen["containerId"], "pod1");
    assert_eq!(seen.get("result"), None);
}

#[tokio::test]
async fn del_goes_backwards_with_what_add_used_whatever_is_configured_now() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD).plugin("second", OK_ADD).plugin("other", OK_ADD);
    let added = f.network(&list("1.0.0", &["first", "second"]));
    let result = added.add(&attachment()).await.unwrap().to_value(cni::Version::V1_0_0);

    let changed = f.network(&list("0.3.1", &["other"]));
    let gone = Attachment { netns: None, args: Vec::new(), ..attachment() };
    changed.del(&gone).await.unwrap();
    assert_eq!(f.calls()[2..], ["DEL.second", "DEL.first"]);
    assert_eq!(f.input(2)["prevResult"], result);
    assert_eq!(f.input(3)["prevResult"], result);
    let environment = f.environment("DEL.first");
    assert!(environment.contains(&"CNI_NETNS=".to_owned()), "{environment:?}");
    assert!(environment.contains(&"CNI_ARGS=A=1;B=2".to_owned()));
    assert_eq!(f.cache().list().unwrap().0, []);
}

#[tokio::test]
async fn a_namespace_path_that_is_no_namespace_any_more_counts_as_gone() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD);
    let network = f.network(&list("1.0.0", &["first"]));
    network.add(&attachment()).await.unwrap();
    fs::write(f.path("leftover"), "").unwrap();
    let leftover = Attachment { netns: Some(f.path("leftover")), ..attachment() };
    network.del(&leftover).await.unwrap();
    assert!(f.environment("DEL.first").contains(&"CNI_NETNS=".to_owned()));
}

#[tokio::test]
async fn del_before_0_4_0_gets_no_previous_result() {
    let f = Fixture::new();
    f.plugin("first", &OK_ADD.replace("1.0.0", "0.3.1"));
    let network = f.network(&list("0.3.1", &["first"]));
    network.add(&attachment()).await.unwrap();
    network.del(&attachment()).await.unwrap();
    assert_eq!(f.input(1).get("prevResult"), None);
}

#[tokio::test]
async fn a_failed_add_can_be_undone_including_the_plugin_that_failed() {
    let f = Fixture::new();
    let fails = r#"[ $CNI_COMMAND = ADD ] && { echo '{"code":7,"msg":"no","details":"why"}'; exit 1; }
        exit 0"#;
    f.plugin("first", OK_ADD).plugin("second", fails).plugin("third", OK_ADD);
    let network = f.network(&list("1.0.0", &["first", "second", "third"]));
    let error = network.add(&attachment()).await.unwrap_err();
    assert_eq!(chain(&error), "network net: plugin second failed ADD: no: why (code 7)");
    assert_eq!(error.plugin_error().unwrap().code, 7);
    network.del(&attachment()).await.unwrap();
    assert_eq!(f.calls(), ["ADD.first", "ADD.second", "DEL.third", "DEL.second", "DEL.first"]);
    assert_eq!(f.input(2).get("prevResult"), None, "ADD has no result");
}

#[tokio::test]
async fn a_failed_del_stops_and_stays_remembered_until_it_succeeds() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD).plugin("second", OK_ADD);
    let network = f.network(&list("1.0.0", &["first", "second"]));
    network.add(&attachment()).await.unwrap();
    f.plugin("second", "echo not today >&2; exit 3");
    let error = network.del(&attachment()).await.unwrap_err();
    assert!(chain(&error).contains("plugin second failed DEL with exit status: 3: not today"));
    assert_eq!(f.calls().last().unwrap(), "DEL.second", "the chain stops at the failure");
    assert_eq!(f.cache().list().unwrap().0.len(), 1);
    f.plugin("second", OK_ADD);
    network.del(&attachment()).await.unwrap();
    assert_eq!(f.cache().list().unwrap().0.len(), 0);
    network.del(&attachment()).await.unwrap();
}

#[tokio::test]
async fn del_with_a_damaged_memory_uses_the_given_configuration() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD);
    let network = f.network(&list("1.0.0", &["first"]));
    network.add(&attachment()).await.unwrap();
    let file = f.path("cache/results/net-pod1-eth0");
    fs::write(&file, "{\"kind\":\"cniCa").unwrap();
    network.del(&attachment()).await.unwrap();
    assert_eq!(f.calls(), ["ADD.first", "DEL.first"]);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_result_that_cannot_be_used_is_an_error_of_that_plugin() {
    let f = Fixture::new();
    for (body, message) in [
        ("exit 0", "result of plugin first: parse the result: EOF"),
        ("echo garbage", "parse the result: expected value"),
        ("echo '{}{}'", "trailing characters"),
        (r#"echo '{"ips":[{"address":"10.0.0.1"}]}'"#, "not an address with a prefix length"),
    ] {
        f.plugin("first", body);
        let error = f.network(&list("1.0.0", &["first"])).add(&attachment()).await.unwrap_err();
        assert!(chain(&error).contains(message), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_plugin_that_says_too_much_is_cut_off() {
    let f = Fixture::new();
    f.plugin("first", "exec yes");
    let network = f.network(&list("1.0.0", &["first"]));
    let error = network.add(&attachment()).await.unwrap_err();
    assert!(chain(&error).contains("answered ADD with more than 1048576 bytes"));

    let noisy = "head -c 10000000 /dev/zero | tr '\\0' x >&2; echo the reason >&2; exit 1";
    f.plugin("first", noisy);
    let text = chain(&network.add(&attachment()).await.unwrap_err());
    assert!(text.ends_with("the reason") && text.len() < 2000, "{} bytes", text.len());

    f.plugin("first", &format!("head -c 10000000 /dev/zero >&2\n{OK_ADD}"));
    network.add(&attachment()).await.unwrap();
}

#[tokio::test]
async fn how_a_plugin_died_is_said() {
    let f = Fixture::new();
    f.plugin("first", "kill -9 $$");
    let network = f.network(&list("1.0.0", &["first"]));
    let text = chain(&network.add(&attachment()).await.unwrap_err());
    assert!(text.contains("failed ADD with signal: 9"), "{text}");
}

#[tokio::test]
async fn a_hanging_plugin_is_killed_with_its_children_at_its_deadline() {
    let hangs = "trap '' TERM; sleep 1000 & echo $! > $DIR/child; echo $$ > $DIR/main.new
                 mv $DIR/main.new $DIR/main; wait; wait";
    // The first deadline that leaves the plugin the time to begin.
    for deadline in [300, 3_000, 30_000].map(Duration::from_millis) {
        let mut f = Fixture::new();
        f.deadline = deadline;
        f.plugin("first", hangs);
        let error = f.network(&list("1.0.0", &["first"])).add(&attachment()).await.unwrap_err();
        assert!(error.is_timeout(), "{}", chain(&error));
        let expected = format!("plugin first did not finish ADD within {deadline:?}");
        assert!(chain(&error).contains(&expected), "{}", chain(&error));
        if f.path("main").exists() {
            for name in ["child", "main"] {
                let pid = fs::read_to_string(f.path(name)).unwrap();
                eventually("the whole group is dead", || !is_running(pid.trim()));
            }
            return;
        }
    }
    panic!("the plugin never began");
}

#[tokio::test]
async fn dropping_the_future_kills_the_plugin_with_its_children() {
    let f = Fixture::new();
    f.plugin("first", "sleep 1000 & echo $! > $DIR/child.tmp; mv $DIR/child.tmp $DIR/child; wait");
    let network = f.network(&list("1.0.0", &["first"]));
    let add = tokio::spawn(async move { network.add(&attachment()).await.map(drop) });
    while !f.path("child").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    add.abort();
    assert!(add.await.unwrap_err().is_cancelled());
    let pid = fs::read_to_string(f.path("child")).unwrap();
    eventually("the child is dead", || !is_running(pid.trim()));
    assert_eq!(f.cache().list().unwrap().0.len(), 1, "a DEL is still possible");
}

#[tokio::test]
async fn an_answer_ends_with_the_plugin_even_if_a_child_keeps_the_pipe() {
    let f = Fixture::new();
    let leaves = format!("sleep 1000 & echo $! > $DIR/child\n{OK_ADD}");
    f.plugin("first", &leaves);
    // The deadline is far below the child's time.
    let result = f.network(&list("1.0.0", &["first"])).add(&attachment()).await.unwrap();
    assert_eq!(result.ips.len(), 1);
    let pid = fs::read_to_string(f.path("child")).unwrap();
    assert!(is_running(pid.trim()), "a plugin may leave a program behind");
    let killed = std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    assert!(killed.success());
}

#[tokio::test]
async fn a_large_answer_arrives_whole_and_a_plugin_need_not_read_its_request() {
    let f = Fixture::new();
    // Larger than a pipe holds, in both directions.
    let path = f.path("bin/first");
    let many: Vec<_> =
        (0..4000).map(|n| json!({"dst": format!("10.{}.{}.0/24", n / 250, n % 250)})).collect();
    let answer = json!({"cniVersion": "1.0.0", "routes": many}).to_string();
    fs::write(f.path("answer"), &answer).unwrap();
    fs::write(&path, format!("#!/bin/sh\nexec 0<&-\ncat {}\n", f.path("answer").display()))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = list("1.0.0", &["first"]);
    config["plugins"][0]["long"] = "x".repeat(500_000).into();
    let result = f.network(&config).add(&attachment()).await.unwrap();
    assert_eq!(result.routes.len(), 4000);
}

#[tokio::test]
async fn a_plugin_that_cannot_be_run_is_named_with_where_it_was_looked_for() {
    let f = Fixture::new();
    let network = f.network(&list("1.0.0", &["first"]));
    let text = chain(&network.add(&attachment()).await.unwrap_err());
    assert!(text.contains("plugin first is not an executable file in /absent:"), "{text}");

    fs::write(f.path("bin/first"), "data").unwrap();
    let error = network.add(&attachment()).await.unwrap_err();
    assert!(
        matches!(error, Error::Plugin { source, .. }
        if matches!(*source, InvokeError::NotFound { .. })),
        "not executable"
    );
}

#[tokio::test]
async fn check_asks_with_the_remembered_result_unless_it_is_disabled_or_too_old() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD);
    let network = f.network(&list("1.0.0", &["first"]));
    assert!(matches!(network.check(&attachment()).await, Err(Error::NotAttached { .. })));
    let result = network.add(&attachment()).await.unwrap();
    network.check(&attachment()).await.unwrap();
    assert_eq!(f.calls(), ["ADD.first", "CHECK.first"]);
    assert_eq!(f.input(1)["prevResult"], result.to_value(cni::Version::V1_0_0));
    f.plugin("first", r#"echo '{"code":100,"msg":"route is gone"}'; exit 1"#);
    let text = chain(&network.check(&attachment()).await.unwrap_err());
    assert!(text.contains("plugin first failed CHECK: route is gone (code 100)"), "{text}");

    let old =
        f.network(&json!({"cniVersion": "0.3.1", "name": "old", "plugins": [{"type": "first"}]}));
    let error = old.check(&attachment()).await.unwrap_err();
    assert!(matches!(error, Error::NotSpoken { verb: Verb::Check, .. }));
    let mut quiet = list("1.0.0", &["first"]);
    quiet["disableCheck"] = true.into();
    quiet["name"] = "quiet".into();
    f.network(&quiet).check(&attachment()).await.unwrap();
}

#[tokio::test]
async fn status_is_asked_from_1_1_on() {
    let f = Fixture::new();
    let body = r#"echo '{"code":50,"msg":"not yet"}'; exit 1"#;
    f.plugin("first", body);
    f.network(&list("1.0.0", &["first"])).status().await.unwrap();
    assert!(f.calls().is_empty());
    let error = f.network(&list("1.1.0", &["first"])).status().await.unwrap_err();
    assert_eq!(error.plugin_error().unwrap().code, cni::PluginError::NOT_AVAILABLE);
    assert!(!f.environment("STATUS.first").iter().any(|line| line.starts_with("CNI_NETNS")));
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

#[tokio::test]
async fn gc_detaches_the_stale_then_tells_plugins_what_is_valid() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD).plugin("second", OK_ADD);
    let network = f.network(&list("1.1.0", &["first", "second"]));
    for pod in ["stale", "live"] {
        let attachment = Attachment { container_id: pod.to_owned(), ..attachment() };
        network.add(&attachment).await.unwrap();
    }
    let other =
        f.network(&json!({"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "first"}]}));
    other.add(&Attachment { container_id: "elsewhere".to_owned(), ..attachment() }).await.unwrap();

    network.gc(&[id("live")]).await.unwrap();
    assert_eq!(f.calls()[5..], ["DEL.second", "DEL.first", "GC.first", "GC.second"]);
    let valid = json!([{"containerID": "live", "ifname": "eth0"}]);
    assert_eq!(f.input(7)["cni.dev/valid-attachments"], valid);
    let left = f.cache().list().unwrap().0;
    let left: Vec<_> = left.iter().map(|entry| entry.container_id.as_str()).collect();
    assert_eq!(left, ["live", "elsewhere"]);
}

#[tokio::test]
async fn gc_before_1_1_only_detaches_and_goes_on_after_failures() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD);
    let network = f.network(&list("0.4.0", &["first"]));
    for pod in ["bad", "worse"] {
        let attachment = Attachment { container_id: pod.to_owned(), ..attachment() };
        network.add(&attachment).await.unwrap();
    }
    f.plugin("first", r#"[ $CNI_CONTAINERID = bad ] && exit 1; exit 0"#);
    let errors = network.gc(&[]).await.unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert!(!f.calls().iter().any(|call| call.starts_with("GC")));
    assert_eq!(f.cache().list().unwrap().0[0].container_id, "bad");

    let mut disabled = list("1.1.0", &["first"]);
    disabled["disableGC"] = true.into();
    f.network(&disabled).gc(&[]).await.unwrap();
    assert_eq!(f.cache().list().unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_full_disk_stops_an_add_before_any_plugin() {
    let f = Fixture::new();
    f.plugin("first", OK_ADD);
    // A file where the directory should be stands for every failure to write.
    fs::write(f.path("cache"), "").unwrap();
    let error = f.network(&list("1.0.0", &["first"])).add(&attachment()).await.unwrap_err();
    assert!(matches!(error, Error::Cache(_)));
    assert!(f.calls().is_empty());
    assert!(Path::new(&f.path("calls")).exists());
}
