//! One run of critest against a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::layout;
use e2e::node::Node;
use e2e::program::{Program, tail};

use crate::arguments::{Arguments, Place};
use crate::report::{self, Spec};

/// Longest time the suite may take: several times what it takes on a quiet machine with two cores.
fn limit(place: Place) -> Duration {
    match place {
        Place::Native => Duration::from_secs(20 * 60),
        Place::Guest => Duration::from_secs(50 * 60),
    }
}

/// After its own limit the suite still has to report.
const GRACE: Duration = Duration::from_secs(120);
/// Lines of critest's output that are shown when it reports nothing.
const SHOWN: usize = 40;

/// Where a run keeps what it and the daemon said.
pub(crate) fn keep_dir(arguments: &Arguments) -> Result<PathBuf> {
    let dir = layout::cache().join("critest").join(arguments.to_string());
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Runs critest once; every spec that ran. Its output and report are put into `keep`.
///
/// # Errors
/// If it cannot be started or leaves no report.
pub(crate) fn run(node: &Node, arguments: &Arguments, keep: &Path) -> Result<Vec<Spec>> {
    let mut options = vec![format!("-nri-socket={}", node.nri_socket().display())];
    options.extend(arguments.focus.iter().map(|words| format!("-ginkgo.focus={words}")));
    if arguments.websocket {
        let transports = ["-websocket-exec", "-websocket-attach", "-websocket-portforward"];
        options.extend(transports.map(str::to_owned));
    }
    if arguments.churn > 0 {
        // critest's plugins panic when they hear of anybody else's pods.
        options.push("-ginkgo.skip=NRI".to_owned());
    }
    run_with(&node.socket(), node, arguments, keep, &options)
}

/// The same against any server, with other options.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_with(
    socket: &Path,
    node: &Node,
    arguments: &Arguments,
    keep: &Path,
    options: &[String],
) -> Result<Vec<Spec>> {
    let report = keep.join("report.json");
    let log = keep.join("critest.log");
    for old in [&report, &log] {
        fs::remove_file(old).ok();
    }
    // For its pods' logs and volumes: inside of what is swept with the node.
    let temporary = node.dir().join("critest");
    fs::create_dir_all(&temporary)?;
    let limit = limit(arguments.place);
    let endpoint = format!("unix://{}", socket.display());
    let mut command = Command::new(layout::tool("critest")?);
    command
        .env("TMPDIR", &temporary)
        .current_dir(&temporary)
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .arg(format!("-ginkgo.timeout={}s", limit.as_secs()))
        .arg("-ginkgo.no-color")
        .args(options);
    let mut critest = Program::start(&mut command, &log)?;
    // It fails whenever a spec does: what that means is for the list to say.
    critest.wait(limit + GRACE)?;
    report::read(&report)
        .with_context(|| format!("critest ended with\n{}", tail(&critest.printed(), SHOWN)))
}
