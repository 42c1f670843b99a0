//! The real crictl, pointed at one node.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::layout;
use crate::program::{Said, run, run_with_input};

/// Seconds that crictl waits for an answer.
const PATIENCE: u32 = 60;

/// Runs `crictl ARGS` against the daemon that listens on `socket`.
///
/// # Errors
/// If crictl is missing or hangs; a failing crictl is no error.
pub fn crictl(socket: &Path, args: &[&str]) -> Result<Said> {
    run(&mut command(socket, args)?).with_context(|| format!("crictl {}", args.join(" ")))
}

/// The same with `input` as its standard input.
///
/// # Errors
/// As [`crictl`].
pub fn crictl_with_input(socket: &Path, args: &[&str], input: &[u8]) -> Result<Said> {
    let mut command = command(socket, args)?;
    run_with_input(&mut command, input).with_context(|| format!("crictl {}", args.join(" ")))
}

/// `crictl ARGS` against the daemon that listens on `socket`, not started yet.
///
/// # Errors
/// If crictl is missing.
pub fn command(socket: &Path, args: &[&str]) -> Result<Command> {
    let endpoint = format!("unix://{}", socket.display());
    let mut command = Command::new(layout::tool("crictl")?);
    command
        // A configuration of the machine's own must not steer us; this file never exists.
        .args(["--config", "/dev/null", "--timeout", &format!("{PATIENCE}s")])
        .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
        .args(args);
    Ok(command)
}
