//! Generates the Rust types, client and server of CRI v1 from `runtime/v1/api.proto`.
//!
//! The file is parsed by protox, so building needs no protoc.

use std::error::Error;

/// Relative to the package, where cargo runs this program.
const INCLUDE: &str = "proto";
const API: &str = "runtime/v1/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/build.rs");
    println!("cargo:rerun-if-changed={INCLUDE}/{API}");

    let files = protox::compile([API], [INCLUDE])?;
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
