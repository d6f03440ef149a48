//! The one table of where an account's records are, and what of them goes along when it moves.
//!
//! Everything goes, octet for octet, except what is this store's own: the account's own record, which says where its
//! home is; where the octets of contents lie; and when a deleted or moved account is to be forgotten. A kind of record
//! in another space than these would be left behind: a test compares all that two stores have.

use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::keys;
use crate::records::{ContentRecord, Locator};
use bytes::Bytes;
use rookery_kv::engine::{Read, Space, prefix_end};
use rookery_types::{AccountId, ContentId};

/// The spaces in which every key begins with an account's id.
pub(crate) const SPACES: [Space; 10] = [
    Space::Account,
    Space::Mailbox,
    Space::Chunk,
    Space::Delta,
    Space::Leaf,
    Space::Log,
    Space::Tombstone,
    Space::Content,
    Space::Thread,
    Space::Queue,
];

/// Records in a block.
const BLOCK_RECORDS: usize = 512;
/// Octets of values in a block, but for its last record.
const BLOCK_OCTETS: usize = 256 << 10;

/// Whether a record of an account goes along.
pub(crate) fn travels(space: Space, key: &[u8]) -> bool {
    match space {
        Space::Account => key.len() != 9 || key.last() != Some(&0),
        Space::Queue => {
            keys::uid_of(key).is_some() || keys::queued_mailbox(key).is_some_and(|of| of.number != 0)
        }
        space => SPACES.contains(&space),
    }
}

/// The content that a key says the place of.
pub(crate) fn content_of(space: Space, key: &[u8]) -> Option<ContentId> {
    if space != Space::Content || key.len() != 25 || key.last() != Some(&0) {
        return None;
    }
    key.get(8..24)?.first_chunk::<16>().map(|octets| ContentId(*octets))
}

/// A record as it is the same in every store.
pub(crate) fn canonical(space: Space, key: &[u8], value: &[u8]) -> Result<Bytes, Damaged> {
    match content_of(space, key) {
        Some(_) => {
            let record = ContentRecord::decode(key, value)?;
            let nowhere = Locator { volume: 0, offset: 0 };
            Ok(ContentRecord { locator: nowhere, stored: 0, ..record }.encode(key))
        }
        None => Ok(Bytes::copy_from_slice(value)),
    }
}

/// Some of an account's records of one space: all there are between two keys, and what they come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) space: Space,
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) digest: [u8; 16],
}

/// Behind all keys of an account.
pub(crate) fn end_of(id: AccountId) -> Bytes {
    Bytes::from(prefix_end(&keys::account(id)).unwrap_or_else(|| vec![0xff; 9]))
}

/// Records in canonical form, ascending.
pub(crate) type Records = Vec<(Bytes, Bytes)>;

/// Sums up records, in the order of their keys.
#[derive(Default)]
pub(crate) struct Digest(blake3::Hasher);

impl Digest {
    pub(crate) fn add(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        let octets = |value: &[u8]| (value.len() as u64).to_le_bytes();
        self.0.update(&[space.index()]).update(&octets(key)).update(key);
        match value {
            Some(value) => self.0.update(&[1]).update(&octets(value)).update(value),
            None => self.0.update(&[0]),
        };
    }

    pub(crate) fn end(&self) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        digest
    }
}

fn within(
    read: &dyn Read,
    space: Space,
    (start, end): (&[u8], &[u8]),
    mut visit: impl FnMut(&[u8], Bytes) -> bool,
) -> Result<(), StoreError> {
    let mut failure = None;
    read.scan(space, start, Some(end), false, &mut |key, value| {
        if !travels(space, key) {
            return true;
        }
        match canonical(space, key, value) {
            Ok(value) => visit(key, value),
            Err(damaged) => {
                failure = Some(damaged);
                false
            }
        }
    })?;
    match failure {
        Some(damaged) => Err(StoreError::Damaged(damaged)),
        None => Ok(()),
    }
}

/// What all records between two keys come to.
pub(crate) fn digest(
    read: &dyn Read,
    space: Space,
    start: &[u8],
    end: &[u8],
) -> Result<[u8; 16], StoreError> {
    let mut digest = Digest::default();
    within(read, space, (start, end), |key, value| {
        digest.add(space, key, Some(&value));
        true
    })?;
    Ok(digest.end())
}

/// What all records of an account come to that go along.
pub(crate) fn digest_of_all(read: &dyn Read, id: AccountId) -> Result<[u8; 16], StoreError> {
    let (start, end) = (keys::account(id), end_of(id));
    let mut all = Digest::default();
    for space in SPACES {
        all.add(space, &start, Some(&digest(read, space, &start, &end)?));
    }
    Ok(all.end())
}

/// All keys between two that have records which go along.
pub(crate) fn keys_between(
    read: &dyn Read,
    space: Space,
    start: &[u8],
    end: &[u8],
) -> Result<Vec<Bytes>, StoreError> {
    let mut found = Vec::new();
    read.scan(space, start, Some(end), false, &mut |key, _| {
        if travels(space, key) {
            found.push(Bytes::copy_from_slice(key));
        }
        true
    })?;
    Ok(found)
}

/// The records from a key on, as many as make a block, and where the next begins; `None`: it was the last.
pub(crate) fn next_block(
    read: &dyn Read,
    id: AccountId,
    space: Space,
    start: &Bytes,
) -> Result<(Block, Records, Option<Bytes>), StoreError> {
    let last = end_of(id);
    let mut records = Records::new();
    let (mut octets, mut next, mut digest) = (0, None, Digest::default());
    within(read, space, (start, &last), |key, value| {
        if records.len() == BLOCK_RECORDS || octets >= BLOCK_OCTETS {
            next = Some(Bytes::copy_from_slice(key));
            return false;
        }
        octets += value.len();
        digest.add(space, key, Some(&value));
        records.push((Bytes::copy_from_slice(key), value));
        true
    })?;
    let end = next.clone().unwrap_or(last);
    Ok((Block { space, start: start.clone(), end, digest: digest.end() }, records, next))
}
