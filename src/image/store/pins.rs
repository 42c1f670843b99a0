//! [`Pins`]: images that somebody uses, and images that are on their way out. Never both.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::ids::ImageId;
use crate::image::Image;

/// Who holds what.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Number of pins of each pinned image.
    held: HashMap<ImageId, usize>,
    /// Images that are just being removed, and cannot be pinned any more.
    removing: HashSet<ImageId>,
}

impl Pins {
    /// Pins the image that `find` finds, unless it is being removed.
    ///
    /// RACE: a removal marks the image under the same lock before it touches anything, and makes
    /// it invisible before it takes the mark away. So it sees our pin, or we see its mark, or we
    /// do not find the image.
    pub(super) fn pin(
        &self,
        id: &ImageId,
        find: impl FnOnce() -> Option<Arc<Image>>,
    ) -> Option<Arc<Image>> {
        let mut table = lock(&self.0);
        if table.removing.contains(id) {
            return None;
        }
        let image = find()?;
        *table.held.entry(*id).or_default() += 1;
        Some(image)
    }

    /// Takes back one [`Self::pin`].
    pub(super) fn unpin(&self, id: &ImageId) {
        let mut table = lock(&self.0);
        if let Some(count) = table.held.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                table.held.remove(id);
            }
        }
    }

    /// Marks an image as being removed; false if it is pinned.
    pub(super) fn begin_removal(&self, id: &ImageId) -> bool {
        let mut table = lock(&self.0);
        !table.held.contains_key(id) && table.removing.insert(*id)
    }

    /// Takes the mark away.
    pub(super) fn end_removal(&self, id: &ImageId) {
        lock(&self.0).removing.remove(id);
    }
}
