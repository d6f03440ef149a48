//! Users who have been renamed: what a node keeps by their names has to be carried over, also at the nodes that had no
//! part in it.
//!
//! Invariants:
//! - A copy writes down a user's new name in the batch in which it learns of it, so no node misses one: not one that
//!   was away, nor one that had to read the whole directory again.
//! - It stays until the node says that it has done its part. They are done in their order.

use crate::DirectoryError;
use crate::change::unavailable;
use crate::encoding::{Damaged, Encoder, open};
use crate::records::{LAYOUT, RENAMED, number_key, number_of_key};
use bytes::Bytes;
use rookery_kv::{Read, Space, prefix_end};
use rookery_types::UserName;

/// A user who has another name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renamed {
    /// Its place among those that are left.
    pub number: u64,
    /// The name before.
    pub from: UserName,
    /// The name from then on.
    pub to: UserName,
}

impl Renamed {
    /// The key of its record, to be deleted when all has been carried over.
    pub fn key(&self) -> Vec<u8> {
        number_key(RENAMED, self.number)
    }

    pub(crate) fn record(&self) -> (Vec<u8>, Bytes) {
        let key = self.key();
        let mut e = Encoder::new(LAYOUT);
        e.text(self.from.as_str()).text(self.to.as_str());
        let value = e.seal(&key);
        (key, value)
    }
}

pub(crate) fn decode_renamed(key: &[u8], value: &[u8]) -> Result<Renamed, Damaged> {
    let number = number_of_key(RENAMED, key).ok_or_else(|| Damaged::new(key, "its key has no number"))?;
    let user = |text: &str| UserName::parse(text, "").ok().filter(|user| user.as_str() == text);
    open(key, value, LAYOUT, |d| Some(Renamed { number, from: user(d.text()?)?, to: user(d.text()?)? }))
}

/// Those that are left, the oldest first, up to so many. A damaged record is told and left.
pub fn renamed(read: &dyn Read, limit: usize) -> Result<Vec<Renamed>, DirectoryError> {
    let mut found = Vec::new();
    let end = prefix_end(&[RENAMED]);
    let scanned = read.scan(Space::Directory, &[RENAMED], end.as_deref(), false, &mut |key, value| {
        match decode_renamed(key, value) {
            Ok(renamed) => found.push(renamed),
            Err(damaged) => {
                tracing::error!(%damaged, "what a user has seen is not carried over to a new name")
            }
        }
        found.len() < limit
    });
    scanned.map_err(unavailable)?;
    Ok(found)
}

/// The last number that one has.
pub(crate) fn last_number(read: &dyn Read) -> Result<u64, DirectoryError> {
    let mut last = 0;
    let end = prefix_end(&[RENAMED]);
    let scanned = read.scan(Space::Directory, &[RENAMED], end.as_deref(), true, &mut |key, _| {
        last = number_of_key(RENAMED, key).unwrap_or(u64::MAX);
        false
    });
    scanned.map_err(unavailable)?;
    Ok(last)
}
