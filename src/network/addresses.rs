//! Which pod has which address, so that two live pods never share one.
//!
//! Address plugins keep their own books, and those are lost or shared by mistake: a cleared
//! directory, two networks with one range. A pod whose address leads to another pod is worse than
//! a pod that does not start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cni::{AddResult, Cache};

use super::error::NetworkError;
use crate::sys::namespaces;

/// The addresses that a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Most important first; at least one.
    pub ips: Vec<IpAddr>,
}

/// Addresses in use.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By address in canonical form: `::ffff:10.0.0.1` is `10.0.0.1`. The lock is held for a few
    /// look-ups and never across an await.
    by_address: Mutex<HashMap<IpAddr, Holder>>,
}

#[derive(Debug)]
struct Holder {
    pod: String,
    netns: PathBuf,
}

impl Held {
    /// Reads what is attached since before the daemon started. Blocks, as the start may.
    pub(super) fn load(cache: &Cache) -> Self {
        let held = Self::default();
        let entries = match cache.list() {
            Ok((entries, _)) => entries,
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(error, "addresses of attached pods are not known");
                Vec::new()
            }
        };
        for entry in entries {
            let Some(result) = entry.result else { continue };
            let netns = Path::new(&entry.netns);
            if let Ok(result) = AddResult::from_value(result, cni::Version::V1_1_0) {
                // Refused only if two live pods share an address already.
                held.take(&entry.container_id, netns, &result.addresses_in(netns)).ok();
            }
        }
        held
    }

    /// Notes a pod's addresses, all or none.
    ///
    /// Only a pod whose namespace is still pinned holds its addresses: after a reboot plugins may
    /// rightly give them to others, while the old pods' DEL is still owed.
    pub(super) fn take(&self, pod: &str, netns: &Path, ips: &[IpAddr]) -> Result<(), NetworkError> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        for ip in ips.iter().map(IpAddr::to_canonical) {
            if let Some(holder) = by_address.get(&ip)
                && holder.pod != pod
                && namespaces::is_pinned(&holder.netns).unwrap_or(true)
            {
                let (pod, holder) = (pod.to_owned(), holder.pod.clone());
                return Err(NetworkError::AddressTaken { pod, address: ip, holder });
            }
        }
        for ip in ips.iter().map(IpAddr::to_canonical) {
            by_address.insert(ip, Holder { pod: pod.to_owned(), netns: netns.to_owned() });
        }
        Ok(())
    }

    /// Forgets a pod's addresses.
    pub(super) fn release(&self, pod: &str) {
        self.keep_only(|holder| holder != pod);
    }

    /// Forgets the addresses of pods that are not wanted.
    pub(super) fn keep_only(&self, wanted: impl Fn(&str) -> bool) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        by_address.retain(|_, holder| wanted(&holder.pod));
    }
}
