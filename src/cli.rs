//! The command line: what it accepts, and everything that is printed on standard output.

#![allow(clippy::print_stdout, clippy::print_stderr)] // the one place that talks to a terminal

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, render};
use crate::preflight::{self, Report};
use crate::{error, health};

/// A Kubernetes CRI server: pods as namespaces, containers by any OCI runtime.
#[derive(Debug, Parser)]
#[command(name = "crisol", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do; to serve if nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// For `crisol` without a command.
    #[command(flatten)]
    pub source: Source,
}

/// Which configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct Source {
    /// Configuration file; its drop-ins are FILE with the extension .d [default:
    /// /etc/crisol/crisol.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the CRI until SIGTERM
    Serve(Source),
    /// Print the configuration in force as TOML, with the reason of each key
    Config {
        /// The defaults instead
        #[arg(long, conflicts_with = "config")]
        default: bool,
        /// Which configuration.
        #[command(flatten)]
        source: Source,
    },
    /// Check whether this host can do what the configuration says; exits 1 if not
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Which configuration.
        #[command(flatten)]
        source: Source,
    },
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `crisol config`
pub fn config(source: &Source, default: bool) -> ExitCode {
    if default {
        return print(&render::default());
    }
    match load(source.config.as_deref()) {
        Ok(config) => print(&render::effective(&config)),
        Err(code) => code,
    }
}

/// The configuration; its mistakes are printed.
///
/// # Errors
///
/// The code to exit with.
pub fn load(file: Option<&Path>) -> Result<Config, ExitCode> {
    Config::load(file).map_err(|mistakes| {
        eprintln!("{mistakes}");
        ExitCode::FAILURE
    })
}

/// `crisol check`
pub async fn check(source: &Source, json: bool) -> ExitCode {
    let report = match Config::load(source.config.as_deref()) {
        Ok(config) => preflight::check(&config).await,
        Err(mistakes) => Report::of_mistakes(&mistakes),
    };
    let code = if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    let printed = print(&if json { report.to_json() } else { report.to_string() });
    if printed == ExitCode::SUCCESS { code } else { printed }
}

/// `crisol version`
pub fn version(json: bool) -> ExitCode {
    let version = health::version();
    print(&if json { version.to_json() } else { version.to_string() })
}

/// The error that ended the daemon, with all its causes.
pub fn complain(error: &anyhow::Error) {
    eprintln!("crisol: {}", error::chain(error.as_ref()));
}

/// Writes to standard output. A reader that went away (`crisol config | head`) is no error of ours.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crisol: write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
