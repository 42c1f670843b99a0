//! Images from real registries: everything that may be on the wire, and who shares what.

use std::thread;

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::cri::image_spec;
use e2e::liar::{Liar, Lie};
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::{host, request};
use tonic::Code;

use crate::support::{run, shell};

pub(crate) fn layers_of_every_compression_and_manifest_kind_unpack_alike(
    fixture: &Fixture,
) -> Result<()> {
    let node = fixture.node();
    let mut ids = Vec::new();
    for name in ["busybox:latest", "busybox:docker", "busybox:index", "zstd:latest"] {
        let image = fixture.image(name);
        let id = node.cri().pull(&image).with_context(|| image.clone())?;
        let status = node.cri().image(&image)?.context("pulled and absent")?;
        ensure!(status.id == id, "PullImage says {id}, ImageStatus {}", status.id);
        ensure!(status.size > 1_000_000, "size {}", status.size);
        ensure!(status.repo_tags.contains(&image), "{:?}", status.repo_tags);
        ensure!(!status.repo_digests.is_empty());
        let printed = shell(&node, &image, "busybox | head -n 1; stat -c %u /home/app")?;
        ensure!(printed[0].starts_with("BusyBox"), "{printed:?}");
        ensure!(printed[1] == "1000", "owner of /home/app: {printed:?}");
        ids.push(id);
    }
    ensure!(ids[0] == ids[1] && ids[0] == ids[2], "one image under three manifests: {ids:?}");
    ensure!(ids[0] != ids[3], "{ids:?}");
    Ok(())
}

pub(crate) fn whiteouts_hide_and_later_layers_win(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.image("layered:latest");
    node.cri().pull(&image)?;
    let look = "cd /data; ls; echo --; ls opaque; cat replaced linked; stat -c %h linked";
    let printed = shell(&node, &image, look)?;
    let expected = ["kept", "linked", "opaque", "replaced", "--", "new", "second", "one", "2"];
    ensure!(printed == expected, "{printed:?}");
    Ok(())
}

pub(crate) fn a_private_registry_wants_the_password(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.private.image("busybox:latest");
    let refused = node.cri().pull(&image).err().context("pulled without a password")?;
    ensure!(node.cri().image(&image)?.is_none());
    ensure!(!refused.message().is_empty());
    let wrong = auth("user", "not the secret");
    let refused = node.cri().pull_as(&image, Some(wrong)).err().context("any password will do")?;
    ensure!(!refused.message().contains("not the secret"), "{}", refused.message());
    // As a pair of fields, and as the one that docker's configuration file has.
    node.cri().pull_as(&image, Some(auth("user", "secret")))?;
    node.cri().remove_image(&image)?;
    let encoded =
        pb::AuthConfig { auth: "dXNlcjpzZWNyZXQ=".to_owned(), ..pb::AuthConfig::default() };
    node.cri().pull_as(&image, Some(encoded))?;
    let log = std::fs::read_to_string(node.log_file())?;
    ensure!(!log.contains("secret") && !log.contains("dXNlcjpzZWNyZXQ="), "secrets in the log");
    Ok(())
}

fn auth(username: &str, password: &str) -> pb::AuthConfig {
    pb::AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..pb::AuthConfig::default()
    }
}

pub(crate) fn bearer_tokens_are_fetched_and_used(fixture: &Fixture) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let node =
        fixture.own_node(Options { insecure: vec![liar.address()], ..Options::default() })?;
    for honest in [Lie::None, Lie::Token] {
        let image = liar.image(honest);
        node.cri().pull(&image).with_context(|| image.clone())?;
        ensure!(node.cri().image(&image)?.is_some());
    }
    Ok(())
}

pub(crate) fn many_pulls_of_one_image_are_one_pull(fixture: &Fixture) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let node =
        fixture.own_node(Options { insecure: vec![liar.address()], ..Options::default() })?;
    let image = liar.image(Lie::None);
    let pull = || node.cri().pull(&image);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(pull)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let first = results[0].clone()?;
    for result in results {
        ensure!(result? == first);
    }
    // Alone it takes three or four requests: the version check, manifest, configuration, layer.
    // Those who come after the first is done may ask for the manifest again, never for the layer.
    let layer_size = 200;
    ensure!(liar.requests() <= 4 + 2 * 19, "{} requests", liar.requests());
    ensure!(liar.sent() < 20 * layer_size + 40_000, "{} bytes", liar.sent());
    Ok(())
}

pub(crate) fn an_image_goes_and_comes_by_tag_and_digest(fixture: &Fixture) -> Result<()> {
    let node = fixture.own_node(Options::default())?;
    let before = host::files_below(&node.root().join("images"));
    let tag = fixture.image("busybox:latest");
    let other = fixture.image("busybox:docker");
    let id = node.cri().pull(&tag)?;
    ensure!(node.cri().pull(&other)? == id);
    let image = node.cri().image(&tag)?.context("by tag")?;
    let digest = image.repo_digests.first().context("a digest")?.clone();
    for name in [&digest, &id, &id.trim_start_matches("sha256:")[..12].to_owned()] {
        let found = node.cri().image(name)?.with_context(|| format!("by {name}"))?;
        ensure!(found.id == id);
    }
    let images = node.cri().images()?;
    ensure!(images.len() == 1 && node.cri().stream_images()? == images, "{images:?}");
    let filter = |name: &str| {
        let filter = Some(pb::ImageFilter { image: Some(image_spec(name)) });
        node.cri().list_images_rpc(pb::ListImagesRequest { filter })
    };
    ensure!(filter(&other)?.images == images && filter("nobody/has:this")?.images.is_empty());
    what_an_image_says_of_its_user(&node, fixture)?;
    let usage = node.cri().image_fs_info_rpc(pb::ImageFsInfoRequest {})?;
    let filesystem = usage.image_filesystems.first().context("image file system")?;
    ensure!(filesystem.used_bytes.as_ref().is_some_and(|used| used.value > 1_000_000));
    ensure!(filesystem.timestamp > 0);
    ensure!(filesystem.inodes_used.as_ref().is_some_and(|used| used.value > 0));
    let layers = usage.container_filesystems.first().context("container file system")?;
    for filesystem in [filesystem, layers] {
        let mountpoint = filesystem.fs_id.as_ref().context("no fs_id")?.mountpoint.clone();
        ensure!(std::path::Path::new(&mountpoint).starts_with(node.root()), "{mountpoint}");
    }
    // CRI RemoveImage: by one tag all tags go; twice is fine.
    node.cri().remove_image(&tag)?;
    ensure!(node.cri().image(&other)?.is_none());
    ensure!(node.cri().images()?.is_empty());
    node.cri().remove_image(&tag)?;
    e2e::wait::eventually("files of the image gone", crate::support::END, || {
        let after = host::files_below(&node.root().join("images"));
        let more: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
        ensure!(more.len() <= 4, "{more:?}");
        Ok(())
    })?;
    // By digest alone.
    node.cri().pull(&digest)?;
    ensure!(node.cri().image(&digest)?.is_some());
    Ok(())
}

/// The kubelet refuses what runs as root by a number or a name, and never gets both.
fn what_an_image_says_of_its_user(node: &Node, fixture: &Fixture) -> Result<()> {
    let user = fixture.image("user:latest");
    node.cri().pull(&user)?;
    let image = Some(image_spec(&user));
    let answer = node.cri().image_status_rpc(pb::ImageStatusRequest { image, verbose: true })?;
    let image = answer.image.context("absent")?;
    ensure!(image.username == "app" && image.uid.is_none(), "{image:?}");
    let info: serde_json::Value =
        serde_json::from_str(answer.info.get("info").context("no info")?)?;
    ensure!(info["imageSpec"]["config"]["User"] == "app", "{info}");
    Ok(node.cri().remove_image(&user)?)
}

pub(crate) fn an_image_stays_for_as_long_as_a_container_uses_it(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let volume = fixture.image("layered:latest");
    node.cri().pull(&volume)?;
    let mut config = request::shell("user", &image, "while true; do sleep 0.1; done");
    config.mounts = vec![pb::Mount {
        container_path: "/volume".to_owned(),
        image: Some(image_spec(&volume)),
        readonly: true,
        ..Default::default()
    }];
    let running = run(&node, config)?;
    let refused = |node: &Node| -> Result<()> {
        for name in [&image, &volume] {
            let error = node.cri().remove_image(name).expect_err(name);
            ensure!(error.code() == Code::FailedPrecondition, "{error:?}");
            ensure!(error.message().contains("in use"), "{error:?}");
        }
        Ok(())
    };
    refused(&node)?;
    node.kill9()?;
    node.spawn()?;
    refused(&node)?;
    ensure!(node.cri().exec(&running.id, &["/bin/ls", "/volume"])?.exit_code == 0);
    // Also one that has ended: it may be looked into, and its record names the image.
    node.cri().stop(&running.id, 0)?;
    refused(&node)?;
    node.cri().drop_pod(&running.pod)?;
    node.cri().remove_image(&image)?;
    node.cri().remove_image(&volume)?;
    ensure!(node.cri().images()?.is_empty());
    Ok(())
}

pub(crate) fn plain_http_is_only_spoken_where_the_configuration_says_so(
    fixture: &Fixture,
) -> Result<()> {
    let liar = Liar::start(fixture.dir())?;
    let node = fixture.node();
    let refused = node.cri().pull(&liar.image(Lie::None)).err().context("spoke plain HTTP")?;
    ensure!(refused.code() == tonic::Code::Unknown, "{refused:?}");
    ensure!(refused.message().starts_with("RegistryUnavailable"), "{}", refused.message());
    ensure!(liar.sent() == 0, "{} bytes went over plain HTTP", liar.sent());
    Ok(())
}
