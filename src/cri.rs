//! The gRPC edge.

pub mod convert;
pub mod image_service;
pub mod layer;
pub mod pb;
pub mod report;
pub mod runtime_service;
pub mod status;
