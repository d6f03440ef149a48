//! A bounded cache of entries, by name.
//!
//! Invariants:
//! - It never holds more than [`ENTRIES_MAX`] entries.
//! - It never holds an entry older than the last change that was forgotten here ([`Cache::forget`]): what was read
//!   before a change is not kept after it.

use crate::entry::Entry;
use parking_lot::Mutex;
use rookery_types::AccountName;
use std::collections::HashMap;
use std::sync::Arc;

/// Entries held at most.
pub(crate) const ENTRIES_MAX: usize = 8192;

#[derive(Default)]
struct Entries {
    /// Asked for lately. When half the room is taken, these become the old ones and the old ones go.
    young: HashMap<AccountName, Arc<Entry>>,
    old: HashMap<AccountName, Arc<Entry>>,
    changes: u64,
}

#[derive(Default)]
pub(crate) struct Cache(Mutex<Entries>);

/// When a read began, in changes.
#[derive(Clone, Copy)]
pub(crate) struct Before(u64);

impl Cache {
    /// The entry, or when the read that now follows began.
    pub(crate) fn get(&self, name: &AccountName) -> Result<Arc<Entry>, Before> {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.young.get(name) {
            return Ok(entry.clone());
        }
        match entries.old.remove(name) {
            Some(entry) => {
                entries.insert(entry.clone());
                Ok(entry)
            }
            None => Err(Before(entries.changes)),
        }
    }

    /// Keeps what was read, unless something has changed since the read began.
    pub(crate) fn keep(&self, before: Before, entry: &Arc<Entry>) {
        let mut entries = self.0.lock();
        if entries.changes == before.0 {
            entries.insert(entry.clone());
        }
    }

    /// Told of every change after it is durable and before it is acknowledged.
    pub(crate) fn forget(&self, names: &[AccountName]) {
        let mut entries = self.0.lock();
        entries.changes += 1;
        for name in names {
            entries.young.remove(name);
            entries.old.remove(name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let entries = self.0.lock();
        entries.young.len() + entries.old.len()
    }
}

impl Entries {
    fn insert(&mut self, entry: Arc<Entry>) {
        if self.young.len() >= ENTRIES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entry.name.clone(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{AccountState, Home};
    use rookery_types::{AccountId, Epoch, NodeId, StoreId};

    fn entry(n: u64) -> Arc<Entry> {
        Arc::new(Entry {
            id: AccountId::new(n + 1).unwrap(),
            name: AccountName::parse(&format!("user/u{n}@x.test")).unwrap(),
            home: Home { node: NodeId(1), store: StoreId([1; 16]), epoch: Epoch(1) },
            moving: None,
            state: AccountState::Active,
            verifier: None,
            revision: 1,
        })
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::default();
        let often = entry(0);
        for n in 0..3 * ENTRIES_MAX as u64 {
            let entry = entry(n);
            let before = cache.get(&entry.name).unwrap_err();
            cache.keep(before, &entry);
            assert!(cache.get(&often.name).is_ok() && cache.len() <= ENTRIES_MAX);
        }
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let cache = Cache::default();
        let entry = entry(1);
        let before = cache.get(&entry.name).unwrap_err();
        cache.forget(std::slice::from_ref(&entry.name));
        cache.keep(before, &entry);
        assert!(cache.get(&entry.name).is_err());
    }
}
