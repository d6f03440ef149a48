//! Reading many messages at once, for commands that look through a mailbox.
//!
//! Invariants:
//! - Every octet that is given out was checked, as when messages are read one by one.
//! - Records are asked for in the order of their keys, and octets in the order in which they lie: neighbours in a volume
//!   are read with one call, of [`SPAN_OCTETS_MAX`] octets at most unless a single message is larger.

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::records::{ContentRecord, Facts, Locator};
use crate::store::Store;
use crate::volume::{Record, Wanted};
use bytes::Bytes;
use rookery_kv::engine::{Read, Space};
use rookery_types::ContentId;
use std::sync::Arc;

/// Octets that are read from a volume at once.
const SPAN_OCTETS_MAX: u64 = 512 << 10;
/// Octets between two records that are read along rather than skipped by a second call.
const GAP_OCTETS_MAX: u64 = 16 << 10;

/// A message with what is needed to find one's way in it.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// All its octets.
    pub octets: &'a [u8],
    /// The parts and where they are, in `rookery_mime`'s own octets.
    pub structure: &'a [u8],
}

/// A message whose place is known.
struct Placed {
    /// In the caller's list.
    at: usize,
    content: ContentId,
    record: ContentRecord,
    structure: Bytes,
}

impl Account {
    /// The facts of many contents. `take` gets the place in `contents`, in any order. Reads the disk: call it where
    /// blocking is allowed.
    pub fn facts_of(&self, contents: &[ContentId], mut take: impl FnMut(usize, Result<Facts, StoreError>)) {
        let snapshot = self.store.engine().snapshot();
        for (at, content) in by_key(contents) {
            let facts = self.record(&*snapshot, &keys::facts(self.cell.id, content), Facts::decode);
            take(at, facts);
        }
    }

    /// Many messages, whole. `take` gets the place in `contents`, in any order. Takes as much memory as the
    /// largest message has octets, or 512 KiB. Reads the disk.
    pub fn read_many(
        &self,
        contents: &[ContentId],
        mut take: impl FnMut(usize, Result<Whole<'_>, StoreError>),
    ) {
        let mut placed = Vec::with_capacity(contents.len());
        {
            let snapshot = self.store.engine().snapshot();
            for (at, content) in by_key(contents) {
                match self.place(&*snapshot, at, content) {
                    Ok(one) => placed.push(one),
                    Err(error) => take(at, Err(error)),
                }
            }
        }
        placed.sort_unstable_by_key(|one| one.record.locator);
        let mut rest = placed.as_slice();
        let (mut span, mut scratch) = (Vec::new(), Vec::new());
        while let Some(first) = rest.first() {
            let start = first.record.locator;
            let mut end = end_of(first);
            let mut count = 1;
            while let Some(next) = rest.get(count) {
                let locator = next.record.locator;
                let near =
                    locator.volume == start.volume && locator.offset <= end.saturating_add(GAP_OCTETS_MAX);
                if !near || end_of(next).saturating_sub(start.offset) > SPAN_OCTETS_MAX {
                    break;
                }
                end = end.max(end_of(next));
                count += 1;
            }
            let (here, after) = rest.split_at(count);
            rest = after;
            self.read_span((start, end), here, (&mut span, &mut scratch), &mut take);
        }
    }

    fn place(&self, snapshot: &dyn Read, at: usize, content: ContentId) -> Result<Placed, StoreError> {
        let decode = |key: &[u8], value: &Bytes| ContentRecord::decode(key, value);
        let record = self.record(snapshot, &keys::content(self.cell.id, content), decode)?;
        let structure =
            self.record(snapshot, &keys::facts(self.cell.id, content), Facts::decode_structure)?;
        Ok(Placed { at, content, record, structure })
    }

    fn record<T>(
        &self,
        snapshot: &dyn Read,
        key: &[u8],
        decode: impl FnOnce(&[u8], &Bytes) -> Result<T, crate::Damaged>,
    ) -> Result<T, StoreError> {
        let value = snapshot.get(Space::Content, key)?.ok_or(StoreError::NoContent)?;
        decode(key, &value).map_err(StoreError::Damaged)
    }

    /// Reads neighbours in a volume. What is not there as it should be is looked for once more, alone: compaction may have
    /// moved it.
    fn read_span(
        &self,
        (start, end): (Locator, u64),
        placed: &[Placed],
        (span, scratch): (&mut Vec<u8>, &mut Vec<u8>),
        take: &mut impl FnMut(usize, Result<Whole<'_>, StoreError>),
    ) {
        let octets = usize::try_from(end.saturating_sub(start.offset)).unwrap_or(usize::MAX);
        let volumes = self.store.volumes();
        let is_read = volumes.read_span(start, octets, span).is_ok();
        for one in placed {
            let within = one.record.locator.offset.saturating_sub(start.offset);
            let message = Some(within).filter(|_| is_read).and_then(|within| {
                let within = usize::try_from(within).ok()?;
                let wanted = Wanted { account: self.cell.id, content: one.content, size: one.record.size };
                volumes.message_in(span, start, within, wanted, scratch).ok()
            });
            let structure = &one.structure;
            match message {
                Some(octets) => take(one.at, Ok(Whole { octets, structure })),
                None => match self.read(one.content) {
                    Ok(octets) => take(one.at, Ok(Whole { octets: &octets, structure })),
                    Err(error) => take(one.at, Err(error)),
                },
            }
        }
    }
}

/// A message that is read in parts: it is looked up once, and stays where it is until this is dropped. Cheap to clone.
#[derive(Clone)]
pub struct BodyReader {
    store: Store,
    record: Arc<Record>,
}

impl std::fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BodyReader({} octets)", self.size())
    }
}

impl BodyReader {
    /// Octets of the message.
    pub fn size(&self) -> u64 {
        self.record.size()
    }

    /// Some octets, beginning with octet `from`; fewer at the end. Reads the disk.
    ///
    /// What is given out was checked, with one exception: a message that came before format 3, or has at most 512 KiB,
    /// may be stored in one piece. It is checked when its last part is read, if it was read from its beginning on.
    pub fn read(&self, from: u64, octets: usize) -> Result<Bytes, StoreError> {
        let volumes = self.store.volumes();
        let part = volumes.read_record(&self.record, from, octets)?;
        volumes.used(part.len() as u64);
        Ok(part)
    }
}

impl Account {
    /// Looks a message up, to read it in parts. Reads the disk.
    pub fn reader(&self, content: ContentId) -> Result<BodyReader, StoreError> {
        let record = self.relocating(content, |record| {
            self.store.volumes().record(record.locator, self.cell.id, content)
        })?;
        Ok(BodyReader { store: self.store.clone(), record: Arc::new(record) })
    }
}

/// Where the record of a message ends.
fn end_of(placed: &Placed) -> u64 {
    placed.record.locator.offset.saturating_add(placed.record.stored.into())
}

/// Contents with their places, in the order of their keys.
fn by_key(contents: &[ContentId]) -> Vec<(usize, ContentId)> {
    let mut order: Vec<(usize, ContentId)> = contents.iter().copied().enumerate().collect();
    order.sort_unstable_by_key(|(_, content)| content.0);
    order
}
