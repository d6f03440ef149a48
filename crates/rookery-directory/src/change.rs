//! One change of the directory: what is read, what is decided, and the conditional batch that comes of it.
//!
//! What is decided of accounts, domains and groups stands in files of its own below; of aliases, nodes, placements and
//! published mailboxes beside their records.
//!
//! Invariants:
//! - Every primary record that was read is a condition of the batch, and so is every one that is written.
//! - A batch changes something, so that once applied it does not apply again.

mod accounts;
mod domains;
mod groups;

use crate::DirectoryError;
use crate::copy::scan_primary;
use crate::encoding::Damaged;
use crate::entry::{Domain, Entry};
use crate::records::{
    self, POSITION_KEY, STATE_KEY, State, account_key, decode_account, decode_domain, decode_name_of_id,
    decode_position, decode_state, domain_key, encode_state, id_key,
};
use crate::source::{Condition, ConditionalBatch, Position, Write};
use bytes::Bytes;
use rookery_kv::{EngineError, Read, Space, prefix_end};
use rookery_types::{AccountId, AccountName, UserName};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Records that one step of a change in many steps writes, or a little more. A source takes them in one batch.
const STEP_MAX: usize = 40;

pub(crate) fn unavailable(error: EngineError) -> DirectoryError {
    DirectoryError::Unavailable(error.to_string())
}

pub(crate) fn get(read: &dyn Read, key: &[u8]) -> Result<Option<bytes::Bytes>, DirectoryError> {
    read.get(Space::Directory, key).map_err(unavailable)
}

pub(crate) fn read_state(read: &dyn Read) -> Result<State, DirectoryError> {
    match get(read, STATE_KEY)? {
        Some(value) => Ok(decode_state(STATE_KEY, &value)?.0),
        None if has_nothing(read)? => {
            Ok(State { next_account: AccountId::FIRST, mark: 0, default_domain: None })
        }
        // To begin again at id 1 would give ids twice.
        None => Err(Damaged::new(STATE_KEY, "it is missing").into()),
    }
}

/// How far the copy is; `None` if it was never one, or only that of a program which had no positions.
pub(crate) fn read_position(read: &dyn Read) -> Result<Option<Position>, DirectoryError> {
    let found = get(read, POSITION_KEY)?;
    Ok(found.map(|value| decode_position(POSITION_KEY, &value)).transpose()?)
}

/// Whether there is no primary record.
fn has_nothing(read: &dyn Read) -> Result<bool, DirectoryError> {
    let mut nothing = true;
    scan_primary(read, b"", &mut |_, _| {
        nothing = false;
        false
    })?;
    Ok(nothing)
}

pub(crate) fn account(read: &dyn Read, name: &AccountName) -> Result<Option<Entry>, DirectoryError> {
    let key = account_key(name);
    Ok(get(read, &key)?.map(|value| decode_account(&key, &value)).transpose()?)
}

pub(crate) fn domain(read: &dyn Read, name: &str) -> Result<Option<Domain>, DirectoryError> {
    let key = domain_key(name);
    Ok(get(read, &key)?.map(|value| decode_domain(&key, &value)).transpose()?)
}

/// Reads an account by its id. `read` is a snapshot, or nothing changes meanwhile.
pub(crate) fn by_id(read: &dyn Read, id: AccountId) -> Result<Entry, DirectoryError> {
    let key = id_key(id);
    let value = get(read, &key)?.ok_or_else(|| DirectoryError::NotFound(format!("account {id}")))?;
    let (_, name) = decode_name_of_id(&key, &value)?;
    match account(read, &name)? {
        Some(entry) if entry.id == id => Ok(entry),
        _ => Err(Damaged::new(&key, "no account of this name has this id").into()),
    }
}

/// A domain's name as it is kept.
pub(crate) fn domain_name(text: &str) -> Result<Box<str>, DirectoryError> {
    match UserName::parse("x", text) {
        Ok(user) if !text.contains('@') => Ok(user.domain().into()),
        _ => Err(DirectoryError::Refused("this cannot be the name of a domain")),
    }
}

/// Remembers what is read of the primary records.
pub(crate) struct Recorder<'a> {
    read: &'a dyn Read,
    seen: RefCell<BTreeMap<Vec<u8>, Option<Bytes>>>,
}

impl Read for Recorder<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(value) = self.seen.borrow().get(key) {
            return Ok(value.clone());
        }
        let value = self.read.get(space, key)?;
        if records::is_primary(key) {
            self.seen.borrow_mut().insert(key.to_vec(), value.clone());
        }
        Ok(value)
    }

    /// What is found is no condition: who needs one reads it by its key.
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.read.scan(space, start, end, reverse, visit)
    }
}

/// A change being decided.
pub(crate) struct Change<'a> {
    pub(crate) read: Recorder<'a>,
    /// Above every revision that was seen: it goes into the records that change.
    pub(crate) revision: u64,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl<'a> Change<'a> {
    /// Begins a change of what `read` shows, which does not change meanwhile and is at `revision`.
    pub(crate) fn begin(read: &'a dyn Read, revision: u64) -> Change<'a> {
        let read = Recorder { read, seen: RefCell::default() };
        Change { read, revision: revision.saturating_add(1), writes: BTreeMap::new() }
    }

    /// The batch; `None` if there is nothing to change.
    pub(crate) fn finish(mut self) -> Result<Option<ConditionalBatch>, DirectoryError> {
        for key in self.writes.keys() {
            get(&self.read, key)?;
        }
        let seen = self.read.seen.take();
        self.writes.retain(|key, value| seen.get(key) != Some(value));
        if self.writes.is_empty() {
            return Ok(None);
        }
        let mut batch = ConditionalBatch::default();
        for (key, value) in seen {
            batch.conditions.push(Condition { key: key.into(), value });
        }
        // Whatever has records has a state: else ids would begin again.
        if !self.writes.contains_key(STATE_KEY) && get(self.read.read, STATE_KEY)?.is_none() {
            let state = encode_state(&read_state(self.read.read)?);
            self.writes.insert(STATE_KEY.to_vec(), Some(state));
            batch.conditions.retain(|condition| condition.key != STATE_KEY);
            batch.conditions.push(Condition { key: STATE_KEY.into(), value: None });
        }
        batch.writes = self.writes.into_iter().map(|(key, value)| Write { key: key.into(), value }).collect();
        Ok(Some(batch))
    }

    pub(crate) fn put_record(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes.insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    pub(crate) fn put_state(&mut self, state: &State) {
        self.put_record(STATE_KEY.to_vec(), encode_state(state));
    }

    /// Up to so many keys with a prefix.
    pub(crate) fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Vec<u8>>, DirectoryError> {
        let mut keys = Vec::new();
        let end = prefix_end(prefix);
        let scanned = self.read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |key, _| {
            keys.push(key.to_vec());
            keys.len() < max
        });
        scanned.map_err(unavailable)?;
        Ok(keys)
    }
}
