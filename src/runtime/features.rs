//! Placeholder.
#[derive(Clone, Debug)]
pub struct Features;
