//! A registry that lies.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::host;
use e2e::liar::image::ESCAPED;
use e2e::liar::{Liar, Lie};
use e2e::node::{Node, Options};
use e2e::runner::Fixture;
use e2e::wait::eventually;

use crate::support::END;

/// How much the daemon may grow while it is lied to.
const GROWTH_KIB: u64 = 64 << 10;
/// Requests after which a client that gets 401 for every token should have given up.
const ROUNDS: u64 = 40;

pub(crate) fn a_lying_registry_leaves_nothing_but_an_error(fixture: &Fixture) -> Result<()> {
    let target = fixture.dir().join("target");
    fs::create_dir_all(&target)?;
    let liar = Liar::start(&target)?;
    let node = Node::start(Options { insecure: vec![liar.address()], ..Options::default() })?;
    // The same image without a lie: what follows fails for its lie alone.
    node.cri().pull(&liar.image(Lie::None))?;
    node.cri().remove_image(&liar.image(Lie::None))?;
    let store = node.root().join("images");
    let before = host::files_below(&store);
    for lie in Lie::ALL {
        if !matches!(lie, Lie::None | Lie::Token) {
            tell(&node, &liar, lie, &target).with_context(|| format!("{lie:?}"))?;
        }
    }
    eventually("nothing stored", END, || {
        let after = host::files_below(&store);
        let more: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
        ensure!(more.is_empty(), "left in the store: {more:?}");
        Ok(())
    })
}

fn tell(node: &Node, liar: &Liar, lie: Lie, target: &Path) -> Result<()> {
    let image = liar.image(lie);
    let links = fs::metadata("/etc/passwd")?.nlink();
    let (requests, sent) = (liar.requests(), liar.sent());
    let daemon = node.pid()?;
    let resident = host::kibibytes(daemon, "status", "VmRSS")?;
    host::reset_peak(daemon)?;

    let result = node.cri().pull(&image);

    let grown = host::peak_kib(daemon)?.saturating_sub(resident);
    ensure!(grown < GROWTH_KIB, "the daemon grew by {grown} KiB");
    ensure!(!target.join(ESCAPED).exists(), "a file came out of the image");
    ensure!(fs::metadata("/etc/passwd")?.nlink() == links, "/etc/passwd has a new link");
    ensure!(liar.requests() - requests < ROUNDS, "{} requests", liar.requests() - requests);
    ensure!(liar.sent() - sent < 256 << 20, "{} bytes swallowed", liar.sent() - sent);
    if lie == Lie::LinkedParent && result.is_ok() {
        // Confined instead of refused: the link stays inside the image.
        node.cri().remove_image(&image)?;
        return Ok(());
    }
    let error = result.err().context("was believed")?;
    ensure!(!error.message().is_empty() && error.message().len() < 4096, "{error:?}");
    ensure!(error.code() != tonic::Code::Internal, "blamed itself: {error:?}");
    ensure!(node.cri().image(&image)?.is_none(), "an image was made of it");
    ensure!(node.cri().images()?.is_empty(), "an image was made of it");
    Ok(())
}
