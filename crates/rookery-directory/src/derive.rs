//! Derived records: what follows from one primary record alone, so that every copy has the same.
//!
//! Invariants:
//! - [`derived`] is a function of one primary record. No two sound records of one directory give the same derived key
//!   with the same value.
//! - A derived record is taken away only if it is what the record that goes gave: another may have come in its place.

use crate::DirectoryError;
use crate::change::unavailable;
use crate::encoding::Damaged;
use crate::kinds::KindsRead;
use crate::published::{Writes, decode_published};
use crate::records::{self, encode_empty, encode_name, id_key, membership_key, reservation_key};
use crate::renamed::{Renamed, last_number};
use crate::source::Write;
use bytes::Bytes;
use rookery_kv::{Batch, Read, Space};
use rookery_types::{AccountName, UserName};
use std::collections::BTreeMap;

/// What follows from a primary record.
pub(crate) fn derived(key: &[u8], value: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, Damaged> {
    let empty = |key: Vec<u8>| {
        let value = encode_empty(&key);
        (key, value)
    };
    Ok(match key.first() {
        Some(&records::ACCOUNT) => {
            let entry = records::decode_account(key, value)?;
            let keys =
                [Some(id_key(entry.id)), entry.state.is_unfinished().then(|| reservation_key(entry.id))];
            let named = keys.into_iter().flatten().map(|key| {
                let value = encode_name(&key, &entry.name);
                (key, value)
            });
            named.collect()
        }
        Some(&records::MEMBER) => {
            let (group, user) = records::decode_member(key, value)?;
            vec![empty(membership_key(&group, &user))]
        }
        Some(&records::MAILBOX) => decode_published(key, value)?.grants().into_iter().map(empty).collect(),
        _ => Vec::new(),
    })
}

/// Works out what a copy has to write for changes of primary records.
pub(crate) struct Applier<'a> {
    read: &'a dyn Read,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
    names: Vec<AccountName>,
    /// The number of the last renaming that is written down, once one is.
    renamings: Option<u64>,
    /// Whether an account's epoch may fall.
    lenient: bool,
}

impl<'a> Applier<'a> {
    /// `read`: the copy as it is.
    pub(crate) fn new(read: &'a dyn Read) -> Applier<'a> {
        Applier { read, writes: BTreeMap::new(), names: Vec::new(), renamings: None, lenient: false }
    }

    /// Whether epochs may fall, since changes come that the copy may be ahead of.
    pub(crate) fn set_lenient(&mut self, lenient: bool) {
        self.lenient = lenient;
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DirectoryError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.read.get(Space::Directory, key).map_err(unavailable),
        }
    }

    /// Applies what one revision changed. What this program does not know is left out, and that is written down.
    pub(crate) fn apply(&mut self, writes: &[Write]) -> Result<(), DirectoryError> {
        let (mut gone, mut come, mut renamed) = (Vec::new(), Vec::new(), Vec::new());
        let unknown = writes.iter().filter(|write| write.value.is_some() && !records::is_known(&write.key));
        let unknown = unknown.filter_map(|write| write.key.first().copied()).collect();
        if let Some((key, value)) = KindsRead::leaving_out(|key| self.get(key), unknown)? {
            self.writes.insert(key, Some(value));
        }
        for Write { key, value } in writes.iter().filter(|write| records::is_primary(&write.key)) {
            let before = self.get(key)?;
            if before == *value {
                continue;
            }
            if key.first() == Some(&records::ACCOUNT) {
                if !self.lenient {
                    check_epoch(key, before.as_deref(), value.as_deref())?;
                }
                self.names.extend(records::name_of_key(key));
                renamed.extend(self.renamed(key, value.as_deref())?);
            }
            // From a damaged record nothing follows; it stays as it is, for reads to tell of it.
            gone.extend(before.and_then(|before| derived(key, &before).ok()).into_iter().flatten());
            match value.as_ref().map(|value| derived(key, value)) {
                Some(Ok(derived)) => come.extend(derived),
                Some(Err(damaged)) => tracing::error!(%damaged, "a record of the directory came damaged"),
                None => {}
            }
            self.writes.insert(key.to_vec(), value.clone());
        }
        for (key, value) in gone {
            if self.get(&key)? == Some(value) {
                self.writes.insert(key, None);
            }
        }
        for (key, value) in come {
            if self.get(&key)?.as_ref() != Some(&value) {
                self.writes.insert(key, Some(value));
            }
        }
        for (from, to) in renamed {
            let last = match self.renamings {
                Some(last) => last,
                None => last_number(self.read)?,
            };
            let number = last.saturating_add(1);
            self.renamings = Some(number);
            let (key, value) = Renamed { number, from, to }.record();
            self.writes.insert(key, Some(value));
        }
        Ok(())
    }

    /// The old and the new name of a user, if this record gives an account that is known another one.
    fn renamed(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<Option<(UserName, UserName)>, DirectoryError> {
        let Some(entry) = value.and_then(|value| records::decode_account(key, value).ok()) else {
            return Ok(None);
        };
        let id = id_key(entry.id);
        let before = self.get(&id)?.and_then(|value| records::decode_name_of_id(&id, &value).ok());
        let Some((_, before)) = before else { return Ok(None) };
        Ok(match (before.user(), entry.name.user()) {
            (Some(from), Some(to)) if from != to => Some((from.clone(), to.clone())),
            _ => None,
        })
    }

    /// The accounts that change, and all writes.
    pub(crate) fn into_parts(self) -> (Vec<AccountName>, Writes) {
        (self.names, self.writes.into_iter().collect())
    }
}

/// An account's epoch only rises, whoever writes the directory.
fn check_epoch(key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) -> Result<(), DirectoryError> {
    let entry = |value: Option<&[u8]>| value.and_then(|value| records::decode_account(key, value).ok());
    match (entry(before), entry(after)) {
        (Some(before), Some(after)) if before.id == after.id && after.home.epoch < before.home.epoch => {
            Err(DirectoryError::WentBack(format!(
                "the epoch of {} falls from {} to {}",
                before.name, before.home.epoch.0, after.home.epoch.0
            )))
        }
        _ => Ok(()),
    }
}

/// The same writes as a batch.
pub(crate) fn batch_of(writes: Writes) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(Space::Directory, key, value),
            None => batch.delete(Space::Directory, key),
        }
    }
    batch
}
