//! Plugins that are slow, rude or wrong: nobody else is to feel it.

use tokio::sync::Notify;

use super::*;

/// Short, for plugins that never answer.
const BRIEF: Duration = Duration::from_millis(1500);

fn brief(config: &mut config::Nri) {
    config.request_timeout = BRIEF;
}

#[tokio::test]
async fn a_stuck_plugin_holds_up_one_object_and_is_sent_away() {
    // The first patience that leaves the others enough time.
    for patience in [3, 30].map(Duration::from_secs) {
        if stuck_plugin_holds_up_one_object(patience).await {
            return;
        }
    }
    panic!("the stuck call was over before the others were done");
}

/// Whether the others were done before the stuck call was over.
async fn stuck_plugin_holds_up_one_object(patience: Duration) -> bool {
    let node = Node::with(|config| config.request_timeout = patience).await;
    let stuck = Puppet::join(&node, "00", "stuck", |method, payload| match method {
        "CreateContainer" if id_in(payload) == "slow" => Reaction::Silence,
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let other = Puppet::join(&node, "10", "other", |_, _| Reaction::Answer(Vec::new())).await;
    let node = Arc::new(node);
    let slow = tokio::spawn({
        let node = node.clone();
        async move { node.create("slow").await }
    });
    stuck.hears("CreateContainer").await;
    // While that one waits, others are told by the same plugin.
    for number in 0..20 {
        node.create(&format!("quick{number}")).await.unwrap();
    }
    let others_were_first = !slow.is_finished();
    assert!(slow.await.unwrap().is_ok(), "a plugin that is late fails nothing");
    stuck.is_sent_away().await;
    node.has_plugins(1).await;
    assert!(other.heard().iter().any(|(m, p)| m == "CreateContainer" && id_in(p) == "slow"));
    others_were_first
}

#[tokio::test]
async fn a_plugin_that_dies_in_the_middle_of_a_call_fails_nothing() {
    let node = Node::start().await;
    let _dies = Puppet::join(&node, "00", "dies", |method, _| match method {
        "CreateContainer" => Reaction::HangUp,
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let lives = Puppet::join(&node, "10", "lives", |_, _| Reaction::Answer(Vec::new())).await;
    node.create("c").await.unwrap();
    node.has_plugins(1).await;
    lives.hears("CreateContainer").await;
}

#[tokio::test]
async fn what_is_not_of_the_protocol_ends_the_connection_and_nothing_else() {
    let frame = |payload: &[u8]| crate::nri::mux::frames(1, payload);
    let too_long = [&(10u32 << 20).to_be_bytes()[..], &[0, 0, 0, 9, 2, 0]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame longer than any", [1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat()),
        ("an answer of 10 MiB", frame(&too_long)),
        ("a type that there is not", frame(&[0, 0, 0, 0, 0, 0, 0, 9, 7, 0])),
        ("an envelope of garbage", frame(&[0, 0, 0, 3, 0, 0, 0, 9, 2, 0, 255, 255, 255])),
    ];
    let node = Node::start().await;
    for (number, (what, bytes)) in cases.into_iter().enumerate() {
        let raw = bytes.clone();
        let rude = Puppet::join(&node, "00", "rude", move |method, _| match method {
            "CreateContainer" => Reaction::Raw(raw.clone()),
            _ => Reaction::Answer(Vec::new()),
        })
        .await;
        node.create(&format!("c{number}")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        rude.is_sent_away().await;
        node.has_plugins(0).await;
    }
    // An answer that is no such message is nonsense, too.
    let nonsense = Puppet::join(&node, "00", "nonsense", |method, _| match method {
        "CreateContainer" => Reaction::Answer(vec![255; 9]),
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    node.create("last").await.unwrap();
    nonsense.is_sent_away().await;
}

#[tokio::test]
async fn a_validator_that_cannot_be_asked_allows_nothing() {
    let node = Node::with(brief).await;
    let _validator = Puppet::join(&node, "00", "validator", |method, _| match method {
        "ValidateContainerAdjustment" => Reaction::Silence,
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    let error = node.create("c").await.unwrap_err().to_string();
    assert_eq!(error, "plugin 00-validator did not validate the adjustment");
}

#[tokio::test]
async fn who_does_not_register_configure_or_synchronize_is_sent_away() {
    let quick = |config: &mut config::Nri| {
        config.registration_timeout = BRIEF;
        config.request_timeout = BRIEF;
    };
    let node = Node::with(quick).await;
    let silent = Puppet::connect(&node, |_, _| Reaction::Answer(Vec::new())).await;
    silent.is_sent_away().await;
    for (index, name) in [("1", "a"), ("00", ""), ("00", "a b")] {
        let wrong = Puppet::connect(&node, |_, _| Reaction::Answer(Vec::new())).await;
        wrong.register(index, name).await.expect_err("it is refused with words");
        wrong.is_sent_away().await;
    }
    for deaf_to in ["Configure", "Synchronize"] {
        let deaf = Puppet::connect(&node, move |method, _| match method {
            _ if method == deaf_to => Reaction::Silence,
            _ => Reaction::Answer(Vec::new()),
        })
        .await;
        deaf.register("00", "deaf").await.unwrap();
        // Whoever would have to tell it waits no longer than it has time.
        node.create(deaf_to).await.unwrap();
        deaf.is_sent_away().await;
        node.has_plugins(0).await;
    }
    let greedy = Puppet::connect(&node, |_, _| {
        Reaction::Answer(ConfigureResponse { events: 1 << 20 }.encode_to_vec())
    })
    .await;
    greedy.register("00", "greedy").await.unwrap();
    greedy.is_sent_away().await;
}

#[tokio::test]
async fn events_wait_until_a_plugin_has_its_picture() {
    let node = Arc::new(Node::start().await);
    node.create("before").await.unwrap();
    let release = Arc::new(Notify::new());
    let held = release.clone();
    let late = Puppet::connect(&node, move |method, _| match method {
        "Synchronize" => Reaction::When(held.clone(), Vec::new()),
        _ => Reaction::Answer(Vec::new()),
    })
    .await;
    late.register("00", "late").await.unwrap();
    late.hears("Synchronize").await;
    let creation = tokio::spawn({
        let node = node.clone();
        async move { node.create("during").await }
    });
    tokio::time::sleep(BRIEF).await;
    assert!(!creation.is_finished() && !late.methods().contains(&"CreateContainer".to_owned()));
    release.notify_one();
    creation.await.unwrap().unwrap();
    let picture = SynchronizeRequest::decode(late.payload("Synchronize").as_slice()).unwrap();
    let shown: Vec<_> = picture.containers.into_iter().map(|c| c.id).collect();
    assert_eq!(shown, ["before"]);
    assert_eq!(id_in(&late.payload("CreateContainer")), "during");
}

#[tokio::test]
async fn more_connections_than_there_are_places_are_closed_at_once() {
    let node = Node::start().await;
    let mut puppets = Vec::new();
    for _ in 0..MAX_PLUGINS {
        puppets.push(Puppet::connect(&node, |_, _| Reaction::Silence).await);
    }
    let one_more = Puppet::connect(&node, |_, _| Reaction::Silence).await;
    one_more.is_sent_away().await;
    drop(puppets);
}

#[tokio::test]
async fn installed_plugins_are_started_with_their_connection_and_configuration_and_end_with_us() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, configs) = (dir.path().join("plugins"), dir.path().join("conf.d"));
    std::fs::create_dir(&plugins).unwrap();
    std::fs::create_dir(&configs).unwrap();
    let note = dir.path().join("note");
    let install = |name: &str| {
        let path = plugins.join(name);
        let line = "echo $NRI_PLUGIN_NAME $NRI_PLUGIN_IDX $NRI_PLUGIN_SOCKET";
        let script = format!(
            "#!/bin/sh\n{line} $(readlink /proc/self/fd/3 | cut -c 1-6) $$ >>{}\nexec sleep 1000\n",
            note.display()
        );
        crate::testing::program(&path, &script);
        path
    };
    install("07-one");
    install("not-a-plugin");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(install("08-not-executable"), mode).unwrap();
    let node = Node::with(|config| {
        config.plugin_dir = plugins.clone();
        config.plugin_config_dir = configs;
        config.registration_timeout = Duration::from_secs(2);
    });
    let node = node.await;
    let said = std::fs::read_to_string(&note).unwrap();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[..4], ["one", "07", "3", "socket"], "{said}");
    assert_eq!(words.len(), 5, "one plugin and no other: {said}");
    // It never registers, so it is sent away: its process, too.
    let process = PathBuf::from(format!("/proc/{}", words[4]));
    let gone = async {
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("its process ends");
    node.plugins.shut_down().await;
}
