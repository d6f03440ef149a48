//! The durable content of a simulated engine: every key with the versions that some snapshot still sees.
//!
//! Invariants:
//! - Versions of a key ascend by commit number; a reader at commit `n` sees the last one that is not above `n`.
//! - A batch that was under way at a failure is `unsettled` until the table is opened again, which decides once
//!   whether it happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use super::Rng;
use crate::engine::{Batch, Bytes, Op, Space};

/// How many commits [`Table::undo`] can take back.
const COMMITS_UNDOABLE: usize = 1_024;

/// How many keys may have superfluous versions before they are cleaned up although snapshots live.
const STALE_KEYS_MAX: usize = 4_096;

/// Versions of one key: the commit's number, and the value or that it was deleted.
type Versions = Vec<(u64, Option<Bytes>)>;

/// A range of keys.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// See the module.
#[derive(Default)]
pub(crate) struct Table {
    spaces: BTreeMap<Space, BTreeMap<Bytes, Versions>>,
    commits: u64,
    octets: u64,
    /// Commit numbers that snapshots look at, and how many each.
    watched: BTreeMap<u64, usize>,
    stale: BTreeSet<(Space, Bytes)>,
    /// For each of the last commits: the keys that it changed and their values before it.
    undo: VecDeque<Vec<(Space, Bytes, Option<Bytes>)>>,
    unsettled: Option<Batch>,
}

impl Table {
    /// Applies a batch.
    pub(crate) fn apply(&mut self, batch: Batch) {
        let mut last: BTreeMap<(Space, Bytes), Option<Bytes>> = BTreeMap::new();
        for op in batch.ops {
            match op {
                Op::Put { space, key, value } => last.insert((space, key), Some(value)),
                Op::Delete { space, key } => last.insert((space, key), None),
            };
        }
        let mut before = Vec::with_capacity(last.len());
        for ((space, key), value) in &last {
            before.push((*space, key.clone(), self.get(*space, key, self.commits)));
            self.octets += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
        }
        self.set(last);
        self.undo.push_back(before);
        if self.undo.len() > COMMITS_UNDOABLE {
            self.undo.pop_front();
        }
    }

    /// Notes that a batch failed on its way: [`Table::reopen`] decides.
    pub(crate) fn leave_unsettled(&mut self, batch: Batch) {
        self.unsettled = Some(batch);
    }

    /// Opens the table after a crash or a failed commit.
    pub(crate) fn reopen(&mut self, rng: &mut Rng) {
        if let Some(batch) = self.unsettled.take()
            && rng.coin()
        {
            self.apply(batch);
        }
    }

    /// Takes back the last `n` commits, or fewer if fewer are remembered; returns how many.
    pub(crate) fn undo(&mut self, n: usize) -> usize {
        for taken in 0..n {
            let Some(before) = self.undo.pop_back() else { return taken };
            self.set(before.into_iter().map(|(space, key, value)| ((space, key), value)).collect());
        }
        n
    }

    /// Number of the newest commit, and a promise to keep its versions until [`Table::unwatch`].
    pub(crate) fn watch(&mut self) -> u64 {
        *self.watched.entry(self.commits).or_default() += 1;
        self.commits
    }

    pub(crate) fn unwatch(&mut self, commit: u64) {
        if let Some(count) = self.watched.get_mut(&commit) {
            *count -= 1;
            if *count == 0 {
                self.watched.remove(&commit);
            }
        }
    }

    /// Forgets all snapshots: their handles are stale.
    pub(crate) fn unwatch_all(&mut self) {
        self.watched.clear();
    }

    /// Number of the newest commit.
    pub(crate) fn newest(&self) -> u64 {
        self.commits
    }

    /// Octets ever put: what a journal that is never compacted would hold.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    pub(crate) fn get(&self, space: Space, key: &[u8], commit: u64) -> Option<Bytes> {
        visible(self.spaces.get(&space)?.get(key)?, commit).cloned()
    }

    /// The first `entries_max` entries in range, from the end if `reverse`, as of a commit.
    pub(crate) fn page(
        &self,
        space: Space,
        bounds: Bounds<'_>,
        reverse: bool,
        commit: u64,
        entries_max: usize,
    ) -> Vec<(Bytes, Bytes)> {
        let Some(keys) = self.spaces.get(&space) else { return Vec::new() };
        let range = keys
            .range::<[u8], _>(bounds)
            .filter_map(|(key, versions)| Some((key.clone(), visible(versions, commit)?.clone())));
        if reverse { range.rev().take(entries_max).collect() } else { range.take(entries_max).collect() }
    }

    /// Makes one commit of the changes.
    fn set(&mut self, changes: BTreeMap<(Space, Bytes), Option<Bytes>>) {
        self.commits += 1;
        for ((space, key), value) in changes {
            let versions = self.spaces.entry(space).or_default().entry(key.clone()).or_default();
            versions.push((self.commits, value));
            self.stale.insert((space, key));
        }
        if self.watched.is_empty() || self.stale.len() > STALE_KEYS_MAX {
            self.clean();
        }
    }

    /// Drops versions that no reader can see.
    fn clean(&mut self) {
        let oldest = self.watched.keys().next().copied().unwrap_or(self.commits);
        let spaces = &mut self.spaces;
        self.stale.retain(|(space, key)| {
            let Some(keys) = spaces.get_mut(space) else { return false };
            let Some(versions) = keys.get_mut(key) else { return false };
            let seen_by_oldest = versions.iter().rposition(|(commit, _)| *commit <= oldest).unwrap_or(0);
            versions.drain(..seen_by_oldest);
            if let [(commit, None)] = versions.as_slice()
                && *commit <= oldest
            {
                keys.remove(key);
                return false;
            }
            versions.len() > 1 || versions.iter().any(|(_, value)| value.is_none())
        });
    }
}

fn visible(versions: &Versions, commit: u64) -> Option<&Bytes> {
    versions.iter().rev().find(|(at, _)| *at <= commit)?.1.as_ref()
}
