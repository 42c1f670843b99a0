//! The benchmarks of the suite: how long each call takes, as a median, for crisol and for a peer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::node::Node;
use serde::Deserialize;

use crate::arguments::Arguments;
use crate::peer::Containerd;
use crate::report::{Spec, State};
use crate::suite;

/// How often each operation is done; one after the other.
const ROUNDS: usize = 50;
/// Of images fewer: each round pulls.
const IMAGES: usize = 20;
/// How many images are pulled, looked at and removed at once, the second time.
const AT_ONCE: usize = 4;
/// What that one writes its measurements to.
const LIFECYCLE: &str = "image_lifecycle_benchmark_data.json";
/// What all write their measurements to.
const FILES: [&str; 4] = [
    "pod_benchmark_data.json",
    "container_benchmark_data.json",
    LIFECYCLE,
    "image_listing_benchmark_data.json",
];

/// Median milliseconds of each operation.
type Medians = BTreeMap<String, f64>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    operations_names: Vec<String>,
    datapoints: Vec<Round>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    operations_durations_ns: Vec<f64>,
}

/// Runs them against the node and, if there is one, the peer, and prints the table.
///
/// # Errors
/// If one of the benchmarks fails.
pub(crate) fn run(
    node: &Node,
    peer: Option<&Containerd>,
    arguments: &Arguments,
    keep: &Path,
) -> Result<()> {
    println!("\nrunning critest -benchmark, {arguments}");
    let mut ours = measure(node.socket().as_path(), node, arguments, keep)?;
    ours.extend(images_at_once(node.socket().as_path(), node, arguments, keep)?);
    let mut theirs = Medians::new();
    if let Some(peer) = peer {
        theirs = measure(peer.socket(), node, arguments, keep)?;
        match images_at_once(peer.socket(), node, arguments, keep) {
            Ok(medians) => theirs.extend(medians),
            Err(_) => println!(
                "containerd fails with {AT_ONCE} images at once; why is in {}/critest.log",
                keep.display()
            ),
        }
    }
    println!("median of {ROUNDS} (images {IMAGES})      crisol  containerd");
    for (name, ours) in &ours {
        let theirs = theirs.get(name).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        println!("{name:30} {:>9} {theirs:>11}", format!("{ours:.1} ms"));
    }
    Ok(())
}

/// The medians of all benchmarks, one operation after the other.
fn measure(socket: &Path, node: &Node, arguments: &Arguments, keep: &Path) -> Result<Medians> {
    let numbers =
        format!("containersNumber: {ROUNDS}\npodsNumber: {ROUNDS}\nimagesNumber: {IMAGES}\n");
    let suite = |options: &[String]| suite::run_with(socket, node, arguments, keep, options);
    run_suite(node, &numbers, &FILES, &suite)
}

/// Those of the benchmark of images with several at once: one is pulled while it is removed.
fn images_at_once(
    socket: &Path,
    node: &Node,
    arguments: &Arguments,
    keep: &Path,
) -> Result<Medians> {
    let numbers = format!("imagesNumber: {IMAGES}\nimagesNumberParallel: {AT_ONCE}\n");
    let suite = |options: &[String]| suite::run_with(socket, node, arguments, keep, options);
    let medians = run_suite(node, &numbers, &[LIFECYCLE], &suite)?.into_iter();
    Ok(medians.map(|(name, median)| (format!("{name}, {AT_ONCE} at once"), median)).collect())
}

fn run_suite(
    node: &Node,
    numbers: &str,
    files: &[&str],
    suite: &dyn Fn(&[String]) -> Result<Vec<Spec>>,
) -> Result<Medians> {
    let dir = tempfile::Builder::new().prefix("benchmark-").tempdir_in(node.dir())?;
    let parameters = dir.path().join("parameters.yaml");
    fs::write(&parameters, numbers)?;
    let options = [
        "-benchmark".to_owned(),
        format!("-benchmarking-params-file={}", parameters.display()),
        format!("-benchmarking-output-dir={}", dir.path().display()),
    ];
    let specs = suite(&options)?;
    // Those without a number skip themselves.
    let failed = specs.iter().find(|spec| !matches!(spec.state, State::Passed | State::Skipped));
    if let Some(spec) = failed {
        anyhow::bail!("{}: {}", spec.name, spec.message);
    }
    let mut medians = Medians::new();
    for file in files {
        let text = fs::read(dir.path().join(file)).with_context(|| format!("read {file}"))?;
        let measured: Measured = serde_json::from_slice(&text).context((*file).to_owned())?;
        medians.extend(medians_of(&measured)?);
    }
    Ok(medians)
}

fn medians_of(measured: &Measured) -> Result<Medians> {
    ensure!(!measured.datapoints.is_empty(), "no measurements of {:?}", measured.operations_names);
    let names = measured.operations_names.iter().enumerate();
    let median = |at: usize| -> Result<f64> {
        let rounds = measured.datapoints.iter();
        let times = rounds.map(|round| round.operations_durations_ns.get(at).copied());
        let mut times: Vec<f64> = times.collect::<Option<_>>().context("a round is cut short")?;
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2] / 1e6)
    };
    names.map(|(at, name)| Ok((name.clone(), median(at)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_taken_of_each_operation() {
        let text = r#"{"operationsNames": ["A", "B"], "numParallel": 1, "datapoints": [
            {"sampleIndex": 0, "operationsDurationsNs": [1000000, 30000000]},
            {"sampleIndex": 1, "operationsDurationsNs": [3000000, 10000000]},
            {"sampleIndex": 2, "operationsDurationsNs": [2000000, 20000000]}]}"#;
        let measured: Measured = serde_json::from_str(text).expect("measurements");
        let medians = medians_of(&measured).expect("medians");
        assert_eq!(medians, [("A".to_owned(), 2.0), ("B".to_owned(), 20.0)].into());
        let none = Measured { operations_names: vec!["A".to_owned()], datapoints: Vec::new() };
        assert!(medians_of(&none).is_err());
    }
}
