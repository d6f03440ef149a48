//! A node's copy of the directory, in its own engine: what all look-ups read.
//!
//! Invariants:
//! - Primary records, what is derived of them and the position change in one batch.
//! - The cache forgets what a change touched before anybody is told of the change.

use crate::DirectoryError;
use crate::cache::Cache;
use crate::change::{account, by_id, read_position, unavailable};
use crate::derive::batch_of;
use crate::entry::{AccountFilter, Entry, Page};
use crate::kinds::left_out;
use crate::published::Writes;
use crate::records::{self, POSITION_KEY, account_key, domain_prefix, encode_position};
use crate::source::{Position, Record};
use crate::{Commit, CommitError, PAGE_MAX};
use bytes::Bytes;
use rookery_kv::{Engine, Read, Space, prefix_end};
use rookery_types::{AccountId, AccountName};
use std::sync::Arc;
use tokio::sync::watch;

/// Records looked at for one page at most; a filter that admits few gives short pages.
const SCAN_MAX: usize = 10_000;

pub(crate) struct Copy {
    pub(crate) engine: Arc<dyn Engine>,
    commit: Arc<dyn Commit>,
    cache: Cache,
    /// How far it is, on the disk.
    pub(crate) position: watch::Sender<Option<Position>>,
    pub(crate) revisions: watch::Sender<u64>,
}

impl Copy {
    pub(crate) fn open(engine: Arc<dyn Engine>, commit: Arc<dyn Commit>) -> Result<Copy, DirectoryError> {
        let position = read_position(&*engine)?;
        let revisions = watch::Sender::new(position.map_or(0, |position| position.revision));
        let position = watch::Sender::new(position);
        Ok(Copy { engine, commit, cache: Cache::default(), position, revisions })
    }

    pub(crate) fn position(&self) -> Option<Position> {
        *self.position.borrow()
    }

    /// Makes writes durable and lets look-ups see them; with a position, the copy is then there.
    pub(crate) async fn write(
        &self,
        names: &[AccountName],
        mut writes: Writes,
        position: Option<Position>,
    ) -> Result<(), CommitError> {
        writes.extend(position.map(|position| (POSITION_KEY.to_vec(), Some(encode_position(position)))));
        let committed = self.commit.commit(batch_of(writes)).await;
        // Also after an error: the change may have happened.
        self.cache.forget(names);
        if let (Ok(()), Some(position)) = (&committed, position) {
            self.at(position);
        }
        committed
    }

    /// Tells of a position that is on the disk.
    pub(crate) fn at(&self, position: Position) {
        self.position.send_replace(Some(position));
        self.revisions.send_replace(position.revision);
    }

    pub(crate) fn look_up(&self, name: &AccountName) -> Result<Arc<Entry>, DirectoryError> {
        let before = match self.cache.get(name) {
            Ok(entry) => return Ok(entry),
            Err(before) => before,
        };
        let found = account(&*self.engine, name)?;
        let entry = Arc::new(found.ok_or_else(|| DirectoryError::NotFound(name.to_string()))?);
        self.cache.keep(before, &entry);
        Ok(entry)
    }

    pub(crate) fn by_id(&self, id: AccountId) -> Result<Arc<Entry>, DirectoryError> {
        // One snapshot, so that a rename cannot come between the two records.
        let snapshot = self.engine.snapshot();
        by_id(&*snapshot, id).map(Arc::new)
    }

    pub(crate) fn list(
        &self,
        filter: &AccountFilter,
        after: Option<AccountName>,
        limit: usize,
    ) -> Result<Page, DirectoryError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let range = range_of(filter);
        let after = after.map(|name| just_after(account_key(&name)));
        let start = after.filter(|key| *key > range).unwrap_or_else(|| range.clone());
        let mut page = Page::default();
        let mut damaged = None;
        let mut seen = 0;
        let mut last = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            if page.entries.len() >= limit || seen >= SCAN_MAX {
                page.next = last.take();
                return false;
            }
            seen += 1;
            match records::decode_account(key, value) {
                Ok(entry) => {
                    last = Some(entry.name.clone());
                    if filter.admits(&entry.name) {
                        page.entries.push(entry);
                    }
                    true
                }
                Err(error) => {
                    damaged = Some(error);
                    false
                }
            }
        };
        let end = prefix_end(&range);
        let scanned = self.engine.scan(Space::Directory, &start, end.as_deref(), false, &mut visit);
        scanned.map_err(unavailable)?;
        match damaged {
            Some(error) => Err(error.into()),
            None => Ok(page),
        }
    }

    /// Up to `limit` records with the prefix, from `start`.
    pub(crate) fn page<T>(
        &self,
        prefix: &[u8],
        start: Vec<u8>,
        limit: usize,
        read: impl Fn(&dyn Read, &[u8], &[u8]) -> Result<T, DirectoryError>,
    ) -> Result<Vec<T>, DirectoryError> {
        let snapshot = self.engine.snapshot();
        let mut found = Vec::new();
        let mut fault = None;
        let end = prefix_end(prefix);
        let scanned = snapshot.scan(Space::Directory, &start, end.as_deref(), false, &mut |key, value| {
            if found.len() >= limit.clamp(1, PAGE_MAX) {
                return false;
            }
            match read(&*snapshot, key, value) {
                Ok(record) => found.push(record),
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        });
        scanned.map_err(unavailable)?;
        fault.map_or(Ok(found), Err)
    }
}

/// Visits primary records with `start <= key` in key order.
pub(crate) fn scan_primary(
    read: &dyn Read,
    start: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), DirectoryError> {
    let mut goes_on = true;
    for tag in records::PRIMARY {
        let end = prefix_end(&[tag]);
        if !goes_on || end.as_deref().is_some_and(|end| end <= start) {
            continue;
        }
        let start = if start > &[tag][..] { start } else { &[tag] };
        let scanned = read.scan(Space::Directory, start, end.as_deref(), false, &mut |key, value| {
            goes_on = visit(key, value);
            goes_on
        });
        scanned.map_err(unavailable)?;
    }
    Ok(())
}

/// A page of primary records: at most so many, and about so many octets. Then where the next page starts. Refused at
/// the first page if records are missing that this program does not know.
pub(crate) fn page_of(
    read: &dyn Read,
    start: &[u8],
    limit: usize,
    octets_max: usize,
) -> Result<(Vec<Record>, Option<Bytes>), DirectoryError> {
    if start.is_empty() && left_out(read)?.is_some() {
        return Err(DirectoryError::Refused(
            "the directory has records that this program is too old to know; ask at a node with a newer one",
        ));
    }
    let (mut page, mut octets, mut next) = (Vec::new(), 0, None);
    scan_primary(read, start, &mut |key, value| {
        if !page.is_empty() && (page.len() >= limit || octets >= octets_max) {
            next = Some(Bytes::copy_from_slice(key));
            return false;
        }
        octets += key.len() + value.len();
        page.push(Record { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
        true
    })?;
    Ok((page, next))
}

/// What the keys of everything that the filter admits begin with.
fn range_of(filter: &AccountFilter) -> Vec<u8> {
    let Some(domain) = &filter.domain else { return vec![records::ACCOUNT] };
    let mut key = domain_prefix(domain);
    if let Some(shared) = filter.shared {
        key.push(if shared { b's' } else { b'u' });
        key.extend_from_slice(filter.prefix.as_bytes());
    }
    key
}

pub(crate) fn just_after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
