//! Between the wire's types and ours.
//!
//! A request becomes a spec here or nowhere: every rule of the interface about a field is checked
//! once, all mistakes are collected, and the caller gets them in one [`Invalid`] that names each
//! field as it is written in the request. What comes out needs no further checking, except for
//! what only the host or the pod knows: whether a path, handler, profile or device exists.

pub mod container;
pub mod filter;
pub mod image;
pub mod metrics;
mod mount;
mod namespaces;
pub mod pod;
mod resources;
mod security;
mod signal;
pub mod stats;
mod sysctl;
mod text;
pub mod view;

use std::fmt;

pub use mount::mounts_into_pb;
pub use namespaces::namespace_options;
pub use resources::{resources_into_pb, update, update_pod};

use crate::error::{Classify, Kind};

/// Mistakes listed in one error; the message has to fit into an event of the Kubernetes API.
const MAX_LISTED: usize = 16;
/// Characters of a wrong value, or of a key, that are repeated in the error.
const MAX_SHOWN: usize = 64;

/// One mistake in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, e.g. `config.linux.sysctls["kernel.msgmax"]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A request that can never succeed as it is, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    problems: Vec<Problem>,
    /// How many more there were than are listed.
    omitted: usize,
}

impl Invalid {
    /// A single mistake.
    pub fn new(field: &str, problem: impl fmt::Display) -> Self {
        let problem = Problem { field: field.to_owned(), problem: problem.to_string() };
        Self { problems: vec![problem], omitted: 0 }
    }

    /// The mistakes, in the order of the request; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { field, problem }) in self.problems.iter().enumerate() {
            write!(f, "{}{field}: {problem}", if n == 0 { "" } else { "; " })?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Invalid {}

impl Classify for Invalid {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Where in the request a value is. Costs nothing until a mistake is written down.
#[derive(Clone, Copy)]
struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Field<'a> {
    fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Name(name) }
    }

    fn at(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Name(name) }
    }

    fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent) {
            (Step::Name(name), None) => f.write_str(name),
            (Step::Name(name), Some(_)) => write!(f, ".{name}"),
            (Step::Index(index), _) => write!(f, "[{index}]"),
            (Step::Key(key), _) => write!(f, "[{}]", shown(key)),
        }
    }
}

/// Collects what is wrong with a request while it is converted.
#[derive(Default)]
struct Mistakes {
    problems: Vec<Problem>,
    omitted: usize,
}

impl Mistakes {
    fn add(&mut self, field: &Field<'_>, problem: impl fmt::Display) {
        if self.problems.len() < MAX_LISTED {
            let problem = problem.to_string();
            self.problems.push(Problem { field: field.to_string(), problem });
        } else {
            self.omitted += 1;
        }
    }

    /// `value`, unless something was wrong: then the value is half-made and worth nothing.
    fn finish<T>(self, value: T) -> Result<T, Invalid> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Invalid { problems: self.problems, omitted: self.omitted })
        }
    }
}

/// A value as an error repeats it: quoted, escaped, and cut.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named_by_its_field_and_the_list_is_bounded() {
        let config = Field::root("config");
        let linux = config.at("linux");
        let sysctls = linux.at("sysctls");
        let mut mistakes = Mistakes::default();
        mistakes.add(&sysctls.key("kernel.x"), "is not allowed");
        mistakes.add(&config.at("mounts").index(3), "is missing");
        let text = mistakes.finish(()).unwrap_err().to_string();
        assert_eq!(
            text,
            r#"config.linux.sysctls["kernel.x"]: is not allowed; config.mounts[3]: is missing"#
        );

        let mut mistakes = Mistakes::default();
        (0..MAX_LISTED + 7).for_each(|n| mistakes.add(&config.index(n), "no"));
        let error = mistakes.finish(()).unwrap_err();
        assert_eq!(error.problems().len(), MAX_LISTED);
        assert!(error.to_string().ends_with("; and 7 more"));
    }

    #[test]
    fn a_long_or_binary_value_is_shown_cut_and_escaped() {
        assert_eq!(shown("a\nb"), r#""a\nb""#);
        let long = shown(&"ä".repeat(1000));
        assert_eq!(long.chars().filter(|c| *c == 'ä').count(), MAX_SHOWN);
    }
}
