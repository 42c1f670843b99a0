//! The table that `make bench` prints.

use std::fmt;

/// Lines in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    name: String,
    bare: String,
    ours: String,
    /// The figure that is promised.
    measure: String,
    budget: String,
    /// None where nothing is promised.
    kept: Option<bool>,
}

impl Report {
    /// Milliseconds bare and through crisol; promised as a ratio of medians.
    pub(crate) fn ratio(&mut self, name: &str, bare: &[f64], ours: &[f64], budget: f64) {
        let ratio = median(ours) / median(bare);
        self.lines.push(Line {
            name: name.to_owned(),
            bare: milliseconds(bare),
            ours: milliseconds(ours),
            measure: format!("{ratio:.2} x"),
            budget: format!("{budget:.2} x"),
            kept: Some(ratio <= budget),
        });
    }

    /// Milliseconds bare and through crisol; promised as a difference of medians.
    pub(crate) fn excess(&mut self, name: &str, bare: &[f64], ours: &[f64], budget_ms: f64) {
        let excess = median(ours) - median(bare);
        self.lines.push(Line {
            name: name.to_owned(),
            bare: milliseconds(bare),
            ours: milliseconds(ours),
            measure: format!("{excess:+.1} ms"),
            budget: format!("{budget_ms:+.1} ms"),
            kept: Some(excess <= budget_ms),
        });
    }

    /// Mebibytes; promised as they are.
    pub(crate) fn limit(&mut self, name: &str, mib: f64, budget: f64) {
        self.lines.push(Line {
            budget: format!("{budget:.1} MiB"),
            kept: Some(mib <= budget),
            ..Line::memory(name, mib)
        });
    }

    /// Mebibytes; nothing is promised.
    pub(crate) fn figure(&mut self, name: &str, mib: f64) {
        self.lines.push(Line::memory(name, mib));
    }

    /// Whether every budget was kept.
    pub(crate) fn kept(&self) -> bool {
        self.lines.iter().all(|line| line.kept != Some(false))
    }
}

impl Line {
    fn memory(name: &str, mib: f64) -> Self {
        Self {
            name: name.to_owned(),
            bare: String::new(),
            ours: String::new(),
            measure: format!("{mib:.2} MiB"),
            budget: String::new(),
            kept: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["median (90 % below)", "bare", "crisol", "measured", "budget"];
        let [name, bare, ours, measure, budget] = head;
        writeln!(f, "{name:<24} {bare:>20} {ours:>20} {measure:>12} {budget:>12}")?;
        for line in &self.lines {
            let verdict = match line.kept {
                Some(true) => "  kept",
                Some(false) => "  MISSED",
                None => "",
            };
            writeln!(
                f,
                "{:<24} {:>20} {:>20} {:>12} {:>12}{verdict}",
                line.name, line.bare, line.ours, line.measure, line.budget
            )?;
        }
        Ok(())
    }
}

fn milliseconds(values: &[f64]) -> String {
    format!("{:.1} ms ({:.1})", median(values), quantile(values, 0.9))
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // Values are few and the part is below one: the index is exact enough and never beyond the end.
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
