//! Images: pull, find, list, remove. The public face of the image store.

pub mod gc;
pub mod pull;
pub mod reference;
pub mod store;
pub mod unpack;
