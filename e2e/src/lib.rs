//! Everything that sees crisol from outside: the harness that the tests, the benchmarks and
//! `make run` share.
//!
//! A [`node::Node`] is one daemon with directories, a network and a control group of its own; it
//! removes all of them when dropped. A [`registry::Registry`] holds the test images, a
//! [`liar::Liar`] is a registry that lies. [`traces`] says what a node has left on the machine.
//! Nothing here reaches into the daemon: the only way in is its socket, its files and its signals.

mod connection;
pub mod cri;
pub mod crictl;
pub mod host;
pub mod hung;
pub mod interrupt;
pub mod layout;
pub mod liar;
pub mod log;
pub mod node;
pub mod program;
pub mod raw;
pub mod registry;
pub mod request;
pub mod runner;
pub mod shuffle;
pub mod streaming;
pub mod terminal;
pub mod traces;
pub mod wait;
