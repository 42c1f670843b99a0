//! [`Pins`]: images that somebody uses, and images that are on their way out. Never both.
//!
//! A container that was found again holds what it uses by name, whether the store can give it or not.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
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
    /// The same of the directories of layers.
    layers: HashMap<String, usize>,
    /// Images that are held by containers which cannot name their layers.
    blind: HashMap<ImageId, usize>,
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
        take_one(&mut lock(&self.0).held, id);
    }

    /// Pins images and layers that containers use, also those that are not there.
    pub(super) fn hold(&self, images: &[ImageId], layers: &[String]) {
        let mut table = lock(&self.0);
        for id in images {
            *table.held.entry(*id).or_default() += 1;
            if layers.is_empty() {
                *table.blind.entry(*id).or_default() += 1;
            }
        }
        for layer in layers {
            *table.layers.entry(layer.clone()).or_default() += 1;
        }
    }

    /// Takes back one [`Self::hold`] with the same arguments.
    pub(super) fn release(&self, images: &[ImageId], layers: &[String]) {
        let mut table = lock(&self.0);
        for id in images {
            take_one(&mut table.held, id);
            if layers.is_empty() {
                take_one(&mut table.blind, id);
            }
        }
        for layer in layers {
            take_one(&mut table.layers, layer);
        }
    }

    /// The images of which only the store can tell what is in use.
    pub(super) fn blind(&self) -> Vec<ImageId> {
        lock(&self.0).blind.keys().copied().collect()
    }

    /// The layers that are held by name.
    pub(super) fn layers(&self) -> HashSet<String> {
        lock(&self.0).layers.keys().cloned().collect()
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

fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
