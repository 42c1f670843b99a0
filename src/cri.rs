//! The gRPC edge.

pub mod answer;
mod audit;
pub mod convert;
pub mod image_service;
pub mod layer;
pub mod pb;
pub mod report;
pub mod runtime_service;
pub mod status;

pub use pb::image_service_server::ImageServiceServer;
pub use pb::runtime_service_server::RuntimeServiceServer;
