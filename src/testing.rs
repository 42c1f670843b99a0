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

/// Runs before the test program's own start, with its arguments (the array `.init_array`, elf(5)): a
/// test program that is started as the daemon starts its unpacker is one.
#[cfg(test)]
#[allow(unsafe_code, reason = "the name of a section of the program")]
#[used]
// SAFETY: the section has pointers to functions of this form, called once, with one thread.
#[unsafe(link_section = ".init_array")]
static UNPACKER: extern "C" fn() = unpacker;

extern "C" fn unpacker() {
    let mut arguments = std::env::args();
    if arguments.next().as_deref() == Some("crisol")
        && arguments.next().as_deref() == Some("unpack")
    {
        std::process::exit(crate::image::serve_unpacker());
    }
}
