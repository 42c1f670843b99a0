//! What tests of several modules need.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes `text` a program at `path`.
///
/// Another process writes it: a child that another test starts in that moment would inherit a
/// descriptor that is open for writing, and until it is closed the program cannot be run (ETXTBSY).
pub(crate) fn program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().expect("install(1)");
    let written = install.stdin.take().expect("its input").write_all(text.as_bytes());
    written.expect("it reads");
    assert!(install.wait().expect("its end").success(), "install {}", path.display());
}
