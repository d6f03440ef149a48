//! Which keys of an account change while it is copied: the committer notes them, and the copier reads their values when
//! it sends them.
//!
//! Invariants:
//! - A key is noted before its change can be read, so what is read after the keys were taken has no change that is not
//!   among them or noted later.
//! - A snapshot that [`Tap::take`] gives has all changes of the keys it gives, and no change of others since the last
//!   taking.
//! - It is bounded: with too many keys it says so, and everything is compared again.

use super::ranges::travels;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rookery_kv::engine::{Batch, Engine, Op, Read, Space};
use rookery_types::AccountId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that a tap remembers.
const KEYS_MAX: usize = 200_000;

/// Keys with their spaces.
pub(crate) type Keys = BTreeSet<(Space, Bytes)>;

#[derive(Default)]
struct Noted {
    keys: Keys,
    overflown: bool,
    /// A commit with changes of the account is under way.
    committing: bool,
}

/// The changed keys of one account.
#[derive(Default)]
pub(crate) struct Tap {
    noted: Mutex<Noted>,
    committed: Condvar,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tap")
    }
}

impl Tap {
    /// How many keys have changed since the last taking; `None`: more than it remembers.
    pub(crate) fn len(&self) -> Option<usize> {
        let noted = self.noted.lock();
        (!noted.overflown).then(|| noted.keys.len())
    }

    /// The keys that have changed since the last taking, and the state that has all these changes and no others. `None`
    /// for the keys: there were too many. Waits for a commit that is under way.
    pub(crate) fn take(&self, engine: &dyn Engine) -> (Option<Keys>, Box<dyn Read + Send>) {
        let mut noted = self.noted.lock();
        while noted.committing {
            self.committed.wait(&mut noted);
        }
        // The next commit waits for the lock with its first key.
        let snapshot = engine.snapshot();
        let keys = std::mem::take(&mut noted.keys);
        let overflown = std::mem::take(&mut noted.overflown);
        ((!overflown).then_some(keys), snapshot)
    }

    fn note(&self, space: Space, key: &Bytes) {
        let mut noted = self.noted.lock();
        noted.committing = true;
        if noted.keys.len() >= KEYS_MAX {
            noted.keys.clear();
            noted.overflown = true;
        }
        if !noted.overflown {
            noted.keys.insert((space, key.clone()));
        }
    }

    fn done(&self) {
        self.noted.lock().committing = false;
        self.committed.notify_all();
    }
}

/// The taps of a store.
#[derive(Default)]
pub(crate) struct Taps {
    /// Read without the lock, since mostly there is none.
    count: AtomicUsize,
    taps: Mutex<HashMap<AccountId, Vec<Arc<Tap>>>>,
}

impl Taps {
    /// A new tap on an account. What changes from now on is noted.
    pub(crate) fn open(&self, id: AccountId) -> Arc<Tap> {
        let tap = Arc::new(Tap::default());
        self.taps.lock().entry(id).or_default().push(tap.clone());
        self.count.fetch_add(1, Ordering::Release);
        tap
    }

    /// It is not needed any more.
    pub(crate) fn close(&self, id: AccountId, tap: &Arc<Tap>) {
        let mut taps = self.taps.lock();
        let Some(of) = taps.get_mut(&id) else { return };
        let before = of.len();
        of.retain(|one| !Arc::ptr_eq(one, tap));
        self.count.fetch_sub(before - of.len(), Ordering::Release);
        if of.is_empty() {
            taps.remove(&id);
        }
    }

    /// Notes what a batch is going to change. The taps are told when it is done.
    pub(crate) fn note(&self, batch: &Batch) -> Vec<Arc<Tap>> {
        let mut touched: Vec<Arc<Tap>> = Vec::new();
        if self.count.load(Ordering::Acquire) == 0 {
            return touched;
        }
        let taps = self.taps.lock();
        for op in &batch.ops {
            let (Op::Put { space, key, .. } | Op::Delete { space, key }) = op;
            if !matches!(space, Space::Meta | Space::Directory)
                && travels(*space, key)
                && let Some(of) = crate::keys::account_of(key).and_then(|id| taps.get(&id))
            {
                for tap in of {
                    tap.note(*space, key);
                    if !touched.iter().any(|known| Arc::ptr_eq(known, tap)) {
                        touched.push(tap.clone());
                    }
                }
            }
        }
        touched
    }

    /// A commit is over.
    pub(crate) fn done(touched: Vec<Arc<Tap>>) {
        touched.iter().for_each(|tap| tap.done());
    }
}
