#![doc = include_str!("ARCHITECTURE.md")]

// In reading order.
pub mod cli;
pub mod config;
pub mod daemon;
pub mod logging;
pub mod preflight;

pub mod cri;
pub mod stream;

pub mod container;
pub mod health;
pub mod image;
pub mod pod;
pub mod stats;

pub mod apparmor;
pub mod cgroup;
pub mod monitor;
pub mod network;
pub mod nri;
pub mod rootfs;
pub mod runtime;

pub mod claim;
pub mod error;
pub mod events;
pub mod host;
pub mod identity;
pub mod ids;
pub mod lobby;
pub mod metrics;
pub mod path;
pub mod record;
pub mod registry;
pub mod seldom;
pub mod steps;
pub mod trust;
pub mod undo;

pub mod sys;

#[cfg(test)]
mod testing;
