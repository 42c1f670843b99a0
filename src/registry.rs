//! Ids and keys to handles. Synchronous, short, and never held across anything that waits.
//!
//! The key is what makes a request repeatable: a second request with the same key finds the
//! handle of the first and joins it, whatever state that is in.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::IdQuery;

/// Most candidates listed when a prefix names several objects.
const CANDIDATES: usize = 5;

/// The text asked for names more than one object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("id {query:?} is ambiguous: {}", candidates.join(", "))]
pub struct Ambiguous {
    /// What was asked.
    pub query: String,
    /// Some of the ids it fits.
    pub candidates: Vec<String>,
}

/// What asking for a key came to.
pub enum Reserved<H> {
    /// The key was free; it now belongs to this new handle.
    New(H),
    /// The key has an owner already.
    Existing(H),
}

/// All objects of one kind.
pub struct Registry<K, H> {
    table: Mutex<Table<K, H>>,
}

struct Table<K, H> {
    by_id: BTreeMap<String, (K, H)>,
    by_key: HashMap<K, String>,
}

impl<K, H> Default for Registry<K, H> {
    fn default() -> Self {
        let table = Table { by_id: BTreeMap::new(), by_key: HashMap::new() };
        Self { table: Mutex::new(table) }
    }
}

impl<K: Clone + Eq + Hash, H: Clone> Registry<K, H> {
    /// The handle that owns `key`, or a new one that `make` makes and that is listed as `id`.
    pub fn reserve(&self, key: &K, id: &impl ToString, make: impl FnOnce() -> H) -> Reserved<H> {
        let mut table = self.lock();
        let owner = table.by_key.get(key).and_then(|id| table.by_id.get(id));
        if let Some((_, handle)) = owner {
            return Reserved::Existing(handle.clone());
        }
        let handle = make();
        table.by_key.insert(key.clone(), id.to_string());
        table.by_id.insert(id.to_string(), (key.clone(), handle.clone()));
        Reserved::New(handle)
    }

    /// Forgets the object; its key is free again. Unknown is fine.
    pub fn remove(&self, id: &impl ToString) {
        let mut table = self.lock();
        if let Some((key, _)) = table.by_id.remove(&id.to_string()) {
            table.by_key.remove(&key);
        }
    }

    /// The one object whose id is or begins with the text.
    pub fn find(&self, query: &IdQuery) -> Result<Option<H>, Ambiguous> {
        let table = self.lock();
        if let Some((_, handle)) = table.by_id.get(query.as_str()) {
            return Ok(Some(handle.clone()));
        }
        let fits: Vec<_> = table
            .by_id
            .range(query.as_str().to_owned()..)
            .take_while(|(id, _)| id.starts_with(query.as_str()))
            .take(CANDIDATES)
            .collect();
        match fits.as_slice() {
            [] => Ok(None),
            [(_, (_, handle))] => Ok(Some(handle.clone())),
            several => Err(Ambiguous {
                query: query.as_str().to_owned(),
                candidates: several.iter().map(|(id, _)| (*id).clone()).collect(),
            }),
        }
    }

    /// The object with exactly this id.
    pub fn get(&self, id: &impl ToString) -> Option<H> {
        self.lock().by_id.get(&id.to_string()).map(|(_, handle)| handle.clone())
    }

    /// Every handle, in the order of ids.
    pub fn list(&self) -> Vec<H> {
        self.lock().by_id.values().map(|(_, handle)| handle.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table<K, H>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> IdQuery {
        IdQuery::parse(text).expect("a query")
    }

    #[test]
    fn the_second_reservation_of_a_key_gets_the_first_handle() {
        let registry = Registry::default();
        assert!(matches!(registry.reserve(&"k", &"aa", || 1), Reserved::New(1)));
        assert!(matches!(registry.reserve(&"k", &"bb", || 2), Reserved::Existing(1)));
        registry.remove(&"aa");
        assert!(matches!(registry.reserve(&"k", &"bb", || 2), Reserved::New(2)));
        assert_eq!(registry.list(), [2]);
    }

    #[test]
    fn a_prefix_names_one_object_or_is_ambiguous_or_absent() {
        let registry = Registry::default();
        for (key, id) in [(1, "aab"), (2, "aac"), (3, "b")] {
            registry.reserve(&key, &id, || id);
        }
        assert_eq!(registry.find(&query("b")), Ok(Some("b")));
        assert_eq!(registry.find(&query("aab")), Ok(Some("aab")));
        assert_eq!(registry.find(&query("c")), Ok(None));
        let error = registry.find(&query("aa")).expect_err("two fit");
        assert_eq!(error.candidates, ["aab", "aac"]);
    }
}
