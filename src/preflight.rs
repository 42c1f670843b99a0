//! `crisol check`: can this host do what the configuration says? Every finding says what to do.
//!
//! Looks and tries, but leaves nothing behind and needs no daemon. A failure means that pods will
//! not run as they should; a warning, that something is given up.

use std::fmt;

use serde::Serialize;

use crate::config::{Config, ConfigError};
use crate::host::Host;
use crate::runtime::handlers::Inventory;

mod cgroup;
mod image;
mod kernel;
mod network;
mod privileges;
mod runtime;
mod sockets;
mod storage;
mod trusted;

#[cfg(test)]
mod tests;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but something is given up.
    Warn,
    /// Pods will not run as they should.
    Fail,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The files of crisol.
    Configuration,
    /// Features of the kernel.
    Kernel,
    /// Control groups.
    Cgroups,
    /// Capabilities and limits of the daemon.
    Privileges,
    /// Runtimes and the monitor.
    Runtime,
    /// CNI and sysctls of the network.
    Network,
    /// `root` and `state`.
    Storage,
    /// Registries, policy, credentials.
    Images,
    /// The unix sockets and TCP ports.
    Sockets,
}

impl Area {
    fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Kernel => "kernel",
            Self::Cgroups => "cgroups",
            Self::Privileges => "privileges",
            Self::Runtime => "runtime",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Images => "images",
            Self::Sockets => "sockets",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; none if nothing.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which things were looked at.
    pub findings: Vec<Finding>,
}

/// Looks at everything. Ends within seconds, whatever hangs among the programs.
pub async fn check(config: &Config) -> Report {
    let mut report = Report::default();
    report.ok(Area::Configuration, "no mistakes");
    trusted::look(config, &mut report);
    let host = match Host::gather() {
        Ok(host) => host,
        Err(error) => {
            let remedy = "mount proc on /proc";
            report.fail(Area::Kernel, crate::error::chain(&error), remedy);
            return report;
        }
    };
    kernel::look(&host, &mut report);
    cgroup::look(config, &host, &mut report);
    privileges::look(&host, &mut report);
    runtime::look(config, &Inventory::take(&config.runtime).await, &mut report);
    network::look(config, &mut report);
    storage::look(config, &mut report);
    image::look(config, &mut report);
    sockets::look(config, &mut report).await;
    report
}

impl Report {
    /// A configuration that could not be used: nothing else can be looked at.
    pub fn of_mistakes(mistakes: &ConfigError) -> Self {
        let mut report = Self::default();
        for mistake in &mistakes.mistakes {
            report.fail(Area::Configuration, mistake.to_string(), "correct the file");
        }
        report
    }

    /// Whether anything failed.
    pub fn failed(&self) -> bool {
        self.count(Level::Fail) > 0
    }

    /// For programs: `{"failed": …, "findings": [{"area", "level", "what", "do"}]}`.
    pub fn to_json(&self) -> String {
        let value = serde_json::json!({ "failed": self.failed(), "findings": self.findings });
        format!("{value:#}")
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    fn ok(&mut self, area: Area, what: impl Into<String>) {
        self.findings.push(Finding { area, level: Level::Ok, what: what.into(), remedy: None });
    }

    fn warn(&mut self, area: Area, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), Some(remedy.into()));
        self.findings.push(Finding { area, level: Level::Warn, what, remedy });
    }

    fn fail(&mut self, area: Area, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), Some(remedy.into()));
        self.findings.push(Finding { area, level: Level::Fail, what, remedy });
    }
}

impl fmt::Display for Report {
    /// For people: one line a finding, what to do below it, a sum at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { area, level, what, remedy } in &self.findings {
            writeln!(f, "{:<4}  {:<13}  {what}", level.as_str(), area.as_str())?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:21}do: {remedy}", "")?;
            }
        }
        let [ok, warn, fail] = [Level::Ok, Level::Warn, Level::Fail].map(|l| self.count(l));
        write!(f, "{ok} ok, {warn} to know, {fail} to repair")
    }
}

/// The number in a file below /proc/sys; none if it is not there.
fn sysctl(name: &str) -> Option<i64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
