//! What one run of critest reports: ginkgo's JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// How a spec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It held.
    Passed,
    /// It skipped itself, or was not chosen; see [`Spec::ran`].
    Skipped,
    /// It is marked as not ready in the suite itself.
    Pending,
    /// It did not hold.
    Failed,
    /// It called for the end of the suite.
    Aborted,
    /// The suite's code panicked.
    Panicked,
    /// Somebody interrupted it.
    Interrupted,
    /// It took longer than the suite may.
    Timedout,
}

/// One spec.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its full name, with what it is part of.
    pub name: String,
    /// How it ended.
    pub state: State,
    /// What it said when it failed or skipped itself; empty otherwise.
    pub message: String,
    /// Everything it printed.
    pub output: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Spec {
    /// Whether it was chosen: one that was not says nothing.
    pub(crate) fn ran(&self) -> bool {
        match self.state {
            State::Skipped => !self.message.is_empty(),
            State::Pending => false,
            _ => true,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawReport {
    spec_reports: Vec<RawSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSpec {
    /// Absent for what belongs to the whole suite.
    container_hierarchy_texts: Option<Vec<String>>,
    /// `It` for a spec.
    leaf_node_type: String,
    leaf_node_text: String,
    state: State,
    /// In nanoseconds.
    run_time: f64,
    #[serde(default)]
    failure: RawFailure,
    #[serde(default)]
    captured_ginkgo_writer_output: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawFailure {
    message: String,
    location: RawLocation,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawLocation {
    file_name: String,
    line_number: u32,
}

/// Reads the report: every spec that ran, and whatever of the suite itself failed.
///
/// # Errors
/// If it is not there or is no such report, or if no spec ran.
pub(crate) fn read(file: &Path) -> Result<Vec<Spec>> {
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let specs = parse(&text).with_context(|| format!("parse {}", file.display()))?;
    ensure!(!specs.is_empty(), "no spec ran");
    Ok(specs)
}

fn parse(text: &[u8]) -> Result<Vec<Spec>> {
    let suites: Vec<RawReport> = serde_json::from_slice(text)?;
    let raw = suites.into_iter().flat_map(|suite| suite.spec_reports);
    let is_spec = |raw: &RawSpec| raw.leaf_node_type == "It";
    // Of the suite's own steps, only a failure is of interest.
    let relevant = raw.filter(|raw| is_spec(raw) || raw.state != State::Passed);
    Ok(relevant.map(spec).filter(Spec::ran).collect())
}

fn spec(raw: RawSpec) -> Spec {
    let mut words = raw.container_hierarchy_texts.unwrap_or_default();
    words.push(if raw.leaf_node_text.is_empty() { raw.leaf_node_type } else { raw.leaf_node_text });
    let place = raw.failure.location;
    let message = match (raw.failure.message, place.file_name.rsplit('/').next()) {
        (message, Some(file)) if !message.is_empty() && !file.is_empty() => {
            format!("{message} ({file}:{})", place.line_number)
        }
        (message, _) => message,
    };
    Spec {
        name: words.join(" "),
        state: raw.state,
        message,
        output: raw.captured_ginkgo_writer_output,
        seconds: raw.run_time / 1e9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_has_the_names_of_all_it_is_in_and_the_place_of_its_failure() {
        let text = r#"[{"SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "",
             "State": "passed", "RunTime": 1},
            {"ContainerHierarchyTexts": ["[k8s.io] Pod", "runtime"], "LeafNodeType": "It",
             "LeafNodeText": "should run", "State": "failed", "RunTime": 1500000000,
             "Failure": {"Message": "no pod", "Location": {"FileName": "/a/pod.go", "LineNumber": 7}},
             "CapturedGinkgoWriterOutput": "STEP"},
            {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "not chosen",
             "State": "skipped", "RunTime": 0},
            {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "not here",
             "State": "skipped", "RunTime": 0, "Failure": {"Message": "no AppArmor", "Location": {}}}
        ]}]"#;
        let specs = parse(text.as_bytes()).expect("a report");
        let [failed, skipped] = specs.as_slice() else { panic!("{specs:?}") };
        assert_eq!(failed.name, "[k8s.io] Pod runtime should run");
        assert_eq!((failed.state, failed.seconds), (State::Failed, 1.5));
        assert_eq!(failed.message, "no pod (pod.go:7)");
        assert_eq!(failed.output, "STEP");
        assert_eq!((skipped.state, skipped.message.as_str()), (State::Skipped, "no AppArmor"));
    }

    #[test]
    fn a_failure_of_the_suite_itself_is_told() {
        let text = r#"[{"SpecReports": [{"ContainerHierarchyTexts": null,
            "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "failed", "RunTime": 1,
            "Failure": {"Message": "no server", "Location": {}}}]}]"#;
        let specs = parse(text.as_bytes()).expect("a report");
        assert_eq!(specs[0].name, "BeforeSuite");
        assert_eq!(specs[0].state, State::Failed);
    }
}
