//! The command line: what it accepts, and everything that is printed on standard output.

#![allow(clippy::print_stdout, clippy::print_stderr)] // the one place that talks to a terminal

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, render};
use crate::preflight::{self, Report};
use crate::{error, health};

/// A Kubernetes CRI server: pods as namespaces, containers by any OCI runtime.
#[derive(Debug, Parser)]
#[command(name = "crisol", version)]
pub struct Arguments {
    /// What to do; to serve if nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file, which must exist; its drop-ins are in the directory of the same name
    /// with the extension .d [default: /etc/crisol/crisol.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Serve the CRI until SIGTERM
    Serve,
    /// Print the configuration in force as TOML, with the reason of each key
    Config {
        /// Print the defaults instead
        #[arg(long)]
        default: bool,
    },
    /// Check whether this host can do what the configuration says; exits with 1 if not
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Unpack layers: crisol starts this itself
    #[command(hide = true)]
    Unpack,
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// For whom something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Form {
    /// From the option `--json`.
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// `crisol config`
pub fn config(file: Option<&Path>) -> ExitCode {
    match load(file) {
        Ok(config) => print(&render::effective(&config)),
        Err(code) => code,
    }
}

/// `crisol config --default`
pub fn default_config() -> ExitCode {
    print(&render::default())
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
pub async fn check(file: Option<&Path>, form: Form) -> ExitCode {
    let report = match Config::load(file) {
        Ok(config) => preflight::check(&config).await,
        Err(mistakes) => Report::of_mistakes(&mistakes),
    };
    let code = if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    let text = match form {
        Form::Json => report.to_json(),
        Form::Text => report.to_string(),
    };
    if print(&text) == ExitCode::SUCCESS { code } else { ExitCode::FAILURE }
}

/// `crisol version`
pub fn version(form: Form) -> ExitCode {
    let version = health::version();
    print(&match form {
        Form::Json => version.to_json(),
        Form::Text => version.to_string(),
    })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert!(parse("crisol").unwrap().command.is_none());
        let arguments = parse("crisol --config /a.toml").unwrap();
        assert_eq!(arguments.config.as_deref(), Some(Path::new("/a.toml")));
    }

    #[test]
    fn the_configuration_can_be_named_before_and_after_the_command() {
        for line in ["crisol --config /a.toml check --json", "crisol check --json --config /a.toml"]
        {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.config.as_deref(), Some(Path::new("/a.toml")));
            assert!(matches!(arguments.command, Some(Command::Check { json: true })), "{line}");
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in ["crisol start", "crisol --root /x", "crisol config --json", "crisol --config"]
        {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        let help = parse("crisol --help").unwrap_err();
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
    }
}
