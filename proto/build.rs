//! Generates Rust from the interfaces: CRI v1 with client and server, the messages of NRI and ttrpc.
//!
//! The files are parsed by protox, so building needs no protoc.

use std::error::Error;

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
    Ok(())
}
