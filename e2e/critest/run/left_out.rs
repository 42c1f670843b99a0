//! `skip.toml`: the specs that cannot pass somewhere, each with its reason, and what becomes of a
//! run when they are taken into account.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::arguments::Arguments;
use crate::report::{Spec, State};

/// How a spec that cannot pass ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ends {
    /// It notices and skips itself.
    Skipped,
    /// It fails.
    Failed,
}

/// Specs that cannot pass, for one reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeftOut {
    /// Their full names.
    specs: Vec<String>,
    /// Why they cannot pass.
    reason: String,
    /// On which places and with which runtimes; any of them.
    r#where: Vec<String>,
    /// How they end there.
    ends: Ends,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    left_out: Vec<LeftOut>,
}

/// What a spec's end means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed.
    Ok,
    /// It cannot pass here, and did not; why.
    LeftOut(String),
    /// It failed, or did something else than the list says; what.
    Failed(String),
}

/// The list, as far as it concerns one kind of run.
#[derive(Clone, Debug, Default)]
pub(crate) struct List(Vec<LeftOut>);

impl List {
    /// Reads the entries that hold for this kind of run.
    ///
    /// # Errors
    /// If the file is damaged, or names a place or runtime that does not exist.
    pub(crate) fn load(file: &Path, arguments: &Arguments) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text, arguments).with_context(|| format!("{}", file.display()))
    }

    fn parse(text: &str, arguments: &Arguments) -> Result<Self> {
        let known = ["native", "guest", "runc", "debian-runc", "crun"];
        let here = [arguments.place.word(), arguments.runtime.word()];
        let mut entries = toml::from_str::<File>(text)?.left_out;
        for entry in &entries {
            ensure!(!entry.reason.is_empty(), "{:?} are left out without a reason", entry.specs);
            let unknown = entry.r#where.iter().find(|word| !known.contains(&word.as_str()));
            ensure!(unknown.is_none(), "{:?}: unknown place {unknown:?}", entry.specs);
        }
        entries.retain(|entry| entry.r#where.iter().any(|word| here.contains(&word.as_str())));
        Ok(Self(entries))
    }

    /// Judges one spec.
    pub(crate) fn judge(&self, spec: &Spec) -> Verdict {
        let entry = self.0.iter().find(|entry| entry.specs.contains(&spec.name));
        let message = || spec.message.clone();
        match (spec.state, entry) {
            (State::Passed, None) => Verdict::Ok,
            (State::Passed, Some(_)) => Verdict::Failed("it passed, but skip.toml names it".into()),
            (State::Skipped, Some(entry)) if entry.ends == Ends::Skipped => {
                Verdict::LeftOut(entry.reason.clone())
            }
            (State::Failed, Some(entry)) if entry.ends == Ends::Failed => {
                Verdict::LeftOut(entry.reason.clone())
            }
            (State::Skipped, None) => Verdict::Failed(format!(
                "it skipped itself, skip.toml does not name it: {}",
                message()
            )),
            (_, Some(entry)) => Verdict::Failed(format!(
                "it ended as {:?}, skip.toml expects {:?}: {}",
                spec.state,
                entry.ends,
                message()
            )),
            (_, None) => Verdict::Failed(message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> List {
        let text = r#"
            [[left_out]]
            specs = ["Guest"]
            reason = "kernel"
            where = ["native"]
            ends = "skipped"
            [[left_out]]
            specs = ["Recursive"]
            reason = "too old"
            where = ["crun"]
            ends = "failed"
        "#;
        let words = words.split_whitespace().map(str::to_owned);
        let arguments = Arguments::parse(words).expect("arguments");
        List::parse(text, &arguments).expect("a list")
    }

    fn spec(name: &str, state: State) -> Spec {
        let (message, output) = ("why".to_owned(), String::new());
        Spec { name: name.to_owned(), state, message, output, seconds: 0.0 }
    }

    #[test]
    fn a_listed_spec_is_left_out_only_where_it_is_listed() {
        let skipped = spec("Guest", State::Skipped);
        assert_eq!(list("--on native").judge(&skipped), Verdict::LeftOut("kernel".into()));
        assert!(matches!(list("--on guest").judge(&skipped), Verdict::Failed(_)));
        let failed = spec("Recursive", State::Failed);
        assert_eq!(list("--runtime crun").judge(&failed), Verdict::LeftOut("too old".into()));
        assert_eq!(list("--runtime runc").judge(&failed), Verdict::Failed("why".into()));
    }

    #[test]
    fn the_list_must_be_true() {
        let list = list("--runtime crun");
        assert!(matches!(list.judge(&spec("Guest", State::Passed)), Verdict::Failed(_)));
        assert!(matches!(list.judge(&spec("Guest", State::Failed)), Verdict::Failed(_)));
        assert!(matches!(list.judge(&spec("Recursive", State::Skipped)), Verdict::Failed(_)));
        assert!(matches!(list.judge(&spec("Other", State::Skipped)), Verdict::Failed(_)));
        assert_eq!(list.judge(&spec("Other", State::Passed)), Verdict::Ok);
    }
}
