//! What every configured handler is on this host: usable or not and why, and what it can do.
//!
//! Taken at start and again from time to time, so that a node whose runtime is repaired becomes
//! ready without a restart. Whoever reads it reads the last one taken, and never waits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use tokio::task::JoinSet;

use super::Environment;
use super::criu::{self, Criu};
use super::features::{self, Features};
use super::probe::{self, Version};
use crate::config::check::is_program;
use crate::config::{self, HandlerKind};
use crate::error;
use crate::trust::Trust;

/// One handler on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerReport {
    /// Its program.
    pub path: PathBuf,
    /// What it says about itself.
    pub version: Option<Version>,
    /// What it can do; the safe minimum while there is a problem.
    pub features: Features,
    /// Why pods cannot use it; none if they can.
    pub problem: Option<Problem>,
}

/// Why a program of ours cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// One word for machines, as in `RuntimeCondition.reason`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// All handlers and the monitor, as found at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// By name, exactly the configured ones.
    pub handlers: BTreeMap<String, HandlerReport>,
    /// Why containers cannot be monitored; none if they can.
    pub monitor: Option<Problem>,
    /// What checkpoints need besides a runtime that makes them.
    pub criu: Criu,
}

impl Inventory {
    /// Asks all programs at once; ends within a few seconds, however many of them hang.
    pub async fn take(config: &config::Runtime) -> Self {
        let (mut asked, trust) = (JoinSet::new(), config.trust);
        for (name, handler) in config.handlers.clone() {
            asked.spawn(async move { (name, report(&handler, trust).await) });
        }
        let environment = Environment::new(&config.search_path);
        let (handlers, criu) = tokio::join!(asked.join_all(), criu::find(&environment, trust));
        let handlers = handlers.into_iter().collect();
        let monitor = &config.monitor;
        let missing = (!is_program(monitor)).then(|| Problem {
            reason: "MonitorMissing",
            message: format!("monitor {} is not a program", monitor.display()),
        });
        let mistrusted = trust.check(monitor).err().map(|error| Problem {
            reason: "MonitorNotTrusted",
            message: format!("monitor: {error}"),
        });
        Self { handlers, monitor: missing.or(mistrusted), criu }
    }

    /// The handler a pod asked for by name (the empty name has been resolved), if it is usable.
    ///
    /// # Errors
    ///
    /// Why not; `None` if there is no such handler.
    pub fn usable(&self, name: &str) -> Result<&HandlerReport, Option<&Problem>> {
        let report = self.handlers.get(name).ok_or(None)?;
        match &report.problem {
            None => Ok(report),
            Some(problem) => Err(Some(problem)),
        }
    }
}

async fn report(handler: &config::Handler, trust: Trust) -> HandlerReport {
    let path = handler.path.clone();
    let broken = |version, reason, message| HandlerReport {
        path: path.clone(),
        version,
        features: Features::unknown(),
        problem: Some(Problem { reason, message }),
    };
    if handler.kind == HandlerKind::Shim {
        let message = "type \"shim\" is not available in this version of crisol".to_owned();
        return broken(None, "RuntimeTypeUnsupported", message);
    }
    if !is_program(&path) {
        let message = format!("{} is not a program", path.display());
        return broken(None, "RuntimeMissing", message);
    }
    if let Err(error) = trust.check(&path) {
        return broken(None, "RuntimeNotTrusted", error.to_string());
    }
    let version = match probe::version(&path).await {
        Ok(version) => version,
        Err(failed) => return broken(None, "RuntimeBroken", error::chain(&failed)),
    };
    match features::features(&path).await {
        Ok(features) => HandlerReport { path, version: Some(version), features, problem: None },
        Err(failed) => broken(Some(version), "RuntimeBroken", error::chain(&failed)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Handler;

    fn handler(kind: HandlerKind, path: &str) -> Handler {
        Handler { kind, path: path.into(), root: "/run/x".into(), options: Vec::new() }
    }

    #[tokio::test]
    async fn each_handler_is_usable_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good");
        let script = "#!/bin/sh\n[ $1 = --version ] && echo good version 1.2.3\n";
        crate::testing::program(&good, script);
        let runtime = config::Runtime {
            trust: Trust::RootAlone,
            default_handler: "good".to_owned(),
            monitor: dir.path().join("absent"),
            search_path: vec!["/bin".into()],
            handlers: BTreeMap::from([
                ("good".to_owned(), handler(HandlerKind::Oci, good.to_str().unwrap())),
                ("kata".to_owned(), handler(HandlerKind::Shim, "/bin/true")),
                ("gone".to_owned(), handler(HandlerKind::Oci, "/nonexistent")),
                ("failing".to_owned(), handler(HandlerKind::Oci, "/bin/false")),
            ]),
        };
        let inventory = Inventory::take(&runtime).await;
        let reason = |name: &str| inventory.usable(name).map_err(|p| p.map(|p| p.reason));
        assert_eq!(reason("good").unwrap().version.as_ref().unwrap().numbers, (1, 2, 3));
        assert_eq!(reason("good").unwrap().features, Features::unknown());
        assert_eq!(reason("kata").unwrap_err(), Some("RuntimeTypeUnsupported"));
        assert_eq!(reason("gone").unwrap_err(), Some("RuntimeMissing"));
        assert_eq!(reason("failing").unwrap_err(), Some("RuntimeBroken"));
        assert_eq!(reason("other").unwrap_err(), None);
        assert_eq!(inventory.monitor.as_ref().unwrap().reason, "MonitorMissing");
    }
}
