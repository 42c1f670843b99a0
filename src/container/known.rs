//! Whether every container that may use something has an owner, and so has said what.

use std::fs;
use std::io;

use crate::ids::ContainerId;

use super::Containers;

impl Containers {
    /// Whether everything that has a bundle has an owner. Blocks.
    ///
    /// # Errors
    /// If the bundles cannot be listed.
    pub fn are_all_known(&self) -> io::Result<bool> {
        for entry in fs::read_dir(self.parts.layout.bundles())? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse::<ContainerId>().ok())
                && self.registry.get(&id).is_none()
                // RACE: it may have been removed since the listing.
                && !matches!(self.parts.layout.bundle(&id).try_exists(), Ok(false))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
