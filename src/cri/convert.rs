//! Between the wire's types and ours.

pub mod container;
pub mod filter;
pub mod image;
pub mod pod;
pub mod view;
