//! Generates Rust from the interfaces: CRI v1 with client and server, the messages of NRI and ttrpc;
//! says how the daemon is linked.
//!
//! The files are parsed by protox, so building needs no protoc.

use std::env;
use std::error::Error;
use std::process::Command;

/// Relative to the package, where cargo runs this program.
const INCLUDE: &str = "proto";
const FILES: [&str; 3] = ["runtime/v1/api.proto", "nri/v1alpha1/api.proto", "ttrpc/ttrpc.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/build.rs");
    for file in FILES {
        println!("cargo:rerun-if-changed={INCLUDE}/{file}");
    }

    let files = protox::compile(FILES, [INCLUDE])?;
    tonic_prost_build::configure()
        // Labels and annotations print and compare in a stable order.
        .btree_map(".")
        // The derived one would print registry passwords; `cri/pb.rs` has one that does not.
        .skip_debug(["runtime.v1.AuthConfig"])
        // The paths above are ours to name: this would watch the whole include directory.
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    if loader_knows_packed_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Relocations of a position-independent program are a table that the loader reads at every start
/// and that stays in memory. Packed it is a hundredth of that, for loaders since glibc 2.36.
fn loader_knows_packed_relocations() -> bool {
    let ours = |name| env::var(name).unwrap_or_default();
    let native = ours("HOST") == ours("TARGET") && ours("CARGO_CFG_TARGET_ENV") == "gnu";
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = asked.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    let version = said.ok().and_then(|said| {
        let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    native && version.is_some_and(|version| version >= (2, 36))
}
