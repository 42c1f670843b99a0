//! Whether plugins know of an object: what makes a late plugin's picture whole.
//!
//! Every pod and every container has a [`Told`]. It moves while the list of plugins is locked, and a
//! plugin that joins enters the list before its picture is taken. So for every object and every
//! plugin exactly one of these holds:
//!
//! - it was told to all before the plugin entered the list: it is in the picture, also while the
//!   object is still being made and nobody else can see it;
//! - the plugin was in the list when the object looked for somebody left to tell: it gets the
//!   object's first event, which waits until the plugin has its picture;
//! - its farewell began before the plugin entered the list: it is in neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// 0 is an object that nobody has been told of.
const TOLD: u8 = 1;
const STOPPED: u8 = 2;
const GONE: u8 = 3;

/// How much of an object's life plugins have been told. Clones are of the same object.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<AtomicU8>);

impl Told {
    /// Of an object that a former daemon left: every plugin finds it in its picture.
    pub fn found(stopped: bool) -> Self {
        Self(Arc::new(AtomicU8::new(if stopped { STOPPED } else { TOLD })))
    }

    /// Whether the object belongs into the picture of a plugin that joins now.
    pub fn is_shown(&self) -> bool {
        matches!(self.0.load(Ordering::SeqCst), TOLD | STOPPED)
    }

    /// All that there are have been told of its making.
    pub(super) fn announced(&self) {
        self.0.store(TOLD, Ordering::SeqCst);
    }

    /// Whether this is the moment to tell of its end: once.
    pub(super) fn stops(&self) -> bool {
        self.moves(TOLD, STOPPED)
    }

    /// Whether this is the moment to tell of its removal: once.
    pub(super) fn goes(&self) -> bool {
        self.moves(STOPPED, GONE) || self.moves(TOLD, GONE)
    }

    fn moves(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_and_a_removal_are_told_once_and_only_of_what_was_announced() {
        let told = Told::default();
        assert!(!told.is_shown() && !told.stops() && !told.goes());
        told.announced();
        assert!(told.is_shown() && told.stops() && !told.stops() && told.is_shown());
        assert!(told.goes() && !told.goes() && !told.is_shown());
        let found = Told::found(true);
        assert!(found.is_shown() && !found.stops() && found.goes());
    }
}
